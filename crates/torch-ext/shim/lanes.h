// Sixteen numbers at a time, and functions compiled once for each level of x86-64 and chosen when
// the program starts. Sixteen floats are one vector of the compiler's own kind where the processor
// has such (x86-64-v4), and two of eight elsewhere: compilers take vectors that are wider than the
// processor's apart number by number wherever they compare. Sums are taken lane by lane, so that no
// result depends on how wide the processor's vectors are; processors that multiply and add in one
// rounding (x86-64-v3 on) differ in bits from older ones.
#pragma once

#include <cstdint>
#include <cstring>
#include <type_traits>

#if defined(QUARRY_VECTORS)
// Vectors of one kind on any processor: a test compiles the kernels once with each (tests/widths.rs).
#define QUARRY_LANES
#define QUARRY_LEVELS(RESULT, NAME, PARAMETERS, ARGUMENTS) \
  RESULT NAME PARAMETERS { return NAME##_in<QUARRY_VECTORS> ARGUMENTS; }
// Older compilers do not know these names; the build's own level must do there.
#elif defined(__x86_64__) && defined(__GNUC__) && __GNUC__ >= 12 && !defined(__clang__)
// A function whose loops the compiler turns into vectors itself.
#define QUARRY_LANES __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
// RESULT NAME(PARAMETERS), which calls the template NAME_in with the vectors of each level.
#define QUARRY_LEVELS(RESULT, NAME, PARAMETERS, ARGUMENTS)                                              \
  __attribute__((target("arch=x86-64-v4"))) RESULT NAME PARAMETERS { return NAME##_in<Sixteen> ARGUMENTS; } \
  __attribute__((target("arch=x86-64-v3"))) RESULT NAME PARAMETERS { return NAME##_in<Eights> ARGUMENTS; }  \
  __attribute__((target("default"))) RESULT NAME PARAMETERS { return NAME##_in<Eights> ARGUMENTS; }
#else
#define QUARRY_LANES
#define QUARRY_LEVELS(RESULT, NAME, PARAMETERS, ARGUMENTS) \
  RESULT NAME PARAMETERS { return NAME##_in<Eights> ARGUMENTS; }
#endif
// What a function of several levels calls must become part of it.
#define QUARRY_INLINE inline __attribute__((always_inline))

namespace quarry {

// A bfloat16 as it lies in memory: the upper half of a float.
using Bf16 = uint16_t;

#define QUARRY_FOR_EACH_KIND(make) \
  make(float)                      \
  make(Bf16)

constexpr int64_t LANE = 16;

template <class T, int64_t COUNT>
struct VectorOf {
  using Type __attribute__((vector_size(COUNT * sizeof(T)))) = T;
};
template <class T, int64_t COUNT>
using Vector = typename VectorOf<T, COUNT>::Type;

// Two vectors as one; operators below.
template <class T>
struct Pair {
  T low, high;
};

using Sixteen = Vector<float, 16>;
using Eights = Pair<Vector<float, 8>>;

#define QUARRY_PAIRWISE(OP)                                                           \
  template <class T>                                                                  \
  QUARRY_INLINE Pair<T> operator OP(Pair<T> x, Pair<T> y) {                           \
    return {x.low OP y.low, x.high OP y.high};                                        \
  }                                                                                   \
  template <class T, class S, class = std::enable_if_t<std::is_arithmetic_v<S>>>      \
  QUARRY_INLINE Pair<T> operator OP(Pair<T> x, S y) {                                 \
    return {x.low OP y, x.high OP y};                                                 \
  }                                                                                   \
  template <class T, class S, class = std::enable_if_t<std::is_arithmetic_v<S>>>      \
  QUARRY_INLINE Pair<T> operator OP(S x, Pair<T> y) {                                 \
    return {x OP y.low, x OP y.high};                                                 \
  }                                                                                   \
  template <class T, class Y>                                                         \
  QUARRY_INLINE Pair<T>& operator OP##=(Pair<T>& x, Y y) {                            \
    return x = x OP y;                                                                \
  }
QUARRY_PAIRWISE(+)
QUARRY_PAIRWISE(-)
QUARRY_PAIRWISE(*)
QUARRY_PAIRWISE(/)
QUARRY_PAIRWISE(&)
QUARRY_PAIRWISE(^)
QUARRY_PAIRWISE(<<)
QUARRY_PAIRWISE(>>)
#undef QUARRY_PAIRWISE

template <class T>
QUARRY_INLINE Pair<T> operator-(Pair<T> x) {
  return {-x.low, -x.high};
}

template <class To, class From>
QUARRY_INLINE To bits_of(From from) {
  To to;
  static_assert(sizeof to == sizeof from, "as many bits");
  memcpy(&to, &from, sizeof to);
  return to;
}

// The bits of floats, and floats of bits.
template <int64_t COUNT>
QUARRY_INLINE Vector<uint32_t, COUNT> words_of_vector(Vector<float, COUNT> x) {
  return bits_of<Vector<uint32_t, COUNT>>(x);
}
QUARRY_INLINE Vector<uint32_t, 16> words_of(Sixteen x) { return words_of_vector<16>(x); }
QUARRY_INLINE Pair<Vector<uint32_t, 8>> words_of(Eights x) {
  return {words_of_vector<8>(x.low), words_of_vector<8>(x.high)};
}
template <class V>
using WordsOf = decltype(words_of(V{}));

QUARRY_INLINE Sixteen floats_of(WordsOf<Sixteen> x) { return bits_of<Sixteen>(x); }
QUARRY_INLINE Eights floats_of(WordsOf<Eights> x) {
  return {bits_of<Vector<float, 8>>(x.low), bits_of<Vector<float, 8>>(x.high)};
}

// a where x < y, b elsewhere, lane by lane.
template <class M, class T>
QUARRY_INLINE T where_below(M x, M y, T a, T b) {
  return x < y ? a : b;
}
template <class M, class T>
QUARRY_INLINE Pair<T> where_below(Pair<M> x, Pair<M> y, Pair<T> a, Pair<T> b) {
  return {where_below(x.low, y.low, a.low, b.low), where_below(x.high, y.high, a.high, b.high)};
}

// a where x is a number, b elsewhere.
template <class M, class T>
QUARRY_INLINE T where_number(M x, T a, T b) {
  return x == x ? a : b;
}
template <class M, class T>
QUARRY_INLINE Pair<T> where_number(Pair<M> x, Pair<T> a, Pair<T> b) {
  return {where_number(x.low, a.low, b.low), where_number(x.high, a.high, b.high)};
}

// One of two, lane by lane; y where either is no number.
template <class V>
QUARRY_INLINE V larger(V x, V y) {
  return where_below(y, x, x, y);
}
template <class V>
QUARRY_INLINE V smaller(V x, V y) {
  return where_below(x, y, x, y);
}

template <class V>
QUARRY_INLINE V magnitude(V x) {
  return floats_of(words_of(x) & 0x7fffffffu);
}

// Sixteen numbers as they lie in memory.
template <class T, class E>
QUARRY_INLINE T as_is(const E* from) {
  T x;
  memcpy(&x, from, sizeof x);
  return x;
}

template <int64_t COUNT>
QUARRY_INLINE Vector<float, COUNT> vector_from(const float* from) {
  return as_is<Vector<float, COUNT>>(from);
}
template <int64_t COUNT>
QUARRY_INLINE Vector<float, COUNT> vector_from(const Bf16* from) {
  const auto x = as_is<Vector<uint16_t, COUNT>>(from);
  return bits_of<Vector<float, COUNT>>(__builtin_convertvector(x, Vector<uint32_t, COUNT>) << 16);
}

// Sixteen floats, of floats or of bfloat16s.
template <class V, class E>
QUARRY_INLINE V load(const E* from) {
  if constexpr (std::is_same_v<V, Sixteen>)
    return vector_from<16>(from);
  else
    return {vector_from<8>(from), vector_from<8>(from + 8)};
}

template <class T>
QUARRY_INLINE void put(T x, float* to) {
  memcpy(to, &x, sizeof x);
}
template <class T>
QUARRY_INLINE void put(Pair<T> x, float* to) {
  put(x.low, to);
  put(x.high, to + 8);
}

// The lower halves of words.
QUARRY_INLINE void put_halves(WordsOf<Sixteen> x, Bf16* to) {
  const auto y = __builtin_convertvector(x, Vector<uint16_t, 16>);
  memcpy(to, &y, sizeof y);
}
QUARRY_INLINE void put_halves(WordsOf<Eights> x, Bf16* to) {
  const auto low = __builtin_convertvector(x.low, Vector<uint16_t, 8>);
  const auto high = __builtin_convertvector(x.high, Vector<uint16_t, 8>);
  memcpy(to, &low, sizeof low);
  memcpy(to + 8, &high, sizeof high);
}

template <class V>
QUARRY_INLINE void store(V x, float* to) {
  put(x, to);
}

// Words whose upper halves are x, rounded to the nearest, ties to even, as libtorch does; what is no
// number stays none.
template <class V>
QUARRY_INLINE WordsOf<V> rounded_to_even(V x) {
  const WordsOf<V> bits = words_of(x);
  const WordsOf<V> rounded = bits + 0x7fffu + ((bits >> 16) & 1u);
  return where_number(x, rounded, WordsOf<V>{} + 0x7fc00000u);
}
template <class V>
QUARRY_INLINE void store(V x, Bf16* to) {
  put_halves(rounded_to_even(x) >> 16, to);
}

// Rounds what the next product reads, and nobody else: half a unit goes up. What is no number
// stays none if it came from one in bf16, whose low bits are zero, or from arithmetic.
template <class V>
QUARRY_INLINE void store_near(V x, float* to) {
  put(x, to);
}
template <class V>
QUARRY_INLINE void store_near(V x, Bf16* to) {
  put_halves((words_of(x) + 0x8000u) >> 16, to);
}

// The upper halves of the words of x and y, one after the other: one store where there would be two.
template <class V>
QUARRY_INLINE void put_upper_halves(WordsOf<V> x, WordsOf<V> y, Bf16* to) {
  if constexpr (std::is_same_v<V, Sixteen>) {
    using Halves = Vector<uint16_t, 32>;
    const Halves upper = __builtin_shufflevector(
        bits_of<Halves>(x), bits_of<Halves>(y), 1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31,
        33, 35, 37, 39, 41, 43, 45, 47, 49, 51, 53, 55, 57, 59, 61, 63);
    memcpy(to, &upper, sizeof upper);
  } else {
    put_halves(x >> 16, to);
    put_halves(y >> 16, to + LANE);
  }
}

// Thirty-two numbers, rounded as `store` and `store_near` do.
template <class V>
QUARRY_INLINE void store_two(V x, V y, float* to) {
  put(x, to);
  put(y, to + LANE);
}
template <class V>
QUARRY_INLINE void store_two(V x, V y, Bf16* to) {
  put_upper_halves<V>(rounded_to_even(x), rounded_to_even(y), to);
}
template <class V>
QUARRY_INLINE void store_two_near(V x, V y, float* to) {
  store_two(x, y, to);
}
template <class V>
QUARRY_INLINE void store_two_near(V x, V y, Bf16* to) {
  put_upper_halves<V>(words_of(x) + 0x8000u, words_of(y) + 0x8000u, to);
}

// The first `count` of sixteen; the others are 0 when read, and kept when written.
template <class V, class E>
QUARRY_INLINE V load(const E* from, int64_t count) {
  if (count >= LANE) return load<V>(from);
  E part[LANE] = {};
  memcpy(part, from, count * sizeof(E));
  return load<V>(part);
}

template <class V, class E>
QUARRY_INLINE void store(V x, E* to, int64_t count) {
  if (count >= LANE) return store(x, to);
  E part[LANE];
  store(x, part);
  memcpy(to, part, count * sizeof(E));
}

template <class V, class E>
QUARRY_INLINE void store_near(V x, E* to, int64_t count) {
  if (count >= LANE) return store_near(x, to);
  E part[LANE];
  store_near(x, part);
  memcpy(to, part, count * sizeof(E));
}

// 0, 1, 2, ...
template <class V>
QUARRY_INLINE WordsOf<V> numbers() {
  constexpr uint32_t ALL[LANE] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
  return as_is<WordsOf<V>>(ALL);
}

// `x` with zeros from place `count` on.
template <class V>
QUARRY_INLINE V only(V x, int64_t count) {
  return where_below(numbers<V>(), WordsOf<V>{} + static_cast<uint32_t>(count), x, V{});
}

// Lanes i and i + 8 of sixteen become one of eight by `both`, and so on.
template <class V, class F>
QUARRY_INLINE float folded(V x, const F& both) {
  using Eight = Vector<float, 8>;
  using Four = Vector<float, 4>;
  float all[LANE], half[8], quarter[4];
  put(x, all);
  put(both(as_is<Eight>(all), as_is<Eight>(all + 8)), half);
  put(both(as_is<Four>(half), as_is<Four>(half + 4)), quarter);
  return both(both(quarter[0], quarter[2]), both(quarter[1], quarter[3]));
}

template <class V>
QUARRY_INLINE float sum_of(V x) {
  return folded(x, [](auto a, auto b) __attribute__((always_inline)) { return a + b; });
}
template <class V>
QUARRY_INLINE float max_of(V x) {
  return folded(x, [](auto a, auto b) __attribute__((always_inline)) { return a > b ? a : b; });
}

// log2 e: e^x is 2^(x log2 e).
constexpr float LOG2_E = 1.44269504f;

// 2^f for |f| <= 1/2, as exact as a number of the second argument's kind can show: off by 2^-23.6
// of it at most for a float (2^-23.3 where a product and its sum are rounded twice), 2^-13.3 for
// bfloat16 (scripts/reference/power_fit.py).
template <class V>
QUARRY_INLINE V power_of_fraction(V f, float) {
  V p = f * 1.535336206e-4f + 1.339887454e-3f;
  p = p * f + 9.618437358e-3f;
  p = p * f + 5.550332471e-2f;
  p = p * f + 2.402264791e-1f;
  p = p * f + 6.931472029e-1f;
  return p * f + 1.0f;
}

template <class V>
QUARRY_INLINE V power_of_fraction(V f, Bf16) {
  V p = f * 5.500893143e-2f + 2.422109669e-1f;
  p = p * f + 6.932829279e-1f;
  return p * f + 1.0f;
}

// 2^t for |t| <= 125, as exact as E can show.
template <class E, class V>
QUARRY_INLINE V power_within(V t) {
  // Adding 1.5 * 2^23 leaves the nearest whole number in the lower bits; 127 more, and these
  // bits are the exponent of its power.
  constexpr float WHOLE = 12582912.0f + 127.0f;
  const V shifted = t + WHOLE;
  const V p = power_of_fraction(t - (shifted - WHOLE), E(0));
  return p * floats_of(words_of(shifted) << 23);
}

// 2^t for t <= 125; 2^-125 below -125.
template <class E, class V>
QUARRY_INLINE V power_below(V t) {
  return power_within<E>(larger(V{} - 125.0f, t));
}

// 2^t; 2^-125 below -125 and 2^125 above 125.
template <class E, class V>
QUARRY_INLINE V power_of_two(V t) {
  return power_below<E>(smaller(V{} + 125.0f, t));
}

}  // namespace quarry
