// LayerNorm of a residual sum, in place, outside autograd.
#include "guarded.h"
#include "lanes.h"
#include "norm_kernel.h"

#include <ATen/core/Tensor.h>
#include <ATen/core/grad_mode.h>

extern "C" char* quarry_add_norm_(
    const at::Tensor* x, const at::Tensor* y, const at::Tensor* weight, const at::Tensor* bias,
    double epsilon) {
  return guarded([&] {
    for (const at::Tensor* tensor : {x, y, weight, bias})
      TORCH_CHECK(
          !at::GradMode::is_enabled() || !tensor->requires_grad(),
          "a tensor requires a gradient, and there is none");
    const int64_t width = x->size(-1), rows = x->numel() / width;
    const auto* w = weight->const_data_ptr<float>();
    const auto* b = bias->const_data_ptr<float>();
    const auto e = static_cast<float>(epsilon);
    if (x->scalar_type() == at::kBFloat16) {
      auto* to = static_cast<quarry::Bf16*>(y->data_ptr());
      const auto* from = static_cast<const quarry::Bf16*>(x->const_data_ptr());
      quarry::add_norm(from, to, w, b, e, rows, width, to);
    } else {
      auto* to = y->data_ptr<float>();
      quarry::add_norm(x->const_data_ptr<float>(), to, w, b, e, rows, width, to);
    }
    y->unsafeGetTensorImpl()->bump_version();
  });
}
