// c10::InferenceMode as a guard object on the heap: it is thread-local state,
// so it must be made and destroyed on one thread, innermost first.
#include "guarded.h"

#include <c10/core/InferenceMode.h>

extern "C" char* quarry_inference_mode_enter(c10::InferenceMode** guard) {
  return guarded([&] { *guard = new c10::InferenceMode(true); });
}

extern "C" char* quarry_inference_mode_leave(c10::InferenceMode* guard) {
  return guarded([&] { delete guard; });
}

extern "C" bool quarry_inference_mode_is_enabled() { return c10::InferenceMode::is_enabled(); }
