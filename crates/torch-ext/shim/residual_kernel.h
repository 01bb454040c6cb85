// The end of a transformer's branch in training, LN(x + dropout(y)), forward and
// backward, one row after the other (Ba et al., arXiv 1607.06450; Srivastava et al. 2014).
#pragma once

#include <cstdint>

namespace quarry {

// Which elements are dropped is a pure function of the key and the element's number,
// so that no mask is kept for the backward pass.
struct Drop {
  uint64_t key;    // random in all its bits
  uint32_t below;  // an element is dropped when its 32 random bits are less
  float scale;     // of those that stay
};

// Rows that one thread takes at a time; the gradients of the scales are summed in
// these blocks, whatever the number of threads.
constexpr int64_t ROWS = 64;

// For rows [begin, end) of `width` numbers: z = x + dropout(y), its mean and 1 / deviation
// (`statistics` [rows, 2]), and out = (z - mean) / deviation * weight + bias.
template <class E>
void residual_norm(
    const E* x, const E* y, const float* weight, const float* bias, float epsilon, Drop drop,
    int64_t begin, int64_t end, int64_t width, E* z, float* statistics, E* out);

// The gradients of x and y for rows [begin, end), given that of out; those of weight and
// bias are added to `scales` [2, width]. `dy` may be null where nothing is dropped: it
// would equal `dx`.
template <class E>
void residual_norm_backward(
    const E* z, const float* statistics, const float* weight, const E* grad, Drop drop,
    int64_t begin, int64_t end, int64_t width, E* dx, E* dy, float* scales);

}  // namespace quarry
