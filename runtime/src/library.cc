#include "library.h"

#include <dlfcn.h>

#include <cstdio>
#include <cstdlib>
#include <memory>
#include <mutex>
#include <optional>
#include <vector>

#include "error.h"

namespace switch_runtime {
namespace {

constexpr const char* kNames[] = {"libonnxruntime.so.1", "libonnxruntime.so"};

struct Opened {
  void* handle;  // never closed: ONNX Runtime's threads live as long as the process
  OrtLibrary library;
};

class Search {
 public:
  explicit Search(const std::string& wanted) : wanted_(wanted) {}

  Opened run() {
    const std::string variable = environment("SWITCH_ORT_LIBRARY");
    // Whoever names a library gets that one or an error, not another.
    if (!wanted_.empty()) {
      attempt(wanted_, RTLD_NOW | RTLD_LOCAL, "the option ort_library");
    } else if (!variable.empty()) {
      attempt(variable, RTLD_NOW | RTLD_LOCAL, "$SWITCH_ORT_LIBRARY");
    } else {
      for (const char* name : kNames) attempt(name, RTLD_NOW | RTLD_NOLOAD, "already loaded");
      for (const char* name : kNames) attempt(name, RTLD_NOW | RTLD_LOCAL, "the system's");
    }
    if (found_) return std::move(*found_);
    throw Error(SWITCH_MISSING_LIBRARY,
                list_problems("no usable ONNX Runtime (1.21 or newer)", tried_) +
                    "\nInstall it (pip install onnxruntime, or your system's package) and give the "
                    "path of libonnxruntime.so in SWITCH_ORT_LIBRARY or the option ort_library.");
  }

 private:
  void attempt(const std::string& name, int flags, const char* why) {
    if (found_) return;
    dlerror();
    void* handle = dlopen(name.c_str(), flags);
    if (!handle) {
      const char* reason = dlerror();
      reject(name, why, reason ? reason : "not loaded");
      return;
    }
    const std::string problem = accept(handle);
    if (!problem.empty()) {
      reject(name, why, problem);
      dlclose(handle);
    }
  }

  std::string accept(void* handle) {
    void* symbol = dlsym(handle, "OrtGetApiBase");
    if (!symbol) return "it has no OrtGetApiBase, so it is not ONNX Runtime";
    const OrtApiBase* base = reinterpret_cast<const OrtApiBase* (*)()>(symbol)();
    const std::string version = base->GetVersionString();
    int major = 0, minor = 0;
    // Asked first, because GetApi prints when it is asked for too new an API.
    if (std::sscanf(version.c_str(), "%d.%d", &major, &minor) != 2 || major != 1 ||
        minor < ORT_API_VERSION) {
      return "it is version " + version + ", expected 1." + std::to_string(ORT_API_VERSION) +
             " or newer";
    }
    const OrtApi* api = base->GetApi(ORT_API_VERSION);
    if (!api) return "it refuses API version " + std::to_string(ORT_API_VERSION);
    Dl_info info{};
    const bool known = dladdr(symbol, &info) != 0 && info.dli_fname;
    found_ = Opened{handle, OrtLibrary{api, version, known ? info.dli_fname : ""}};
    return "";
  }

  void reject(const std::string& name, const char* why, const std::string& reason) {
    tried_.push_back(name + " (" + why + "): " + reason);
  }

  const std::string& wanted_;
  std::vector<std::string> tried_;
  std::optional<Opened> found_;
};

// Two copies of ONNX Runtime would mean two thread pools.
void check_same(const Opened& opened, const std::string& wanted) {
  if (wanted.empty()) return;
  void* handle = dlopen(wanted.c_str(), RTLD_NOW | RTLD_LOCAL);
  const bool same = handle == opened.handle;
  if (handle) dlclose(handle);
  if (same) return;
  throw Error(SWITCH_INVALID_ARGUMENT,
              "ort_library is " + wanted + ", but this process already uses " +
                  opened.library.path + "; all models of a process share one ONNX Runtime");
}

}  // namespace

std::string environment(const char* name) {
  const char* value = std::getenv(name);
  return value ? value : "";
}

const OrtLibrary& open_ort_library(const std::string& wanted) {
  static std::mutex mutex;
  static std::unique_ptr<Opened> opened;
  const std::lock_guard<std::mutex> lock(mutex);
  if (opened) {
    check_same(*opened, wanted);
  } else {
    opened = std::make_unique<Opened>(Search(wanted).run());
  }
  return opened->library;
}

}  // namespace switch_runtime
