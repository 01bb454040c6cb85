// Layers in training that add their gradients to the f32 masters themselves. By way of
// autograd every chunk of a batch would allocate each gradient anew, cast it and add it;
// of a word table that is the whole table for a few rows.
#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/zeros_like.h>

// Where the gradient of a leaf adds up; it lies as the leaf does. A frozen leaf has none.
inline at::Tensor& gradient_of(const at::Tensor& leaf) {
  at::Tensor& grad = leaf.mutable_grad();
  if (!grad.defined()) grad = at::zeros_like(leaf);
  return grad;
}

// Adds `part` to the gradient of a leaf; the first one is copied.
inline void add_gradient(const at::Tensor& leaf, const at::Tensor& part) {
  at::Tensor& grad = leaf.mutable_grad();
  grad.defined() ? grad.add_(part) : grad = at::empty_like(leaf).copy_(part);
}
