// GELU and its derivative, sixteen numbers at a time (Hendrycks & Gimpel, arXiv 1606.08415).
#pragma once

#include "lanes.h"

namespace quarry {

template <class V>
struct Gelu {
  V value, slope;
};

// x Phi(x), and Phi(x) + x phi(x). The error function is Abramowitz and Stegun's 7.1.26
// (off by at most 1.5e-7); its exponential is the density's too. `beyond` is Phi(-|x|).
// An infinite x is no number then.
template <class E, class V>
QUARRY_INLINE Gelu<V> by_error_function(V x) {
  const V size = magnitude(x);
  const V e = power_below<E>(x * x * (-0.5f * LOG2_E));
  const V t = 1.0f / (size * (0.3275911f * 0.707106781f) + 1.0f);
  V p = t * (0.5f * 1.061405429f) - 0.5f * 1.453152027f;
  p = p * t + 0.5f * 1.421413741f;
  p = p * t - 0.5f * 0.284496736f;
  p = p * t + 0.5f * 0.254829592f;
  const V beyond = p * t * e;
  const V below = where_below(x, V{}, beyond, 1.0f - beyond);
  return {larger(V{}, x) - size * beyond, below + x * e * 0.398942280f};
}

// x s(2u) of the logistic function s and u = sqrt(2 / pi) (x + 0.044715 x^3).
template <class E, class V>
QUARRY_INLINE Gelu<V> by_tanh(V x) {
  constexpr float TWICE = 1.59576912f, CUBE = 0.044715f;
  const V square = x * x;
  const V u = x * (square * CUBE + 1.0f) * TWICE;
  const V below = 1.0f / (power_of_two<E>(u * -LOG2_E) + 1.0f);
  const V du = (square * (3.0f * CUBE) + 1.0f) * TWICE;
  return {x * below, below + x * below * (1.0f - below) * du};
}

// x Phi(x) for what is rounded to bfloat16 next: off by at most 7e-5, without a division or an
// exponential. Phi - 1/2 is x P(x^2) up to 4.25 (a minimax fit of x^2 P, which is 1/2 there), and
// constant beyond. scripts/reference/gelu_fit.py makes the coefficients and shows the bound.
template <class V>
QUARRY_INLINE V near_gelu(V x) {
  const V most = V{} + 4.25f;
  const V c = smaller(most, larger(-most, x));
  const V t = c * c;
  V p = t * 6.755369303e-11f - 6.327879747e-09f;
  p = p * t + 2.606712663e-07f;
  p = p * t - 6.294338614e-06f;
  p = p * t + 1.008493743e-04f;
  p = p * t - 1.157286303e-03f;
  p = p * t + 9.995503568e-03f;
  p = p * t - 6.667167416e-02f;
  p = p * t + 3.991134982e-01f;
  return x * (c * p + 0.5f);
}

}  // namespace quarry
