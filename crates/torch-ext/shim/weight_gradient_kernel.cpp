#include "weight_gradient_kernel.h"

#include "blocks.h"
#include "pack_kernel.h"

#include <algorithm>

namespace quarry {
namespace {

// Tokens that a product sums up at a time: what it reads then fits half of the second cache, and
// the gradient itself, which does not, is read and written seldom.
template <class E>
constexpr int64_t DEPTH = 2048 / sizeof(E);
// Tokens are filled up to a multiple of this, with zeros: libtorch compiles a block product for
// each number of them.
constexpr int64_t FILLED = 16;

// Calls `part(first, count, filled)` for all tokens.
template <class E, class F>
void in_parts(int64_t tokens, const F& part) {
  for (int64_t first = 0; first < tokens; first += DEPTH<E>) {
    const int64_t count = std::min(DEPTH<E>, tokens - first);
    part(first, count, round_up(count, FILLED));
  }
}

}  // namespace

int64_t packed_size(int64_t tokens, int64_t in) { return round_up(tokens, FILLED) * in; }

template <class E>
void pack_input(const E* x, int64_t tokens, int64_t in, int64_t first, int64_t count, E* to) {
  in_parts<E>(tokens, [&](int64_t token, int64_t real, int64_t filled) {
    in_blocks(first, first + count, [&](int64_t column, int64_t width) {
      const Rows<E> rows{x + token * in + column, in, real};
      pack_down(rows, filled, width, to + token * in + column * filled);
    });
  });
}

template <class E>
void add_weight_gradient(
    const E* dy, int64_t stride, int64_t tokens, int64_t rows, const E* packed, int64_t in, float* dw) {
  Scratch scratch(2 * 64 + 2 * DEPTH<E> * columns() * sizeof(E));
  E* pairs = scratch.take<E>(DEPTH<E> * columns());
  E* slopes = scratch.take<E>(DEPTH<E> * columns());
  in_parts<E>(tokens, [&](int64_t token, int64_t real, int64_t filled) {
    transpose(Rows<E>{dy + token * stride, stride, real}, filled, rows, pairs, slopes);
    in_blocks(0, in, [&](int64_t column, int64_t width) {
      const E* block = packed + token * in + column * filled;
      product(rows, width, filled, slopes, filled, block, dw + column, in, true);
    });
  });
}

#define MAKE(E)                                                                  \
  template void pack_input(const E*, int64_t, int64_t, int64_t, int64_t, E*);    \
  template void add_weight_gradient(                                             \
      const E*, int64_t, int64_t, int64_t, const E*, int64_t, float*);
MAKE(float)
MAKE(Bf16)
#undef MAKE

}  // namespace quarry
