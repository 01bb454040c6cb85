// What linear layers in training share: their masters' gradients.
#pragma once

#include <ATen/core/Tensor.h>

#include <vector>

// Adds the gradients of y = x Wᵀ + b, given that of y, to those of the masters. `leaves`:
// weight and bias, as many pairs as there are layers joined into one.
void add_linear_gradients(const std::vector<at::Tensor>& leaves, const at::Tensor& dy, const at::Tensor& x);
