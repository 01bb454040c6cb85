// Copies between main memory and a GPU that no thread waits for. libc10's generic event
// reaches CUDA through the hooks that libtorch_cuda registers: no CUDA header is needed.
#include "guarded.h"

#include <ATen/core/Tensor.h>
#include <ATen/core/grad_mode.h>
#include <c10/core/Event.h>
#include <c10/core/impl/VirtualGuardImpl.h>

#include <memory>

// The pinned copy is dropped while the GPU may still read it. That is safe: a
// non_blocking copy records an event on the pinned block with libtorch's caching host
// allocator, which hands the block out again only after that event.
extern "C" char* quarry_upload(const at::Tensor* source, int device, at::Tensor** uploaded) {
  return guarded([&] {
    at::NoGradGuard no_grad;
    const at::Device gpu(at::kCUDA, static_cast<at::DeviceIndex>(device));
    *uploaded = new at::Tensor(source->pin_memory().to(gpu, source->scalar_type(), /*non_blocking=*/true));
  });
}

// Enqueues the copy into pinned memory (which `to` allocates for a non_blocking copy to
// the CPU) behind the work of the current stream, and then the event that says it is there.
extern "C" char* quarry_download_begin(const at::Tensor* source, at::Tensor** copy, c10::Event** arrived) {
  return guarded([&] {
    at::NoGradGuard no_grad;
    const auto device = source->device();
    auto event = std::make_unique<c10::Event>(device.type());
    const auto host = source->detach().contiguous().to(at::kCPU, source->scalar_type(), /*non_blocking=*/true);
    event->record(c10::impl::VirtualGuardImpl(device.type()).getStream(device));
    *copy = new at::Tensor(host);
    *arrived = event.release();
  });
}

extern "C" char* quarry_download_wait(const c10::Event* arrived) {
  return guarded([&] { arrived->synchronize(); });
}

extern "C" char* quarry_download_free(c10::Event* arrived) {
  return guarded([&] { delete arrived; });
}
