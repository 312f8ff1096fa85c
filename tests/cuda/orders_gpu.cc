#include "device_array.h"

namespace switch_tests {

void in_every_order(int major, const std::string& what, const std::function<void()>& body) {
  int own = 0;
  expect_success(cudaDeviceGetAttribute(&own, cudaDevAttrComputeCapabilityMajor, 0));
  if (own < major) return;
  try {
    for (int i = 0; i < 2; ++i) body();
  } catch (const Failure& failure) {
    throw Failure{what + ": " + failure.message};
  } catch (const std::exception& error) {
    throw std::runtime_error(what + ": " + error.what());
  }
}

}  // namespace switch_tests
