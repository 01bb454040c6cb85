// The sum of word, position and token type embeddings in training.
#include "guarded.h"
#include "leaf.h"
#include "tensors.h"

#include <ATen/core/List.h>
#include <ATen/ops/embedding.h>
#include <torch/csrc/autograd/custom_function.h>

namespace {

using at::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

// Adds the rows of `dy` [T, h] to rows `ids` [T] of the leaf's gradient, in order.
void add_rows(const Tensor& leaf, const Tensor& ids, const Tensor& dy, int64_t skipped) {
  if (!leaf.requires_grad()) return;
  const int64_t width = dy.size(1), count = dy.size(0);
  const Tensor& grad = gradient_of(leaf);
  // The forward pass checked the ids, but tables and ids may have been exchanged since.
  TORCH_CHECK(
      grad.is_contiguous() && grad.dim() == 2 && grad.size(1) == width && ids.numel() == count,
      "a table, its gradient or the ids changed between the passes");
  const auto rows = static_cast<uint64_t>(grad.size(0));
  float* to = grad.data_ptr<float>();
  const float* from = dy.const_data_ptr<float>();
  const int64_t* row = ids.const_data_ptr<int64_t>();
  for (int64_t t = 0; t < count; ++t) {
    if (row[t] == skipped) continue;
    TORCH_CHECK(static_cast<uint64_t>(row[t]) < rows, "an id is outside its table");
    float* sum = to + row[t] * width;
    for (int64_t i = 0; i < width; ++i) sum[i] += from[t * width + i];
  }
}

struct TrainedEmbeddings : torch::autograd::Function<TrainedEmbeddings> {
  // `leaves`: the word table, the position table and perhaps the token type table.
  static Tensor forward(
      AutogradContext* ctx, const Tensor& ids, const Tensor& positions, int64_t word_pad,
      int64_t position_pad, at::TensorList leaves) {
    ctx->save_for_backward({ids, positions});
    ctx->saved_data["pads"] = std::vector<int64_t>{word_pad, position_pad};
    ctx->saved_data["leaves"] = c10::List<Tensor>(leaves);
    Tensor sum = at::embedding(leaves[0], ids).add_(at::embedding(leaves[1], positions));
    return leaves.size() > 2 ? sum.add_(leaves[2][0]) : sum;
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    TORCH_CHECK(!at::GradMode::is_enabled(), "embeddings have no second derivative");
    const auto saved = ctx->get_saved_variables();
    const auto pads = ctx->saved_data["pads"].toIntVector();
    const auto leaves = ctx->saved_data["leaves"].toTensorVector();
    const Tensor dy = grads[0].contiguous();
    add_rows(leaves[0], saved[0], dy, pads[0]);
    add_rows(leaves[1], saved[1], dy, pads[1]);
    if (leaves.size() > 2 && leaves[2].requires_grad()) gradient_of(leaves[2])[0].add_(dy.sum(0));
    return variable_list(4 + leaves.size());
  }
};

}  // namespace

extern "C" char* quarry_trained_embeddings(
    const at::Tensor* ids, const at::Tensor* positions, int64_t word_pad, int64_t position_pad,
    at::Tensor* const* leaves, size_t count, at::Tensor** out) {
  return guarded([&] {
    *out = new Tensor(TrainedEmbeddings::apply(
        *ids, *positions, word_pad, position_pad, at::TensorList(tensor_list(leaves, count))));
  });
}
