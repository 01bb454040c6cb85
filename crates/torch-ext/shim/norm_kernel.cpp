#include "norm_kernel.h"

#include "lanes.h"

#include <ATen/Parallel.h>

#include <algorithm>
#include <cmath>
#include <vector>

namespace quarry {
namespace {

// Rows that are worth waking a thread for.
constexpr int64_t GRAIN = 64;

// Both passes over a row find it in the first cache.
#define MAKE(E)                                                                          \
  QUARRY_LANES void normalize_sum(                                                       \
      const E* x, const E* y, const float* weight, const float* bias, float epsilon,     \
      int64_t width, float* z, E* out) {                                                 \
    float sum = 0;                                                                       \
    _Pragma("omp simd reduction(+ : sum)")                                               \
    for (int64_t i = 0; i < width; ++i) {                                                \
      z[i] = load(x[i]) + load(y[i]);                                                    \
      sum += z[i];                                                                       \
    }                                                                                    \
    const float mean = sum / static_cast<float>(width);                                  \
    float squares = 0;                                                                   \
    _Pragma("omp simd reduction(+ : squares)")                                           \
    for (int64_t i = 0; i < width; ++i) squares += (z[i] - mean) * (z[i] - mean);        \
    const float scale = 1.0f / std::sqrt(squares / static_cast<float>(width) + epsilon); \
    for (int64_t i = 0; i < width; ++i)                                                  \
      store((z[i] - mean) * scale * weight[i] + bias[i], &out[i]);                       \
  }
MAKE(float)
MAKE(Bf16)
#undef MAKE

}  // namespace

template <class E>
void add_norm(
    const E* x, const E* y, const float* weight, const float* bias, float epsilon, int64_t rows,
    int64_t width, E* out) {
  at::parallel_for(0, rows, GRAIN, [&](int64_t begin, int64_t end) {
    std::vector<float> z(width);
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
