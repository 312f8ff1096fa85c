// Ownership and errors of ONNX Runtime's C objects.
#ifndef SWITCH_SRC_ORT_HANDLE_H_
#define SWITCH_SRC_ORT_HANDLE_H_

#include <onnxruntime_c_api.h>

#include <memory>
#include <string>

#include "error.h"

namespace switch_runtime {

template <typename T>
struct OrtRelease {
  void(ORT_API_CALL* release)(T*) = nullptr;
  void operator()(T* object) const { release(object); }
};

template <typename T>
using OrtHandle = std::unique_ptr<T, OrtRelease<T>>;

template <typename T>
OrtHandle<T> own(T* object, void(ORT_API_CALL* release)(T*)) {
  return OrtHandle<T>(object, OrtRelease<T>{release});
}

// Throw what `status` says, as `kind` unless it was memory that ran out.
inline void check(const OrtApi* api, OrtStatus* status, switch_status kind,
                  const std::string& doing) {
  if (!status) return;
  const OrtHandle<OrtStatus> owned = own(status, api->ReleaseStatus);
  const std::string message = api->GetErrorMessage(status);
  // ONNX Runtime has no status code of its own for this.
  for (const char* sign : {"Failed to allocate memory", "bad_alloc", "bad allocation"}) {
    if (message.find(sign) != std::string::npos) kind = SWITCH_OUT_OF_MEMORY;
  }
  throw Error(kind, doing + ": " + message);
}

}  // namespace switch_runtime

#endif  // SWITCH_SRC_ORT_HANDLE_H_
