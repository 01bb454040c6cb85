#include "norm_kernel.h"

#include "lanes.h"
#include "layer_norm.h"

#include <ATen/Parallel.h>

#include <vector>

namespace quarry {
namespace {

// Rows that are worth waking a thread for.
constexpr int64_t GRAIN = 64;

// `z` has room for whole vectors.
template <class V, class E>
QUARRY_INLINE void normalize_sum_in(
    const E* x, const E* y, const float* weight, const float* bias, float epsilon, int64_t width, float* z,
    E* out) {
  V total = {};
  for (int64_t i = 0; i < width; i += LANE) {
    const V both = load<V>(x + i, width - i) + load<V>(y + i, width - i);
    total += both;
    store(both, z + i);
  }
  normalize_row<V>(z, moments_of(z, total, width, epsilon), width, weight, bias, out);
}

#define MAKE(E)                                                                           \
  QUARRY_LEVELS(                                                                          \
      void, normalize_sum,                                                                \
      (const E* x, const E* y, const float* weight, const float* bias, float epsilon,     \
       int64_t width, float* z, E* out),                                                  \
      (x, y, weight, bias, epsilon, width, z, out))
QUARRY_FOR_EACH_KIND(MAKE)
#undef MAKE

}  // namespace

template <class E>
void add_norm(
    const E* x, const E* y, const float* weight, const float* bias, float epsilon, int64_t rows,
    int64_t width, E* out) {
  at::parallel_for(0, rows, GRAIN, [&](int64_t begin, int64_t end) {
    std::vector<float> z(width + LANE);
    for (int64_t row = begin; row < end; ++row)
      normalize_sum(
          x + row * width, y + row * width, weight, bias, epsilon, width, z.data(),
          out + row * width);
  });
}

template void add_norm(
    const float*, const float*, const float*, const float*, float, int64_t, int64_t, float*);
template void add_norm(
    const Bf16*, const Bf16*, const float*, const float*, float, int64_t, int64_t, Bf16*);

}  // namespace quarry
