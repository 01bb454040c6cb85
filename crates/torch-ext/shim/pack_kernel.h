// Operands of libtorch's block products (oneDNN), laid out as these read them.
#pragma once

#include "lanes.h"

namespace quarry {

// Rows of numbers, `stride` apart, `count` of them; those after are taken as zeros.
template <class E>
struct Rows {
  const E* start;
  int64_t stride, count;
  const E* operator[](int64_t i) const { return start + i * stride; }
};

// B = X^T [d, filled], d even in bf16. bf16 products take two rows of B at a time, interleaved.
template <class E>
void pack_transposed(const Rows<E>& x, int64_t filled, int64_t d, E* to);

// B = X [filled, n], filled even in bf16.
template <class E>
void pack_down(const Rows<E>& x, int64_t filled, int64_t n, E* to);

// A = X^T [n, filled], filled even in bf16; `pairs` is scratch for filled * n numbers.
template <class E>
void transpose(const Rows<E>& x, int64_t filled, int64_t n, E* pairs, E* to);

}  // namespace quarry
