// oneDNN's linear layer over a weight packed once, with the activation fused into
// the matrix product. These operators have no C++ header; the dispatcher knows them.
#include "linear.h"

#include "guarded.h"

#include <ATen/core/List.h>
#include <ATen/core/Tensor.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/core/grad_mode.h>

using Scalars = c10::List<std::optional<at::Scalar>>;
using Reorder = at::Tensor(const at::Tensor&, std::optional<int64_t>);
using Pointwise = at::Tensor(
    const at::Tensor&, const at::Tensor&, const std::optional<at::Tensor>&, std::string_view,
    Scalars, std::optional<std::string_view>);

static c10::OperatorHandle find(const char* name) {
  return c10::Dispatcher::singleton().findSchemaOrThrow(name, "");
}

at::Tensor linear_product(
    const at::Tensor& x, const at::Tensor& packed, const std::optional<at::Tensor>& bias,
    std::string_view activation, std::optional<std::string_view> algorithm) {
  static const auto pointwise = find("mkldnn::_linear_pointwise").typed<Pointwise>();
  at::NoGradGuard no_grad;
  return pointwise.call(x, packed, bias, activation, Scalars(), algorithm);
}

extern "C" char* quarry_linear_pack(const at::Tensor* weight, int64_t rows, at::Tensor** packed) {
  return guarded([&] {
    static const auto reorder = find("mkldnn::_reorder_linear_weight").typed<Reorder>();
    at::NoGradGuard no_grad;
    const auto batch = rows > 0 ? std::optional<int64_t>(rows) : std::nullopt;
    *packed = new at::Tensor(reorder.call(weight->detach().contiguous(), batch));
  });
}

extern "C" char* quarry_linear_forward(
    const at::Tensor* input, const at::Tensor* packed, const at::Tensor* bias,
    const char* activation, const char* algorithm, at::Tensor** output) {
  return guarded([&] {
    const auto b = bias ? std::optional<at::Tensor>(*bias) : std::nullopt;
    const auto a = algorithm ? std::optional<std::string_view>(algorithm) : std::nullopt;
    *output = new at::Tensor(linear_product(*input, *packed, b, activation, a));
  });
}
