// LayerNorm (Ba et al., arXiv 1607.06450) of one row of f32 sums that lies in the first
// cache, in whole vectors: what stands behind the row's end is read and does not count.
#pragma once

#include "lanes.h"

#include <cmath>

namespace quarry {

struct Moments {
  float mean;
  // 1 / sqrt(variance + epsilon).
  float scale;
};

// Of the `width` numbers at z; `total` is their sum lane by lane.
template <class V>
QUARRY_INLINE Moments moments_of(const float* z, V total, int64_t width, float epsilon) {
  const float mean = sum_of(total) / static_cast<float>(width);
  V squares = {};
  for (int64_t i = 0; i < width; i += LANE) {
    const V off = only(load<V>(z + i) - mean, width - i);
    squares += off * off;
  }
  const float variance = sum_of(squares) / static_cast<float>(width);
  return {mean, 1.0f / std::sqrt(variance + epsilon)};
}

// out = (z - mean) scale weight + bias.
template <class V, class E>
QUARRY_INLINE void normalize_row(
    const float* z, Moments of, int64_t width, const float* weight, const float* bias, E* out) {
  const auto at = [&](int64_t i, V w, V b) __attribute__((always_inline)) {
    return (load<V>(z + i) - of.mean) * of.scale * w + b;
  };
  const auto whole = [&](int64_t i) __attribute__((always_inline)) {
    return at(i, load<V>(weight + i), load<V>(bias + i));
  };
  int64_t i = 0;
  for (; i + 2 * LANE <= width; i += 2 * LANE) store_two(whole(i), whole(i + LANE), out + i);
  for (; i < width; i += LANE)
    store(at(i, load<V>(weight + i, width - i), load<V>(bias + i, width - i)), out + i, width - i);
}

}  // namespace quarry
