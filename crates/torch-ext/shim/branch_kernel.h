// The ends of a transformer's two branches in inference, in bfloat16: a few rows go through all
// products, GELU and LayerNorm before the next, so that nothing between them leaves the caches.
#pragma once

#include "lanes.h"

namespace quarry {

// Rows that go through together.
constexpr int64_t BRANCH_ROWS = 64;

// A linear layer whose weight [out, in] was packed.
struct Packed {
  const Bf16* weight;
  const float* bias;
  int64_t out, in;
};

struct LayerNorm {
  const float *weight, *bias;
  float epsilon;
};

// Lays out a weight [out, in] for the first product of a branch, in blocks of its rows, or for
// the last one, in blocks of its columns. `in` is even.
void pack_first(const Bf16* weight, int64_t out, int64_t in, Bf16* to);
void pack_last(const Bf16* weight, int64_t out, int64_t in, Bf16* to);

// out = LN(x + a Wᵀ + b) of `rows` rows, at most BRANCH_ROWS. Widths are multiples of LANE;
// `out` may be x.
void projection_branch(
    const Bf16* a, const Bf16* x, int64_t rows, const Packed& last, const LayerNorm& norm, Bf16* out);

// out = LN(x + gelu(x W1ᵀ + b1) W2ᵀ + b2), likewise.
void feed_forward_branch(
    const Bf16* x, int64_t rows, const Packed& first, const Packed& last, bool tanh,
    const LayerNorm& norm, Bf16* out);

}  // namespace quarry
