// Attention inside one sequence and one head, forward and backward, for an
// x86-64 core: matrix products by libtorch's block kernels (oneDNN), the soft
// maximum between them in registers. Scores never leave the processor's cache.
#pragma once

#include <cstdint>

namespace quarry {

// Where one head of one sequence lies: rows are tokens.
template <class E>
struct Head {
  const E* q;
  const E* k;
  const E* v;
  int64_t stride;  // elements between the rows of k and v, and of q, if more than one is asked for
  int64_t length;  // tokens L
  int64_t width;   // of the head, d
};

// Writes softmax(Q Kᵀ / √d) V of the first `queries` tokens to `out` (rows `out_stride` apart)
// and, if asked, the logarithm to base 2 of each row's sum to `log_sums`, which the backward
// pass needs.
template <class E>
void attend(const Head<E>& head, int64_t queries, E* out, int64_t out_stride, float* log_sums);

// The gradients of q, k and v (laid out as they are, from `dq`, `dk`, `dv`) given that
// of the output and what the forward pass wrote.
template <class E>
void attend_backward(
    const Head<E>& head, const E* out, const E* grad, int64_t out_stride, const float* log_sums,
    E* dq, E* dk, E* dv);

}  // namespace quarry
