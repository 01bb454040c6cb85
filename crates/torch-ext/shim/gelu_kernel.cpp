#include "gelu_kernel.h"

#include "gelu.h"

namespace quarry {
namespace {

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
