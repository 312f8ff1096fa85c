// How a step's bytes lie in shared memory and become fragments, for each family of types.
//
// A warp reads 8 rows of shared memory at once, the same chunk of 16 bytes of each. So that these
// lie in different banks, chunk c of row r is kept at the place c ^ key(r) of its row:
//
//   row 0   0 1 2 3 4 5 6 7         rows of 128 bytes, key(r) = r % 8
//   row 1   1 0 3 2 5 4 7 6
//   row 2   2 3 0 1 6 7 4 5         Adding 8 rows leaves a key as it is, and slice s of a row (32
//   ...                             bytes) is at the place of slice 0, exclusive-or 32 s.
#ifndef SWITCH_CORE_CUDA_TILES_FAMILY_H_
#define SWITCH_CORE_CUDA_TILES_FAMILY_H_

#include <cuda_runtime.h>

#include "numbers.h"
#include "tiles.h"

namespace switch_ops::cuda::tiles {

// Where the chunk is in shared memory, for rows of 128 bytes.
__device__ __forceinline__ int chunk_at(int row, int chunk, int key) {
  return row * kStepBytes + ((chunk ^ key) << 4);
}

// x and weight of 16-bit values, or both of int8: rows of 128 bytes on both sides, by ldmatrix.
struct ByteRows {
  static constexpr int kWeightBytes = 128;  // of a row of weights in a step

  static __device__ __forceinline__ int x_place(int row, int chunk) {
    return chunk_at(row, chunk, row % 8);
  }
  static __device__ __forceinline__ int weight_place(int row, int chunk) {
    return x_place(row, chunk);
  }

  // What this lane reads of a fragment's 16 rows. Matrices of ldmatrix: x goes down the rows first,
  // weights along the columns.
  static __device__ __forceinline__ int x_lane(int lane) {
    return x_place(lane / 8 % 2 * 8 + lane % 8, lane / 16);
  }
  static __device__ __forceinline__ int weight_lane(int lane) {
    return x_place(lane / 16 * 8 + lane % 8, lane / 8 % 2);
  }

  static __device__ __forceinline__ void load_x(uint32_t (&a)[4], const unsigned char* rows,
                                                int lane_place, int slice) {
    ptx::load_matrices(a, rows + (lane_place ^ slice * 32));
  }
  // Two fragments of 8 rows.
  static __device__ __forceinline__ void load_weight(uint32_t (&b)[2][2], const unsigned char* rows,
                                                     int lane_place, int slice) {
    uint32_t both[4];
    ptx::load_matrices(both, rows + (lane_place ^ slice * 32));
    b[0][0] = both[0], b[0][1] = both[1], b[1][0] = both[2], b[1][1] = both[3];
  }
};

template <typename Number>
struct HalfTiles : ByteRows {
  static constexpr bool kQuantised = false;
  static __device__ __forceinline__ void multiply(float (&d)[4], const uint32_t (&a)[4],
                                                  const uint32_t (&b)[2]) {
    Number::multiply(d, a, b);
  }
};

struct Int8Tiles : ByteRows {
  static constexpr bool kQuantised = true;
  static constexpr float kUnit = 1;  // of the integers that a weight is multiplied as
  static __device__ __forceinline__ void multiply(int32_t (&d)[4], const uint32_t (&a)[4],
                                                  const uint32_t (&b)[2]) {
    ptx::multiply_s8(d, a, b);
  }
};

// int4: a word of codes is unpacked to the bytes of its even columns and those of its odd ones, and
// x is read the same way. Lane 4 g + c, slice s of 32 columns:
//
//   codes  row g,          word c of 16 bytes    b[0] columns 8 c + 0, 2, 4, 6   b[1] 1, 3, 5, 7
//   x      rows g, g + 8,  bytes 8 c .. 8 c + 7  a[0], a[1] (row g + 8) even     a[2], a[3] odd
struct Int4Tiles {
  static constexpr bool kQuantised = true;
  static constexpr float kUnit = 0.0625f;  // (code - 8) * 16, which takes one instruction less
  static constexpr int kWeightBytes = 64;

  // A half warp reads 4 rows of x, 32 bytes each.
  static __device__ __forceinline__ int x_place(int row, int chunk) {
    return chunk_at(row, chunk, row % 4 * 2);
  }
  // Two rows of 64 bytes take the room of one of 128.
  static __device__ __forceinline__ int weight_place(int row, int chunk) {
    return row * kWeightBytes + ((chunk ^ row / 2 % 4) << 4);
  }
  static __device__ __forceinline__ int x_lane(int lane) {
    return x_place(lane / 4, lane % 4 / 2) + lane % 2 * 8;
  }
  static __device__ __forceinline__ int weight_lane(int lane) {
    return weight_place(lane / 4, 0) + lane % 4 * 4;
  }

  static __device__ __forceinline__ void load_x(uint32_t (&a)[4], const unsigned char* rows,
                                                int lane_place, int slice) {
    for (int low_or_high = 0; low_or_high < 2; ++low_or_high) {
      const unsigned char* row = rows + low_or_high * 8 * kStepBytes;
      const uint2 bytes = *reinterpret_cast<const uint2*>(row + (lane_place ^ slice * 32));
      a[low_or_high] = ptx::select_bytes(bytes.x, bytes.y, 0x6420);
      a[low_or_high + 2] = ptx::select_bytes(bytes.x, bytes.y, 0x7531);
    }
  }
  static __device__ __forceinline__ void load_weight(uint32_t (&b)[2][2], const unsigned char* rows,
                                                     int lane_place, int slice) {
    for (int n = 0; n < 2; ++n) {
      const unsigned char* row = rows + n * 8 * kWeightBytes;
      const uint32_t codes = *reinterpret_cast<const uint32_t*>(row + (lane_place ^ slice * 16));
      b[n][0] = (codes << 4 & 0xf0f0f0f0u) ^ 0x80808080u;
      b[n][1] = (codes & 0xf0f0f0f0u) ^ 0x80808080u;
    }
  }
  static __device__ __forceinline__ void multiply(int32_t (&d)[4], const uint32_t (&a)[4],
                                                  const uint32_t (&b)[2]) {
    ptx::multiply_s8(d, a, b);
  }
};

}  // namespace switch_ops::cuda::tiles

#endif  // SWITCH_CORE_CUDA_TILES_FAMILY_H_
