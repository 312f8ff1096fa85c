// The table of each instruction set, and whether this processor has it.
#ifndef SWITCH_CORE_CPU_TABLES_H_
#define SWITCH_CORE_CPU_TABLES_H_

#include "../kernels.h"

namespace switch_ops {

const Kernels& portable_kernels();
#ifdef __x86_64__
const Kernels& avx2_kernels();
const Kernels& avx512_kernels();
const Kernels& avx512_vnni_kernels();
#endif

}  // namespace switch_ops

#endif  // SWITCH_CORE_CPU_TABLES_H_
