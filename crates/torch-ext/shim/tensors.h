// tch hands over tensors as pointers to at::Tensor.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstddef>
#include <vector>

// Shares storage with the originals: a copy of an at::Tensor is a reference.
inline std::vector<at::Tensor> tensor_list(at::Tensor* const* tensors, size_t count) {
  std::vector<at::Tensor> list;
  list.reserve(count);
  for (size_t i = 0; i < count; ++i) list.push_back(*tensors[i]);
  return list;
}

// Elements of a float or bfloat16 tensor.
template <class E>
E* elements(const at::Tensor& t) {
  return static_cast<E*>(t.data_ptr());
}
