// Instructions that CUDA C++ has no name for, as functions.
//
// tests/cuda/emulator/switch_ptx.h has the same functions in plain C++, so that every kernel also
// runs, and is tested, on a machine without a GPU. What they do: PTX ISA, "Instruction Set".
#ifndef SWITCH_CORE_CUDA_PTX_H_
#define SWITCH_CORE_CUDA_PTX_H_

#include <cuda_runtime.h>

#include <cstdint>

namespace switch_ops::ptx {

// The block's dynamic shared memory, 1024-byte aligned.
__device__ __forceinline__ unsigned char* shared_memory() {
  extern __shared__ __align__(1024) unsigned char switch_shared[];
  return switch_shared;
}

__device__ __forceinline__ uint32_t shared_address(const void* pointer) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(pointer));
}

// --- numbers ---

// Two floats as bfloat16 or float16, rounded to nearest even; `low` in the low half.
__device__ __forceinline__ uint32_t pack_bf16(float low, float high) {
  uint32_t packed;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(packed) : "f"(high), "f"(low));
  return packed;
}
__device__ __forceinline__ uint32_t pack_f16(float low, float high) {
  uint32_t packed;
  asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(packed) : "f"(high), "f"(low));
  return packed;
}
__device__ __forceinline__ float f16_to_float(uint16_t bits) {
  float value;
  asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(bits));
  return value;
}
// c + the sum of the products of four signed bytes.
__device__ __forceinline__ int32_t dot4(uint32_t a, uint32_t b, int32_t c) {
  return __dp4a(static_cast<int>(a), static_cast<int>(b), c);
}

// Four of the eight bytes of `low` (0 to 3) and `high` (4 to 7): byte i of the result is the one
// that the hexadecimal digit i of `which` names.
__device__ __forceinline__ uint32_t select_bytes(uint32_t low, uint32_t high, uint32_t which) {
  return __byte_perm(low, high, which);
}

// --- memory ---

// 16 bytes that nobody writes while the kernel runs and that are not read again.
__device__ __forceinline__ uint4 load_once(const void* pointer) {
  uint4 v;
  asm volatile("ld.global.nc.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
               : "l"(pointer));
  return v;
}

// Ask for the line of memory that holds `pointer` to be in the second-level cache.
__device__ __forceinline__ void prefetch(const void* pointer) {
  asm volatile("prefetch.global.L2 [%0];" ::"l"(pointer));
}

// Copy 16 bytes from global to shared memory, zeros where not `valid` (then `from` is not read).
// There after async_wait; both pointers 16-byte aligned.
__device__ __forceinline__ void async_copy16(void* to, const void* from, bool valid) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(to)), "l"(from),
               "r"(valid ? 16 : 0)
               : "memory");
}
// The same with 4 bytes and 4-byte aligned pointers.
__device__ __forceinline__ void async_copy4(void* to, const void* from, bool valid) {
  asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;" ::"r"(shared_address(to)), "l"(from),
               "r"(valid ? 4 : 0)
               : "memory");
}
// Close a group of this thread's copies.
__device__ __forceinline__ void async_commit() {
  asm volatile("cp.async.commit_group;" ::: "memory");
}
// All but the last `kPending` groups of this thread are there (for this thread: a barrier tells
// others).
template <int kPending>
__device__ __forceinline__ void async_wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory");
}

// --- programmatic dependent launch (sm_90 on; nothing before) ---

// Everything that the kernels before this one in the stream wrote is there.
__device__ __forceinline__ void dependency_wait() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}
// The next kernel of the stream may start (it still waits before it reads what this one writes).
__device__ __forceinline__ void dependency_launch() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

// --- tensor cores: one warp; g = lane / 4, c = lane % 4 ---

// Four 8 x 8 matrices of 16-bit values: lane 8 i + j gives the address of row j of matrix i; lane
// gets of matrix i the values 2 c and 2 c + 1 of row g. As 32-bit or 8-bit values: the same bytes.
__device__ __forceinline__ void load_matrices(uint32_t (&r)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(shared_address(row))
               : "memory");
}

// d += a @ b^T. A register of a and b holds 4 bytes: w = 2 values of 16 bits or 4 of 8.
//
//   a [16, 8 w]  a[0] row g,     values w c ..        a[1] row g + 8, the same values
//                a[2] row g,     values w (c + 4) ..  a[3] row g + 8
//   b [8, 8 w]   b[0] row g,     values w c ..        b[1] values w (c + 4) ..
//   d [16, 8]    d[0] row g, column 2 c   d[1] column 2 c + 1   d[2], d[3] the same of row g + 8
__device__ __forceinline__ void multiply_bf16(float (&d)[4], const uint32_t (&a)[4],
                                              const uint32_t (&b)[2]) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
      "{%8, %9}, {%0, %1, %2, %3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
__device__ __forceinline__ void multiply_f16(float (&d)[4], const uint32_t (&a)[4],
                                             const uint32_t (&b)[2]) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
      "{%8, %9}, {%0, %1, %2, %3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
__device__ __forceinline__ void multiply_s8(int32_t (&d)[4], const uint32_t (&a)[4],
                                            const uint32_t (&b)[2]) {
  asm volatile(
      "mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
      "{%8, %9}, {%0, %1, %2, %3};"
      : "+r"(d[0]), "+r"(d[1]), "+r"(d[2]), "+r"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

}  // namespace switch_ops::ptx

#endif  // SWITCH_CORE_CUDA_PTX_H_
