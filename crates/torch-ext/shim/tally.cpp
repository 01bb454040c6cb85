// What a stretch of work asks of libtorch on this thread: operations, memory, and copies.
#include "guarded.h"

#include <ATen/record_function.h>
#include <c10/core/Allocator.h>
#include <c10/util/ThreadLocalDebugInfo.h>

#include <memory>
#include <string_view>

namespace {

struct Counts;
thread_local Counts* counting = nullptr;

struct Counts final : c10::MemoryReportingInfoBase {
  int64_t operations = 0, allocations = 0, bytes = 0, copied = 0;

  // Freeing is reported with a negative size; autograd's threads report here as well.
  void reportMemoryUsage(void*, int64_t size, size_t, size_t, c10::Device device) override {
    if (size <= 0 || counting != this || device.type() != c10::kCPU) return;
    ++allocations;
    bytes += size;
  }
  bool memoryProfilingEnabled() const override { return true; }
};

int64_t bytes_of(const c10::IValue& value) {
  int64_t sum = 0;
  if (value.isTensor()) return static_cast<int64_t>(value.toTensor().nbytes());
  for (const at::Tensor& part : value.toTensorVector()) sum += static_cast<int64_t>(part.nbytes());
  return sum;
}

// Everything that only moves numbers, casts among them, ends in one of these two.
std::unique_ptr<at::ObserverContext> count(const at::RecordFunction& call) {
  if (!counting) return nullptr;
  ++counting->operations;
  const std::string_view name = call.name();
  if (name == "aten::copy_" || name == "aten::cat") counting->copied += bytes_of(call.inputs()[0]);
  return nullptr;
}

struct Tally {
  std::shared_ptr<Counts> counts = std::make_shared<Counts>();
  c10::DebugInfoGuard memory{c10::DebugInfoKind::PROFILER_STATE, counts};
  at::CallbackHandle calls = at::addThreadLocalCallback(
      at::RecordFunctionCallback(count).needsInputs(true).scopes({at::RecordScope::FUNCTION}));

  Tally() { counting = counts.get(); }
  ~Tally() {
    counting = nullptr;
    at::removeCallback(calls);
  }
};

}  // namespace

extern "C" char* quarry_tally_begin(void** tally) {
  return guarded([&] {
    TORCH_CHECK(!counting, "this thread is being counted already");
    *tally = new Tally();
  });
}

// Must run on the thread that began.
extern "C" char* quarry_tally_end(
    void* tally, int64_t* operations, int64_t* allocations, int64_t* bytes, int64_t* copied) {
  return guarded([&] {
    const std::unique_ptr<Tally> done(static_cast<Tally*>(tally));
    *operations = done->counts->operations;
    *allocations = done->counts->allocations;
    *bytes = done->counts->bytes;
    *copied = done->counts->copied;
  });
}
