// All layers of a transformer in inference as one operation (f32 or bf16, CPU).
#include "layers_kernel.h"

#include "blocks.h"
#include "guarded.h"
#include "tensors.h"

#include <ATen/Parallel.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>

#include <algorithm>
#include <vector>

namespace {

using at::Tensor;
using quarry::Bf16;

// Tokens that go through a layer together: in bf16 their states, and what is made of them, fit
// half of a second cache of 1 MiB. A longer sequence goes alone.
constexpr int64_t GROUP = 256;
// Tensors of a layer, in the order of quarry::Layer: weights and biases, norms' weights and biases.
constexpr size_t TENSORS = 12;

// A packed weight keeps its shape [out, in].
template <class E>
quarry::Packed<E> linear(const Tensor& weight, const Tensor& bias) {
  return {elements<E>(weight), elements<float>(bias), weight.size(0), weight.size(1)};
}

template <class E>
std::vector<quarry::Layer<E>> layers_of(const std::vector<Tensor>& tensors, float epsilon) {
  const auto norm = [epsilon](const Tensor& weight, const Tensor& bias) {
    return quarry::LayerNorm{elements<float>(weight), elements<float>(bias), epsilon};
  };
  std::vector<quarry::Layer<E>> layers;
  for (const Tensor* t = tensors.data(); t < tensors.data() + tensors.size(); t += TENSORS)
    layers.push_back(
        {linear<E>(t[0], t[1]), linear<E>(t[2], t[3]), norm(t[4], t[5]), linear<E>(t[6], t[7]),
         linear<E>(t[8], t[9]), norm(t[10], t[11])});
  return layers;
}

// Neighbouring sequences: `tokens` from `token` on, which become `rows` from `row` on.
struct Group {
  int64_t sequence, count, token, tokens, row, rows;
};

std::vector<Group> groups_of(const int64_t* lengths, int64_t count) {
  std::vector<Group> groups;
  for (int64_t i = 0; i < count; ++i) {
    if (i == 0 || groups.back().tokens + lengths[i] > GROUP) {
      const Group before = i == 0 ? Group{} : groups.back();
      groups.push_back({i, 0, before.token + before.tokens, 0, before.row + before.rows, 0});
    }
    Group& group = groups.back();
    ++group.count;
    group.tokens += lengths[i];
    group.rows = quarry::round_up(group.tokens, quarry::FILLED);
  }
  return groups;
}

// Layer after layer, so that all groups meet its weights in the caches.
template <class E>
Tensor forward(
    const Tensor& x, const int64_t* lengths, int64_t count, const std::vector<Tensor>& tensors,
    double epsilon, const quarry::Form& form) {
  const auto layers = layers_of<E>(tensors, static_cast<float>(epsilon));
  const auto groups = groups_of(lengths, count);
  const int64_t h = x.size(1);
  const Tensor out = at::empty_like(x);
  const Tensor states = at::empty({groups.back().row + groups.back().rows, h}, x.options());
  const auto each_group = [&](const auto& body) {
    at::parallel_for(0, static_cast<int64_t>(groups.size()), 1, [&](int64_t begin, int64_t end) {
      const quarry::ReleaseUnit unit;
      for (int64_t i = begin; i < end; ++i) body(groups[i], elements<E>(states) + groups[i].row * h);
    });
  };
  each_group([&](const Group& group, E* to) {
    std::copy_n(elements<E>(x) + group.token * h, group.tokens * h, to);
    std::fill(to + group.tokens * h, to + group.rows * h, E(0));
  });
  for (const auto& layer : layers)
    each_group([&](const Group& group, E* inout) {
      quarry::through(layer, form, lengths + group.sequence, group.count, group.rows, inout);
    });
  each_group([&](const Group& group, const E* from) {
    std::copy_n(from, group.tokens * h, elements<E>(out) + group.token * h);
  });
  return out;
}

}  // namespace

extern "C" char* quarry_layers_pack(const Tensor* weight, int64_t block, Tensor** packed) {
  return guarded([&] {
    at::NoGradGuard no_grad;
    const Tensor from = weight->detach().contiguous(), to = at::empty_like(from);
    const int64_t out = from.size(0), in = from.size(1), rows = block > 0 ? block : quarry::COLUMNS;
    from.scalar_type() == at::kFloat
        ? quarry::pack(elements<float>(from), out, in, rows, elements<float>(to))
        : quarry::pack(elements<Bf16>(from), out, in, rows, elements<Bf16>(to));
    *packed = new Tensor(to);
  });
}

extern "C" char* quarry_layers_forward(
    const Tensor* x, const int64_t* lengths, size_t count, Tensor* const* tensors, size_t tensor_count,
    int64_t heads, bool tanh, double epsilon, Tensor** out) {
  return guarded([&] {
    at::NoGradGuard no_grad;
    const auto list = tensor_list(tensors, tensor_count);
    const auto sequences = static_cast<int64_t>(count);
    const quarry::Form form{heads, tanh};
    *out = new Tensor(
        x->scalar_type() == at::kFloat ? forward<float>(*x, lengths, sequences, list, epsilon, form)
                                       : forward<Bf16>(*x, lengths, sequences, list, epsilon, form));
  });
}
