// A linear layer in training, over weights packed once a step.
#include "trained_linear.h"

#include "guarded.h"
#include "lanes.h"
#include "leaf.h"
#include "linear.h"
#include "sums_kernel.h"
#include "tensors.h"

#include <ATen/Parallel.h>
#include <ATen/core/List.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/mm.h>
#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>

using at::Tensor;

namespace {

// Elements that are worth waking a thread for.
constexpr int64_t SUM_GRAIN = 1 << 16;

// The sum over the rows of x [T, out], f32 [out].
template <class E>
Tensor column_sums(const Tensor& x) {
  const int64_t rows = x.size(0), width = x.size(1);
  const Tensor sums = at::empty({width}, x.options().dtype(at::kFloat));
  const int64_t vectors = (width + quarry::LANE - 1) / quarry::LANE;
  const int64_t grain = std::max<int64_t>(1, SUM_GRAIN / (quarry::LANE * std::max<int64_t>(rows, 1)));
  at::parallel_for(0, vectors, grain, [&](int64_t begin, int64_t end) {
    quarry::column_sums(
        elements<E>(x), rows, width, begin * quarry::LANE, std::min(width, end * quarry::LANE),
        elements<float>(sums));
  });
  return sums;
}

}  // namespace

void add_linear_gradients(const std::vector<Tensor>& leaves, const Tensor& dy, const Tensor& x) {
  const bool whole = dy.scalar_type() == at::kFloat;
  const Tensor dw = whole ? Tensor() : at::mm(dy.t(), x);
  const Tensor db = whole ? column_sums<float>(dy) : column_sums<quarry::Bf16>(dy);
  int64_t first = 0;
  for (size_t i = 0; i < leaves.size(); i += 2) {
    const Tensor &weight = leaves[i], &bias = leaves[i + 1];
    const int64_t rows = weight.size(0);
    if (weight.requires_grad() && whole) {
      Tensor& grad = weight.mutable_grad();
      const Tensor slopes = dy.narrow(1, first, rows).t();
      grad.defined() ? void(grad.addmm_(slopes, x)) : void(grad = at::mm(slopes, x));
    } else if (weight.requires_grad()) {
      add_gradient(weight, dw.narrow(0, first, rows));
    }
    if (bias.requires_grad()) add_gradient(bias, db.narrow(0, first, rows));
    first += rows;
  }
}

namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

struct TrainedLinear : torch::autograd::Function<TrainedLinear> {
  // `leaves`: weight and bias, as many pairs as there are layers joined into this one.
  // They are arguments so that the result is part of a graph, even if x needs no gradient.
  static Tensor forward(
      AutogradContext* ctx, const Tensor& x, const Tensor& forth, const Tensor& bias,
      const Tensor& back, at::TensorList leaves) {
    ctx->save_for_backward({x});
    ctx->saved_data["back"] = back;
    ctx->saved_data["leaves"] = c10::List<Tensor>(leaves);
    return linear_product(x, forth, bias);
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    TORCH_CHECK(!at::GradMode::is_enabled(), "a trained linear layer has no second derivative");
    const Tensor dy = grads[0].contiguous();
    const Tensor x = ctx->get_saved_variables()[0];
    const auto leaves = ctx->saved_data["leaves"].toTensorVector();
    add_linear_gradients(leaves, dy, x);
    variable_list slopes(4 + leaves.size());
    if (ctx->needs_input_grad(0)) slopes[0] = linear_product(dy, ctx->saved_data["back"].toTensor(), std::nullopt);
    return slopes;
  }
};

}  // namespace

extern "C" char* quarry_trained_linear(
    const at::Tensor* x, const at::Tensor* forth, const at::Tensor* bias, const at::Tensor* back,
    at::Tensor* const* leaves, size_t count, at::Tensor** out) {
  return guarded([&] {
    *out = new Tensor(TrainedLinear::apply(*x, *forth, *bias, *back, at::TensorList(tensor_list(leaves, count))));
  });
}

