// A linear layer in training, over weights packed once a step.
#include "trained_linear.h"

#include "guarded.h"
#include "leaf.h"
#include "linear.h"
#include "tensors.h"

#include <ATen/core/List.h>
#include <ATen/ops/mm.h>
#include <torch/csrc/autograd/custom_function.h>

using at::Tensor;

void add_linear_gradients(const std::vector<Tensor>& leaves, const Tensor& dy, const Tensor& x) {
  const bool whole = dy.scalar_type() == at::kFloat;
  const Tensor dw = whole ? Tensor() : at::mm(dy.t(), x);
  const Tensor db = dy.sum(0);
  int64_t first = 0;
  for (size_t i = 0; i < leaves.size(); i += 2) {
    const Tensor &weight = leaves[i], &bias = leaves[i + 1];
    const int64_t rows = weight.size(0);
    if (weight.requires_grad()) {
      Tensor& grad = gradient_of(weight);
      whole ? grad.addmm_(dy.narrow(1, first, rows).t(), x) : grad.add_(dw.narrow(0, first, rows));
    }
    if (bias.requires_grad()) gradient_of(bias).add_(db.narrow(0, first, rows));
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

