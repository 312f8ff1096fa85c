// Where the operator library is.
#include <dlfcn.h>
#include <sys/stat.h>

#include <cstdlib>
#include <memory>
#include <string>
#include <vector>

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

// Where this library is, with a slash: as it was loaded, and the file itself behind any link.
std::vector<std::string> own_folders() {
  Dl_info info{};
  if (dladdr(reinterpret_cast<const void*>(&own_folders), &info) == 0 || !info.dli_fname) {
    return {""};
  }
  std::vector<std::string> paths = {info.dli_fname};
  const std::unique_ptr<char, decltype(&std::free)> real(realpath(info.dli_fname, nullptr),
                                                         &std::free);
  if (real) paths.push_back(real.get());
  for (std::string& path : paths) path.resize(path.rfind('/') + 1);
  return paths;
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
  for (const std::string& own : own_folders()) {
    for (const std::string& folder : {own, own + "../../switch_plugins/lib/"}) {
      if (exists(folder + kFile)) return folder + kFile;
    }
  }
  return "";
}

}  // namespace switch_runtime
