#include "activation.h"
#include "mix.h"
#include "product.h"
#include "simd_avx512.h"
#include "tables.h"

namespace switch_ops {

const Kernels& avx512_vnni_kernels() {
  using S = Avx512<true>;
  static const Kernels table = {
      "avx512_vnni", prepared_stride<S>, prepare<S>,  product<S>, mix<S>, softmax<S>,
      norm<S>,       decode_row<S>,      activate<S>, read<S>};
  return table;
}

}  // namespace switch_ops
