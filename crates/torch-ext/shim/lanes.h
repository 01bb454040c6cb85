// Loops over contiguous numbers that the compiler turns into vector code: plain
// C++, compiled once for each level of x86-64 and chosen when the program starts.
#pragma once

#include <cstdint>
#include <cstring>

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#define QUARRY_LANES __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define QUARRY_LANES
#endif

namespace quarry {

// A bfloat16 as it lies in memory: the upper half of a float.
using Bf16 = uint16_t;

inline float load(float x) { return x; }

inline float load(Bf16 x) {
  const uint32_t bits = static_cast<uint32_t>(x) << 16;
  float y;
  memcpy(&y, &bits, sizeof y);
  return y;
}

inline void store(float x, float* to) { *to = x; }

// Rounds to the nearest, ties to even, as libtorch does; what is no number stays none.
inline void store(float x, Bf16* to) {
  uint32_t bits;
  memcpy(&bits, &x, sizeof bits);
  const uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  *to = static_cast<Bf16>(x != x ? 0x7fc0u : rounded);
}

// Rounds what the next product reads, and nobody else: half a unit goes up.
inline void store_near(float x, float* to) { *to = x; }

inline void store_near(float x, Bf16* to) {
  uint32_t bits;
  memcpy(&bits, &x, sizeof bits);
  *to = static_cast<Bf16>((bits + 0x8000u) >> 16);
}

// (e^r - 1 - r) / r^2 for |r| <= ln 2 / 2, as exact as a number of kind E can show:
// 2 units in the last place of a float (Cephes), 2^-14 for bfloat16 (Taylor).
inline float exponential_tail(float r, float) {
  float p = 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  return p * r + 5.0000001201e-1f;
}

inline float exponential_tail(float r, Bf16) { return (4.1666667e-2f * r + 1.6666667e-1f) * r + 0.5f; }

// e^x for x <= 88 as exact as E can show; e^-87 below -87.
template <class E>
inline float exponential(float x) {
  const float clamped = x < -87.0f ? -87.0f : x;
  // Adding 1.5 * 2^23 leaves the nearest whole number in the lower bits.
  const float shifted = clamped * 1.44269504f + 12582912.0f;
  const float n = shifted - 12582912.0f;
  const float r = (clamped - n * 0.693359375f) + n * 2.12194440e-4f;
  const float p = exponential_tail(r, E(0)) * r * r + r + 1.0f;
  int32_t power;
  memcpy(&power, &shifted, sizeof power);
  const uint32_t bits = (static_cast<uint32_t>(power) + 127u) << 23;
  float scale;
  memcpy(&scale, &bits, sizeof scale);
  return p * scale;
}

}  // namespace quarry
