// A linear layer in training, over weights packed once a step.
#include "trained_linear.h"

#include "blocks.h"
#include "guarded.h"
#include "lanes.h"
#include "leaf.h"
#include "linear.h"
#include "sums_kernel.h"
#include "tensors.h"
#include "weight_gradient_kernel.h"

#include <ATen/Parallel.h>
#include <ATen/core/List.h>
#include <ATen/ops/empty.h>
#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>
#include <exception>

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

// A part of a layer: a master, whose gradient [rows, in] comes from the columns of dY from
// `first` on.
struct Part {
  Tensor weight;
  int64_t first;
};

// Whether this processor has block products in bf16.
bool has_products() {
  static const bool has = [] {
    const std::vector<quarry::Bf16> zeros(quarry::LANE * quarry::LANE);
    std::vector<float> sums(zeros.size());
    const int64_t n = quarry::LANE;
    try {
      const quarry::ReleaseUnit unit;
      quarry::product(n, n, n, zeros.data(), n, zeros.data(), sums.data(), false);
      return true;
    } catch (const std::exception&) {  // Of libtorch, or of oneDNN beneath it.
      return false;
    }
  }();
  return has;
}

// Adds dYᵀ X to the masters' gradients.
template <class E>
void add_weight_gradients(const std::vector<Part>& parts, const Tensor& dy, const Tensor& x) {
  const int64_t tokens = x.size(0), in = x.size(1), out = dy.size(1), block = quarry::columns();
  const Tensor packed = at::empty({quarry::packed_size(tokens, in)}, x.options());
  const auto blocks = [block](int64_t n) { return (n + block - 1) / block; };
  at::parallel_for(0, blocks(in), 1, [&](int64_t begin, int64_t end) {
    const int64_t first = begin * block, count = std::min(in, end * block) - first;
    quarry::pack_input(elements<E>(x), tokens, in, first, count, elements<E>(packed));
  });
  for (const auto& [weight, column] : parts) {
    const Tensor& grad = gradient_of(weight);
    TORCH_CHECK(grad.is_contiguous() && grad.sizes() == weight.sizes(), "a gradient lies otherwise than its weight");
    TORCH_CHECK(weight.size(1) == in && column + weight.size(0) <= out, "a weight has another shape than its layer");
    const int64_t rows = weight.size(0), start = column;
    at::parallel_for(0, blocks(rows), 1, [&](int64_t begin, int64_t end) {
      const quarry::ReleaseUnit unit;
      for (int64_t row = begin * block; row < std::min(rows, end * block); row += block)
        quarry::add_weight_gradient(
            elements<E>(dy) + start + row, out, tokens, std::min(block, rows - row),
            elements<E>(packed), in, elements<float>(grad) + row * in);
    });
  }
}

}  // namespace

void add_linear_gradients(const std::vector<Tensor>& leaves, const Tensor& dy, const Tensor& input) {
  const Tensor x = input.contiguous();
  TORCH_CHECK(x.dim() == 2 && dy.dim() == 2 && x.size(0) == dy.size(0), "a trained layer's input is not [T, in]");
  const bool whole = dy.scalar_type() == at::kFloat;
  const Tensor db = whole ? column_sums<float>(dy) : column_sums<quarry::Bf16>(dy);
  std::vector<Part> parts;
  int64_t first = 0;
  for (size_t i = 0; i < leaves.size(); i += 2) {
    const Tensor &weight = leaves[i], &bias = leaves[i + 1];
    const int64_t rows = weight.size(0);
    if (weight.requires_grad()) parts.push_back({weight, first});
    if (bias.requires_grad()) add_gradient(bias, db.narrow(0, first, rows));
    first += rows;
  }
  if (parts.empty()) return;
  if (whole) return add_weight_gradients<float>(parts, dy, x);
  if (has_products()) return add_weight_gradients<quarry::Bf16>(parts, dy, x);
  // AVX-512 without bf16: a product of libtorch's would round what it adds to the gradient
  // to bf16.
  add_weight_gradients<float>(parts, dy.to(at::kFloat), x.to(at::kFloat));
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

