// What kernels around libtorch's block products (oneDNN) share: the product and the memory of
// a thread.
#pragma once

#include "lanes.h"

#include <ATen/native/CPUBlas.h>

#include <algorithm>
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

// Columns of a product at a time. What a block of them needs of B lies side by side, as the rows of
// a whole weight would push each other out of the caches. A block of 64 does so itself where
// vectors hold eight floats: products of f32 ran at .65 to .75 of the peak there, of 32 at .87 and more.
inline int64_t columns() {
#if defined(QUARRY_VECTORS)
  return std::is_same_v<QUARRY_VECTORS, Sixteen> ? 64 : 32;
#elif defined(__x86_64__)
  static const int64_t most = __builtin_cpu_supports("avx512bw") ? 64 : 32;
  return most;
#else
  return 64;
#endif
}

// Calls `block(first, count)` for the columns from `first` to `end`.
template <class F>
void in_blocks(int64_t first, int64_t end, const F& block) {
  for (const int64_t most = columns(); first < end; first += most) block(first, std::min(most, end - first));
}

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

// Memory of one thread, kept between calls; one that is taken while another is held is its own.
class Scratch {
 public:
  explicit Scratch(int64_t bytes) {
    if (depth() == kept().size()) kept().emplace_back();
    std::vector<char>& buffer = kept()[depth()];
    if (static_cast<int64_t>(buffer.size()) < bytes + 64) buffer.resize(bytes + 64);
    ++depth();
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
