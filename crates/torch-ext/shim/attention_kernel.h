// Attention inside one sequence and one head, forward and backward, for an
// x86-64 core: matrix products by libtorch's block kernels (oneDNN), the soft
// maximum between them in registers. Scores never leave the processor's cache.
#pragma once

#include <cstdint>

namespace quarry {

// Where one head of one sequence lies. Rows are tokens; `q`, `k` and `v` are columns
// of the joined projections [T, 3h].
template <class E>
struct Head {
  const E* q;
  const E* k;
  const E* v;
  int64_t stride;  // elements between the rows of q, k and v
  int64_t length;  // tokens L
  int64_t width;   // of the head, d
};

// Writes softmax(Q Kᵀ / √d) V to `out` (rows `out_stride` apart) and, if asked, the
// logarithm to base 2 of each row's sum to `log_sums` [L], which the backward pass needs.
template <class E>
void attend(const Head<E>& head, E* out, int64_t out_stride, float* log_sums);

// The gradients of q, k and v (laid out as they are, from `dq`, `dk`, `dv`) given that
// of the output and what the forward pass wrote.
template <class E>
void attend_backward(
    const Head<E>& head, const E* out, const E* grad, int64_t out_stride, const float* log_sums,
    E* dq, E* dk, E* dv);

}  // namespace quarry
