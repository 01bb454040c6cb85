// LN(x + dropout(y)) as one differentiable operation.
#include "guarded.h"
#include "lanes.h"
#include "residual_kernel.h"
#include "tensors.h"

#include <ATen/Parallel.h>
#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>

namespace {

using at::Tensor;
using quarry::Drop;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

// Near seeds must not give near masks: spreads every bit over all (splitmix64).
Drop drop_of(int64_t seed, int64_t below, double scale) {
  uint64_t key = static_cast<uint64_t>(seed) + 0x9e3779b97f4a7c15u;
  key = (key ^ (key >> 30)) * 0xbf58476d1ce4e5b9u;
  key = (key ^ (key >> 27)) * 0x94d049bb133111ebu;
  return {key ^ (key >> 31), static_cast<uint32_t>(below), static_cast<float>(scale)};
}

template <class E>
void forward(
    const Tensor& x, const Tensor& y, const Tensor& weight, const Tensor& bias, float epsilon,
    Drop drop, const Tensor& z, const Tensor& statistics, const Tensor& out) {
  const int64_t width = x.size(-1), rows = x.numel() / width;
  at::parallel_for(0, rows, quarry::ROWS, [&](int64_t begin, int64_t end) {
    quarry::residual_norm(
        elements<E>(x), elements<E>(y), elements<float>(weight), elements<float>(bias), epsilon,
        drop, begin, end, width, elements<E>(z), elements<float>(statistics), elements<E>(out));
  });
}

// The gradients of weight and bias as [2, width].
template <class E>
Tensor backward(
    const Tensor& z, const Tensor& statistics, const Tensor& weight, const Tensor& grad, Drop drop,
    const Tensor& dx, const Tensor& dy) {
  const int64_t width = z.size(-1), rows = z.numel() / width;
  const int64_t blocks = (rows + quarry::ROWS - 1) / quarry::ROWS;
  const Tensor scales = at::zeros({std::max<int64_t>(blocks, 1), 2, width}, weight.options());
  E* slopes = dy.defined() ? elements<E>(dy) : nullptr;
  at::parallel_for(0, blocks, 1, [&](int64_t first, int64_t last) {
    for (int64_t block = first; block < last; ++block) {
      const int64_t begin = block * quarry::ROWS;
      quarry::residual_norm_backward(
          elements<E>(z), elements<float>(statistics), elements<float>(weight), elements<E>(grad),
          drop, begin, std::min(rows, begin + quarry::ROWS), width, elements<E>(dx), slopes,
          elements<float>(scales) + block * 2 * width);
    }
  });
  Tensor total = scales[0];
  for (int64_t block = 1; block < blocks; ++block) total.add_(scales[block]);
  return total;
}

struct ResidualNorm : torch::autograd::Function<ResidualNorm> {
  static Tensor forward(
      AutogradContext* ctx, const Tensor& x, const Tensor& y, const Tensor& weight,
      const Tensor& bias, double epsilon, int64_t seed, int64_t below, double scale) {
    const Drop drop = drop_of(seed, below, scale);
    const Tensor z = at::empty_like(x), out = at::empty_like(x);
    const Tensor statistics = at::empty({x.numel() / x.size(-1), 2}, weight.options());
    const auto run = x.scalar_type() == at::kBFloat16 ? ::forward<quarry::Bf16> : ::forward<float>;
    run(x, y, weight, bias, static_cast<float>(epsilon), drop, z, statistics, out);
    ctx->save_for_backward({z, statistics, weight});
    ctx->saved_data["seed"] = seed;
    ctx->saved_data["below"] = below;
    ctx->saved_data["scale"] = scale;
    return out;
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    TORCH_CHECK(!at::GradMode::is_enabled(), "the residual norm has no second derivative");
    const auto saved = ctx->get_saved_variables();
    auto& data = ctx->saved_data;
    const Drop drop = drop_of(data["seed"].toInt(), data["below"].toInt(), data["scale"].toDouble());
    const Tensor grad = grads[0].contiguous();
    const Tensor dx = at::empty_like(saved[0]);
    const Tensor dy = drop.below > 0 ? at::empty_like(saved[0]) : Tensor();
    const auto run = dx.scalar_type() == at::kBFloat16 ? ::backward<quarry::Bf16> : ::backward<float>;
    const Tensor scales = run(saved[0], saved[1], saved[2], grad, drop, dx, dy);
    return {dx, dy.defined() ? dy : dx, scales[0], scales[1], Tensor(), Tensor(), Tensor(), Tensor()};
  }
};

}  // namespace

extern "C" char* quarry_residual_norm(
    const at::Tensor* x, const at::Tensor* y, const at::Tensor* weight, const at::Tensor* bias,
    double epsilon, int64_t seed, uint32_t below, double scale, at::Tensor** out) {
  return guarded([&] {
    *out = new Tensor(ResidualNorm::apply(*x, *y, *weight, *bias, epsilon, seed, static_cast<int64_t>(below), scale));
  });
}
