// LayerNorm of a sum (Ba et al., arXiv 1607.06450), one row after the other.
#pragma once

#include <cstdint>

namespace quarry {

// out = (z - mean z) / sqrt(var z + epsilon) * weight + bias with z = x + y, for each
// of `rows` rows of `width` numbers; sums and statistics in f32. `out` may be x or y.
template <class E>
void add_norm(
    const E* x, const E* y, const float* weight, const float* bias, float epsilon, int64_t rows,
    int64_t width, E* out);

}  // namespace quarry
