// Inner loops of training and sampling on a CPU, each beside a plain version in PyTorch that it must equal.
//
// Called through ctypes on contiguous arrays, so nothing here knows of PyTorch and the file compiles
// in seconds. Every function exists for float and double; the latter is for tests of gradients. Those
// that language models train through also take arrays of bfloat16, and compute in float.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <new>
#include <numeric>
#include <thread>
#include <vector>

namespace {

#if defined(__AVX512F__)
constexpr int BYTES = 64;
#else
constexpr int BYTES = 32;
#endif

template <class T>
struct Vector {
  typedef T type __attribute__((vector_size(BYTES), aligned(alignof(T)), may_alias));
  static constexpr int size = BYTES / sizeof(T);
};

// The upper half of a float, rounded to nearest, ties to even. NaN stays NaN.
struct Bfloat16 {
  uint16_t bits;
  Bfloat16() = default;
  Bfloat16(float x) {
    uint32_t whole;
    std::memcpy(&whole, &x, sizeof whole);
    const uint32_t rounded = (whole + 0x7fff + ((whole >> 16) & 1)) >> 16;
    bits = x == x ? static_cast<uint16_t>(rounded) : 0x7fc0;
  }
  operator float() const {
    const uint32_t whole = static_cast<uint32_t>(bits) << 16;
    float x;
    std::memcpy(&x, &whole, sizeof x);
    return x;
  }
};

// What numbers that lie in arrays as S are computed in.
template <class S>
struct Of {
  typedef S type;
};
template <>
struct Of<Bfloat16> {
  typedef float type;
};
template <class S>
using Computed = typename Of<S>::type;

// work(from, to) on parts of [0, n), one a thread; `grain` is what is worth starting one for. Each part
// writes what is its own, so results do not depend on the number of threads.
template <class Work>
void share(int64_t n, int64_t grain, int64_t threads, Work work) {
  const int64_t parts = std::max<int64_t>(1, std::min(threads, n / grain));
  std::vector<std::thread> others;
  for (int64_t part = 1; part < parts; ++part)
    others.emplace_back(work, n * part / parts, n * (part + 1) / parts);
  work(0, n / parts);
  for (auto& other : others) other.join();
}

// --- elementary functions -----------------------------------------------------------------------

// exp to a few units in the last place: 2^n times a polynomial on |r| <= ln(2)/2. NaN stays NaN.
inline float exponential(float x) {
  const float clamped = x > 88.0f ? 88.0f : (x < -87.0f ? -87.0f : x);
  const float n = std::nearbyint(clamped * 1.44269504088896341f);
  float r = clamped - n * 0.693359375f;
  r -= n * -2.12194440e-4f;
  float p = 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r + 1.0f;
  const int32_t bits = (static_cast<int32_t>(n) + 127) << 23;
  float scale;
  std::memcpy(&scale, &bits, sizeof scale);
  return p * scale;
}
inline double exponential(double x) { return std::exp(x); }

// ln(1 + z) for 0 <= z <= 1, as 2 artanh(z / (2 + z)).
inline float log_one_plus(float z) {
  const float s = z / (2.0f + z), q = s * s;
  float p = 1.0f / 15.0f;
  p = p * q + 1.0f / 13.0f;
  p = p * q + 1.0f / 11.0f;
  p = p * q + 1.0f / 9.0f;
  p = p * q + 1.0f / 7.0f;
  p = p * q + 1.0f / 5.0f;
  p = p * q + 1.0f / 3.0f;
  p = p * q + 1.0f;
  return 2.0f * s * p;
}
inline double log_one_plus(double z) { return std::log1p(z); }

template <class T>
inline T sigmoid(T x) {
  return T(1) / (T(1) + exponential(-x));
}

// --- activations: value, first and second derivative ---------------------------------------------

struct Silu {
  template <class T>
  static T value(T x) { return x * sigmoid(x); }
  template <class T>
  static T first(T x) { const T s = sigmoid(x); return s * (T(1) + x * (T(1) - s)); }
  template <class T>
  static T second(T x) {
    const T s = sigmoid(x);
    return s * (T(1) - s) * (T(2) + x * (T(1) - T(2) * s));
  }
};

struct ShiftedSoftplus {
  template <class T>
  static T value(T x) {
    const T small = exponential(x > T(0) ? -x : x);
    return (x > T(0) ? x : x * T(0)) + log_one_plus(small) - T(0.69314718055994530942);
  }
  template <class T>
  static T first(T x) { return sigmoid(x); }
  template <class T>
  static T second(T x) { const T s = sigmoid(x); return s * (T(1) - s); }
};

struct Gelu {  // in the tanh approximation: x times the sigmoid of 2 sqrt(2/pi) (x + 0.044715 x^3)
  template <class T>
  static T inner(T x) {
    return T(1.5957691216057308) * (x + T(0.044715) * x * x * x);
  }
  template <class T>
  static T slope(T x) {
    return T(1.5957691216057308) * (T(1) + T(3) * T(0.044715) * x * x);
  }
  template <class T>
  static T value(T x) { return x * sigmoid(inner(x)); }
  template <class T>
  static T first(T x) {
    const T s = sigmoid(inner(x));
    return s * (T(1) + x * (T(1) - s) * slope(x));
  }
  template <class T>
  static T second(T x) {
    const T s = sigmoid(inner(x)), u = slope(x), d = s * (T(1) - s);
    const T bend = T(1.5957691216057308) * T(6) * T(0.044715) * x;
    return d * (T(2) * u + x * bend + x * u * u * (T(1) - T(2) * s));
  }
};

template <class F, class S>
void activate(const S* __restrict x, S* __restrict y, int64_t n, int64_t threads) {
  share(n, 65536, threads, [=](int64_t from, int64_t to) {
    for (int64_t i = from; i < to; ++i) y[i] = F::value(Computed<S>(x[i]));
  });
}
template <class F, class S>
void activate_backward(const S* __restrict g, const S* __restrict x, S* __restrict out, int64_t n,
                       int64_t threads) {
  share(n, 65536, threads, [=](int64_t from, int64_t to) {
    for (int64_t i = from; i < to; ++i) out[i] = g[i] * F::first(Computed<S>(x[i]));
  });
}
// h is the cotangent of `activate_backward`: gives those of g and of x.
template <class F, class S>
void activate_twice(const S* __restrict h, const S* __restrict g, const S* __restrict x,
                    S* __restrict to_g, S* __restrict to_x, int64_t n, int64_t threads) {
  share(n, 65536, threads, [=](int64_t from, int64_t to) {
    for (int64_t i = from; i < to; ++i) {
      to_g[i] = h[i] * F::first(Computed<S>(x[i]));
      to_x[i] = h[i] * g[i] * F::second(Computed<S>(x[i]));
    }
  });
}

// --- products of small matrices -------------------------------------------------------------------

// C (rows x columns) = A B, where A[i, k] = a[i * a_row + k * a_column], B and C lie in rows of
// `b_row` and `c_row`. Columns are padded to whole vectors by the caller.
template <class T, int ROWS, int COLUMNS>
inline void tile(const T* a, int64_t a_row, int64_t a_column, const T* b, int64_t b_row, T* c,
                 int64_t c_row, int64_t from, int64_t to) {
  using V = typename Vector<T>::type;
  V sum[ROWS][COLUMNS] = {};
  for (int64_t k = from; k < to; ++k) {
    V row[COLUMNS];
    for (int j = 0; j < COLUMNS; ++j)
      row[j] = *reinterpret_cast<const V*>(b + k * b_row + j * Vector<T>::size);
    for (int i = 0; i < ROWS; ++i) {
      const T value = a[i * a_row + k * a_column];
      for (int j = 0; j < COLUMNS; ++j) sum[i][j] += value * row[j];
    }
  }
  for (int i = 0; i < ROWS; ++i)
    for (int j = 0; j < COLUMNS; ++j)
      *reinterpret_cast<V*>(c + i * c_row + j * Vector<T>::size) = sum[i][j];
}

template <class T, int ROWS>
inline void strip(const T* a, int64_t a_row, int64_t a_column, const T* b, int64_t b_row, T* c,
                  int64_t c_row, int64_t columns, int64_t from, int64_t to) {
  constexpr int64_t wide = 2 * Vector<T>::size;
  int64_t j = 0;
  for (; j + wide <= columns; j += wide)
    tile<T, ROWS, 2>(a, a_row, a_column, b + j, b_row, c + j, c_row, from, to);
  for (; j < columns; j += Vector<T>::size)
    tile<T, ROWS, 1>(a, a_row, a_column, b + j, b_row, c + j, c_row, from, to);
}

// Rows in blocks of four; `span(i)` says which k count for the rows of the block at i, and `width`
// how many columns.
template <class T, class Span, class Width>
void product(const T* a, int64_t a_row, int64_t a_column, const T* b, int64_t b_row, T* c,
             int64_t c_row, int64_t rows, Width width, Span span) {
  int64_t i = 0;
  for (; i + 4 <= rows; i += 4) {
    const auto [from, to] = span(i, i + 4);
    strip<T, 4>(a + i * a_row, a_row, a_column, b, b_row, c + i * c_row, c_row, width(i + 4), from,
                to);
  }
  for (; i < rows; ++i) {
    const auto [from, to] = span(i, i + 1);
    strip<T, 1>(a + i * a_row, a_row, a_column, b, b_row, c + i * c_row, c_row, width(i + 1), from,
                to);
  }
}

struct Range {
  int64_t from, to;
};

// Memory that starts at a whole vector, always: where a loop is split must not vary between runs.
template <class T>
struct Aligned {
  using value_type = T;
  static constexpr std::align_val_t start{64};
  Aligned() = default;
  template <class U>
  Aligned(const Aligned<U>&) {}
  T* allocate(size_t n) { return static_cast<T*>(::operator new(n * sizeof(T), start)); }
  void deallocate(T* p, size_t) { ::operator delete(p, start); }
  bool operator==(const Aligned&) const { return true; }
  bool operator!=(const Aligned&) const { return false; }
};

template <class T>
using Numbers = std::vector<T, Aligned<T>>;

// --- causal attention of molecules that lie one after another ---------------------------------------

template <class T>
int64_t padded(int64_t n) {
  return (n + Vector<T>::size - 1) / Vector<T>::size * Vector<T>::size;
}

// One head of one molecule, copied out of the packed rows: L tokens of D features, in rows of D or L
// rounded up to whole vectors. What lies in the padding is never read back.
template <class T>
struct Head {
  Numbers<T> query, key, value, key_columns, value_columns, weights, gathered, more, out;
  int64_t length = 0, features = 0, wide = 0, tall = 0;

  void resize(int64_t new_length, int64_t new_features) {
    length = new_length;
    features = new_features;
    wide = padded<T>(features);
    tall = padded<T>(length + 3);  // blocks of four rows reach up to three columns further
    if (weights.size() >= static_cast<size_t>(tall * tall)) return;
    for (auto* rows : {&query, &key, &value, &gathered, &out}) rows->assign(tall * wide, T(0));
    for (auto* columns : {&key_columns, &value_columns}) columns->assign(wide * tall, T(0));
    for (auto* square : {&weights, &more}) square->assign(tall * tall, T(0));
  }
  template <class S>
  void load(Numbers<T>& to, const S* from, int64_t stride) const {
    for (int64_t i = 0; i < length; ++i)
      std::copy_n(from + i * stride, features, &to[i * wide]);
  }
  template <class S>
  void store(const Numbers<T>& from, S* to, int64_t stride) const {
    for (int64_t i = 0; i < length; ++i)
      std::copy_n(&from[i * wide], features, to + i * stride);
  }
  void transpose(const Numbers<T>& rows, Numbers<T>& columns) const {
    for (int64_t j = 0; j < features; ++j)
      for (int64_t i = 0; i < length; ++i) columns[j * tall + i] = rows[i * wide + j];
  }
  // weights = softmax of query key^T over what each token sees.
  void attend(int64_t window) {
    transpose(key, key_columns);
    scores(query, key_columns, weights);
    for (int64_t i = 0; i < length; ++i) {
      T* row = &weights[i * tall];
      // Whole vectors, hidden columns included, so that no loop has a remainder.
      const int64_t end = padded<T>(i + 1);
      const int64_t first = window > 0 ? std::max<int64_t>(0, i + 1 - window) : 0;
      hide(row, first, i, end, std::numeric_limits<T>::lowest());
      T highest = row[i];
#pragma omp simd reduction(max : highest)
      for (int64_t j = 0; j < end; ++j) highest = row[j] > highest ? row[j] : highest;
      for (int64_t j = 0; j < end; ++j) row[j] = exponential(row[j] - highest);
      hide(row, first, i, std::min(padded<T>(i + 4), tall), T(0));
      T total = T(0);
#pragma omp simd reduction(+ : total)
      for (int64_t j = 0; j < end; ++j) total += row[j];
      const T share = T(1) / total;
      for (int64_t j = 0; j < end; ++j) row[j] *= share;
    }
  }
  // Give what a token does not see, before `first` and after `last`, a value.
  static void hide(T* row, int64_t first, int64_t last, int64_t end, T value) {
    for (int64_t j = 0; j < first; ++j) row[j] = value;
    for (int64_t j = last + 1; j < end; ++j) row[j] = value;
  }
  // square (i, j) = rows (i) . columns (j) for j <= i.
  void scores(const Numbers<T>& rows, const Numbers<T>& columns, Numbers<T>& square) {
    product(rows.data(), wide, 1, columns.data(), tall, square.data(), tall, length,
            [&](int64_t end) { return std::min(padded<T>(end), tall); },
            [&](int64_t, int64_t) { return Range{0, features}; });
  }
  // to (i) = sum over j <= i of square (i, j) rows (j).
  void gather(const Numbers<T>& square, const Numbers<T>& rows, Numbers<T>& to) {
    product(square.data(), tall, 1, rows.data(), wide, to.data(), wide, length,
            [&](int64_t) { return wide; },
            [&](int64_t, int64_t end) { return Range{0, std::min(end, length)}; });
  }
  // to (j) = sum over i >= j of square (i, j) rows (i).
  void scatter(const Numbers<T>& square, const Numbers<T>& rows, Numbers<T>& to) {
    product(square.data(), 1, tall, rows.data(), wide, to.data(), wide, length,
            [&](int64_t) { return wide; },
            [&](int64_t begin, int64_t) { return Range{begin, length}; });
  }
};

// work(head, start, h) for every head h of every molecule, whose first token is `start`.
template <class T, class Work>
void each_head(const int64_t* lengths, int64_t molecules, int64_t width, int64_t heads,
               int64_t threads, Work work) {
  share(molecules, 4, threads, [=](int64_t from, int64_t to) {
    Head<T> head;
    int64_t start = std::accumulate(lengths, lengths + from, int64_t(0));
    for (int64_t m = from; m < to; start += lengths[m++]) {
      head.resize(lengths[m], width / heads);
      for (int64_t h = 0; h < heads; ++h) work(head, start, h);
    }
  });
}

template <class S>
void attention(const S* packed, const int64_t* lengths, S* out, int64_t molecules, int64_t width,
               int64_t heads, int64_t window, int64_t threads) {
  using T = Computed<S>;
  each_head<T>(lengths, molecules, width, heads, threads, [=](Head<T>& head, int64_t start, int64_t h) {
    const S* from = packed + start * 3 * width + h * head.features;
    head.load(head.query, from, 3 * width);
    head.load(head.key, from + width, 3 * width);
    head.load(head.value, from + 2 * width, 3 * width);
    head.attend(window);
    head.gather(head.weights, head.value, head.gathered);
    head.store(head.gathered, out + start * width + h * head.features, width);
  });
}

template <class S>
void attention_backward(const S* gradient, const S* packed, const int64_t* lengths, S* out,
                        int64_t molecules, int64_t width, int64_t heads, int64_t window,
                        int64_t threads) {
  using T = Computed<S>;
  each_head<T>(lengths, molecules, width, heads, threads, [=](Head<T>& head, int64_t start, int64_t h) {
    const S* from = packed + start * 3 * width + h * head.features;
    S* to = out + start * 3 * width + h * head.features;
    head.load(head.query, from, 3 * width);
    head.load(head.key, from + width, 3 * width);
    head.load(head.value, from + 2 * width, 3 * width);
    head.load(head.gathered, gradient + start * width + h * head.features, width);
    head.attend(window);
    head.scatter(head.weights, head.gathered, head.out);  // to the values
    head.store(head.out, to + 2 * width, 3 * width);
    head.transpose(head.value, head.value_columns);
    head.scores(head.gathered, head.value_columns, head.more);  // to the weights
    for (int64_t i = 0; i < head.length; ++i) {
      T* row = &head.more[i * head.tall];
      const T* weight = &head.weights[i * head.tall];
      const int64_t end = padded<T>(i + 1);
      head.hide(row, 0, i, std::min(padded<T>(i + 4), head.tall), T(0));
      T mean = T(0);
#pragma omp simd reduction(+ : mean)
      for (int64_t j = 0; j < end; ++j) mean += row[j] * weight[j];
      for (int64_t j = 0; j < end; ++j) row[j] = weight[j] * (row[j] - mean);
    }
    head.gather(head.more, head.key, head.out);
    head.store(head.out, to, 3 * width);
    head.scatter(head.more, head.query, head.out);
    head.store(head.out, to + width, 3 * width);
  });
}

// --- products with a matrix packed in panels, in training and sampling --------------------------------

constexpr int64_t PANEL = 32;  // columns of a panel

// A matrix (features, columns), element (k, j) at k * row + j * column, to panels: (columns / PANEL,
// features, PANEL), zeros beyond the last column.
template <class T>
void pack(const T* matrix, T* panels, int64_t columns, int64_t features, int64_t row,
          int64_t column) {
  constexpr int64_t BLOCK = 16;  // of rows, so that a cache line is read once if rows lie side by side
  for (int64_t begin = 0; begin < columns; begin += PANEL, panels += features * PANEL) {
    const int64_t amount = std::min(PANEL, columns - begin);
    if (amount < PANEL) std::fill(panels, panels + features * PANEL, T(0));
    for (int64_t from = 0; from < features; from += BLOCK) {
      const int64_t to = std::min(from + BLOCK, features);
      if (column == 1)
        for (int64_t k = from; k < to; ++k)
          std::memcpy(panels + k * PANEL, matrix + k * row + begin, amount * sizeof(T));
      else
        for (int64_t j = 0; j < amount; ++j)
          for (int64_t k = from; k < to; ++k)
            panels[k * PANEL + j] = matrix[k * row + (begin + j) * column];
    }
  }
}

// Rows of x (rows, features), element (i, k) at i * row + k * column.
template <class T>
struct Rows {
  const T* x;
  int64_t row, column;
};

// out = x panels + bias, for N rows of x; then GELU, then `onto` is added, if it is there.
template <int N, class T>
void dense_rows(Rows<T> x, const T* panels, const T* bias, const T* onto, T* out, int64_t features,
                int64_t columns, bool gelu) {
  alignas(64) T sums[N * PANEL];
  for (int64_t begin = 0; begin < columns; begin += PANEL, panels += features * PANEL) {
    strip<T, N>(x.x, x.row, x.column, panels, PANEL, sums, PANEL, PANEL, 0, features);
    const int64_t amount = std::min(PANEL, columns - begin);
    if (bias)
      for (int i = 0; i < N; ++i)
        for (int64_t j = 0; j < amount; ++j) sums[i * PANEL + j] += bias[begin + j];
    if (gelu)
      for (int64_t j = 0; j < N * PANEL; ++j) sums[j] = Gelu::value(sums[j]);
    for (int i = 0; i < N; ++i) {
      T* to = out + i * columns + begin;
      if (onto)
        for (int64_t j = 0; j < amount; ++j)
          to[j] = onto[i * columns + begin + j] + sums[i * PANEL + j];
      else
        std::memcpy(to, sums + i * PANEL, amount * sizeof(T));
    }
  }
}

template <class T>
void dense(const T* x, const T* panels, const T* bias, const T* onto, T* out, int64_t rows,
           int64_t features, int64_t columns, int64_t row, int64_t column, int64_t gelu,
           int64_t threads) {
  constexpr int N = BYTES == 64 ? 8 : 6;  // as many sums as fit into the registers
  const int64_t grain = std::max<int64_t>(N, (1 << 22) / (features * columns));
  share(rows, grain, threads, [=](int64_t i, int64_t end) {
    // Rows that are columns in memory are copied: one element of each page is slow to read again.
    Numbers<T> block(column == 1 ? 0 : N * features);
    for (; i + N <= end; i += N) {
      Rows<T> some{x + i * row, row, column};
      if (column != 1) {
        for (int64_t k = 0; k < features; ++k)
          if (row == 1)
            std::memcpy(&block[k * N], some.x + k * column, N * sizeof(T));
          else
            for (int64_t n = 0; n < N; ++n) block[k * N + n] = some.x[n * row + k * column];
        some = {block.data(), 1, N};
      }
      dense_rows<N, T>(some, panels, bias, onto ? onto + i * columns : onto, out + i * columns,
                       features, columns, gelu);
    }
    for (; i < end; ++i)
      dense_rows<1, T>({x + i * row, row, column}, panels, bias, onto ? onto + i * columns : onto,
                       out + i * columns, features, columns, gelu);
  });
}

// --- attention in sampling: one token of each sequence at a time --------------------------------------

constexpr int64_t PLACES = 16;  // of a page

// to (i) = query . key (i) for the places i of a page; `ahead` will be needed soon.
template <class T>
inline void score(const T* query, const T* key, const T* ahead, int64_t features, T* to) {
  typedef typename Vector<T>::type V;
  constexpr int N = PLACES / Vector<T>::size, CHAINS = 4 / N;
  V sums[CHAINS][N] = {};
  int64_t f = 0;
  for (; f + CHAINS <= features; f += CHAINS)
    for (int c = 0; c < CHAINS; ++c) {
      const V* row = reinterpret_cast<const V*>(key + (f + c) * PLACES);
      __builtin_prefetch(ahead + (f + c) * PLACES);
      for (int n = 0; n < N; ++n) sums[c][n] += query[f + c] * row[n];
    }
  for (; f < features; ++f)
    for (int n = 0; n < N; ++n)
      sums[0][n] += query[f] * reinterpret_cast<const V*>(key + f * PLACES)[n];
  for (int n = 0; n < N; ++n) {
    for (int c = 1; c < CHAINS; ++c) sums[0][n] += sums[c][n];
    reinterpret_cast<V*>(to)[n] = sums[0][n];
  }
}

// What row r of a step has to do with: the places from `first` to `last` of the sequence in `slot`.
// Keys lie in pages (slots, heads, features, PLACES), values in pages (slots, PLACES, heads, wide), where
// `wide` is the number of features in whole vectors.
template <class T>
struct Step {
  T* const* keys;
  T* const* values;
  int64_t heads, features, wide, slot, ahead, first, last;
  T* weights;  // (heads, tall), of the places from the first page on
  int64_t tall;

  int64_t begin() const { return first / PLACES; }
  T* key(int64_t page, int64_t of) const { return keys[page] + of * heads * features * PLACES; }
  T* value(int64_t place, int64_t of) const {
    return values[place / PLACES] + (of * PLACES + place % PLACES) * heads * wide;
  }
  // weights = exponentials of the scores; from the totals, what a head has to be multiplied with.
  void weigh(const T* query, T* shares) {
    const int64_t shift = begin() * PLACES;
    for (int64_t page = begin(); page * PLACES < last; ++page)
      for (int64_t h = 0; h < heads; ++h)
        score(query + h * features, key(page, slot) + h * features * PLACES,
              key(page, ahead) + h * features * PLACES, features,
              weights + h * tall + page * PLACES - shift);
    for (int64_t h = 0; h < heads; ++h) {
      T* row = weights + h * tall;
      const T* own = query + h * features;
      T score = T(0);
#pragma omp simd reduction(+ : score)
      for (int64_t f = 0; f < features; ++f) score += own[f] * own[heads * features + f];
      for (int64_t j = 0; j < first - shift; ++j) row[j] = score;
      for (int64_t j = last - shift; j < tall; ++j) row[j] = score;
      T highest = score;
#pragma omp simd reduction(max : highest)
      for (int64_t j = 0; j < tall; ++j) highest = row[j] > highest ? row[j] : highest;
      for (int64_t j = 0; j < tall; ++j) row[j] = exponential(row[j] - highest);
      for (int64_t j = 0; j < first - shift; ++j) row[j] = T(0);
      for (int64_t j = last - shift + 1; j < tall; ++j) row[j] = T(0);
      T total = T(0);
#pragma omp simd reduction(+ : total)
      for (int64_t j = 0; j < tall; ++j) total += row[j];
      shares[h] = T(1) / total;
    }
  }
  // The new key and value join those kept. Only now: reading a page that was just written would wait.
  void keep(const T* key_row, const T* value_row) {
    T* to = key(last / PLACES, slot) + last % PLACES;
    for (int64_t f = 0; f < heads * features; ++f) to[f * PLACES] = key_row[f];
    T* row = value(last, slot);
    for (int64_t h = 0; h < heads; ++h)
      std::memcpy(row + h * wide, value_row + h * features, features * sizeof(T));
  }
  // to = sum of the values by weight, N vectors at a time from vector `begin_at` on.
  template <int N>
  void gather(T* to, int64_t from) {
    typedef typename Vector<T>::type V;
    constexpr int64_t size = Vector<T>::size;
    const int64_t end = heads * wide / size, shift = begin() * PLACES;
    for (; from + N <= end; from += N) {
      const T* weight[N];
      for (int n = 0; n < N; ++n) weight[n] = weights + (from + n) * size / wide * tall - shift;
      V sums[N] = {};
      for (int64_t i = first; i <= last; ++i) {
        const V* row = reinterpret_cast<const V*>(value(i, slot)) + from;
        const V* next = reinterpret_cast<const V*>(value(i, ahead)) + from;
        for (int n = 0; n < N; ++n) {
          __builtin_prefetch(next + n);
          sums[n] += weight[n][i] * row[n];
        }
      }
      for (int n = 0; n < N; ++n) reinterpret_cast<V*>(to)[from + n] = sums[n];
    }
    if constexpr (N > 1) gather<N / 2>(to, from);
  }
};

// Row r is the token at positions[r] of the sequence in slots[r]. A step reads all that is kept of the
// sequence once, which is what it costs: while one row is at work, the next is fetched.
template <class T>
void attention_step(const T* packed, const int64_t* slots, const int64_t* positions, T* const* keys,
                    T* const* values, T* out, int64_t rows, int64_t width, int64_t heads,
                    int64_t pages, int64_t window) {
  const int64_t features = width / heads, wide = (features + PLACES - 1) / PLACES * PLACES;
  Numbers<T> weights(heads * pages * PLACES), shares(heads), gathered(heads * wide);
  for (int64_t r = 0; r < rows; ++r, packed += 3 * width, out += width) {
    const int64_t last = positions[r];
    const int64_t first = window > 0 ? std::max<int64_t>(0, last + 1 - window) : 0;
    const int64_t tall = (last / PLACES - first / PLACES + 1) * PLACES;
    Step<T> step{keys, values, heads, features, wide, slots[r], slots[std::min(r + 1, rows - 1)],
                 first, last, weights.data(), tall};
    step.weigh(packed, shares.data());
    step.keep(packed + width, packed + 2 * width);
    step.template gather<8>(gathered.data(), 0);
    for (int64_t h = 0; h < heads; ++h)
      for (int64_t f = 0; f < features; ++f)
        out[h * features + f] = gathered[h * wide + f] * shares[h];
  }
}

// --- messages along pairs of atoms -----------------------------------------------------------------
//
// A pair (a, b) stands for both edges: to a from b, along d; to b from a, along -d. The two share a
// filter w, since it depends on their distance. F features a row throughout.

// out (a) += x (b) w
template <class T>
void convolve(const T* x, const T* w, const int64_t* first, const int64_t* second, T* out,
              int64_t pairs, int64_t F) {
  for (int64_t p = 0; p < pairs; ++p) {
    const int64_t a = first[p] * F, b = second[p] * F;
    const T* __restrict filter = w + p * F;
#pragma omp simd
    for (int64_t f = 0; f < F; ++f) {
      const T to_a = x[b + f] * filter[f], to_b = x[a + f] * filter[f];
      out[a + f] += to_a;
      out[b + f] += to_b;
    }
  }
}

// From the cotangent g of `out`, those of x and w.
template <class T>
void convolve_backward(const T* g, const T* x, const T* w, const int64_t* first,
                       const int64_t* second, T* to_x, T* to_w, int64_t pairs, int64_t F) {
  for (int64_t p = 0; p < pairs; ++p) {
    const int64_t a = first[p] * F, b = second[p] * F;
    const T* __restrict filter = w + p * F;
    T* __restrict to_filter = to_w + p * F;
#pragma omp simd
    for (int64_t f = 0; f < F; ++f) {
      const T ga = g[a + f], gb = g[b + f];
      to_filter[f] = ga * x[b + f] + gb * x[a + f];
      const T to_a = gb * filter[f], to_b = ga * filter[f];
      to_x[a + f] += to_a;
      to_x[b + f] += to_b;
    }
  }
}

// From the cotangents hx, hw of `convolve_backward`, those of g, x and w.
template <class T>
void convolve_twice(const T* hx, const T* hw, const T* g, const T* x, const T* w,
                    const int64_t* first, const int64_t* second, T* to_g, T* to_x, T* to_w,
                    int64_t pairs, int64_t F) {
  for (int64_t p = 0; p < pairs; ++p) {
    const int64_t a = first[p] * F, b = second[p] * F;
    const T* __restrict filter = w + p * F;
    const T* __restrict change = hw + p * F;
    T* __restrict to_filter = to_w + p * F;
#pragma omp simd
    for (int64_t f = 0; f < F; ++f) {
      const T ga = g[a + f], gb = g[b + f], ha = hx[a + f], hb = hx[b + f];
      const T g_a = hb * filter[f] + x[b + f] * change[f];
      const T g_b = ha * filter[f] + x[a + f] * change[f];
      to_filter[f] = ga * hb + gb * ha;
      const T x_a = gb * change[f], x_b = ga * change[f];
      to_g[a + f] += g_a;
      to_g[b + f] += g_b;
      to_x[a + f] += x_a;
      to_x[b + f] += x_b;
    }
  }
}

// Scalars and vectors. An atom sends s (F), t (F) and u (3, F); the filter is w1, w2, w3 (3 F):
//   scalar (a) += s (b) w1        vector (a, k) += u (b, k) w2 + d (k) t (b) w3
// Rows of an atom: x = s, t, u0, u1, u2 (5 F); y = scalar, vector0, vector1, vector2 (4 F).
template <class T>
void exchange(const T* x, const T* w, const T* d, const int64_t* first, const int64_t* second,
              T* y, int64_t pairs, int64_t F) {
  for (int64_t p = 0; p < pairs; ++p) {
    const T* xa = x + first[p] * 5 * F;
    const T* xb = x + second[p] * 5 * F;
    T* ya = y + first[p] * 4 * F;
    T* yb = y + second[p] * 4 * F;
    const T* w1 = w + p * 3 * F;
    const T *w2 = w1 + F, *w3 = w2 + F;
    const T d0 = d[3 * p], d1 = d[3 * p + 1], d2 = d[3 * p + 2];
#pragma omp simd
    for (int64_t f = 0; f < F; ++f) {
      const T v1 = w1[f], v2 = w2[f], v3 = w3[f];
      const T ta = xa[F + f] * v3, tb = xb[F + f] * v3;
      ya[f] += xb[f] * v1;
      ya[F + f] += xb[2 * F + f] * v2 + d0 * tb;
      ya[2 * F + f] += xb[3 * F + f] * v2 + d1 * tb;
      ya[3 * F + f] += xb[4 * F + f] * v2 + d2 * tb;
      yb[f] += xa[f] * v1;
      yb[F + f] += xa[2 * F + f] * v2 - d0 * ta;
      yb[2 * F + f] += xa[3 * F + f] * v2 - d1 * ta;
      yb[3 * F + f] += xa[4 * F + f] * v2 - d2 * ta;
    }
  }
}

// From the cotangent g of y, those of x, w and d.
template <class T>
void exchange_backward(const T* g, const T* x, const T* w, const T* d, const int64_t* first,
                       const int64_t* second, T* to_x, T* to_w, T* to_d, int64_t pairs,
                       int64_t F) {
  for (int64_t p = 0; p < pairs; ++p) {
    const T* xa = x + first[p] * 5 * F;
    const T* xb = x + second[p] * 5 * F;
    const T* ga = g + first[p] * 4 * F;
    const T* gb = g + second[p] * 4 * F;
    T* xa_ = to_x + first[p] * 5 * F;
    T* xb_ = to_x + second[p] * 5 * F;
    const T* w1 = w + p * 3 * F;
    const T *w2 = w1 + F, *w3 = w2 + F;
    T* w1_ = to_w + p * 3 * F;
    T *w2_ = w1_ + F, *w3_ = w2_ + F;
    const T d0 = d[3 * p], d1 = d[3 * p + 1], d2 = d[3 * p + 2];
    T e0 = 0, e1 = 0, e2 = 0;
#pragma omp simd reduction(+ : e0, e1, e2)
    for (int64_t f = 0; f < F; ++f) {
      const T v1 = w1[f], v2 = w2[f], v3 = w3[f];
      const T a0 = ga[f], a1 = ga[F + f], a2 = ga[2 * F + f], a3 = ga[3 * F + f];
      const T b0 = gb[f], b1 = gb[F + f], b2 = gb[2 * F + f], b3 = gb[3 * F + f];
      const T ta = xa[F + f], tb = xb[F + f];
      const T along_a = d0 * a1 + d1 * a2 + d2 * a3, along_b = d0 * b1 + d1 * b2 + d2 * b3;
      w1_[f] = a0 * xb[f] + b0 * xa[f];
      w2_[f] = a1 * xb[2 * F + f] + a2 * xb[3 * F + f] + a3 * xb[4 * F + f] +
               b1 * xa[2 * F + f] + b2 * xa[3 * F + f] + b3 * xa[4 * F + f];
      w3_[f] = along_a * tb - along_b * ta;
      const T sa = v3 * ta, sb = v3 * tb;
      e0 += a1 * sb - b1 * sa;
      e1 += a2 * sb - b2 * sa;
      e2 += a3 * sb - b3 * sa;
      xa_[f] += b0 * v1;
      xa_[F + f] -= along_b * v3;
      xa_[2 * F + f] += b1 * v2;
      xa_[3 * F + f] += b2 * v2;
      xa_[4 * F + f] += b3 * v2;
      xb_[f] += a0 * v1;
      xb_[F + f] += along_a * v3;
      xb_[2 * F + f] += a1 * v2;
      xb_[3 * F + f] += a2 * v2;
      xb_[4 * F + f] += a3 * v2;
    }
    to_d[3 * p] = e0;
    to_d[3 * p + 1] = e1;
    to_d[3 * p + 2] = e2;
  }
}

// From the cotangents hx, hw, hd of `exchange_backward`, those of g, x, w and d.
template <class T>
void exchange_twice(const T* hx, const T* hw, const T* hd, const T* g, const T* x, const T* w,
                    const T* d, const int64_t* first, const int64_t* second, T* to_g, T* to_x,
                    T* to_w, T* to_d, int64_t pairs, int64_t F) {
  for (int64_t p = 0; p < pairs; ++p) {
    const T* xa = x + first[p] * 5 * F;
    const T* xb = x + second[p] * 5 * F;
    const T* ha = hx + first[p] * 5 * F;
    const T* hb = hx + second[p] * 5 * F;
    const T* ga = g + first[p] * 4 * F;
    const T* gb = g + second[p] * 4 * F;
    T* xa_ = to_x + first[p] * 5 * F;
    T* xb_ = to_x + second[p] * 5 * F;
    T* ga_ = to_g + first[p] * 4 * F;
    T* gb_ = to_g + second[p] * 4 * F;
    const T* w1 = w + p * 3 * F;
    const T *w2 = w1 + F, *w3 = w2 + F;
    const T* h1 = hw + p * 3 * F;
    const T *h2 = h1 + F, *h3 = h2 + F;
    T* w1_ = to_w + p * 3 * F;
    T *w2_ = w1_ + F, *w3_ = w2_ + F;
    const T d0 = d[3 * p], d1 = d[3 * p + 1], d2 = d[3 * p + 2];
    const T c0 = hd[3 * p], c1 = hd[3 * p + 1], c2 = hd[3 * p + 2];
    T e0 = 0, e1 = 0, e2 = 0;
#pragma omp simd reduction(+ : e0, e1, e2)
    for (int64_t f = 0; f < F; ++f) {
      const T v1 = w1[f], v2 = w2[f], v3 = w3[f];
      const T q1 = h1[f], q2 = h2[f], q3 = h3[f];
      const T a0 = ga[f], a1 = ga[F + f], a2 = ga[2 * F + f], a3 = ga[3 * F + f];
      const T b0 = gb[f], b1 = gb[F + f], b2 = gb[2 * F + f], b3 = gb[3 * F + f];
      const T ta = xa[F + f], tb = xb[F + f], ka = ha[F + f], kb = hb[F + f];
      const T along_a = d0 * a1 + d1 * a2 + d2 * a3, along_b = d0 * b1 + d1 * b2 + d2 * b3;
      const T turned_a = c0 * a1 + c1 * a2 + c2 * a3, turned_b = c0 * b1 + c1 * b2 + c2 * b3;
      // to w: as in the backward pass, with h in the place of x, and with the turned direction
      w1_[f] = a0 * hb[f] + b0 * ha[f];
      w2_[f] = a1 * hb[2 * F + f] + a2 * hb[3 * F + f] + a3 * hb[4 * F + f] +
               b1 * ha[2 * F + f] + b2 * ha[3 * F + f] + b3 * ha[4 * F + f];
      w3_[f] = along_a * kb - along_b * ka + turned_a * tb - turned_b * ta;
      // to d: h in the place of x, then q in the place of w
      const T sa = v3 * ka + q3 * ta, sb = v3 * kb + q3 * tb;
      e0 += a1 * sb - b1 * sa;
      e1 += a2 * sb - b2 * sa;
      e2 += a3 * sb - b3 * sa;
      // to g: what the forward pass gives for (h, w, d) + (x, q, d) + (x, w, turned)
      const T na = v3 * ta, nb = v3 * tb;
      ga_[f] += hb[f] * v1 + xb[f] * q1;
      ga_[F + f] += hb[2 * F + f] * v2 + xb[2 * F + f] * q2 + d0 * sb + c0 * nb;
      ga_[2 * F + f] += hb[3 * F + f] * v2 + xb[3 * F + f] * q2 + d1 * sb + c1 * nb;
      ga_[3 * F + f] += hb[4 * F + f] * v2 + xb[4 * F + f] * q2 + d2 * sb + c2 * nb;
      gb_[f] += ha[f] * v1 + xa[f] * q1;
      gb_[F + f] += ha[2 * F + f] * v2 + xa[2 * F + f] * q2 - d0 * sa - c0 * na;
      gb_[2 * F + f] += ha[3 * F + f] * v2 + xa[3 * F + f] * q2 - d1 * sa - c1 * na;
      gb_[3 * F + f] += ha[4 * F + f] * v2 + xa[4 * F + f] * q2 - d2 * sa - c2 * na;
      // to x: the backward pass for (q, d) + (w, turned)
      xa_[f] += b0 * q1;
      xa_[F + f] -= along_b * q3 + turned_b * v3;
      xa_[2 * F + f] += b1 * q2;
      xa_[3 * F + f] += b2 * q2;
      xa_[4 * F + f] += b3 * q2;
      xb_[f] += a0 * q1;
      xb_[F + f] += along_a * q3 + turned_a * v3;
      xb_[2 * F + f] += a1 * q2;
      xb_[3 * F + f] += a2 * q2;
      xb_[4 * F + f] += a3 * q2;
    }
    to_d[3 * p] = e0;
    to_d[3 * p + 1] = e1;
    to_d[3 * p + 2] = e2;
  }
}

// --- sparse sums of products ---------------------------------------------------------------------

// out[c] += value times the product of N rows; where there is one channel for all, a number.
template <int N, class T>
inline void add_products(T* __restrict out, const T* const* in, T value, int64_t F, bool summed) {
  T sum = 0;
  if (summed) {
#pragma omp simd reduction(+ : sum)
    for (int64_t f = 0; f < F; f++) {
      T product = in[0][f];
      for (int n = 1; n < N; n++) product *= in[n][f];
      sum += product;
    }
    out[0] += value * sum;
    return;
  }
#pragma omp simd
  for (int64_t f = 0; f < F; f++) {
    T product = value;
    for (int n = 0; n < N; n++) product *= in[n][f];
    out[f] += product;
  }
}

// sizes: links, terms, channels, operands; then components and channels of out and each operand.
// Where several links share a row of out, it must hold zeros.
template <class T>
void multilinear(T* out, const T* a, const T* b, const T* c, const T* d, const int64_t* out_row,
                 const int64_t* a_row, const int64_t* b_row, const int64_t* c_row,
                 const int64_t* d_row, const int64_t* component, const T* values,
                 const int64_t* sizes) {
  const int64_t links = sizes[0], terms = sizes[1], F = sizes[2], operands = sizes[3];
  const T* in[4] = {a, b, c, d};
  const int64_t* row[4] = {a_row, b_row, c_row, d_row};
  const bool summed = sizes[5] == 1 && F > 1;
  for (int64_t e = 0; e < links; e++) {
    T* to = out + (out_row ? out_row[e] : e) * sizes[4] * sizes[5];
    if (!out_row) std::fill(to, to + sizes[4] * sizes[5], T(0));
    const T* from[4];
    for (int64_t n = 0; n < operands; n++)
      from[n] = in[n] + (row[n] ? row[n][e] : e) * sizes[6 + 2 * n] * sizes[7 + 2 * n];
    for (int64_t t = 0; t < terms; t++) {
      T value = values[t];
      const T* whole[4];
      int count = 0;
      for (int64_t n = 0; n < operands; n++) {
        const T* at = from[n] + component[(n + 1) * terms + t] * sizes[7 + 2 * n];
        if (sizes[7 + 2 * n] == 1) value *= *at;
        else whole[count++] = at;
      }
      T* target = to + component[t] * sizes[5];
      switch (count) {
        case 0: target[0] += value; break;
        case 1: add_products<1>(target, whole, value, F, summed); break;
        case 2: add_products<2>(target, whole, value, F, summed); break;
        case 3: add_products<3>(target, whole, value, F, summed); break;
        default: add_products<4>(target, whole, value, F, summed);
      }
    }
  }
}

}  // namespace

// --- what Python calls: pointers to the functions, by name ----------------------------------------

#define EXPORT(name, function)                  \
  void* name##_float = (void*)&function<float>; \
  void* name##_double = (void*)&function<double>;

#define ACTIVATION(name, F)                                                      \
  void* name##_float = (void*)&activate<F, float>;                               \
  void* name##_double = (void*)&activate<F, double>;                             \
  void* name##_backward_float = (void*)&activate_backward<F, float>;             \
  void* name##_backward_double = (void*)&activate_backward<F, double>;           \
  void* name##_twice_float = (void*)&activate_twice<F, float>;                   \
  void* name##_twice_double = (void*)&activate_twice<F, double>;                 \
  void* name##_bfloat16 = (void*)&activate<F, Bfloat16>;                         \
  void* name##_backward_bfloat16 = (void*)&activate_backward<F, Bfloat16>;       \
  void* name##_twice_bfloat16 = (void*)&activate_twice<F, Bfloat16>;

extern "C" {
ACTIVATION(silu, Silu)
ACTIVATION(shifted_softplus, ShiftedSoftplus)
ACTIVATION(gelu, Gelu)
EXPORT(attention, attention)
EXPORT(attention_backward, attention_backward)
void* attention_bfloat16 = (void*)&attention<Bfloat16>;
void* attention_backward_bfloat16 = (void*)&attention_backward<Bfloat16>;
EXPORT(pack, pack)
EXPORT(dense, dense)
EXPORT(attention_step, attention_step)
EXPORT(convolve, convolve)
EXPORT(convolve_backward, convolve_backward)
EXPORT(convolve_twice, convolve_twice)
EXPORT(exchange, exchange)
EXPORT(exchange_backward, exchange_backward)
EXPORT(exchange_twice, exchange_twice)
EXPORT(multilinear, multilinear)
}
