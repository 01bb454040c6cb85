// The feed-forward branch in training, gelu(x W1ᵀ + b1) W2ᵀ + b2. Autograd would keep GELU's
// input and its output, the two largest tensors of a layer; here the output is computed
// again in the pass that takes the slope, which needs the same exponential.
#include "gelu_kernel.h"
#include "guarded.h"
#include "lanes.h"
#include "linear.h"
#include "tensors.h"
#include "trained_linear.h"

#include <ATen/Parallel.h>
#include <ATen/core/List.h>
#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>

namespace {

using at::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

// Calls `part(first, count)` for pieces that begin at whole vectors.
template <class F>
void in_pieces(int64_t count, const F& part) {
  const int64_t vectors = (count + quarry::LANE - 1) / quarry::LANE;
  at::parallel_for(0, vectors, quarry::GELU_GRAIN / quarry::LANE, [&](int64_t begin, int64_t end) {
    const int64_t first = begin * quarry::LANE;
    part(first, std::min(count, end * quarry::LANE) - first);
  });
}

template <class E>
void gelu(const Tensor& x, bool tanh, const Tensor& y) {
  const E* from = elements<E>(x);
  E* to = elements<E>(y);
  in_pieces(x.numel(), [&](int64_t i, int64_t count) { quarry::gelu(from + i, count, tanh, to + i); });
}

template <class E>
void gelu_backward(const Tensor& x, bool tanh, const Tensor& y, const Tensor& slope) {
  const E* from = elements<E>(x);
  E *to = elements<E>(y), *d = elements<E>(slope);
  in_pieces(x.numel(), [&](int64_t i, int64_t count) {
    quarry::gelu_backward(from + i, count, tanh, to + i, d + i);
  });
}

struct TrainedFeedForward : torch::autograd::Function<TrainedFeedForward> {
  // `leaves`: weights and biases of the inner layer, `inner` of them, then of the outer one.
  static Tensor forward(
      AutogradContext* ctx, const Tensor& x, const Tensor& forth1, const Tensor& bias1,
      const Tensor& back1, const Tensor& forth2, const Tensor& bias2, const Tensor& back2,
      bool tanh, int64_t inner, at::TensorList leaves) {
    const Tensor h = linear_product(x, forth1, bias1);
    ctx->save_for_backward({x, h});
    ctx->saved_data["back1"] = back1;
    ctx->saved_data["back2"] = back2;
    ctx->saved_data["tanh"] = tanh;
    ctx->saved_data["inner"] = inner;
    ctx->saved_data["leaves"] = c10::List<Tensor>(leaves);
    const Tensor a = at::empty_like(h);
    h.scalar_type() == at::kFloat ? gelu<float>(h, tanh, a) : gelu<quarry::Bf16>(h, tanh, a);
    return linear_product(a, forth2, bias2);
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    TORCH_CHECK(!at::GradMode::is_enabled(), "a trained feed-forward branch has no second derivative");
    auto& data = ctx->saved_data;
    const auto saved = ctx->get_saved_variables();
    const Tensor &x = saved[0], &h = saved[1], dy = grads[0].contiguous();
    const bool tanh = data["tanh"].toBool();
    const auto leaves = data["leaves"].toTensorVector();
    const auto outer = leaves.begin() + data["inner"].toInt();

    const Tensor a = at::empty_like(h), dh = linear_product(dy, data["back2"].toTensor(), std::nullopt);
    h.scalar_type() == at::kFloat ? gelu_backward<float>(h, tanh, a, dh)
                                  : gelu_backward<quarry::Bf16>(h, tanh, a, dh);
    add_linear_gradients({outer, leaves.end()}, dy, a);
    add_linear_gradients({leaves.begin(), outer}, dh, x);
    variable_list slopes(9 + leaves.size());
    if (ctx->needs_input_grad(0)) slopes[0] = linear_product(dh, data["back1"].toTensor(), std::nullopt);
    return slopes;
  }
};

}  // namespace

extern "C" char* quarry_trained_feed_forward(
    const at::Tensor* x, const at::Tensor* forth1, const at::Tensor* bias1, const at::Tensor* back1,
    const at::Tensor* forth2, const at::Tensor* bias2, const at::Tensor* back2, bool tanh,
    size_t inner, at::Tensor* const* leaves, size_t count, at::Tensor** out) {
  return guarded([&] {
    *out = new Tensor(TrainedFeedForward::apply(
        *x, *forth1, *bias1, *back1, *forth2, *bias2, *back2, tanh, static_cast<int64_t>(inner),
        at::TensorList(tensor_list(leaves, count))));
  });
}
