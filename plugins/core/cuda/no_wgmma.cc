// In place of the wgmma kernels, where the library is built for no device that runs them.
#include <stdexcept>

#include "products.h"

namespace switch_ops::cuda {

bool has_wgmma() { return false; }

void multiply_wgmma(const Stream&, const GroupedProduct&) {
  throw std::logic_error("multiply_wgmma: this library was built without sm_90a");
}

}  // namespace switch_ops::cuda
