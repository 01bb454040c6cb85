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
QUARRY_INLINE Moments moments_of(const float* z, Floats total, int64_t width, float epsilon) {
  const float mean = sum_of(total) / static_cast<float>(width);
  Floats squares = {};
  for (int64_t i = 0; i < width; i += LANE) {
    const Floats off = only(load(z + i) - mean, width - i);
    squares += off * off;
  }
  const float variance = sum_of(squares) / static_cast<float>(width);
  return {mean, 1.0f / std::sqrt(variance + epsilon)};
}

// out = (z - mean) scale weight + bias.
template <class E>
QUARRY_INLINE void normalize_row(
    const float* z, Moments of, int64_t width, const float* weight, const float* bias, E* out) {
  for (int64_t i = 0; i < width; i += LANE) {
    const Floats w = load(weight + i, width - i), b = load(bias + i, width - i);
    store((load(z + i) - of.mean) * of.scale * w + b, out + i, width - i);
  }
}

}  // namespace quarry
