// oneDNN's linear layer over a packed weight, of which libtorch has no C++ header.
#pragma once

#include <ATen/core/Tensor.h>

#include <optional>
#include <string_view>

// activation(x Wᵀ + b), outside autograd.
at::Tensor linear_product(
    const at::Tensor& x, const at::Tensor& packed, const std::optional<at::Tensor>& bias,
    std::string_view activation = "none", std::optional<std::string_view> algorithm = std::nullopt);
