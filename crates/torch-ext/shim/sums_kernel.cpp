#include "sums_kernel.h"

#include "lanes.h"

#include <algorithm>

namespace quarry {
namespace {

// Row by row, as they lie in memory; four at once, so that the sums, which stay in the
// first cache, are touched a quarter as often.
template <class V, class E>
QUARRY_INLINE void add_rows_in(
    const E* x, int64_t rows, int64_t width, int64_t begin, int64_t end, float* to) {
  int64_t row = 0;
  for (; row + 4 <= rows; row += 4) {
    const E* from = x + row * width;
    for (int64_t i = begin; i < end; i += LANE) {
      const int64_t n = end - i;
      const V first = load<V>(from + i, n) + load<V>(from + width + i, n);
      const V last = load<V>(from + 2 * width + i, n) + load<V>(from + 3 * width + i, n);
      store(load<V>(to + i, n) + (first + last), to + i, n);
    }
  }
  for (; row < rows; ++row)
    for (int64_t i = begin; i < end; i += LANE)
      store(load<V>(to + i, end - i) + load<V>(x + row * width + i, end - i), to + i, end - i);
}

#define MAKE(E)                                                                               \
  QUARRY_LEVELS(                                                                              \
      void, add_rows,                                                                         \
      (const E* x, int64_t rows, int64_t width, int64_t begin, int64_t end, float* to),       \
      (x, rows, width, begin, end, to))
QUARRY_FOR_EACH_KIND(MAKE)
#undef MAKE

}  // namespace

template <class E>
void column_sums(const E* x, int64_t rows, int64_t width, int64_t begin, int64_t end, float* sums) {
  std::fill(sums + begin, sums + end, 0.0f);
  add_rows(x, rows, width, begin, end, sums);
}

template void column_sums(const float*, int64_t, int64_t, int64_t, int64_t, float*);
template void column_sums(const Bf16*, int64_t, int64_t, int64_t, int64_t, float*);

}  // namespace quarry
