// ONNX Runtime, opened at run time: the build needs only its C headers.
#ifndef SWITCH_SRC_LIBRARY_H_
#define SWITCH_SRC_LIBRARY_H_

#include <onnxruntime_c_api.h>

#include <string>

namespace switch_runtime {

struct OrtLibrary {
  const OrtApi* api;
  std::string version;
  std::string path;
};

// Open ONNX Runtime once for the whole process. `wanted` is a path or empty: then
// $SWITCH_ORT_LIBRARY, one that is already loaded, the system's. Throws Error
// SWITCH_MISSING_LIBRARY with every place that was tried, SWITCH_INVALID_ARGUMENT if `wanted` is
// another library than the one in use.
const OrtLibrary& open_ort_library(const std::string& wanted);

// Value of an environment variable; "" if unset.
std::string environment(const char* name);

// The operator library: `wanted` (an option), else $SWITCH_PLUGIN_LIBRARY, else the one beside this
// library or in the sibling Python package. "" where there is none or one of the first two is
// "none". Throws Error SWITCH_MISSING_LIBRARY for a named file that does not exist.
std::string find_plugin_library(const std::string& wanted);

}  // namespace switch_runtime

#endif  // SWITCH_SRC_LIBRARY_H_
