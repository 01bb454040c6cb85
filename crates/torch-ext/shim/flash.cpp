// Attention over packed sequences on a GPU: libtorch's flash attention, which takes the
// boundaries of the sequences. The operator lives in libtorch_cuda and is reached by the
// dispatcher; its derivative is libtorch's own, registered in libtorch_cpu.
#include "guarded.h"

#include <ATen/core/Tensor.h>
#include <ATen/ops/_flash_attention_forward.h>

#include <tuple>

extern "C" char* quarry_flash_attention(
    const at::Tensor* qkv, const at::Tensor* bounds, int64_t longest, int64_t heads, double dropout,
    at::Tensor** context) {
  return guarded([&] {
    const int64_t tokens = qkv->size(0), hidden = qkv->size(1) / 3;
    // Views: the kernel takes strides, and the backward pass of unbind is one stack.
    const auto parts = qkv->view({tokens, 3, heads, hidden / heads}).unbind(1);
    const auto outputs = at::_flash_attention_forward(
        parts[0], parts[1], parts[2], /*cum_seq_q=*/*bounds, /*cum_seq_k=*/*bounds,
        /*max_q=*/longest, /*max_k=*/longest, dropout, /*is_causal=*/false, /*return_debug_mask=*/false);
    *context = new at::Tensor(std::get<0>(outputs).reshape({tokens, hidden}));
  });
}
