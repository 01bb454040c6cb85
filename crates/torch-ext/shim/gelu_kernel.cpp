#include "gelu_kernel.h"

#include "lanes.h"

namespace quarry {
namespace {

struct Gelu {
  Floats value, slope;
};

// x Phi(x), and Phi(x) + x phi(x). The error function is Abramowitz and Stegun's 7.1.26
// (off by at most 1.5e-7); its exponential is the density's too.
template <class E>
QUARRY_INLINE Gelu by_error_function(Floats x) {
  const Floats size = x < 0 ? -x : x;
  const Floats e = power_of_two<E>(x * x * (-0.5f * LOG2_E));
  const Floats t = 1.0f / (size * (0.3275911f * 0.707106781f) + 1.0f);
  Floats p = t * 1.061405429f - 1.453152027f;
  p = p * t + 1.421413741f;
  p = p * t - 0.284496736f;
  p = p * t + 0.254829592f;
  const Floats beyond = p * t * e * 0.5f;
  const Floats below = x < 0 ? beyond : 1.0f - beyond;
  return {x * below, below + x * e * 0.398942280f};
}

// x s(2u) of the logistic function s and u = sqrt(2 / pi) (x + 0.044715 x^3).
template <class E>
QUARRY_INLINE Gelu by_tanh(Floats x) {
  constexpr float TWICE = 1.59576912f, CUBE = 0.044715f;
  const Floats square = x * x;
  const Floats u = x * (square * CUBE + 1.0f) * TWICE;
  const Floats below = 1.0f / (power_of_two<E>(u * -LOG2_E) + 1.0f);
  const Floats du = (square * (3.0f * CUBE) + 1.0f) * TWICE;
  return {x * below, below + x * below * (1.0f - below) * du};
}

#define MAKE(E, FORM)                                                                     \
  QUARRY_LANES void FORM##_forward(const E* x, int64_t count, E* y) {                     \
    for (int64_t i = 0; i < count; i += LANE)                                             \
      store(FORM<E>(load(x + i, count - i)).value, y + i, count - i);                     \
  }                                                                                       \
  QUARRY_LANES void FORM##_backward(const E* x, int64_t count, E* y, E* slope) {          \
    for (int64_t i = 0; i < count; i += LANE) {                                           \
      const Gelu both = FORM<E>(load(x + i, count - i));                                  \
      store(both.value, y + i, count - i);                                                \
      store(load(slope + i, count - i) * both.slope, slope + i, count - i);               \
    }                                                                                     \
  }
MAKE(float, by_error_function)
MAKE(float, by_tanh)
MAKE(Bf16, by_error_function)
MAKE(Bf16, by_tanh)
#undef MAKE

}  // namespace

template <class E>
void gelu(const E* x, int64_t count, bool tanh, E* y) {
  tanh ? by_tanh_forward(x, count, y) : by_error_function_forward(x, count, y);
}

template <class E>
void gelu_backward(const E* x, int64_t count, bool tanh, E* y, E* slope) {
  tanh ? by_tanh_backward(x, count, y, slope) : by_error_function_backward(x, count, y, slope);
}

#define MAKE(E)                                           \
  template void gelu(const E*, int64_t, bool, E*);        \
  template void gelu_backward(const E*, int64_t, bool, E*, E*);
MAKE(float)
MAKE(Bf16)
#undef MAKE

}  // namespace quarry
