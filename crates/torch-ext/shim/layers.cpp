// All layers of a transformer in inference as one operation (f32 or bf16, CPU).
#include "layers_kernel.h"

#include "blocks.h"
#include "guarded.h"
#include "tensors.h"

#include <ATen/Parallel.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <vector>

namespace {

using at::Tensor;
using quarry::Bf16;

// Tokens that go through a layer together: on one thread a whole batch, so that a weight comes from
// the third cache for many rows at once; of a batch that several threads share, so few that each
// has some. A longer sequence goes alone.
constexpr int64_t ALONE = 1024, SHARED = 256;
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
  const int64_t most = at::get_num_threads() > 1 ? SHARED : ALONE;
  std::vector<Group> groups;
  for (int64_t i = 0; i < count; ++i) {
    if (i == 0 || groups.back().tokens + lengths[i] > most) {
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

// A batch on its way: states [rows, h], a group's rows filled up.
template <class E>
struct Batch {
  const int64_t* lengths;
  std::vector<Group> groups;
  int64_t h;
  Tensor states;

  E* states_of(const Group& group) const { return elements<E>(states) + group.row * h; }

  template <class F>
  void each_group(const F& body) const {
    at::parallel_for(0, static_cast<int64_t>(groups.size()), 1, [&](int64_t begin, int64_t end) {
      const quarry::ReleaseUnit unit;
      for (int64_t i = begin; i < end; ++i) body(groups[i]);
    });
  }
};

template <class E>
Batch<E> batch_of(const Tensor& x, const int64_t* lengths, int64_t count) {
  const int64_t h = x.size(1);
  Batch<E> batch{lengths, groups_of(lengths, count), h, {}};
  const Group& last = batch.groups.back();
  batch.states = at::empty({last.row + last.rows, h}, x.options());
  batch.each_group([&](const Group& group) {
    E* to = batch.states_of(group);
    std::copy_n(elements<E>(x) + group.token * h, group.tokens * h, to);
    std::fill(to + group.tokens * h, to + group.rows * h, E(0));
  });
  return batch;
}

// The states of all tokens [T, h].
template <class E>
Tensor all_of(const Batch<E>& batch) {
  const Group& last = batch.groups.back();
  const Tensor out = at::empty({last.token + last.tokens, batch.h}, batch.states.options());
  batch.each_group([&](const Group& group) {
    std::copy_n(batch.states_of(group), group.tokens * batch.h, elements<E>(out) + group.token * batch.h);
  });
  return out;
}

// The states of every sequence's first token behind the last layer [count, h], before which they
// are given: no other token needs more of it than its key and its value.
template <class E>
Tensor firsts_behind(
    const Batch<E>& batch, const quarry::Layer<E>& layer, const quarry::Form& form, int64_t count) {
  const int64_t h = batch.h, filled = quarry::round_up(count, quarry::FILLED);
  // A group reads as many rows as are filled up, beyond its own too.
  const Tensor firsts = at::zeros({filled + quarry::FILLED, h}, batch.states.options());
  const Tensor context = at::zeros({filled, h}, batch.states.options());
  batch.each_group([&](const Group& group) {
    const E* from = batch.states_of(group);
    E* to = elements<E>(firsts) + group.sequence * h;
    for (int64_t j = 0; j < group.count; from += batch.lengths[group.sequence + j++] * h, to += h)
      std::copy_n(from, h, to);
  });
  batch.each_group([&](const Group& group) {
    quarry::attend_first(
        layer, form, batch.lengths + group.sequence, group.count, group.rows, batch.states_of(group),
        elements<E>(firsts) + group.sequence * h, elements<E>(context) + group.sequence * h);
  });
  const quarry::ReleaseUnit unit;
  quarry::behind_attention(layer, form, filled, elements<E>(context), elements<E>(firsts));
  return firsts.narrow(0, 0, count);
}

// Layer after layer, so that all groups meet its weights in the caches.
template <class E>
Tensor forward(
    const Tensor& x, const int64_t* lengths, int64_t count, const std::vector<Tensor>& tensors,
    double epsilon, const quarry::Form& form, bool firsts) {
  const auto layers = layers_of<E>(tensors, static_cast<float>(epsilon));
  const auto batch = batch_of<E>(x, lengths, count);
  for (size_t i = 0; i + (firsts ? 1 : 0) < layers.size(); ++i)
    batch.each_group([&](const Group& group) {
      quarry::through(
          layers[i], form, lengths + group.sequence, group.count, group.rows, batch.states_of(group));
    });
  return firsts ? firsts_behind(batch, layers.back(), form, count) : all_of(batch);
}

}  // namespace

extern "C" char* quarry_layers_pack(const Tensor* weight, int64_t part, Tensor** packed) {
  return guarded([&] {
    at::NoGradGuard no_grad;
    TORCH_CHECK(part > 0, "a part of a weight has no rows");
    const Tensor from = weight->detach().contiguous(), to = at::empty_like(from);
    const int64_t out = from.size(0), in = from.size(1);
    from.scalar_type() == at::kFloat
        ? quarry::pack(elements<float>(from), out, in, part, elements<float>(to))
        : quarry::pack(elements<Bf16>(from), out, in, part, elements<Bf16>(to));
    *packed = new Tensor(to);
  });
}

extern "C" char* quarry_layers_forward(
    const Tensor* x, const int64_t* lengths, size_t count, Tensor* const* tensors, size_t tensor_count,
    int64_t heads, bool tanh, double epsilon, bool firsts, Tensor** out) {
  return guarded([&] {
    at::NoGradGuard no_grad;
    const auto list = tensor_list(tensors, tensor_count);
    const auto sequences = static_cast<int64_t>(count);
    const quarry::Form form{heads, tanh};
    *out = new Tensor(
        x->scalar_type() == at::kFloat
            ? forward<float>(*x, lengths, sequences, list, epsilon, form, firsts)
            : forward<Bf16>(*x, lengths, sequences, list, epsilon, form, firsts));
  });
}
