// C functions of the operator library beside the operators themselves: what a host or a benchmark
// may ask. They do not throw.
#ifndef SWITCH_CORE_SWITCH_OPS_H_
#define SWITCH_CORE_SWITCH_OPS_H_

#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

#define SWITCH_API __attribute__((visibility("default")))

// The instruction set whose kernels run: portable, avx2, avx512 or avx512_vnni.
// NULL where $SWITCH_KERNELS names one that this processor does not have.
SWITCH_API const char* switch_kernels_name(void);

// Read `bytes` of `data` once with the widest loads of this processor, divided among `threads`
// threads that each follow `streams` places at a time. Gives bytes per second of wall time,
// 0 where an argument makes no sense.
SWITCH_API double switch_read_bandwidth(const void* data, size_t bytes, int streams, int threads);

#ifdef __cplusplus
}
#endif

#endif  // SWITCH_CORE_SWITCH_OPS_H_
