#include "residual_kernel.h"

#include "lanes.h"
#include "layer_norm.h"

#include <vector>

namespace quarry {
namespace {

// 0 for what is dropped, `drop.scale` for what stays, of elements [first, first + 16).
// The bits: Wellons' 32-bit mixer, keyed by both halves of the key.
template <class V>
QUARRY_INLINE V kept(Drop drop, uint32_t first) {
  WordsOf<V> bits = numbers<V>() + first + static_cast<uint32_t>(drop.key);
  bits = (bits ^ (bits >> 16)) * 0x7feb352du;
  bits = (bits ^ (bits >> 15)) + static_cast<uint32_t>(drop.key >> 32);
  bits = (bits ^ (bits >> 16)) * 0x846ca68bu;
  bits ^= bits >> 16;
  return where_below(bits, WordsOf<V>{} + drop.below, V{}, V{} + drop.scale);
}

// A row's sum, filled up to whole vectors, is read again from the first cache.
template <class V, class E>
QUARRY_INLINE void forward_row_in(
    const E* x, const E* y, const float* weight, const float* bias, float epsilon, Drop drop,
    uint32_t first, int64_t width, float* sum, E* z, float* statistics, E* out) {
  V total = {};
  for (int64_t i = 0; i < width; i += LANE) {
    V branch = load<V>(y + i, width - i);
    if (drop.below > 0) branch *= kept<V>(drop, first + static_cast<uint32_t>(i));
    const V both = load<V>(x + i, width - i) + branch;
    total += both;
    store(both, sum + i);
    store(both, z + i, width - i);
  }
  const Moments moments = moments_of(sum, total, width, epsilon);
  normalize_row<V>(sum, moments, width, weight, bias, out);
  statistics[0] = moments.mean;
  statistics[1] = moments.scale;
}

// dz = (g - mean g - n mean(g n)) / deviation, with n the normalised sum, g = dout w.
template <class V, class E>
QUARRY_INLINE void backward_row_in(
    const E* z, const float* statistics, const float* weight, const E* grad, Drop drop, uint32_t first,
    int64_t width, E* dx, E* dy, float* dweight, float* dbias) {
  const float mean = statistics[0], scale = statistics[1];
  V slopes = {}, along = {};
  for (int64_t i = 0; i < width; i += LANE) {
    const int64_t count = width - i;
    const V normal = only((load<V>(z + i, count) - mean) * scale, count);
    const V out = load<V>(grad + i, count), g = out * load<V>(weight + i, count);
    slopes += g;
    along += g * normal;
    store(load<V>(dweight + i, count) + out * normal, dweight + i, count);
    store(load<V>(dbias + i, count) + out, dbias + i, count);
  }
  const float slope = sum_of(slopes) / static_cast<float>(width);
  const float lean = sum_of(along) / static_cast<float>(width);
  for (int64_t i = 0; i < width; i += LANE) {
    const int64_t count = width - i;
    const V normal = (load<V>(z + i, count) - mean) * scale;
    const V g = load<V>(grad + i, count) * load<V>(weight + i, count);
    const V dz = (g - slope - normal * lean) * scale;
    store(dz, dx + i, count);
    if (dy) store(dz * kept<V>(drop, first + static_cast<uint32_t>(i)), dy + i, count);
  }
}

#define MAKE(E)                                                                              \
  QUARRY_LEVELS(                                                                             \
      void, forward_row,                                                                     \
      (const E* x, const E* y, const float* weight, const float* bias, float epsilon,        \
       Drop drop, uint32_t first, int64_t width, float* sum, E* z, float* statistics,        \
       E* out),                                                                              \
      (x, y, weight, bias, epsilon, drop, first, width, sum, z, statistics, out))            \
  QUARRY_LEVELS(                                                                             \
      void, backward_row,                                                                    \
      (const E* z, const float* statistics, const float* weight, const E* grad, Drop drop,   \
       uint32_t first, int64_t width, E* dx, E* dy, float* dweight, float* dbias),           \
      (z, statistics, weight, grad, drop, first, width, dx, dy, dweight, dbias))
QUARRY_FOR_EACH_KIND(MAKE)
#undef MAKE

uint32_t number_of(int64_t row, int64_t width) { return static_cast<uint32_t>(row * width); }

}  // namespace

template <class E>
void residual_norm(
    const E* x, const E* y, const float* weight, const float* bias, float epsilon, Drop drop,
    int64_t begin, int64_t end, int64_t width, E* z, float* statistics, E* out) {
  std::vector<float> sum(width + LANE);
  for (int64_t row = begin; row < end; ++row) {
    const int64_t at = row * width;
    forward_row(
        x + at, y + at, weight, bias, epsilon, drop, number_of(row, width), width, sum.data(),
        z + at, statistics + 2 * row, out + at);
  }
}

template <class E>
void residual_norm_backward(
    const E* z, const float* statistics, const float* weight, const E* grad, Drop drop,
    int64_t begin, int64_t end, int64_t width, E* dx, E* dy, float* scales) {
  for (int64_t row = begin; row < end; ++row) {
    const int64_t at = row * width;
    backward_row(
        z + at, statistics + 2 * row, weight, grad + at, drop, number_of(row, width), width,
        dx + at, dy ? dy + at : nullptr, scales, scales + width);
  }
}

#define MAKE(E)                                                                             \
  template void residual_norm(                                                              \
      const E*, const E*, const float*, const float*, float, Drop, int64_t, int64_t,        \
      int64_t, E*, float*, E*);                                                             \
  template void residual_norm_backward(                                                     \
      const E*, const float*, const float*, const E*, Drop, int64_t, int64_t, int64_t, E*,  \
      E*, float*);
MAKE(float)
MAKE(Bf16)
#undef MAKE

}  // namespace quarry
