#include "attention_kernel.h"

#include "lanes.h"

#include <ATen/native/CPUBlas.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

namespace quarry {
namespace {

// Rows of scores in flight: 32 rows of 256 fit the first cache.
constexpr int64_t BLOCK = 32;
// Lengths are filled up to this, so that few shapes of block kernels are compiled.
constexpr int64_t LANE = 16;
// The score of a filled-up key: its exponential is smaller than any sum can show.
constexpr float NOTHING = -std::numeric_limits<float>::infinity();

int64_t round_up(int64_t n, int64_t to) { return (n + to - 1) / to * to; }

at::BFloat16* torch(Bf16* p) { return reinterpret_cast<at::BFloat16*>(p); }
const at::BFloat16* torch(const Bf16* p) { return reinterpret_cast<const at::BFloat16*>(p); }
float* torch(float* p) { return p; }
const float* torch(const float* p) { return p; }

// C [m, n] (+)= A [m, k] B, with B packed by one of the functions below.
template <class E>
void product(
    int64_t m, int64_t n, int64_t k, const E* a, int64_t a_stride, const E* b, float* c, bool add) {
  at::native::cpublas::brgemm(
      m, n, k, a_stride, n, n, add, torch(a), torch(b), c, sizeof(E) == sizeof(Bf16));
}

// Contiguous [filled, d] copy of rows, zeros after the last.
template <class E>
void copy_rows(const E* from, int64_t stride, int64_t rows, int64_t filled, int64_t d, E* to) {
  for (int64_t i = 0; i < rows; ++i) std::copy_n(from + i * stride, d, to + i * d);
  std::fill(to + rows * d, to + filled * d, E(0));
}

// B = Xᵀ [d, filled] of contiguous rows X [filled, d].
void pack_transposed(const float* x, int64_t filled, int64_t d, float* to) {
  for (int64_t i = 0; i < filled; ++i)
    for (int64_t j = 0; j < d; ++j) to[j * filled + i] = x[i * d + j];
}

// bf16 products take two rows of B at a time, interleaved: a pair of Xᵀ is a pair of
// neighbours in X, moved as one word.
void pack_transposed(const Bf16* x, int64_t filled, int64_t d, Bf16* to) {
  const auto* words = reinterpret_cast<const uint32_t*>(x);
  auto* out = reinterpret_cast<uint32_t*>(to);
  const int64_t half = d / 2;
  for (int64_t i = 0; i < filled; ++i)
    for (int64_t j = 0; j < half; ++j) out[j * filled + i] = words[i * half + j];
}

// B = X [rows, n], rows even.
void pack(const float* x, int64_t rows, int64_t n, float* to) { std::copy_n(x, rows * n, to); }

QUARRY_LANES void pack(const Bf16* x, int64_t rows, int64_t n, Bf16* to) {
  auto* out = reinterpret_cast<uint32_t*>(to);
  for (int64_t i = 0; i < rows; i += 2)
    for (int64_t j = 0; j < n; ++j)
      out[i / 2 * n + j] =
          static_cast<uint32_t>(x[i * n + j]) | static_cast<uint32_t>(x[(i + 1) * n + j]) << 16;
}

#define QUARRY_FOR_EACH_KIND(make) \
  make(float)                      \
  make(Bf16)

// p = e^(scale (s - max s)) of a row filled up to whole vectors; its sum and maximum.
struct Row {
  float sum, max;
};
#define MAKE(E)                                                                   \
  QUARRY_LANES Row exponentials(const float* s, int64_t filled, float scale, E* p) { \
    if (filled % LANE != 0) __builtin_unreachable();                              \
    float max = s[0];                                                             \
    _Pragma("omp simd reduction(max : max)")                                      \
    for (int64_t i = 0; i < filled; ++i) max = s[i] > max ? s[i] : max;           \
    float sum = 0;                                                                \
    _Pragma("omp simd reduction(+ : sum)")                                        \
    for (int64_t i = 0; i < filled; ++i) {                                        \
      const float e = exponential<E>((s[i] - max) * scale);                       \
      sum += e;                                                                   \
      store_near(e, &p[i]);                                                       \
    }                                                                             \
    return {sum, max};                                                            \
  }
QUARRY_FOR_EACH_KIND(MAKE)
#undef MAKE

#define MAKE(E)                                                        \
  QUARRY_LANES void write_scaled(const float* x, int64_t n, float by, E* to) { \
    for (int64_t i = 0; i < n; ++i) store(x[i] * by, &to[i]);          \
  }
QUARRY_FOR_EACH_KIND(MAKE)
#undef MAKE

#define MAKE(E)                                                         \
  QUARRY_LANES float dot(const E* x, const E* y, int64_t n) {           \
    float sum = 0;                                                      \
    _Pragma("omp simd reduction(+ : sum)")                              \
    for (int64_t i = 0; i < n; ++i) sum += load(x[i]) * load(y[i]);     \
    return sum;                                                         \
  }
QUARRY_FOR_EACH_KIND(MAKE)
#undef MAKE

// Of one key and all queries: p = e^(scale s - log_sum), ds = p (dp - delta) scale.
#define MAKE(E)                                                                        \
  QUARRY_LANES void score_gradients(                                                   \
      const float* s, const float* dp, const float* log_sums, const float* deltas,     \
      int64_t n, float scale, E* p, E* ds) {                                           \
    if (n % LANE != 0) __builtin_unreachable();                                        \
    for (int64_t i = 0; i < n; ++i) {                                                  \
      const float x = s[i] * scale - log_sums[i];                                      \
      const float e = exponential<E>(x > 0.0f ? 0.0f : x);                             \
      store_near(e, &p[i]);                                                            \
      store_near(e * (dp[i] - deltas[i]) * scale, &ds[i]);                             \
    }                                                                                  \
  }
QUARRY_FOR_EACH_KIND(MAKE)
#undef MAKE

// Memory of one thread, kept between calls.
class Scratch {
 public:
  explicit Scratch(int64_t bytes) {
    if (static_cast<int64_t>(buffer().size()) < bytes + 64) buffer().resize(bytes + 64);
    const auto start = reinterpret_cast<uintptr_t>(buffer().data());
    next_ = reinterpret_cast<char*>((start + 63) / 64 * 64);
  }
  template <class E>
  E* take(int64_t count) {
    char* start = next_;
    next_ += round_up(count * static_cast<int64_t>(sizeof(E)), 64);
    return reinterpret_cast<E*>(start);
  }

 private:
  static std::vector<char>& buffer() {
    thread_local std::vector<char> kept;
    return kept;
  }
  char* next_;
};

}  // namespace

template <class E>
void attend(const Head<E>& head, E* out, int64_t out_stride, float* log_sums) {
  const int64_t n = head.length, d = head.width, filled = round_up(n, LANE);
  const float scale = 1.0f / std::sqrt(static_cast<float>(d));
  Scratch scratch(5 * 64 + 4 * filled * d * sizeof(E) + BLOCK * filled * (4 + sizeof(E)) + BLOCK * d * 4);
  E* rows = scratch.take<E>(filled * d);
  E* keys = scratch.take<E>(filled * d);
  E* values = scratch.take<E>(filled * d);
  float* scores = scratch.take<float>(BLOCK * filled);
  E* weights = scratch.take<E>(BLOCK * filled);
  float* sums = scratch.take<float>(BLOCK * d);

  copy_rows(head.k, head.stride, n, filled, d, rows);
  pack_transposed(rows, filled, d, keys);
  copy_rows(head.v, head.stride, n, filled, d, rows);
  pack(rows, filled, d, values);
  copy_rows(head.q, head.stride, n, filled, d, rows);
  for (int64_t first = 0; first < filled; first += BLOCK) {
    const int64_t block = std::min(BLOCK, filled - first), real = std::min(block, n - first);
    product(block, filled, d, rows + first * d, d, keys, scores, false);
    Row row[BLOCK];
    for (int64_t i = 0; i < real; ++i) {
      std::fill(scores + i * filled + n, scores + (i + 1) * filled, NOTHING);
      row[i] = exponentials(scores + i * filled, filled, scale, weights + i * filled);
    }
    product(block, d, filled, weights, filled, values, sums, false);
    for (int64_t i = 0; i < real; ++i) {
      write_scaled(sums + i * d, d, 1.0f / row[i].sum, out + (first + i) * out_stride);
      if (log_sums) log_sums[first + i] = row[i].max * scale + std::log(row[i].sum);
    }
  }
}

template <class E>
void attend_backward(
    const Head<E>& head, const E* out, const E* grad, int64_t out_stride, const float* log_sums,
    E* dq, E* dk, E* dv) {
  const int64_t n = head.length, d = head.width, filled = round_up(n, LANE);
  const float scale = 1.0f / std::sqrt(static_cast<float>(d));
  Scratch scratch(
      20 * 64 + 8 * filled * d * sizeof(E) + 2 * BLOCK * d * (4 + sizeof(E)) + filled * d * 4 +
      2 * filled * 4 + BLOCK * filled * (8 + 3 * sizeof(E)));
  E* rows = scratch.take<E>(filled * d);
  E* queries_across = scratch.take<E>(filled * d);
  E* queries_down = scratch.take<E>(filled * d);
  E* grads_across = scratch.take<E>(filled * d);
  E* grads_down = scratch.take<E>(filled * d);
  E* keys = scratch.take<E>(filled * d);
  E* values = scratch.take<E>(filled * d);
  E* keys_across = scratch.take<E>(BLOCK * d);
  float* deltas = scratch.take<float>(filled);
  float* logs = scratch.take<float>(filled);
  float* scores = scratch.take<float>(BLOCK * filled);
  float* products = scratch.take<float>(BLOCK * filled);
  E* weights = scratch.take<E>(BLOCK * filled);
  E* slopes = scratch.take<E>(BLOCK * filled);
  E* slopes_down = scratch.take<E>(BLOCK * filled);
  float* sums = scratch.take<float>(BLOCK * d);
  float* query_sums = scratch.take<float>(filled * d);

  copy_rows(head.q, head.stride, n, filled, d, rows);
  pack_transposed(rows, filled, d, queries_across);
  pack(rows, filled, d, queries_down);
  copy_rows(grad, out_stride, n, filled, d, rows);
  pack_transposed(rows, filled, d, grads_across);
  pack(rows, filled, d, grads_down);
  copy_rows(head.k, head.stride, n, filled, d, keys);
  copy_rows(head.v, head.stride, n, filled, d, values);
  for (int64_t i = 0; i < n; ++i) deltas[i] = dot(grad + i * out_stride, out + i * out_stride, d);
  std::copy_n(log_sums, n, logs);
  std::fill(deltas + n, deltas + filled, 0.0f);
  std::fill(logs + n, logs + filled, 0.0f);

  // A block of keys against all queries, so that what varies along a row of scores
  // (log sums, deltas) lies side by side, and nothing large is transposed.
  for (int64_t first = 0; first < filled; first += BLOCK) {
    const int64_t block = std::min(BLOCK, filled - first), real = std::min(block, n - first);
    product(block, filled, d, keys + first * d, d, queries_across, scores, false);
    product(block, filled, d, values + first * d, d, grads_across, products, false);
    for (int64_t i = 0; i < real; ++i)
      score_gradients(
          scores + i * filled, products + i * filled, logs, deltas, filled, scale,
          weights + i * filled, slopes + i * filled);
    std::fill(weights + real * filled, weights + block * filled, E(0));
    std::fill(slopes + real * filled, slopes + block * filled, E(0));
    product(block, d, filled, weights, filled, grads_down, sums, false);
    for (int64_t i = 0; i < real; ++i)
      write_scaled(sums + i * d, d, 1.0f, dv + (first + i) * head.stride);
    product(block, d, filled, slopes, filled, queries_down, sums, false);
    for (int64_t i = 0; i < real; ++i)
      write_scaled(sums + i * d, d, 1.0f, dk + (first + i) * head.stride);
    // dQᵀ [d, L] += Kᵀ dSᵀ over the blocks.
    for (int64_t i = 0; i < block; ++i)
      for (int64_t j = 0; j < d; ++j) keys_across[j * block + i] = keys[(first + i) * d + j];
    pack(slopes, block, filled, slopes_down);
    product(d, filled, block, keys_across, block, slopes_down, query_sums, first > 0);
  }
  for (int64_t i = 0; i < n; ++i)
    for (int64_t j = 0; j < d; ++j) store(query_sums[j * filled + i], &dq[i * head.stride + j]);
}

#define MAKE(E)                                                              \
  template void attend(const Head<E>&, E*, int64_t, float*);                 \
  template void attend_backward(                                             \
      const Head<E>&, const E*, const E*, int64_t, const float*, E*, E*, E*);
QUARRY_FOR_EACH_KIND(MAKE)
#undef MAKE

}  // namespace quarry
