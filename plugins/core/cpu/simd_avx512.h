// 16 floats or 64 bytes at a time. Included only by files that are compiled for these instructions.
#ifndef SWITCH_CORE_CPU_SIMD_AVX512_H_
#define SWITCH_CORE_CPU_SIMD_AVX512_H_

#include <immintrin.h>

#include <cstdint>

namespace {

// Vnni: u8 x s8 products in one instruction. Without it they go through 16 bits.
template <bool Vnni>
struct Avx512 {
  static constexpr int kLanes = 16;
  static constexpr int kBytes = 64;
  static constexpr int kFloatTokens =
      6;  // of a tile: 4 x 6 sums, 4 weights, 1 input of 32 registers
  static constexpr int kIntTokens = 6;
  static constexpr int kBlockTokens = 3;
  static constexpr int kMixRows = 6;     // of a mix's tile
  static constexpr int kMixVectors = 4;  // the same
  // dot8 wants weights as w + kOffset, unsigned; the caller takes kOffset * sum(x) away.
  static constexpr int kOffset = Vnni ? 128 : 0;

  using F = __m512;
  using I = __m512i;

  static __mmask16 first(int n) { return static_cast<__mmask16>((1u << n) - 1); }

  static F zero() { return _mm512_setzero_ps(); }
  static F set(float x) { return _mm512_set1_ps(x); }
  static F load(const float* p) { return _mm512_loadu_ps(p); }
  static F load(const float* p, int n) { return _mm512_maskz_loadu_ps(first(n), p); }
  static void store(float* p, F x) { _mm512_storeu_ps(p, x); }
  static void store(float* p, F x, int n) { _mm512_mask_storeu_ps(p, first(n), x); }
  static F add(F a, F b) { return _mm512_add_ps(a, b); }
  static F sub(F a, F b) { return _mm512_sub_ps(a, b); }
  static F mul(F a, F b) { return _mm512_mul_ps(a, b); }
  static F div(F a, F b) { return _mm512_div_ps(a, b); }
  static F max(F a, F b) { return _mm512_max_ps(a, b); }
  static F abs(F a) { return _mm512_abs_ps(a); }
  static F fma(F a, F b, F c) { return _mm512_fmadd_ps(a, b, c); }
  static F round(F a) { return _mm512_roundscale_ps(a, _MM_FROUND_TO_NEAREST_INT); }
  static F scale2(F a, F n) { return _mm512_scalef_ps(a, n); }  // a * 2^n
  static F zero_below(F x, F limit, F y) {                      // x < limit ? 0 : y
    return _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(x, limit, _CMP_NLT_UQ), y);
  }
  static float sum(F a) { return _mm512_reduce_add_ps(a); }
  static float largest(F a) { return _mm512_reduce_max_ps(a); }

  static F widen_float16(const void* p) {
    return _mm512_cvtph_ps(_mm256_loadu_si256(static_cast<const __m256i*>(p)));
  }
  static F widen_float16(const void* p, int n) {
    return _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(first(n), p));
  }
  static F widen_bfloat16(const void* p) {
    return shift(_mm256_loadu_si256(static_cast<const __m256i*>(p)));
  }
  static F widen_bfloat16(const void* p, int n) {
    return shift(_mm256_maskz_loadu_epi16(first(n), p));
  }

  static I zero_bytes() { return _mm512_setzero_si512(); }
  static I load_bytes(const void* p) { return _mm512_loadu_si512(p); }
  static I load_bytes(const void* p, int n) {
    return _mm512_maskz_loadu_epi8(n >= 64 ? ~0ull : (1ull << n) - 1, p);
  }
  static void store_bytes(void* p, I x) { _mm512_storeu_si512(p, x); }

  // Signed weights as dot8 wants them: w + kOffset.
  static I offset(I w) {
    if constexpr (Vnni) return _mm512_xor_si512(w, _mm512_set1_epi8(-128));
    return w;
  }
  // Lane l += the sum of w * x over the bytes 4 l .. 4 l + 3, w with its offset.
  static I dot8(I sum, I w, I x) {
    if constexpr (Vnni) return dpbusd(sum, w, x);
    return dot_signed(sum, w, x);
  }
  // The same for weights without an offset.
  static I dot_signed(I sum, I w, I x) {
    const I signed_x = _mm512_mask_sub_epi8(x, _mm512_movepi8_mask(w), _mm512_setzero_si512(), x);
    return dot4(sum, _mm512_abs_epi8(w), signed_x);
  }
  // Unsigned codes with w * x within 16 bits for two neighbours.
  static I dot4(I sum, I w, I x) {
    if constexpr (Vnni) return dpbusd(sum, w, x);
    const I pairs = _mm512_maddubs_epi16(w, x);
    return _mm512_add_epi32(sum, _mm512_madd_epi16(pairs, _mm512_set1_epi16(1)));
  }
  static I low_codes(I w) { return _mm512_and_si512(w, _mm512_set1_epi8(15)); }
  static I high_codes(I w) { return low_codes(_mm512_srli_epi16(w, 4)); }
  static I negate(I x) { return _mm512_sub_epi32(_mm512_setzero_si512(), x); }
  static F to_float(I x) { return _mm512_cvtepi32_ps(x); }
  static int32_t sum_lanes(I x) { return _mm512_reduce_add_epi32(x); }

  // Lane l gets scales[index[l]], of which there are n.
  static F spread(const float* scales, int n, I index) {
    return _mm512_permutexvar_ps(index, load(scales, n));
  }

  // out[t][r] = the total of sum[r][t], four tokens at a time. V is F with float, or I with
  // int32_t.
  template <int T, class V, class Out, int First = 0>
  [[gnu::always_inline]] static void totals(const V (&sum)[4][T], Out (*out)[4]) {
    constexpr int n = T - First < 4 ? T - First : 4;
    V group[4];
#pragma GCC unroll 4
    for (int i = 0; i < n; ++i) {
      group[i] =
          within_lanes(sum[0][First + i], sum[1][First + i], sum[2][First + i], sum[3][First + i]);
    }
    for (int i = n; i < 4; ++i) group[i] = group[0];
    const V low = add(shuffle<0x88>(group[0], group[1]), shuffle<0xDD>(group[0], group[1]));
    const V high = add(shuffle<0x88>(group[2], group[3]), shuffle<0xDD>(group[2], group[3]));
    store_first(out[First], add(shuffle<0x88>(low, high), shuffle<0xDD>(low, high)), 4 * n);
    if constexpr (First + 4 < T) totals<T, V, Out, First + 4>(sum, out);
  }

  // 16 values times `factor`, rounded to the nearest even.
  static void quantise(const float* x, float factor, int8_t* out) {
    const I whole = _mm512_cvtps_epi32(mul(load(x), set(factor)));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(out), _mm512_cvtsepi32_epi8(whole));
  }
  // 128 bytes into those at even and those at odd places.
  static void deinterleave(const int8_t* in, int8_t* even, int8_t* odd) {
    const I a = load_bytes(in), b = load_bytes(in + 64);
    const auto put = [](int8_t* out, I low, I high) {
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(out), _mm512_cvtepi16_epi8(low));
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(out + 32), _mm512_cvtepi16_epi8(high));
    };
    put(even, a, b);
    put(odd, _mm512_srli_epi16(a, 8), _mm512_srli_epi16(b, 8));
  }

 private:
  // GCC 12 copies every sum back and forth around its own intrinsic: a third of the loop's time.
  static I dpbusd(I sum, I w, I x) {
    asm("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(w), "vm"(x));
    return sum;
  }
  static F shift(__m256i x) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(x), 16));
  }
  static I add(I a, I b) { return _mm512_add_epi32(a, b); }
  static void store_first(float* p, F x, int n) { _mm512_mask_storeu_ps(p, first(n), x); }
  static void store_first(int32_t* p, I x, int n) { _mm512_mask_storeu_epi32(p, first(n), x); }
  // 128-bit lanes: two of a, then two of b.
  template <int kLanesOf>
  static F shuffle(F a, F b) {
    return _mm512_shuffle_f32x4(a, b, kLanesOf);
  }
  template <int kLanesOf>
  static I shuffle(I a, I b) {
    return _mm512_shuffle_i32x4(a, b, kLanesOf);
  }
  // Each 128-bit lane of the result holds what that lane of a, b, c and d adds up to.
  static F within_lanes(F a, F b, F c, F d) {
    const __m512d ab = _mm512_castps_pd(add(_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b)));
    const __m512d cd = _mm512_castps_pd(add(_mm512_unpacklo_ps(c, d), _mm512_unpackhi_ps(c, d)));
    return add(_mm512_castpd_ps(_mm512_unpacklo_pd(ab, cd)),
               _mm512_castpd_ps(_mm512_unpackhi_pd(ab, cd)));
  }
  static I within_lanes(I a, I b, I c, I d) {
    const I ab = add(_mm512_unpacklo_epi32(a, b), _mm512_unpackhi_epi32(a, b));
    const I cd = add(_mm512_unpacklo_epi32(c, d), _mm512_unpackhi_epi32(c, d));
    return add(_mm512_unpacklo_epi64(ab, cd), _mm512_unpackhi_epi64(ab, cd));
  }
};

}  // namespace

#endif  // SWITCH_CORE_CPU_SIMD_AVX512_H_
