#include "activation.h"
#include "mix.h"
#include "product.h"
#include "simd_portable.h"
#include "tables.h"

namespace switch_ops {

const Kernels& portable_kernels() {
  using S = Portable;
  static const Kernels table = {
      "portable", prepared_stride<S>, prepare<S>,  product<S>, mix<S>, softmax<S>,
      norm<S>,    decode_row<S>,      activate<S>, read<S>};
  return table;
}

}  // namespace switch_ops
