// Process-wide settings of libtorch, and what it says about itself.
#include "guarded.h"

#include <ATen/Context.h>
#include <ATen/Parallel.h>
#include <ATen/Version.h>
#include <torch/headeronly/version.h>

#include <cstdlib>

// oneDNN keeps the last 1,024 primitives it made, each with its code: 165 KB for a product
// of a training step. Packed batches hardly ever have the same number of tokens, so all but
// those of the pass under way are memory for nothing. oneDNN reads this when it makes its
// first primitive; no thread exists yet.
__attribute__((constructor)) static void keep_few_primitives() {
  setenv("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "128", /*overwrite=*/0);
}

extern "C" void quarry_message_free(char* message) { std::free(message); }

extern "C" const char* quarry_header_version() { return TORCH_VERSION; }

extern "C" char* quarry_show_config(char** text) {
  return guarded([&] { *text = strdup(at::show_config().c_str()); });
}

extern "C" char* quarry_set_num_threads(int count) {
  return guarded([&] { at::set_num_threads(count); });
}

extern "C" char* quarry_set_num_interop_threads(int count) {
  return guarded([&] { at::set_num_interop_threads(count); });
}

extern "C" char* quarry_set_flush_denormal(bool on, bool* supported) {
  return guarded([&] { *supported = at::globalContext().setFlushDenormal(on); });
}

extern "C" char* quarry_set_deterministic(bool on) {
  return guarded([&] {
    auto& context = at::globalContext();
    context.setDeterministicAlgorithms(on, /*warn_only=*/false);
    context.setDeterministicCuDNN(on);
    if (on) context.setBenchmarkCuDNN(false);
    // By default this mode also fills every fresh tensor with NaN, a debugging aid
    // that costs a pass over all memory; no kernel we call reads unwritten memory.
    context.setDeterministicFillUninitializedMemory(false);
  });
}

// Split products stay allowed: only the sums of their parts are not to be rounded.
extern "C" char* quarry_set_f32_partial_sums(bool on) {
  return guarded([&] {
    at::globalContext().setAllowBF16ReductionCuBLAS(/*allow_reduced_precision=*/!on, /*allow_splitk=*/true);
  });
}

extern "C" char* quarry_f32_partial_sums(bool* on) {
  return guarded([&] {
    *on = at::globalContext().allowBF16ReductionCuBLAS() ==
        at::CuBLASReductionOption::DisallowReducedPrecisionAllowSplitK;
  });
}
