// One AdamW step over all parameters (Loshchilov & Hutter, arXiv 1711.05101).
#include "guarded.h"
#include "tensors.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/_foreach_add.h>
#include <ATen/ops/_fused_adamw.h>
#include <ATen/ops/rsub.h>

#include <optional>

extern "C" char* quarry_fused_adamw(
    at::Tensor* const* params, at::Tensor* const* grads, at::Tensor* const* exp_avgs,
    at::Tensor* const* exp_avg_sqs, at::Tensor* const* state_steps, size_t count,
    double lr, double beta1, double beta2, double weight_decay, double eps,
    const at::Tensor* divisor, const at::Tensor* refused) {
  return guarded([&] {
    at::NoGradGuard no_grad;
    auto steps = tensor_list(state_steps, count);
    const auto given = [](const at::Tensor* t) { return t ? std::optional<at::Tensor>(*t) : std::nullopt; };
    // The kernel reads the number of the step being taken; counting is left to the caller.
    // A refused step is none, and the kernel then touches nothing.
    if (refused) {
      at::_foreach_add_(steps, at::rsub(*refused, 1));
    } else {
      at::_foreach_add_(steps, 1);
    }
    at::_fused_adamw_(
        tensor_list(params, count), tensor_list(grads, count), tensor_list(exp_avgs, count),
        tensor_list(exp_avg_sqs, count), /*max_exp_avg_sqs=*/{}, steps,
        lr, beta1, beta2, weight_decay, eps, /*amsgrad=*/false, /*maximize=*/false,
        /*grad_scale=*/given(divisor), /*found_inf=*/given(refused));
  });
}
