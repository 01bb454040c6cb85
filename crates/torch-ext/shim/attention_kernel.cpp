#include "attention_kernel.h"

#include "blocks.h"
#include "pack_kernel.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace quarry {
namespace {

// Rows of scores in flight: 32 rows of 256 fit the first cache.
constexpr int64_t BLOCK = 32;
// The score of a filled-up key: its exponential is smaller than any sum can show.
constexpr float NOTHING = -std::numeric_limits<float>::infinity();

// Contiguous [filled, d] copy.
template <class E>
void copy(const Rows<E>& x, int64_t filled, int64_t d, E* to) {
  for (int64_t i = 0; i < x.count; ++i) std::copy_n(x[i], d, to + i * d);
  std::fill(to + x.count * d, to + filled * d, E(0));
}

// What the weights p = 2^(scale (s - max s)) of a row add up to, and its largest score.
struct Row {
  float sum, max;
};

// The weights of COUNT neighbouring rows of `filled` scores, of which the first n count.
template <class V, int64_t COUNT, class E>
QUARRY_INLINE void exponentials_of(float* s, int64_t n, int64_t filled, float scale, E* p, Row* rows) {
  // Below that a weight is 2^-125, too small to show in a sum.
  const V least = V{} - 125.0f / scale;
  V most[COUNT], sums[COUNT] = {};
  for (int64_t row = 0; row < COUNT; ++row) {
    for (int64_t i = n; i < filled; ++i) s[row * filled + i] = NOTHING;
    most[row] = load<V>(s + row * filled);
  }
  for (int64_t i = LANE; i < filled; i += LANE)
    for (int64_t row = 0; row < COUNT; ++row) most[row] = larger(load<V>(s + row * filled + i), most[row]);
  for (int64_t row = 0; row < COUNT; ++row) rows[row].max = max_of(most[row]);
  const auto weights = [&](int64_t row, int64_t i) __attribute__((always_inline)) {
    const V e = power_within<E>(larger(least, load<V>(s + row * filled + i) - rows[row].max) * scale);
    sums[row] += e;
    return e;
  };
  int64_t i = 0;
  for (; i + 2 * LANE <= filled; i += 2 * LANE)
    for (int64_t row = 0; row < COUNT; ++row) {
      const V e = weights(row, i);
      store_two_near(e, weights(row, i + LANE), p + row * filled + i);
    }
  if (i < filled)
    for (int64_t row = 0; row < COUNT; ++row) store_near(weights(row, i), p + row * filled + i);
  for (int64_t row = 0; row < COUNT; ++row) rows[row].sum = sum_of(sums[row]);
}

// Likewise of `count` rows. What is added up along a row waits for itself: several rows at a time
// wait together, if there are registers for them.
template <class V, class E>
QUARRY_INLINE void exponentials_in(
    float* s, int64_t count, int64_t n, int64_t filled, float scale, E* p, Row* rows) {
  constexpr int64_t ABREAST = std::is_same_v<V, Sixteen> ? 4 : 1;
  for (; count >= ABREAST; count -= ABREAST, s += ABREAST * filled, p += ABREAST * filled, rows += ABREAST)
    exponentials_of<V, ABREAST>(s, n, filled, scale, p, rows);
  for (; count > 0; --count, s += filled, p += filled, ++rows)
    exponentials_of<V, 1>(s, n, filled, scale, p, rows);
}

// `to` = `by` x; whole vectors, then what is left through one more.
template <class V, class E>
QUARRY_INLINE void write_row(const float* x, int64_t n, float by, E* to) {
  int64_t i = 0;
  for (; i + LANE <= n; i += LANE) store(load<V>(x + i) * by, to + i);
  if (i < n) store(load<V>(x + i, n - i) * by, to + i, n - i);
}

// `count` rows of n numbers, as they are or each over its weights' sum.
template <class V, class E>
QUARRY_INLINE void write_rows_in(
    const float* x, int64_t count, int64_t n, const Row* over, E* to, int64_t stride) {
  for (int64_t i = 0; i < count; ++i)
    write_row<V>(x + i * n, n, over ? 1.0f / over[i].sum : 1.0f, to + i * stride);
}

template <class V, class E>
QUARRY_INLINE float dot_in(const E* x, const E* y, int64_t n) {
  V sum = {};
  int64_t i = 0;
  for (; i + LANE <= n; i += LANE) sum += load<V>(x + i) * load<V>(y + i);
  if (i < n) sum += load<V>(x + i, n - i) * load<V>(y + i, n - i);
  return sum_of(sum);
}

// Of one key and all queries: p = 2^(by s - log_sum), ds = p (dp - delta) scale. No weight is
// more than 1, however the product of a score in the billions was rounded.
template <class V, class E>
QUARRY_INLINE void score_gradients_in(
    const float* s, const float* dp, const float* log_sums, const float* deltas, int64_t filled, float by,
    float scale, E* p, E* ds) {
  for (int64_t i = 0; i < filled; i += LANE) {
    const V t = load<V>(s + i) * by - load<V>(log_sums + i);
    const V e = power_of_two<E>(smaller(V{}, t));
    store_near(e, p + i);
    store_near(e * (load<V>(dp + i) - load<V>(deltas + i)) * scale, ds + i);
  }
}

#define MAKE(E)                                                                                 \
  QUARRY_LEVELS(                                                                                \
      void, exponentials,                                                                       \
      (float* s, int64_t count, int64_t n, int64_t filled, float scale, E* p, Row* rows),       \
      (s, count, n, filled, scale, p, rows))                                                    \
  QUARRY_LEVELS(                                                                                \
      void, write_rows,                                                                         \
      (const float* x, int64_t count, int64_t n, const Row* over, E* to, int64_t stride),       \
      (x, count, n, over, to, stride))                                                          \
  QUARRY_LEVELS(float, dot, (const E* x, const E* y, int64_t n), (x, y, n))                     \
  QUARRY_LEVELS(                                                                                \
      void, score_gradients,                                                                    \
      (const float* s, const float* dp, const float* log_sums, const float* deltas,             \
       int64_t filled, float by, float scale, E* p, E* ds),                                     \
      (s, dp, log_sums, deltas, filled, by, scale, p, ds))
QUARRY_FOR_EACH_KIND(MAKE)
#undef MAKE

}  // namespace

template <class E>
void attend(const Head<E>& head, int64_t queries, E* out, int64_t out_stride, float* log_sums) {
  const int64_t n = head.length, d = head.width, filled = round_up(n, LANE);
  const int64_t asked = round_up(queries, LANE);
  const float scale = LOG2_E / std::sqrt(static_cast<float>(d));
  Scratch scratch(
      6 * 64 + 2 * filled * d * sizeof(E) + BLOCK * d * (4 + sizeof(E)) +
      BLOCK * filled * (4 + sizeof(E)));
  E* keys = scratch.take<E>(filled * d);
  E* values = scratch.take<E>(filled * d);
  E* last = scratch.take<E>(BLOCK * d);
  float* scores = scratch.take<float>(BLOCK * filled);
  E* weights = scratch.take<E>(BLOCK * filled);
  float* sums = scratch.take<float>(BLOCK * d);

  pack_transposed(Rows<E>{head.k, head.stride, n}, filled, d, keys);
  pack_down(Rows<E>{head.v, head.stride, n}, filled, d, values);
  for (int64_t first = 0; first < asked; first += BLOCK) {
    const int64_t block = std::min(BLOCK, asked - first), real = std::min(block, queries - first);
    const Rows<E> some{head.q + first * head.stride, head.stride, real};
    if (real == block) {
      product(block, filled, d, some.start, some.stride, keys, scores, false);
    } else {
      copy(some, block, d, last);
      product(block, filled, d, last, d, keys, scores, false);
    }
    Row rows[BLOCK];
    exponentials(scores, real, n, filled, scale, weights, rows);
    std::fill(weights + real * filled, weights + block * filled, E(0));
    product(block, d, filled, weights, filled, values, sums, false);
    write_rows(sums, real, d, rows, out + first * out_stride, out_stride);
    if (log_sums)
      for (int64_t i = 0; i < real; ++i) log_sums[first + i] = rows[i].max * scale + std::log2(rows[i].sum);
  }
}

template <class E>
void attend_backward(
    const Head<E>& head, const E* out, const E* grad, int64_t out_stride, const float* log_sums,
    E* dq, E* dk, E* dv) {
  const int64_t n = head.length, d = head.width, filled = round_up(n, LANE);
  const float root = std::sqrt(static_cast<float>(d)), by = LOG2_E / root, scale = 1.0f / root;
  Scratch scratch(
      20 * 64 + 8 * filled * d * sizeof(E) + 2 * BLOCK * d * (4 + sizeof(E)) + filled * d * 4 +
      2 * filled * 4 + BLOCK * filled * (8 + 3 * sizeof(E)));
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

  const Rows<E> queries{head.q, head.stride, n}, grads{grad, out_stride, n};
  pack_transposed(queries, filled, d, queries_across);
  pack_down(queries, filled, d, queries_down);
  pack_transposed(grads, filled, d, grads_across);
  pack_down(grads, filled, d, grads_down);
  copy(Rows<E>{head.k, head.stride, n}, filled, d, keys);
  copy(Rows<E>{head.v, head.stride, n}, filled, d, values);
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
          scores + i * filled, products + i * filled, logs, deltas, filled, by, scale,
          weights + i * filled, slopes + i * filled);
    std::fill(weights + real * filled, weights + block * filled, E(0));
    std::fill(slopes + real * filled, slopes + block * filled, E(0));
    product(block, d, filled, weights, filled, grads_down, sums, false);
    write_rows(sums, real, d, nullptr, dv + first * head.stride, head.stride);
    product(block, d, filled, slopes, filled, queries_down, sums, false);
    write_rows(sums, real, d, nullptr, dk + first * head.stride, head.stride);
    // dQᵀ [d, L] += Kᵀ dSᵀ over the blocks.
    for (int64_t i = 0; i < block; ++i)
      for (int64_t j = 0; j < d; ++j) keys_across[j * block + i] = keys[(first + i) * d + j];
    pack_down(Rows<E>{slopes, filled, block}, block, filled, slopes_down);
    product(d, filled, block, keys_across, block, slopes_down, query_sums, first > 0);
  }
  for (int64_t i = 0; i < n; ++i) {
    for (int64_t j = 0; j < d; ++j) sums[j] = query_sums[j * filled + i];
    write_rows(sums, 1, d, nullptr, dq + i * head.stride, head.stride);
  }
}

#define MAKE(E)                                                              \
  template void attend(const Head<E>&, int64_t, E*, int64_t, float*);        \
  template void attend_backward(                                             \
      const Head<E>&, const E*, const E*, int64_t, const float*, E*, E*, E*);
QUARRY_FOR_EACH_KIND(MAKE)
#undef MAKE

}  // namespace quarry
