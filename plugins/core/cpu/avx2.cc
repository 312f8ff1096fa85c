#include "activation.h"
#include "mix.h"
#include "product.h"
#include "simd_avx2.h"
#include "tables.h"

namespace switch_ops {

const Kernels& avx2_kernels() {
  using S = Avx2;
  static const Kernels table = {
      "avx2",  prepared_stride<S>, prepare<S>,  product<S>, mix<S>, softmax<S>,
      norm<S>, decode_row<S>,      activate<S>, read<S>};
  return table;
}

}  // namespace switch_ops
