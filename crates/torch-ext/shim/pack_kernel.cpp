#include "pack_kernel.h"

#include <algorithm>
#include <cstring>

namespace quarry {
namespace {

// What products take of a row at a time: one float, or two neighbours in bf16.
using Word = uint32_t;

using Eight = Word __attribute__((vector_size(8 * sizeof(Word))));

#ifdef __clang__
#define QUARRY_SHUFFLE(x, y, ...) __builtin_shufflevector(x, y, __VA_ARGS__)
#else
#define QUARRY_SHUFFLE(x, y, ...) __builtin_shuffle(x, y, Eight{__VA_ARGS__})
#endif

QUARRY_INLINE Eight eight_of(const char* from) {
  Eight x;
  memcpy(&x, from, sizeof x);
  return x;
}

// Eight rows of eight words, `stride` bytes apart, as columns: rows of `to` are `to_stride` words
// apart. Neighbours are exchanged first, then pairs of them, then halves.
QUARRY_INLINE void transpose_eight(const char* from, int64_t stride, Word* to, int64_t to_stride) {
  Eight pairs[8], fours[8];
  for (int i = 0; i < 8; i += 2) {
    const Eight x = eight_of(from + i * stride), y = eight_of(from + (i + 1) * stride);
    pairs[i] = QUARRY_SHUFFLE(x, y, 0, 8, 1, 9, 4, 12, 5, 13);
    pairs[i + 1] = QUARRY_SHUFFLE(x, y, 2, 10, 3, 11, 6, 14, 7, 15);
  }
  for (int i = 0; i < 8; i += 4)
    for (int j = 0; j < 2; ++j) {
      const Eight x = pairs[i + j], y = pairs[i + j + 2];
      fours[i + 2 * j] = QUARRY_SHUFFLE(x, y, 0, 1, 8, 9, 4, 5, 12, 13);
      fours[i + 2 * j + 1] = QUARRY_SHUFFLE(x, y, 2, 3, 10, 11, 6, 7, 14, 15);
    }
  for (int i = 0; i < 4; ++i) {
    const Eight first = QUARRY_SHUFFLE(fours[i], fours[i + 4], 0, 1, 2, 3, 8, 9, 10, 11);
    const Eight last = QUARRY_SHUFFLE(fours[i], fours[i + 4], 4, 5, 6, 7, 12, 13, 14, 15);
    memcpy(to + i * to_stride, &first, sizeof first);
    memcpy(to + (i + 4) * to_stride, &last, sizeof last);
  }
}

// to [words, filled] = X^T of rows of words. Sixteen rows of X at a time, as what they write
// lies side by side then: `filled` is often a power of two, and single words so far apart push
// each other out of the first cache.
QUARRY_LANES void transpose_words(
    const char* x, int64_t stride, int64_t count, int64_t filled, int64_t words, Word* to) {
  for (int64_t first = 0; first < filled; first += LANE) {
    const int64_t rows = std::min(LANE, filled - first);
    const int64_t real = std::max<int64_t>(0, std::min(rows, count - first));
    const char* from = x + first * stride;
    int64_t j = 0;
    if (real == LANE)
      for (; j + 8 <= words; j += 8)
        for (int64_t i = 0; i < LANE; i += 8)
          transpose_eight(
              from + i * stride + j * static_cast<int64_t>(sizeof(Word)), stride, to + j * filled + first + i,
              filled);
    for (; j < words; ++j) {
      Word* line = to + j * filled + first;
      for (int64_t i = 0; i < real; ++i)
        memcpy(line + i, from + i * stride + j * static_cast<int64_t>(sizeof(Word)), sizeof(Word));
      for (int64_t i = real; i < rows; ++i) line[i] = 0;
    }
  }
}

template <class E>
void transpose_words(const Rows<E>& x, int64_t filled, int64_t words, E* to) {
  transpose_words(
      reinterpret_cast<const char*>(x.start), x.stride * static_cast<int64_t>(sizeof(E)), x.count, filled,
      words, reinterpret_cast<Word*>(to));
}

// Row pairs that are asked for before they are read: rows lie far apart where they are a few
// columns of a matrix.
constexpr int64_t AHEAD = 6;
// Numbers of a line of the caches.
constexpr int64_t LINE = 64 / sizeof(Bf16);

// Words of two rows' numbers, row pair by row pair.
QUARRY_LANES void interleave(const Bf16* rows, int64_t stride, int64_t pairs, int64_t n, Word* to) {
  for (int64_t i = 0; i < pairs; ++i) {
    const Bf16 *even = rows + 2 * i * stride, *odd = even + stride;
    if (i + AHEAD < pairs)
      for (int64_t j = 0; j < n; j += LINE) {
        __builtin_prefetch(even + 2 * AHEAD * stride + j);
        __builtin_prefetch(odd + 2 * AHEAD * stride + j);
      }
    for (int64_t j = 0; j < n; ++j)
      to[i * n + j] = static_cast<Word>(even[j]) | static_cast<Word>(odd[j]) << 16;
  }
}

}  // namespace

template <class E>
void pack_transposed(const Rows<E>& x, int64_t filled, int64_t d, E* to) {
  const int64_t words = d * static_cast<int64_t>(sizeof(E) / sizeof(Bf16)) / 2;
  transpose_words(x, filled, words, to);
}

template <>
void pack_down(const Rows<float>& x, int64_t filled, int64_t n, float* to) {
  for (int64_t i = 0; i < x.count; ++i) std::copy_n(x[i], n, to + i * n);
  std::fill(to + x.count * n, to + filled * n, 0.0f);
}

template <>
void pack_down(const Rows<Bf16>& x, int64_t filled, int64_t n, Bf16* to) {
  auto* out = reinterpret_cast<Word*>(to);
  interleave(x.start, x.stride, x.count / 2, n, out);
  if (x.count % 2 == 1)
    for (int64_t j = 0; j < n; ++j) out[x.count / 2 * n + j] = x[x.count - 1][j];
  std::fill(out + (x.count + 1) / 2 * n, out + filled / 2 * n, 0u);
}

template <>
void transpose(const Rows<float>& x, int64_t filled, int64_t n, float*, float* to) {
  transpose_words(x, filled, n, to);
}

// Pairs of rows are words, whose transpose has neighbours side by side again.
template <>
void transpose(const Rows<Bf16>& x, int64_t filled, int64_t n, Bf16* pairs, Bf16* to) {
  pack_down(x, filled, n, pairs);
  transpose_words(Rows<Bf16>{pairs, 2 * n, filled / 2}, filled / 2, n, to);
}

template void pack_transposed(const Rows<float>&, int64_t, int64_t, float*);
template void pack_transposed(const Rows<Bf16>&, int64_t, int64_t, Bf16*);

}  // namespace quarry
