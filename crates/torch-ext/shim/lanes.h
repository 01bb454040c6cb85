// Sixteen numbers at a time: vectors of the compiler's own kind, compiled once for
// each level of x86-64 and chosen when the program starts. Sums are taken lane by
// lane, so that no result depends on how wide the processor's vectors are; processors
// that multiply and add in one rounding (x86-64-v3 on) differ in bits from older ones.
#pragma once

#include <cstdint>
#include <cstring>

// Older compilers do not know these names; the build's own level must do there.
#if defined(__x86_64__) && defined(__GNUC__) && __GNUC__ >= 12 && !defined(__clang__)
#define QUARRY_LANES __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define QUARRY_LANES
#endif
// What a function with QUARRY_LANES calls must become part of it.
#define QUARRY_INLINE inline __attribute__((always_inline))

namespace quarry {

// A bfloat16 as it lies in memory: the upper half of a float.
using Bf16 = uint16_t;

constexpr int64_t LANE = 16;
using Floats = float __attribute__((vector_size(LANE * sizeof(float))));
using Words = uint32_t __attribute__((vector_size(LANE * sizeof(uint32_t))));
using Halves = uint16_t __attribute__((vector_size(LANE * sizeof(uint16_t))));

template <class To, class From>
QUARRY_INLINE To bits_of(From from) {
  To to;
  static_assert(sizeof to == sizeof from, "as many bits");
  memcpy(&to, &from, sizeof to);
  return to;
}

QUARRY_INLINE Floats load(const float* from) {
  Floats x;
  memcpy(&x, from, sizeof x);
  return x;
}

QUARRY_INLINE Floats load(const Bf16* from) {
  Halves x;
  memcpy(&x, from, sizeof x);
  return bits_of<Floats>(__builtin_convertvector(x, Words) << 16);
}

QUARRY_INLINE void store(Floats x, float* to) { memcpy(to, &x, sizeof x); }

// Rounds to the nearest, ties to even, as libtorch does; what is no number stays none.
QUARRY_INLINE void store(Floats x, Bf16* to) {
  const Words bits = bits_of<Words>(x);
  const Words rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  const Words none = Words{} + 0x7fc0u;
  const Halves y = __builtin_convertvector(x != x ? none : rounded, Halves);
  memcpy(to, &y, sizeof y);
}

// Rounds what the next product reads, and nobody else: half a unit goes up. What is no number
// stays none if it came from one in bf16, whose low bits are zero, or from arithmetic.
QUARRY_INLINE void store_near(Floats x, float* to) { store(x, to); }

QUARRY_INLINE void store_near(Floats x, Bf16* to) {
  const Halves y = __builtin_convertvector((bits_of<Words>(x) + 0x8000u) >> 16, Halves);
  memcpy(to, &y, sizeof y);
}

// The first `count` of sixteen; the others are 0 when read, and kept when written.
template <class E>
QUARRY_INLINE Floats load(const E* from, int64_t count) {
  if (count >= LANE) return load(from);
  E part[LANE] = {};
  memcpy(part, from, count * sizeof(E));
  return load(part);
}

template <class E>
QUARRY_INLINE void store(Floats x, E* to, int64_t count) {
  if (count >= LANE) return store(x, to);
  E part[LANE];
  store(x, part);
  memcpy(to, part, count * sizeof(E));
}

template <class E>
QUARRY_INLINE void store_near(Floats x, E* to, int64_t count) {
  if (count >= LANE) return store_near(x, to);
  E part[LANE];
  store_near(x, part);
  memcpy(to, part, count * sizeof(E));
}

// 0, 1, 2, ...
QUARRY_INLINE Words numbers() {
  return Words{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
}

// `x` with zeros from place `count` on.
QUARRY_INLINE Floats only(Floats x, int64_t count) {
  return numbers() < Words{} + static_cast<uint32_t>(count) ? x : Floats{};
}

QUARRY_INLINE float sum_of(Floats x) {
  float half[8], quarter[4];
  for (int i = 0; i < 8; ++i) half[i] = x[i] + x[i + 8];
  for (int i = 0; i < 4; ++i) quarter[i] = half[i] + half[i + 4];
  return (quarter[0] + quarter[2]) + (quarter[1] + quarter[3]);
}

// One of two, lane by lane; y where either is no number.
QUARRY_INLINE Floats larger(Floats x, Floats y) { return x > y ? x : y; }
QUARRY_INLINE Floats smaller(Floats x, Floats y) { return x < y ? x : y; }

QUARRY_INLINE float max_of(Floats x) {
  float half[8], quarter[4];
  const auto larger_of = [](float a, float b) { return a > b ? a : b; };
  for (int i = 0; i < 8; ++i) half[i] = larger_of(x[i], x[i + 8]);
  for (int i = 0; i < 4; ++i) quarter[i] = larger_of(half[i], half[i + 4]);
  return larger_of(larger_of(quarter[0], quarter[2]), larger_of(quarter[1], quarter[3]));
}

// log2 e: e^x is 2^(x log2 e).
constexpr float LOG2_E = 1.44269504f;

// 2^f for |f| <= 1/2, as exact as a number of the second argument's kind can show:
// 2 units in the last place of a float (Cephes), 2^-13.3 for bfloat16
// (scripts/reference/power_fit.py).
QUARRY_INLINE Floats power_of_fraction(Floats f, float) {
  const Floats r = f * 0.693147181f;
  Floats p = r * 1.9875691500e-4f + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  return p * r * r + r + 1.0f;
}

QUARRY_INLINE Floats power_of_fraction(Floats f, Bf16) {
  Floats p = f * 5.500893143e-2f + 2.422109669e-1f;
  p = p * f + 6.932829279e-1f;
  return p * f + 1.0f;
}

// 2^t for |t| <= 125, as exact as E can show.
template <class E>
QUARRY_INLINE Floats power_within(Floats t) {
  // Adding 1.5 * 2^23 leaves the nearest whole number in the lower bits; 127 more, and these
  // bits are the exponent of its power.
  constexpr float WHOLE = 12582912.0f + 127.0f;
  const Floats shifted = t + WHOLE;
  const Floats p = power_of_fraction(t - (shifted - WHOLE), E(0));
  return p * bits_of<Floats>(bits_of<Words>(shifted) << 23);
}

// 2^t; 2^-125 below -125 and 2^125 above 125.
template <class E>
QUARRY_INLINE Floats power_of_two(Floats t) {
  const Floats most = Floats{} + 125.0f;
  return power_within<E>(larger(-most, smaller(most, t)));
}

}  // namespace quarry
