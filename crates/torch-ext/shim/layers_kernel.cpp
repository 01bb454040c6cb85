#include "layers_kernel.h"

#include "attention_kernel.h"
#include "blocks.h"
#include "gelu.h"
#include "layer_norm.h"
#include "pack_kernel.h"

#include <algorithm>

namespace quarry {
namespace {

// Rows that go through the products of a branch together: the more, the rarer a weight comes from
// the third cache. States of more bytes would come from there themselves, with a second cache of
// 1 MiB.
constexpr int64_t FEWEST_ROWS = 256, MOST_ROWS = 512;
constexpr int64_t STATES = 768 << 10;

// Of states of `bytes` each; a multiple of FILLED.
int64_t rows_together(int64_t bytes) {
  return std::clamp(STATES / bytes / FILLED * FILLED, FEWEST_ROWS, MOST_ROWS);
}

// Numbers of a row that the last product of a branch sums up at a time.
constexpr int64_t DEPTH = 192;

// to = f(sums + bias): [rows, n], rows of `to` `stride` apart.
template <class V, class E, class F>
QUARRY_INLINE void finish(
    const float* sums, const float* bias, int64_t rows, int64_t n, int64_t stride, E* to, const F& f) {
  for (int64_t row = 0; row < rows; ++row, sums += n, to += stride) {
    const auto of = [&](int64_t i) __attribute__((always_inline)) { return f(load<V>(sums + i) + load<V>(bias + i)); };
    int64_t i = 0;
    for (; i + 2 * LANE <= n; i += 2 * LANE) store_two_near(of(i), of(i + LANE), to + i);
    for (; i < n; i += LANE)
      store_near(f(load<V>(sums + i, n - i) + load<V>(bias + i, n - i)), to + i, n - i);
  }
}

template <class V, class E>
QUARRY_INLINE void add_bias_in(
    const float* sums, const float* bias, int64_t rows, int64_t n, int64_t stride, E* to) {
  finish<V>(sums, bias, rows, n, stride, to, [](V x) __attribute__((always_inline)) { return x; });
}

// GELU as exact as E shows.
template <class V, class E>
QUARRY_INLINE void activate_in(
    const float* sums, const float* bias, int64_t rows, int64_t n, int64_t stride, E* to) {
  finish<V>(sums, bias, rows, n, stride, to, [](V x) __attribute__((always_inline)) {
    if constexpr (std::is_same_v<E, float>)
      return by_error_function<E>(x).value;
    else
      return near_gelu(x);
  });
}

template <class V, class E>
QUARRY_INLINE void activate_by_tanh_in(
    const float* sums, const float* bias, int64_t rows, int64_t n, int64_t stride, E* to) {
  finish<V>(sums, bias, rows, n, stride, to, [](V x) __attribute__((always_inline)) { return by_tanh<E>(x).value; });
}

// x = LN(sums + bias + x), row by row.
template <class V, class E>
QUARRY_INLINE void normalize_in(
    float* sums, const float* bias, int64_t rows, int64_t width, const LayerNorm& norm, E* x) {
  for (int64_t row = 0; row < rows; ++row, sums += width, x += width) {
    V total = {};
    for (int64_t i = 0; i < width; i += LANE) {
      const V all = load<V>(sums + i) + load<V>(bias + i) + load<V>(x + i);
      total += all;
      store(all, sums + i);
    }
    const Moments moments = moments_of(sums, total, width, norm.epsilon);
    normalize_row<V>(sums, moments, width, norm.weight, norm.bias, x);
  }
}

#define MAKE_ONE(E, NAME)                                                                          \
  QUARRY_LEVELS(                                                                                   \
      void, NAME,                                                                                  \
      (const float* sums, const float* bias, int64_t rows, int64_t n, int64_t stride, E* to),      \
      (sums, bias, rows, n, stride, to))
#define MAKE(E)                                                                                    \
  MAKE_ONE(E, add_bias)                                                                            \
  MAKE_ONE(E, activate)                                                                            \
  MAKE_ONE(E, activate_by_tanh)                                                                    \
  QUARRY_LEVELS(                                                                                   \
      void, normalize,                                                                             \
      (float* sums, const float* bias, int64_t rows, int64_t width, const LayerNorm& norm, E* x),  \
      (sums, bias, rows, width, norm, x))
QUARRY_FOR_EACH_KIND(MAKE)
#undef MAKE
#undef MAKE_ONE

// Calls `tile(first, rows)` for all of `rows`, a multiple of FILLED, of states as wide as `h`.
template <class E, class F>
void in_tiles(int64_t rows, int64_t h, const F& tile) {
  const int64_t most = rows_together(h * static_cast<int64_t>(sizeof(E)));
  for (int64_t first = 0; first < rows; first += most) tile(first, std::min(most, rows - first));
}

// sums [rows, out] (+)= a Wᵀ over numbers [first, first + depth) of the weight's rows.
template <class E>
void last_product(
    const E* a, int64_t stride, int64_t rows, const Packed<E>& last, int64_t first, int64_t depth,
    float* sums) {
  in_blocks(0, last.out, [&](int64_t column, int64_t block) {
    const E* weight = last.weight + column * last.in + first * block;
    product(rows, block, depth, a, stride, weight, sums + column, last.out, first > 0);
  });
}

// x = LN(x + a Wᵀ + b) of a tile's rows.
template <class E>
void project(const E* a, int64_t rows, const Packed<E>& last, const LayerNorm& norm, E* x) {
  Scratch scratch(64 + rows * last.out * sizeof(float));
  float* sums = scratch.take<float>(rows * last.out);
  for (int64_t first = 0; first < last.in; first += DEPTH)
    last_product(a + first, last.in, rows, last, first, std::min(DEPTH, last.in - first), sums);
  normalize(sums, last.bias, rows, last.out, norm, x);
}

// x = LN(x + gelu(x W1ᵀ + b1) W2ᵀ + b2), likewise.
template <class E>
void feed_forward(
    int64_t rows, const Packed<E>& first, const Packed<E>& last, bool tanh, const LayerNorm& norm, E* x) {
  Scratch scratch(3 * 64 + rows * ((columns() + last.out) * sizeof(float) + DEPTH * sizeof(E)));
  float* inner = scratch.take<float>(rows * columns());
  E* activated = scratch.take<E>(rows * DEPTH);
  float* sums = scratch.take<float>(rows * last.out);
  for (int64_t begin = 0; begin < first.out; begin += DEPTH) {
    const int64_t depth = std::min(DEPTH, first.out - begin);
    in_blocks(begin, begin + depth, [&](int64_t column, int64_t block) {
      E* to = activated + column - begin;
      product(rows, block, first.in, x, first.in, first.weight + column * first.in, inner, false);
      tanh ? activate_by_tanh(inner, first.bias + column, rows, block, DEPTH, to)
           : activate(inner, first.bias + column, rows, block, DEPTH, to);
    });
    last_product(activated, DEPTH, rows, last, begin, depth, sums);
  }
  normalize(sums, last.bias, rows, last.out, norm, x);
}

// Queries, keys or values of one head, rows `column` and on of all projections: `to`, its rows
// `stride` apart, of x [rows, h].
template <class E>
void project_head(
    const E* x, int64_t rows, const Packed<E>& all, int64_t column, int64_t d, E* to, int64_t stride) {
  Scratch scratch(64 + std::min(rows, MOST_ROWS) * d * sizeof(float));
  float* sums = scratch.take<float>(std::min(rows, MOST_ROWS) * d);
  const E* weight = all.weight + column * all.in;
  in_tiles<E>(rows, all.in, [&](int64_t first, int64_t count) {
    in_blocks(0, d, [&](int64_t i, int64_t block) {
      product(count, block, all.in, x + first * all.in, all.in, weight + i * all.in, sums + i, d, false);
    });
    add_bias(sums, all.bias + column, count, d, stride, to + first * stride);
  });
}

}  // namespace

template <class E>
void pack(const E* weight, int64_t out, int64_t in, int64_t part, E* to) {
  for (int64_t start = 0; start < out; start += part)
    in_blocks(start, std::min(out, start + part), [&](int64_t row, int64_t rows) {
      pack_transposed(Rows<E>{weight + row * in, in, rows}, rows, in, to + row * in);
    });
}

template <class E>
void through(
    const Layer<E>& layer, const Form& form, const int64_t* lengths, int64_t count, int64_t rows, E* x) {
  const int64_t h = layer.output.out, d = h / form.heads;
  Scratch scratch(2 * 64 + rows * (h + 3 * d) * sizeof(E));
  E* context = scratch.take<E>(rows * h);
  E* head = scratch.take<E>(rows * 3 * d);
  int64_t tokens = 0;
  for (int64_t i = 0; i < form.heads; ++i) {
    for (int64_t part = 0; part < 3; ++part)
      project_head(x, rows, layer.projections, part * h + i * d, d, head + part * d, 3 * d);
    tokens = 0;
    for (int64_t j = 0; j < count; tokens += lengths[j++]) {
      const E* q = head + tokens * 3 * d;
      const Head<E> sequence{q, q + d, q + 2 * d, 3 * d, lengths[j], d};
      attend(sequence, lengths[j], context + tokens * h + i * d, h, nullptr);
    }
  }
  std::fill(context + tokens * h, context + rows * h, E(0));
  behind_attention(layer, form, rows, context, x);
}

template <class E>
void attend_first(
    const Layer<E>& layer, const Form& form, const int64_t* lengths, int64_t count, int64_t rows,
    const E* x, const E* firsts, E* context) {
  const int64_t h = layer.output.out, d = h / form.heads, asked = round_up(count, FILLED);
  Scratch scratch(2 * 64 + (rows * 2 + asked) * d * sizeof(E));
  E* sides = scratch.take<E>(rows * 2 * d);
  E* queries = scratch.take<E>(asked * d);
  for (int64_t i = 0; i < form.heads; ++i) {
    project_head(firsts, asked, layer.projections, i * d, d, queries, d);
    for (int64_t side = 0; side < 2; ++side)
      project_head(x, rows, layer.projections, (1 + side) * h + i * d, d, sides + side * d, 2 * d);
    int64_t tokens = 0;
    for (int64_t j = 0; j < count; tokens += lengths[j++]) {
      const E* k = sides + tokens * 2 * d;
      const Head<E> sequence{queries + j * d, k, k + d, 2 * d, lengths[j], d};
      attend(sequence, 1, context + j * h + i * d, h, nullptr);
    }
  }
}

template <class E>
void behind_attention(const Layer<E>& layer, const Form& form, int64_t rows, const E* context, E* x) {
  const int64_t h = layer.output.out;
  in_tiles<E>(rows, h, [&](int64_t first, int64_t some) {
    project(context + first * h, some, layer.output, layer.attention_norm, x + first * h);
    feed_forward(some, layer.inner, layer.outer, form.tanh, layer.norm, x + first * h);
  });
}

#define MAKE(E)                                                                              \
  template void pack(const E*, int64_t, int64_t, int64_t, E*);                               \
  template void through(const Layer<E>&, const Form&, const int64_t*, int64_t, int64_t, E*); \
  template void attend_first(                                                                \
      const Layer<E>&, const Form&, const int64_t*, int64_t, int64_t, const E*, const E*, E*); \
  template void behind_attention(const Layer<E>&, const Form&, int64_t, const E*, E*);
MAKE(float)
MAKE(Bf16)
#undef MAKE

}  // namespace quarry
