// One call for a whole list of tensors, where a loop would pay dispatch for each.
#include "guarded.h"
#include "tensors.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/_foreach_mul.h>
#include <ATen/ops/_foreach_norm.h>
#include <ATen/ops/linalg_vector_norm.h>
#include <ATen/ops/stack.h>

extern "C" char* quarry_foreach_mul_scalar(at::Tensor* const* tensors, size_t count, double factor) {
  return guarded([&] {
    at::NoGradGuard no_grad;
    at::_foreach_mul_(tensor_list(tensors, count), factor);
  });
}

// The leaves are left without a gradient.
extern "C" char* quarry_drop_gradients(at::Tensor* const* leaves, size_t count) {
  return guarded([&] {
    for (const at::Tensor& leaf : tensor_list(leaves, count)) leaf.mutable_grad().reset();
  });
}

// The 2-norm of all elements of all tensors together, accumulated in f32 at least.
extern "C" char* quarry_foreach_global_norm(at::Tensor* const* tensors, size_t count, at::Tensor** norm) {
  return guarded([&] {
    at::NoGradGuard no_grad;
    auto list = tensor_list(tensors, count);
    const bool half = list.at(0).scalar_type() == at::kHalf || list.at(0).scalar_type() == at::kBFloat16;
    const auto dtype = half ? std::optional<at::ScalarType>(at::kFloat) : std::nullopt;
    auto norms = at::_foreach_norm(list, /*ord=*/2, dtype);
    *norm = new at::Tensor(at::linalg_vector_norm(at::stack(norms), /*ord=*/2));
  });
}
