// One LAMB step over a list of parameters (You et al., arXiv 1904.00962) as ANCE and STAR run
// it: no bias correction, decay inside the update, the weights' norm bounded. Operations go
// over whole lists: one parameter after the other, a GPU would wait for some 36 launches each.
#include "guarded.h"
#include "tensors.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/_foreach_add.h>
#include <ATen/ops/_foreach_div.h>
#include <ATen/ops/_foreach_mul.h>
#include <ATen/ops/_foreach_norm.h>
#include <ATen/ops/_foreach_sqrt.h>
#include <ATen/ops/_foreach_sub.h>
#include <ATen/ops/full_like.h>
#include <ATen/ops/ones_like.h>
#include <ATen/ops/rsub.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/where.h>

namespace {

using at::Tensor;
using Tensors = std::vector<Tensor>;

// What the device found about the step; empty where the host has found it fit.
class Verdict {
 public:
  explicit Verdict(const Tensor* refused) {
    if (!refused) return;
    refused_ = *refused;
    stop_ = refused_.gt(0);
    taken_ = stop_.logical_not().to(at::kInt);
  }

  // Makes +0 of every element if the step is refused: 0 times the bits, which selects where
  // 0 times a NaN would not.
  void hold(const Tensors& list) const {
    if (!taken_.defined()) return;
    Tensors bits;
    bits.reserve(list.size());
    for (const Tensor& t : list) bits.push_back(t.view(at::kInt));
    at::_foreach_mul_(bits, taken_);
  }

  // moments ← β · moments − change, or nothing. Taking +0 away changes no bit; adding it
  // would make +0 of −0.
  void advance(const Tensors& moments, double beta, const Tensors& change) const {
    hold(change);
    if (taken_.defined()) {
      const Tensor factor = at::full_like(refused_, beta).masked_fill_(stop_, 1);
      at::_foreach_mul_(moments, factor);
    } else {
      at::_foreach_mul_(moments, beta);
    }
    at::_foreach_sub_(moments, change);
  }

  // One step more, or none.
  void count(const Tensors& steps) const {
    if (taken_.defined()) {
      at::_foreach_add_(steps, at::rsub(refused_, 1));
    } else {
      at::_foreach_add_(steps, 1);
    }
  }

 private:
  Tensor refused_;  // f32, as it was given
  Tensor stop_;     // bool
  Tensor taken_;    // i32, its opposite
};

// (β₂ − 1) g²
Tensors negated_squares(const Tensors& g, double beta2) {
  Tensors squares = at::_foreach_mul(g, g);
  at::_foreach_mul_(squares, beta2 - 1);
  return squares;
}

// m / (√v + ε) + λw
Tensors updates_of(const Tensors& m, const Tensors& v, const Tensors& weights, double decay, double eps) {
  const Tensors roots = at::_foreach_sqrt(v);
  at::_foreach_add_(roots, eps);
  Tensors updates = at::_foreach_div(m, roots);
  if (decay > 0) at::_foreach_add_(updates, at::_foreach_mul(weights, decay));
  return updates;
}

// min(‖w‖₂, most) / ‖u‖₂ of each pair, or 1 where a norm is 0 or no number: scalars that
// stay on the device.
Tensors trust_ratios(const Tensors& weights, const Tensors& updates, double most) {
  const Tensor w = at::stack(at::_foreach_norm(weights)).clamp_max_(most);
  const Tensor u = at::stack(at::_foreach_norm(updates));
  const Tensor usable = w.gt(0).logical_and(u.gt(0));
  return at::where(usable, w.div(u), at::ones_like(w)).unbind();
}

}  // namespace

extern "C" char* quarry_lamb(
    at::Tensor* const* params, at::Tensor* const* grads, at::Tensor* const* exp_avgs,
    at::Tensor* const* exp_avg_sqs, at::Tensor* const* state_steps, size_t count, double lr,
    double beta1, double beta2, double weight_decay, double eps, double most_weight_norm,
    const at::Tensor* divisor, const at::Tensor* refused) {
  return guarded([&] {
    at::NoGradGuard no_grad;
    const Tensors weights = tensor_list(params, count), g = tensor_list(grads, count);
    const Tensors m = tensor_list(exp_avgs, count), v = tensor_list(exp_avg_sqs, count);
    const Verdict verdict(refused);
    if (divisor) at::_foreach_div_(g, *divisor);
    verdict.advance(m, beta1, at::_foreach_mul(g, beta1 - 1));
    verdict.advance(v, beta2, negated_squares(g, beta2));
    const Tensors updates = updates_of(m, v, weights, weight_decay, eps);
    const Tensors ratios = trust_ratios(weights, updates, most_weight_norm);
    // Each has its own scalar, for which libtorch has no operation over lists.
    for (size_t i = 0; i < count; ++i) updates[i].mul_(ratios[i]);
    at::_foreach_mul_(updates, lr);
    verdict.hold(updates);
    at::_foreach_sub_(weights, updates);
    verdict.count(tensor_list(state_steps, count));
  });
}
