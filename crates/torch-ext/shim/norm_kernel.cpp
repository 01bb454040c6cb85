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

// The passes over a row find it in the first cache; `z` has room for whole vectors.
#define MAKE(E)                                                                          \
  QUARRY_LANES void normalize_sum(                                                       \
      const E* x, const E* y, const float* weight, const float* bias, float epsilon,     \
      int64_t width, float* z, E* out) {                                                 \
    const int64_t whole = width / LANE * LANE;                                           \
    Floats sums = {};                                                                    \
    for (int64_t i = 0; i < whole; i += LANE) {                                          \
      const Floats both = load(x + i) + load(y + i);                                     \
      sums += both;                                                                      \
      store(both, z + i);                                                                \
    }                                                                                    \
    if (whole < width) {                                                                 \
      E a[LANE] = {}, b[LANE] = {};                                                      \
      std::copy(x + whole, x + width, a);                                                \
      std::copy(y + whole, y + width, b);                                                \
      const Floats both = load(a) + load(b);                                             \
      sums += both;                                                                      \
      store(both, z + whole);                                                            \
    }                                                                                    \
    const float mean = sum_of(sums) / static_cast<float>(width);                         \
    Floats squares = {};                                                                 \
    for (int64_t i = 0; i < whole; i += LANE) {                                          \
      const Floats off = load(z + i) - mean;                                             \
      squares += off * off;                                                              \
    }                                                                                    \
    float spread = sum_of(squares);                                                      \
    for (int64_t i = whole; i < width; ++i) spread += (z[i] - mean) * (z[i] - mean);     \
    const float scale = 1.0f / std::sqrt(spread / static_cast<float>(width) + epsilon);  \
    for (int64_t i = 0; i < whole; i += LANE)                                            \
      store((load(z + i) - mean) * scale * load(weight + i) + load(bias + i), out + i);  \
    if (whole < width) {                                                                 \
      float w[LANE] = {}, b[LANE] = {};                                                  \
      E rounded[LANE];                                                                   \
      std::copy(weight + whole, weight + width, w);                                      \
      std::copy(bias + whole, bias + width, b);                                          \
      store((load(z + whole) - mean) * scale * load(w) + load(b), rounded);              \
      std::copy(rounded, rounded + (width - whole), out + whole);                        \
    }                                                                                    \
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
