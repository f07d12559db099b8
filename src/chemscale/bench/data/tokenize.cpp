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
  const size_t end = text.find(']');
  return end == Text::npos ? text.size() : end + 1;
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

class Numbers {
 public:
  explicit Numbers(size_t count) : mask_(1) {
    while (mask_ < 4 * count) mask_ *= 2;
    slots_.resize(mask_--);
  }
  void add(Text symbol, int32_t id) {
    size_t slot = hash(symbol) & mask_;
    while (slots_[slot].symbol.data()) slot = (slot + 1) & mask_;
    slots_[slot] = {symbol, id};
  }
  int32_t find(Text symbol, int32_t otherwise) const {
    for (size_t slot = hash(symbol) & mask_; slots_[slot].symbol.data(); slot = (slot + 1) & mask_)
      if (slots_[slot].symbol == symbol) return slots_[slot].id;
    return otherwise;
  }

 private:
  struct Slot { Text symbol; int32_t id; };
  static size_t hash(Text symbol) {
    uint64_t value = 1469598103934665603ull;
    for (unsigned char c : symbol) value = (value ^ c) * 1099511628211ull;  // FNV-1a
    return value ^ (value >> 29);
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

// `symbols`: one a line, by id. `ids`: room for a number per byte of `texts`. `counts`: per line.
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
