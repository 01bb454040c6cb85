// The border between C++ and Rust: an exception never crosses it. Every
// function of the shim returns null, or a message to be freed with
// quarry_message_free.
#pragma once

#include <c10/util/Exception.h>

#include <cstring>
#include <exception>

template <class Body>
char* guarded(Body&& body) noexcept {
  try {
    body();
    return nullptr;
  } catch (const c10::Error& error) {
    return strdup(error.what_without_backtrace());
  } catch (const std::exception& error) {
    return strdup(error.what());
  } catch (...) {
    return strdup("an exception of unknown type");
  }
}
