#include "ort_environment.h"

#include <sched.h>

#include <memory>
#include <mutex>
#include <string>
#include <thread>

#include "ort_handle.h"

namespace switch_runtime {
namespace {

// Cores this process may run on: fewer than the machine's in a container or under taskset.
int available_cores() {
  cpu_set_t set;
  CPU_ZERO(&set);
  if (sched_getaffinity(0, sizeof set, &set) == 0 && CPU_COUNT(&set) > 0) return CPU_COUNT(&set);
  return std::max(1u, std::thread::hardware_concurrency());
}

// The library never prints.
void ORT_API_CALL discard(void*, OrtLoggingLevel, const char*, const char*, const char*,
                          const char*) {}

OrtEnvironment make_environment(const OrtApi* api, int threads) {
  OrtThreadingOptions* options = nullptr;
  const char* doing = "ONNX Runtime cannot make its thread pool";
  check(api, api->CreateThreadingOptions(&options), SWITCH_FAILED, doing);
  const auto owned = own(options, api->ReleaseThreadingOptions);
  check(api, api->SetGlobalIntraOpNumThreads(options, threads), SWITCH_FAILED, doing);
  // The graphs run their nodes one after another.
  check(api, api->SetGlobalInterOpNumThreads(options, 1), SWITCH_FAILED, doing);
  OrtEnv* env = nullptr;
  check(api,
        api->CreateEnvWithCustomLoggerAndGlobalThreadPools(
            discard, nullptr, ORT_LOGGING_LEVEL_FATAL, "switch_runtime", options, &env),
        SWITCH_FAILED, doing);
  return OrtEnvironment{env, threads};
}

}  // namespace

const OrtEnvironment& ort_environment(const OrtApi* api, int threads) {
  static std::mutex mutex;
  // Never released: a host may still run sessions of its own when static objects are destroyed.
  static std::unique_ptr<OrtEnvironment> shared;
  const std::lock_guard<std::mutex> lock(mutex);
  if (!shared) {
    shared = std::make_unique<OrtEnvironment>(
        make_environment(api, threads > 0 ? threads : available_cores()));
  } else if (threads > 0 && threads != shared->threads) {
    throw Error(SWITCH_INVALID_ARGUMENT,
                "threads is " + std::to_string(threads) +
                    ", but the first model loaded in this process fixed the shared pool at " +
                    std::to_string(shared->threads) + "; ask for that number, or 0");
  }
  return *shared;
}

}  // namespace switch_runtime
