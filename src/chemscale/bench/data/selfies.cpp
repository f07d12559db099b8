// SMILES to SELFIES, symbol for symbol what the Python package selfies 2 writes (Krenn et al. 2020).
//
// Only molecules that are plain sailing: no ':' bonds, no error, Kekulé structure found at the first
// attempt. All others are declined, and the Python package says what they are.
#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace {

using Text = std::string_view;
struct Declined {};

const Text ELEMENTS =
    " "
    "H He Li Be B C N O F Ne Na Mg Al Si P S Cl Ar K Ca Sc Ti V Cr Mn Fe Co Ni Cu Zn Ga Ge "
    "As Se Br Kr Rb Sr Y Zr Nb Mo Tc Ru Rh Pd Ag Cd In Sn Sb Te I Xe Cs Ba Hf Ta W Re Os Ir "
    "Pt Au Hg Tl Pb Bi La Ce Pr Nd Sm Eu Gd Tb Dy Ho Er Tm Yb Lu Th U ";

struct Aromatic { Text element; int valences[2], electrons; };  // 0: no second one
const Aromatic AROMATICS[] = {
    {"B", {3, 0}, 3},  {"Al", {3, 0}, 3}, {"C", {4, 0}, 4}, {"Si", {4, 0}, 4},
    {"N", {3, 5}, 5},  {"P", {3, 5}, 5},  {"As", {3, 5}, 5}, {"O", {2, 4}, 6},
    {"S", {2, 4}, 6},  {"Se", {2, 4}, 6}, {"Te", {2, 4}, 6}};

const Aromatic* aromatic(Text element) {
  for (const auto& one : AROMATICS)
    if (one.element == element) return &one;
  return nullptr;
}

bool organic(Text element) {
  for (Text one : {"C", "N", "O", "S", "F", "Cl", "Br", "P", "I", "B"})
    if (one == element) return true;
  return false;
}

bool digit(char c) { return c >= '0' && c <= '9'; }
bool lower(char c) { return c >= 'a' && c <= 'z'; }
bool upper(char c) { return c >= 'A' && c <= 'Z'; }

constexpr int NONE = -1;

struct Atom {
  std::string element;
  bool aromatic = false, in_brackets = false, ring = false;
  int isotope = NONE, chirality = 0, hydrogens = NONE, charge = 0;  // chirality: number of @
  int count = 0;                                                   // twice the orders of its bonds
  std::vector<int> out;                                            // bonds, in the order written
  std::vector<int> delocalised;                                    // neighbours
};

struct Bond {
  int from, to;
  int order;  // twice: 2, 3 (aromatic), 4, 6
  char stereo;
  int back;  // of a ring: the same bond seen from its other end; else NONE
};

class Molecule {
 public:
  explicit Molecule(Text text) : text_(text) { read(); }

  void kekulize() {
    std::vector<int> label(atoms_.size(), NONE), node;
    for (size_t a = 0; a < atoms_.size(); ++a)
      if (takes_part(atoms_[a])) label[a] = int(node.size()), node.push_back(int(a));
    std::vector<std::vector<int>> graph(node.size());
    for (size_t i = 0; i < node.size(); ++i)
      for (int other : atoms_[node[i]].delocalised)
        if (label[other] != NONE) graph[i].push_back(label[other]);
    const std::vector<int> mate = matched(graph);
    for (auto& atom : atoms_) atom.aromatic = false;
    for (auto& bond : bonds_)
      if (bond.order == 3) {
        bond.order = 2;
        --atoms_[bond.from].count;
        if (bond.back == NONE) --atoms_[bond.to].count;
      }
    for (size_t i = 0; i < node.size(); ++i)
      if (int(i) < mate[i]) make_double(node[i], node[mate[i]]);
  }

  // `constraints`: lines "N+1 4", the last of them for all that is not named.
  void check(Text constraints) const {
    for (const auto& atom : atoms_) {
      std::string key = "\n" + atom.element;
      if (atom.charge) key += (atom.charge > 0 ? "+" : "") + std::to_string(atom.charge);
      size_t found = constraints.find(key + " ");
      if (found == Text::npos) found = constraints.find(key = "\n?");
      const int most = atoi(constraints.data() + found + key.size());
      if (atom.count > 2 * (most - std::max(atom.hydrogens, 0))) throw Declined();
    }
  }

  // A symbol of SELFIES counts neighbours in another order than SMILES where rings open and close.
  void turn_centres() {
    for (auto& atom : atoms_) {
      if (!atom.chirality || !atom.ring) continue;
      std::vector<int> closing, opening, others;
      for (size_t i = 0; i < atom.out.size(); ++i) {
        const Bond& bond = bonds_[atom.out[i]];
        (bond.back == NONE ? others : bond.from < bond.to ? opening : closing).push_back(int(i));
      }
      for (size_t i = 1; i < opening.size(); ++i)  // by the atom where the ring closes
        for (size_t j = i; j && ends(atom, opening[j]) < ends(atom, opening[j - 1]); --j)
          std::swap(opening[j], opening[j - 1]);
      closing.insert(closing.end(), opening.begin(), opening.end());
      closing.insert(closing.end(), others.begin(), others.end());
      int swaps = 0;
      for (size_t i = 0; i < closing.size(); ++i)
        for (size_t j = i + 1; j < closing.size(); ++j) swaps += closing[i] > closing[j];
      if (swaps % 2) atom.chirality = 3 - atom.chirality;
    }
  }

  int ends(const Atom& atom, int place) const { return bonds_[atom.out[place]].to; }

  std::vector<std::string> symbols() const { return chain(nullptr, 0, 0); }

 private:
  void read() {
    if (text_.empty()) throw Declined();
    std::vector<int> previous = {NONE};  // the last atom of each open branch
    struct Open { int number, atom; char mark; size_t place; };
    std::vector<Open> open;
    bool begins = true;
    size_t i = 0;
    while (i < text_.size()) {
      char mark = 0;
      if (Text("-/\\=#").find(text_[i]) != Text::npos) mark = text_[i++];
      if (i == text_.size()) throw Declined();
      const char c = text_[i];
      if (c == '[' || lower(c) || upper(c)) {
        Atom atom;
        i += c == '[' ? bracket(i, atom) : bare(i, atom);
        if (previous.back() == NONE && mark) throw Declined();
        previous.back() = attach(std::move(atom), previous.back(), mark);
        begins = false;
      } else if (begins) {
        throw Declined();
      } else if (c == '(') {
        if (mark) throw Declined();
        previous.push_back(previous.back());
        begins = true;
        ++i;
      } else if (c == ')') {
        if (mark || previous.size() == 1) throw Declined();
        previous.pop_back();
        ++i;
      } else if (digit(c) || c == '%') {
        int number = c - '0';
        if (c == '%') {
          if (i + 2 >= text_.size() || !digit(text_[i + 1]) || !digit(text_[i + 2])) throw Declined();
          number = 100 + 10 * (text_[i + 1] - '0') + (text_[i + 2] - '0');
        }
        i += c == '%' ? 3 : 1;
        const int here = previous.back();
        size_t which = 0;
        while (which < open.size() && open[which].number != number) ++which;
        if (which == open.size()) {
          open.push_back({number, here, mark, atoms_[here].out.size()});
          atoms_[here].out.push_back(NONE);
        } else {
          close(open[which].atom, open[which].place, open[which].mark, here, mark);
          open.erase(open.begin() + long(which));
        }
      } else {
        throw Declined();
      }
    }
    if (begins || previous.size() > 1 || !open.empty()) throw Declined();
  }

  size_t bare(size_t i, Atom& atom) const {
    const Text two = text_.substr(i, 2);
    if (two == "Br" || two == "Cl") {
      atom.element = two;
      return 2;
    }
    const char c = text_[i];
    atom.element = std::string(1, lower(c) ? char(c - 32) : c);
    atom.aromatic = lower(c);
    if (lower(c) ? !aromatic(atom.element) : !organic(atom.element)) throw Declined();
    return 1;
  }

  size_t bracket(size_t begin, Atom& atom) const {
    size_t i = begin + 1;
    const auto at = [&](size_t k) { return k < text_.size() ? text_[k] : '\0'; };
    const auto number = [&](size_t most) {
      size_t digits = 0;
      int value = 0;
      while (digits < most && digit(at(i))) value = 10 * value + (at(i++) - '0'), ++digits;
      if (digits > 5) throw Declined();
      return digits ? value : NONE;
    };
    atom.in_brackets = true;
    atom.isotope = number(9);
    const bool small = lower(at(i));
    if (!small && !upper(at(i))) throw Declined();
    atom.element = std::string(1, small ? char(at(i) - 32) : at(i));
    ++i;
    if (lower(at(i))) atom.element += at(i++);
    atom.aromatic = small && aromatic(atom.element);
    if (ELEMENTS.find(" " + atom.element + " ") == Text::npos) throw Declined();
    while (at(i) == '@' && atom.chirality < 2) ++atom.chirality, ++i;
    atom.hydrogens = 0;
    if (at(i) == 'H') {
      ++i;
      const int given = number(1);
      atom.hydrogens = given == NONE ? 1 : given;
    }
    if (at(i) == '+' || at(i) == '-') {
      const char sign = at(i);
      int size = 0;
      while (at(i) == sign) ++i, ++size;
      const int given = number(9);
      if (given != NONE) {
        if (size > 1) throw Declined();
        size = given;
      }
      atom.charge = sign == '+' ? size : -size;
    }
    if (at(i) == ':') {
      ++i;
      if (number(9) == NONE) throw Declined();
    }
    if (at(i) != ']') throw Declined();
    return i + 1 - begin;
  }

  static int order(char mark) { return mark == '=' ? 4 : mark == '#' ? 6 : 2; }
  static char stereo(char mark) { return mark == '/' || mark == '\\' ? mark : 0; }

  int attach(Atom atom, int to, char mark) {
    const int here = int(atoms_.size());
    atoms_.push_back(std::move(atom));
    if (to == NONE) return here;
    const bool shared = atoms_[to].aromatic && atoms_[here].aromatic && !mark;
    atoms_[to].out.push_back(int(bonds_.size()));
    bonds_.push_back({to, here, shared ? 3 : order(mark), stereo(mark), NONE});
    count(to, here, bonds_.back().order);
    return here;
  }

  void close(int left, size_t place, char left_mark, int right, char right_mark) {
    if (left == right || find(left, right) != NONE) throw Declined();
    const bool agree = left_mark == right_mark || !left_mark || !right_mark ||
                       (stereo(left_mark) && stereo(right_mark));
    if (!agree) throw Declined();
    const bool shared =
        atoms_[left].aromatic && atoms_[right].aromatic && !left_mark && !right_mark;
    const int both = shared ? 3 : std::max(order(left_mark), order(right_mark));
    const int first = int(bonds_.size());
    bonds_.push_back({left, right, both, stereo(left_mark), first + 1});
    bonds_.push_back({right, left, both, stereo(right_mark), first});
    atoms_[left].out[place] = first;
    atoms_[right].out.push_back(first + 1);
    atoms_[left].ring = atoms_[right].ring = true;
    count(left, right, both);
  }

  void count(int a, int b, int order) {
    atoms_[a].count += order;
    atoms_[b].count += order;
    if (order == 3) {
      atoms_[a].delocalised.push_back(b);
      atoms_[b].delocalised.push_back(a);
    }
  }

  // The bond between two atoms, as seen from the first.
  int find(int a, int b) const {
    for (int bond : atoms_[a].out)
      if (bond != NONE && bonds_[bond].to == b) return bond;
    for (int bond : atoms_[b].out)
      if (bond != NONE && bonds_[bond].to == a) return bond;
    return NONE;
  }

  void make_double(int a, int b) {
    Bond& bond = bonds_[find(a, b)];
    bond.order = 4;
    if (bond.back != NONE) bonds_[bond.back].order = 4;
    atoms_[a].count += 2;
    atoms_[b].count += 2;
  }

  // Whether an aromatic atom has an electron left for a double bond.
  static bool takes_part(const Atom& atom) {
    const int shared = int(atom.delocalised.size());
    if (!shared) return false;
    const Aromatic& kind = *aromatic(atom.element);
    const auto fills = [&](int used, int charge) {
      return used == kind.valences[0] - charge ||
             (kind.valences[1] && used == kind.valences[1] - charge);
    };
    int used = (atom.count - shared) / 2;  // each shared bond as a single one
    if (!atom.in_brackets) return !fills(used, 0);
    used += atom.hydrogens;
    if (fills(used, atom.charge)) return false;
    const int bound =
        std::max(0, atom.charge) + atom.hydrogens + atom.count / 2 + atom.count % 2;
    const int unpaired = std::max(0, kind.electrons - bound) % 2;
    const int most = kind.valences[1] ? kind.valences[1] : kind.valences[0];
    const int left = most - atom.charge - used - unpaired;
    return left >= 0 && left % 2;
  }

  // Atoms with the fewest free neighbours first, each with its first free one.
  static std::vector<int> matched(const std::vector<std::vector<int>>& graph) {
    std::vector<int> mate(graph.size(), NONE), free(graph.size());
    std::vector<int64_t> next;  // a heap of (free neighbours, atom), the least on top
    const auto push = [&](int atom) {
      next.push_back(-((int64_t(free[atom]) << 32) + atom));
      std::push_heap(next.begin(), next.end());
    };
    for (size_t i = 0; i < graph.size(); ++i) {
      free[i] = int(graph[i].size());
      push(int(i));
    }
    while (!next.empty()) {
      const int i = int(-next.front() & 0xffffffff);
      std::pop_heap(next.begin(), next.end());
      next.pop_back();
      if (mate[i] != NONE || free[i] == 0) continue;
      int j = NONE;
      for (size_t k = 0; j == NONE; ++k)
        if (mate[graph[i][k]] == NONE) j = graph[i][k];
      mate[i] = j;
      mate[j] = i;
      for (int end : {i, j})
        for (int k : graph[end])
          if (--free[k] > 0 && mate[k] == NONE) push(k);
    }
    for (int other : mate)
      if (other == NONE) throw Declined();
    return mate;
  }

  static const char* sign(int order) { return order == 4 ? "=" : order == 6 ? "#" : ""; }

  static void append(std::vector<std::string>& out, const std::vector<std::string>& more) {
    out.insert(out.end(), more.begin(), more.end());
  }

  static std::vector<std::string> index(int value) {
    static const char* const digits[] = {
        "[C]", "[Ring1]", "[Ring2]", "[Branch1]", "[=Branch1]", "[#Branch1]", "[Branch2]",
        "[=Branch2]", "[#Branch2]", "[O]", "[N]", "[=N]", "[=C]", "[#C]", "[S]", "[P]"};
    std::vector<std::string> found;
    do found.push_back(digits[value % 16]);
    while (value /= 16);
    std::reverse(found.begin(), found.end());
    return found;
  }

  std::string symbol(const Bond* into, const Atom& atom) const {
    std::string text = "[";
    if (into && into->order == 2 && into->stereo) text += into->stereo;
    if (into) text += sign(into->order);
    if (atom.isotope != NONE) text += std::to_string(atom.isotope);
    text += atom.element;
    text.append(atom.chirality, '@');
    if (atom.hydrogens > 0) text += "H" + std::to_string(atom.hydrogens);
    const bool plain = atom.isotope == NONE && !atom.chirality && !atom.charge;
    if (plain && atom.hydrogens == 0 && organic(atom.element)) text += "H0";
    if (atom.charge) text += (atom.charge > 0 ? "+" : "") + std::to_string(atom.charge);
    return text + "]";
  }

  std::string ring_symbol(const Bond& left, const Bond& right, size_t digits) const {
    std::string text = "[";
    if (left.order == 2 && (left.stereo || right.stereo)) {
      text += left.stereo ? left.stereo : '-';
      text += right.stereo ? right.stereo : '-';
    } else {
      text += sign(left.order);
    }
    return text + "Ring" + std::to_string(digits) + "]";
  }

  std::vector<std::string> chain(const Bond* into, int here, int depth) const {
    if (depth > 100) throw Declined();  // where Python's own stack may end
    std::vector<std::string> found;
    while (true) {
      const Atom& atom = atoms_[here];
      found.push_back(symbol(into, atom));
      bool on = false;
      for (size_t i = 0; i < atom.out.size(); ++i) {
        const Bond& bond = bonds_[atom.out[i]];
        if (bond.back != NONE) {
          if (bond.from < bond.to) continue;
          const auto size = index(bond.from - bond.to - 1);
          found.push_back(ring_symbol(bonds_[bond.back], bond, size.size()));
          append(found, size);
        } else if (i + 1 == atom.out.size()) {
          into = &bond;
          here = bond.to;
          on = true;
        } else {
          const auto branch = chain(&bond, bond.to, depth + 1);
          const auto size = index(int(branch.size()) - 1);
          found.push_back(std::string("[") + sign(bond.order) + "Branch" +
                          std::to_string(size.size()) + "]");
          append(found, size);
          append(found, branch);
        }
      }
      if (!on) return found;
    }
  }

  Text text_;
  std::vector<Atom> atoms_;
  std::vector<Bond> bonds_;
};

}  // namespace

extern "C" {

// `constraints`: as for `check`. `out`: room for `capacity` bytes. `sizes`: bytes of each text in
// `out`, or -1 where it was declined. Returns all bytes, or -1 where there was no room.
int64_t spell(const char* texts, int64_t num_bytes, int64_t num_texts, const char* constraints,
              char* out, int64_t capacity, int64_t* sizes) {
  Text rest(texts, num_bytes);
  int64_t total = 0;
  for (int64_t n = 0; n < num_texts; ++n) {
    const size_t end = std::min(rest.find('\n'), rest.size());
    sizes[n] = -1;
    try {
      std::string text;
      for (Text left = rest.substr(0, end);;) {  // fragment by fragment
        const size_t dot = left.find('.');
        Molecule molecule(left.substr(0, dot));
        molecule.kekulize();
        molecule.check(constraints);
        molecule.turn_centres();
        for (const auto& symbol : molecule.symbols()) text += symbol;
        if (dot == Text::npos) break;
        text += '.';
        left.remove_prefix(dot + 1);
      }
      if (total + int64_t(text.size()) > capacity) return -1;
      memcpy(out + total, text.data(), text.size());
      sizes[n] = int64_t(text.size());
      total += sizes[n];
    } catch (const Declined&) {
    }
    rest.remove_prefix(std::min(end + 1, rest.size()));
  }
  return total;
}

}  // extern "C"
