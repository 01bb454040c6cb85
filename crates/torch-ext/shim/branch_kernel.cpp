#include "branch_kernel.h"

#include "blocks.h"
#include "gelu.h"
#include "layer_norm.h"

#include <algorithm>

namespace quarry {
namespace {

// Columns of a branch's first product at a time: their sums fit the first cache.
constexpr int64_t COLUMNS = 64;
// Numbers of a row that the last product sums up at a time.
constexpr int64_t DEPTH = 512;

QUARRY_INLINE Floats by_tanh_value(Floats x) { return by_tanh<Bf16>(x).value; }

// to = gelu(sums + bias): [rows, n], rows of `to` `stride` apart.
#define MAKE(NAME, GELU)                                                                      \
  QUARRY_LANES void NAME(                                                                     \
      const float* sums, const float* bias, int64_t rows, int64_t n, int64_t stride, Bf16* to) { \
    for (int64_t row = 0; row < rows; ++row)                                                  \
      for (int64_t i = 0; i < n; i += LANE)                                                   \
        store_near(GELU(load(sums + row * n + i) + load(bias + i)), to + row * stride + i);   \
  }
MAKE(activate, near_gelu)
MAKE(activate_by_tanh, by_tanh_value)
#undef MAKE

// out = LN(sums + bias + x), row by row.
QUARRY_LANES void normalize(
    float* sums, const float* bias, const Bf16* x, int64_t rows, int64_t width,
    const float* weight, const float* shift, float epsilon, Bf16* out) {
  for (int64_t row = 0; row < rows; ++row) {
    float* z = sums + row * width;
    Floats total = {};
    for (int64_t i = 0; i < width; i += LANE) {
      const Floats all = load(z + i) + load(bias + i) + load(x + row * width + i);
      total += all;
      store(all, z + i);
    }
    const Moments moments = moments_of(z, total, width, epsilon);
    normalize_row(z, moments, width, weight, shift, out + row * width);
  }
}

// sums [rows, out] (+)= a Wᵀ over numbers [first, first + depth) of the weight's rows.
void last_product(const Bf16* a, int64_t stride, int64_t rows, const Packed& last, int64_t first, int64_t depth, float* sums) {
  product(rows, last.out, depth, a, stride, last.weight + first * last.out, sums, first > 0);
}

}  // namespace

void pack_first(const Bf16* weight, int64_t out, int64_t in, Bf16* to) {
  for (int64_t row = 0; row < out; row += COLUMNS) {
    const int64_t block = std::min(COLUMNS, out - row);
    pack_transposed(Rows<Bf16>{weight + row * in, in, block}, block, in, to + row * in);
  }
}

void pack_last(const Bf16* weight, int64_t out, int64_t in, Bf16* to) {
  for (int64_t column = 0; column < in; column += DEPTH) {
    const int64_t depth = std::min(DEPTH, in - column);
    pack_transposed(Rows<Bf16>{weight + column, in, out}, out, depth, to + column * out);
  }
}

void projection_branch(
    const Bf16* a, const Bf16* x, int64_t rows, const Packed& last, const LayerNorm& norm, Bf16* out) {
  Scratch scratch(64 + BRANCH_ROWS * last.out * sizeof(float));
  float* sums = scratch.take<float>(BRANCH_ROWS * last.out);
  for (int64_t first = 0; first < last.in; first += DEPTH)
    last_product(a + first, last.in, rows, last, first, std::min(DEPTH, last.in - first), sums);
  normalize(sums, last.bias, x, rows, last.out, norm.weight, norm.bias, norm.epsilon, out);
}

void feed_forward_branch(
    const Bf16* x, int64_t rows, const Packed& first, const Packed& last, bool tanh,
    const LayerNorm& norm, Bf16* out) {
  Scratch scratch(3 * 64 + BRANCH_ROWS * ((COLUMNS + last.out) * sizeof(float) + DEPTH * sizeof(Bf16)));
  float* inner = scratch.take<float>(BRANCH_ROWS * COLUMNS);
  Bf16* activated = scratch.take<Bf16>(BRANCH_ROWS * DEPTH);
  float* sums = scratch.take<float>(BRANCH_ROWS * last.out);
  const auto gelu = tanh ? activate_by_tanh : activate;
  for (int64_t begin = 0; begin < first.out; begin += DEPTH) {
    const int64_t depth = std::min(DEPTH, first.out - begin);
    for (int64_t i = 0; i < depth; i += COLUMNS) {
      const int64_t block = std::min(COLUMNS, depth - i), column = begin + i;
      product(rows, block, first.in, x, first.in, first.weight + column * first.in, inner, false);
      gelu(inner, first.bias + column, rows, block, DEPTH, activated + i);
    }
    last_product(activated, DEPTH, rows, last, begin, depth, sums);
  }
  normalize(sums, last.bias, x, rows, last.out, norm.weight, norm.bias, norm.epsilon, out);
}

}  // namespace quarry
