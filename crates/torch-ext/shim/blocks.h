// What kernels around libtorch's block products (oneDNN) share: the product, operands laid
// out for it, memory of a thread.
#pragma once

#include "lanes.h"

#include <ATen/native/CPUBlas.h>

#include <algorithm>
#include <cstring>
#include <deque>
#include <vector>

namespace quarry {

// oneDNN's block kernels leave a processor's matrix unit (AMX) set up for their last
// shape; other operations expect it released.
struct ReleaseUnit {
  ~ReleaseUnit() { at::native::cpublas::brgemm_release(); }
};

// Lengths are filled up to whole vectors: few shapes of block kernels are compiled.
inline int64_t round_up(int64_t n, int64_t to) { return (n + to - 1) / to * to; }

inline at::BFloat16* torch(Bf16* p) { return reinterpret_cast<at::BFloat16*>(p); }
inline const at::BFloat16* torch(const Bf16* p) { return reinterpret_cast<const at::BFloat16*>(p); }
inline float* torch(float* p) { return p; }
inline const float* torch(const float* p) { return p; }

// C [m, n] (+)= A [m, k] B, with B packed; rows of A and C are `stride`s apart.
template <class E>
void product(
    int64_t m, int64_t n, int64_t k, const E* a, int64_t a_stride, const E* b, float* c,
    int64_t c_stride, bool add) {
  at::native::cpublas::brgemm(
      m, n, k, a_stride, n, c_stride, add, torch(a), torch(b), c, sizeof(E) == sizeof(Bf16));
}

// The same with the rows of C one after the other.
template <class E>
void product(
    int64_t m, int64_t n, int64_t k, const E* a, int64_t a_stride, const E* b, float* c, bool add) {
  product(m, n, k, a, a_stride, b, c, n, add);
}

// Rows of d numbers, `stride` apart, `count` of them; those after are taken as zeros.
template <class E>
struct Rows {
  const E* start;
  int64_t stride, count;
  const E* operator[](int64_t i) const { return start + i * stride; }
};

// B = X^T [d, filled]. bf16 products take two rows of B at a time, interleaved: a pair
// of X^T is a pair of neighbours in X, moved as one word. Sixteen rows of X at a time, as what
// they write lies side by side then: `filled` is often a power of two, and single words so far
// apart push each other out of the first cache.
template <class E>
void pack_transposed(const Rows<E>& x, int64_t filled, int64_t d, E* to) {
  constexpr int64_t WORD = sizeof(uint32_t);
  const int64_t words = d * static_cast<int64_t>(sizeof(E)) / WORD;
  auto* out = reinterpret_cast<char*>(to);
  for (int64_t first = 0; first < filled; first += LANE) {
    const int64_t rows = std::min(LANE, filled - first);
    const int64_t real = std::max<int64_t>(0, std::min(rows, x.count - first));
    for (int64_t j = 0; j < words; ++j) {
      char* line = out + (j * filled + first) * WORD;
      for (int64_t i = 0; i < real; ++i)
        memcpy(line + i * WORD, reinterpret_cast<const char*>(x[first + i]) + j * WORD, WORD);
      memset(line + real * WORD, 0, (rows - real) * WORD);
    }
  }
}

// Memory of one thread, kept between calls; one that is taken while another is held is its own.
class Scratch {
 public:
  explicit Scratch(int64_t bytes) {
    if (depth() == kept().size()) kept().emplace_back();
    std::vector<char>& buffer = kept()[depth()++];
    if (static_cast<int64_t>(buffer.size()) < bytes + 64) buffer.resize(bytes + 64);
    const auto start = reinterpret_cast<uintptr_t>(buffer.data());
    next_ = reinterpret_cast<char*>((start + 63) / 64 * 64);
  }
  ~Scratch() { --depth(); }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  template <class E>
  E* take(int64_t count) {
    char* start = next_;
    next_ += round_up(count * static_cast<int64_t>(sizeof(E)), 64);
    return reinterpret_cast<E*>(start);
  }

 private:
  // A deque: what is held stays where it is.
  static std::deque<std::vector<char>>& kept() {
    thread_local std::deque<std::vector<char>> buffers;
    return buffers;
  }
  static size_t& depth() {
    thread_local size_t held = 0;
    return held;
  }
  char* next_;
};

}  // namespace quarry
