#include "device_array.h"

namespace switch_tests {

void in_every_order(int major, const std::string& what, const std::function<void()>& body) {
  int own = 0;
  expect_success(cudaDeviceGetAttribute(&own, cudaDevAttrComputeCapabilityMajor, 0));
  // What is written for 9.0 (wgmma) runs on nothing else.
  if (own < major || (major == 9 && own != 9)) {
    std::cout << "NOT RUN on capability " << own << ": " << what << "\n";
    return;
  }
  try {
    for (int i = 0; i < 2; ++i) body();
  } catch (const Failure& failure) {
    throw Failure{what + ": " + failure.message};
  } catch (const std::exception& error) {
    throw std::runtime_error(what + ": " + error.what());
  }
}

}  // namespace switch_tests
