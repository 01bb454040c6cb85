// Loading libtorch_cuda into a program that was linked without it.
#include "guarded.h"

#include <ATen/Version.h>

#include <dlfcn.h>

#include <stdexcept>

// The file from which libtorch_cpu itself was loaded: its CUDA half lies beside it.
extern "C" const char* quarry_libtorch_cpu_path() {
  Dl_info info;
  if (dladdr(reinterpret_cast<void*>(&at::show_config), &info) == 0) return nullptr;
  return info.dli_fname;
}

// RTLD_GLOBAL: later libraries must bind to the operators and hooks registered here.
extern "C" char* quarry_load_library(const char* path) {
  return guarded([&] {
    if (dlopen(path, RTLD_NOW | RTLD_GLOBAL) == nullptr) throw std::runtime_error(dlerror());
  });
}
