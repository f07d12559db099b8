// Texts of molecules to token ids. Called through ctypes; texts come and go as lines.
#include <cstdint>
#include <cstring>
#include <string_view>
#include <vector>

namespace {

using Text = std::string_view;

// The length of the symbol that a text begins with.
size_t selfies_symbol(Text text) {
  if (text[0] != '[') return 1;
  size_t end = 1;  // symbols are short: a plain loop is faster than a search
  while (end < text.size() && text[end] != ']') ++end;
  return end < text.size() ? end + 1 : end;
}

bool digit(char c) { return c >= '0' && c <= '9'; }

size_t smiles_symbol(Text text) {
  const char second = text.size() > 1 ? text[1] : '\0';
  switch (text[0]) {
    case '[': {
      const size_t end = text.find(']');
      return end == Text::npos ? 1 : end + 1;
    }
    case 'B': return second == 'r' ? 2 : 1;
    case 'C': return second == 'l' ? 2 : 1;
    case '%': {
      if (text.size() > 2 && digit(text[1]) && digit(text[2])) return 3;
      if (second != '(') return 1;
      size_t end = 2;
      while (end < text.size() && digit(text[end])) ++end;
      return end > 2 && end < text.size() && text[end] == ')' ? end + 1 : 1;
    }
    default: return 1;
  }
}

// The first eight bytes of a symbol as a number; eight bytes may be read behind every text.
uint64_t head(Text symbol) {
  uint64_t word;
  memcpy(&word, symbol.data(), 8);
  return symbol.size() < 8 ? word & ((1ull << 8 * symbol.size()) - 1) : word;
}

class Numbers {
 public:
  explicit Numbers(size_t count) : mask_(1) {
    while (mask_ < 4 * count) mask_ *= 2;
    slots_.resize(mask_--);
  }
  void add(Text symbol, int32_t id) {
    size_t slot = place(symbol);
    while (slots_[slot].symbol.data()) slot = (slot + 1) & mask_;
    slots_[slot] = {head(symbol), symbol, id};
  }
  int32_t find(Text symbol, int32_t otherwise) const {
    const uint64_t start = head(symbol);
    for (size_t slot = place(symbol); slots_[slot].symbol.data(); slot = (slot + 1) & mask_) {
      const Slot& one = slots_[slot];
      if (one.head == start && one.symbol.size() == symbol.size() &&
          (symbol.size() <= 8 || one.symbol == symbol))
        return one.id;
    }
    return otherwise;
  }

 private:
  struct Slot { uint64_t head; Text symbol; int32_t id; };
  size_t place(Text symbol) const {
    return ((head(symbol) + symbol.size()) * 0x9E3779B97F4A7C15ull >> 40) & mask_;
  }
  size_t mask_;
  std::vector<Slot> slots_;
};

Text line(Text& rest) {
  const size_t end = rest.find('\n');
  const Text first = rest.substr(0, end);
  rest = end == Text::npos ? Text() : rest.substr(end + 1);
  return first;
}

}  // namespace

extern "C" {

// `symbols`: one a line, by id. Behind it and `texts` lie eight bytes more.
// `ids`: room for a number per byte of `texts`. `counts`: per line.
int64_t tokenize(int64_t smiles, const char* texts, int64_t num_bytes, int64_t num_texts,
                 const char* symbols, int64_t symbol_bytes, int64_t num_symbols, int64_t unknown,
                 int32_t* ids, int64_t* counts) {
  Numbers numbers(num_symbols);
  Text known(symbols, symbol_bytes);
  for (int64_t id = 0; id < num_symbols; ++id) numbers.add(line(known), int32_t(id));
  Text rest(texts, num_bytes);
  int64_t total = 0;
  for (int64_t index = 0; index < num_texts; ++index) {
    Text text = line(rest);
    const int64_t before = total;
    while (!text.empty()) {
      const size_t size = smiles ? smiles_symbol(text) : selfies_symbol(text);
      ids[total++] = numbers.find(text.substr(0, size), int32_t(unknown));
      text.remove_prefix(size);
    }
    counts[index] = total - before;
  }
  return total;
}

}  // extern "C"
