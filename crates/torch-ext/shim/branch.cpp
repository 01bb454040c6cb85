// The ends of a transformer's branches in inference (bf16, CPU).
#include "branch_kernel.h"

#include "blocks.h"
#include "guarded.h"
#include "tensors.h"

#include <ATen/Parallel.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty_like.h>

#include <algorithm>

namespace {

using at::Tensor;
using quarry::Bf16;

// A packed weight keeps its shape [out, in].
quarry::Packed layer(const Tensor& weight, const Tensor& bias) {
  return {elements<Bf16>(weight), elements<float>(bias), weight.size(0), weight.size(1)};
}

quarry::LayerNorm layer_norm(const Tensor& weight, const Tensor& bias, double epsilon) {
  return {elements<float>(weight), elements<float>(bias), static_cast<float>(epsilon)};
}

// Calls `block(first, count)` for the rows of x, in parallel.
template <class F>
Tensor in_blocks(const Tensor& x, const F& block) {
  at::NoGradGuard no_grad;
  const Tensor out = at::empty_like(x);
  const int64_t rows = x.size(0), blocks = (rows + quarry::BRANCH_ROWS - 1) / quarry::BRANCH_ROWS;
  at::parallel_for(0, blocks, 1, [&](int64_t begin, int64_t end) {
    const quarry::ReleaseUnit unit;
    for (int64_t i = begin; i < end; ++i) {
      const int64_t first = i * quarry::BRANCH_ROWS;
      block(first, std::min(quarry::BRANCH_ROWS, rows - first), elements<Bf16>(out) + first * x.size(1));
    }
  });
  return out;
}

}  // namespace

extern "C" char* quarry_branch_pack(const Tensor* weight, bool last, Tensor** packed) {
  return guarded([&] {
    at::NoGradGuard no_grad;
    const Tensor from = weight->detach().contiguous(), to = at::empty_like(from);
    const auto pack = last ? quarry::pack_last : quarry::pack_first;
    pack(elements<Bf16>(from), from.size(0), from.size(1), elements<Bf16>(to));
    *packed = new Tensor(to);
  });
}

extern "C" char* quarry_projection_branch(
    const Tensor* a, const Tensor* x, const Tensor* weight, const Tensor* bias,
    const Tensor* norm_weight, const Tensor* norm_bias, double epsilon, Tensor** out) {
  return guarded([&] {
    const auto last = layer(*weight, *bias);
    const auto norm = layer_norm(*norm_weight, *norm_bias, epsilon);
    *out = new Tensor(in_blocks(*x, [&](int64_t first, int64_t count, Bf16* to) {
      quarry::projection_branch(
          elements<Bf16>(*a) + first * last.in, elements<Bf16>(*x) + first * last.out, count, last, norm, to);
    }));
  });
}

extern "C" char* quarry_feed_forward_branch(
    const Tensor* x, const Tensor* weight1, const Tensor* bias1, const Tensor* weight2,
    const Tensor* bias2, bool tanh, const Tensor* norm_weight, const Tensor* norm_bias,
    double epsilon, Tensor** out) {
  return guarded([&] {
    const auto first_layer = layer(*weight1, *bias1), last = layer(*weight2, *bias2);
    const auto norm = layer_norm(*norm_weight, *norm_bias, epsilon);
    *out = new Tensor(in_blocks(*x, [&](int64_t first, int64_t count, Bf16* to) {
      quarry::feed_forward_branch(
          elements<Bf16>(*x) + first * last.out, count, first_layer, last, tanh, norm, to);
    }));
  });
}
