// Attention over packed sequences as one differentiable operation.
#include "attention_kernel.h"
#include "blocks.h"
#include "guarded.h"
#include "tensors.h"

#include <ATen/Parallel.h>
#include <torch/csrc/autograd/custom_function.h>

#include <vector>

namespace {

using at::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

// Calls `body` with each sequence's first token and length, and each head, in parallel.
// Neighbouring items are of one head: sequences come sorted by length, and every
// thread then has short and long ones.
template <class Body>
void for_each_head(const std::vector<int64_t>& lengths, int64_t heads, const Body& body) {
  const auto count = static_cast<int64_t>(lengths.size());
  std::vector<int64_t> first(lengths.size());
  for (int64_t i = 1; i < count; ++i) first[i] = first[i - 1] + lengths[i - 1];
  at::parallel_for(0, count * heads, 1, [&](int64_t begin, int64_t end) {
    const quarry::ReleaseUnit unit;
    for (int64_t item = begin; item < end; ++item) {
      const int64_t sequence = item % count;
      body(first[sequence], lengths[sequence], item / count);
    }
  });
}

template <class E>
quarry::Head<E> head_at(const E* qkv, int64_t first, int64_t length, int64_t head, int64_t hidden, int64_t heads) {
  const int64_t d = hidden / heads;
  const E* q = qkv + first * 3 * hidden + head * d;
  return {q, q + hidden, q + 2 * hidden, 3 * hidden, length, d};
}

template <class E>
void forward(const Tensor& qkv, const std::vector<int64_t>& lengths, int64_t heads, const Tensor& out, float* log_sums) {
  const int64_t tokens = out.size(0), hidden = out.size(1), d = hidden / heads;
  for_each_head(lengths, heads, [&](int64_t first, int64_t length, int64_t head) {
    const auto where = head_at(elements<E>(qkv), first, length, head, hidden, heads);
    E* to = elements<E>(out) + first * hidden + head * d;
    attend(where, length, to, hidden, log_sums ? log_sums + head * tokens + first : nullptr);
  });
}

template <class E>
void backward(
    const Tensor& qkv, const std::vector<int64_t>& lengths, int64_t heads, const Tensor& out,
    const float* log_sums, const Tensor& grad, const Tensor& slope) {
  const int64_t tokens = out.size(0), hidden = out.size(1), d = hidden / heads;
  for_each_head(lengths, heads, [&](int64_t first, int64_t length, int64_t head) {
    const auto where = head_at(elements<E>(qkv), first, length, head, hidden, heads);
    const int64_t at = first * hidden + head * d;
    E* dq = elements<E>(slope) + first * 3 * hidden + head * d;
    attend_backward(
        where, elements<E>(out) + at, elements<E>(grad) + at, hidden,
        log_sums + head * tokens + first, dq, dq + hidden, dq + 2 * hidden);
  });
}

Tensor context(const Tensor& qkv) { return at::empty({qkv.size(0), qkv.size(1) / 3}, qkv.options()); }

void run(const Tensor& qkv, const std::vector<int64_t>& lengths, int64_t heads, const Tensor& out, float* log_sums) {
  if (qkv.scalar_type() == at::kBFloat16) {
    forward<quarry::Bf16>(qkv, lengths, heads, out, log_sums);
  } else {
    forward<float>(qkv, lengths, heads, out, log_sums);
  }
}

struct PackedAttention : torch::autograd::Function<PackedAttention> {
  static Tensor forward(AutogradContext* ctx, const Tensor& qkv, const std::vector<int64_t>& lengths, int64_t heads) {
    const Tensor out = context(qkv);
    const Tensor log_sums = at::empty({heads, qkv.size(0)}, qkv.options().dtype(at::kFloat));
    run(qkv, lengths, heads, out, log_sums.data_ptr<float>());
    ctx->save_for_backward({qkv, out, log_sums});
    ctx->saved_data["lengths"] = lengths;
    ctx->saved_data["heads"] = heads;
    return out;
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    TORCH_CHECK(!at::GradMode::is_enabled(), "packed attention has no second derivative");
    const auto saved = ctx->get_saved_variables();
    const auto lengths = ctx->saved_data["lengths"].toIntVector();
    const auto heads = ctx->saved_data["heads"].toInt();
    const Tensor grad = grads[0].contiguous();
    const Tensor slope = at::empty_like(saved[0]);
    const float* log_sums = saved[2].data_ptr<float>();
    if (slope.scalar_type() == at::kBFloat16) {
      ::backward<quarry::Bf16>(saved[0], lengths, heads, saved[1], log_sums, grad, slope);
    } else {
      ::backward<float>(saved[0], lengths, heads, saved[1], log_sums, grad, slope);
    }
    return {slope, Tensor(), Tensor()};
  }
};

}  // namespace

extern "C" char* quarry_packed_attention(
    const at::Tensor* qkv, const int64_t* lengths, size_t count, int64_t heads, at::Tensor** context_out) {
  return guarded([&] {
    const std::vector<int64_t> list(lengths, lengths + count);
    if (at::GradMode::is_enabled() && qkv->requires_grad()) {
      *context_out = new Tensor(PackedAttention::apply(*qkv, list, heads));
      return;
    }
    const Tensor out = context(*qkv);
    run(*qkv, list, heads, out, nullptr);
    *context_out = new Tensor(out);
  });
}
