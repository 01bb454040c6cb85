// The gradient of a linear layer's weight, dW += dYᵀ X, by libtorch's block products, which add
// to the f32 gradient where it lies: nothing is rounded between.
#pragma once

#include "lanes.h"

namespace quarry {

// How many numbers an input of `tokens` rows of `in` takes once it is packed.
int64_t packed_size(int64_t tokens, int64_t in);

// Lays out `count` columns of x [tokens, in] from `first` on, a multiple of `columns()`, for
// `add_weight_gradient`: `to` is the whole packed input.
template <class E>
void pack_input(const E* x, int64_t tokens, int64_t in, int64_t first, int64_t count, E* to);

// Adds to `rows` rows of dW [rows, in], at most `columns()`, what as many columns of dy
// [tokens, rows], `stride` apart, and the packed input make of them.
template <class E>
void add_weight_gradient(
    const E* dy, int64_t stride, int64_t tokens, int64_t rows, const E* packed, int64_t in, float* dw);

}  // namespace quarry
