#include "gelu_kernel.h"

#include "gelu.h"

namespace quarry {
namespace {

template <class V, class E>
QUARRY_INLINE Gelu<V> gelu_of(const E* x, int64_t count, bool tanh) {
  const V all = load<V>(x, count);
  return tanh ? by_tanh<E>(all) : by_error_function<E>(all);
}

template <class V, class E>
QUARRY_INLINE void forward_in(const E* x, int64_t count, bool tanh, E* y) {
  for (int64_t i = 0; i < count; i += LANE)
    store(gelu_of<V>(x + i, count - i, tanh).value, y + i, count - i);
}

template <class V, class E>
QUARRY_INLINE void backward_in(const E* x, int64_t count, bool tanh, E* y, E* slope) {
  for (int64_t i = 0; i < count; i += LANE) {
    const Gelu<V> both = gelu_of<V>(x + i, count - i, tanh);
    store(both.value, y + i, count - i);
    store(load<V>(slope + i, count - i) * both.slope, slope + i, count - i);
  }
}

#define MAKE(E)                                                                             \
  QUARRY_LEVELS(void, forward, (const E* x, int64_t count, bool tanh, E* y), (x, count, tanh, y)) \
  QUARRY_LEVELS(                                                                            \
      void, backward, (const E* x, int64_t count, bool tanh, E* y, E* slope),               \
      (x, count, tanh, y, slope))
QUARRY_FOR_EACH_KIND(MAKE)
#undef MAKE

}  // namespace

template <class E>
void gelu(const E* x, int64_t count, bool tanh, E* y) {
  forward(x, count, tanh, y);
}

template <class E>
void gelu_backward(const E* x, int64_t count, bool tanh, E* y, E* slope) {
  backward(x, count, tanh, y, slope);
}

#define MAKE(E)                                           \
  template void gelu(const E*, int64_t, bool, E*);        \
  template void gelu_backward(const E*, int64_t, bool, E*, E*);
MAKE(float)
MAKE(Bf16)
#undef MAKE

}  // namespace quarry
