// Sums over rows: what the gradient of a bias is.
#pragma once

#include <cstdint>

namespace quarry {

// sums[i] = the sum of column i of x [rows, width], for i in [begin, end), in f32.
template <class E>
void column_sums(const E* x, int64_t rows, int64_t width, int64_t begin, int64_t end, float* sums);

}  // namespace quarry
