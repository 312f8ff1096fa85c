// Where the operator library is.
#include <dlfcn.h>
#include <sys/stat.h>

#include "error.h"
#include "library.h"

namespace switch_runtime {
namespace {

constexpr const char* kFile = "libswitch_moe_ort.so";
constexpr const char* kNone = "none";

bool exists(const std::string& path) {
  struct stat found{};
  return stat(path.c_str(), &found) == 0;
}

// The folder of this library, with its slash.
std::string own_folder() {
  Dl_info info{};
  if (dladdr(reinterpret_cast<const void*>(&own_folder), &info) == 0 || !info.dli_fname) return "";
  const std::string path = info.dli_fname;
  return path.substr(0, path.rfind('/') + 1);
}

}  // namespace

std::string find_plugin_library(const std::string& wanted) {
  const std::string named = wanted.empty() ? environment("SWITCH_PLUGIN_LIBRARY") : wanted;
  if (named == kNone) return "";
  if (!named.empty()) {
    if (exists(named)) return named;
    throw Error(SWITCH_MISSING_LIBRARY,
                "plugin library " + named + " (" +
                    (wanted.empty() ? "$SWITCH_PLUGIN_LIBRARY" : "the option plugin_library") +
                    ") does not exist");
  }
  // Never the model directory: a model must not bring code along.
  const std::string own = own_folder();
  for (const std::string& folder : {own, own + "../../switch_plugins/lib/"}) {
    if (exists(folder + kFile)) return folder + kFile;
  }
  return "";
}

}  // namespace switch_runtime
