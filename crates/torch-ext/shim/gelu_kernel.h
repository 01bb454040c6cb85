// GELU (Hendrycks & Gimpel, arXiv 1606.08415), and in one pass what its backward pass needs.
#pragma once

#include <cstdint>

namespace quarry {

// Elements that are worth waking a thread for.
constexpr int64_t GELU_GRAIN = 1 << 14;

// y = x Phi(x), Phi by the error function or by its tanh approximation.
template <class E>
void gelu(const E* x, int64_t count, bool tanh, E* y);

// y = gelu(x), and slope *= gelu'(x).
template <class E>
void gelu_backward(const E* x, int64_t count, bool tanh, E* y, E* slope);

}  // namespace quarry
