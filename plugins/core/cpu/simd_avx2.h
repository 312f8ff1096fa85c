// 8 floats or 32 bytes at a time. Included only by files that are compiled for AVX2, FMA and F16C.
#ifndef SWITCH_CORE_CPU_SIMD_AVX2_H_
#define SWITCH_CORE_CPU_SIMD_AVX2_H_

#include <immintrin.h>

#include <cstdint>
#include <cstring>

namespace {

struct Avx2 {
  static constexpr int kLanes = 8;
  static constexpr int kBytes = 32;
  static constexpr int kFloatTokens = 2;  // of a tile: 4 x 2 sums of 16 registers
  static constexpr int kIntTokens = 2;
  static constexpr int kBlockTokens = 2;
  static constexpr int kMixRows = 4;
  static constexpr int kMixVectors = 2;
  static constexpr int kOffset = 0;

  using F = __m256;
  using I = __m256i;

  static I first(int n) {
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
  }

  static F zero() { return _mm256_setzero_ps(); }
  static F set(float x) { return _mm256_set1_ps(x); }
  static F load(const float* p) { return _mm256_loadu_ps(p); }
  static F load(const float* p, int n) { return _mm256_maskload_ps(p, first(n)); }
  static void store(float* p, F x) { _mm256_storeu_ps(p, x); }
  static void store(float* p, F x, int n) { _mm256_maskstore_ps(p, first(n), x); }
  static F add(F a, F b) { return _mm256_add_ps(a, b); }
  static F sub(F a, F b) { return _mm256_sub_ps(a, b); }
  static F mul(F a, F b) { return _mm256_mul_ps(a, b); }
  static F div(F a, F b) { return _mm256_div_ps(a, b); }
  static F max(F a, F b) { return _mm256_max_ps(a, b); }
  static F abs(F a) { return _mm256_andnot_ps(set(-0.0f), a); }
  static F fma(F a, F b, F c) { return _mm256_fmadd_ps(a, b, c); }
  static F round(F a) { return _mm256_round_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
  static F scale2(F a, F n) {  // a * 2^n, n above -127
    const I bits = _mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127));
    return mul(a, _mm256_castsi256_ps(_mm256_slli_epi32(bits, 23)));
  }
  static F zero_below(F x, F limit, F y) {
    return _mm256_and_ps(_mm256_cmp_ps(x, limit, _CMP_NLT_UQ), y);
  }
  static float sum(F a) {
    float parts[4];
    sum4(a, zero(), zero(), zero(), parts);
    return parts[0];
  }
  static float largest(F a) {
    __m128 half = _mm_max_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    half = _mm_max_ps(half, _mm_movehl_ps(half, half));
    return _mm_cvtss_f32(_mm_max_ss(half, _mm_shuffle_ps(half, half, 1)));
  }

  static F widen_float16(const void* p) {
    return _mm256_cvtph_ps(_mm_loadu_si128(static_cast<const __m128i*>(p)));
  }
  static F widen_float16(const void* p, int n) { return _mm256_cvtph_ps(load_halves(p, n)); }
  static F widen_bfloat16(const void* p) {
    return shift(_mm_loadu_si128(static_cast<const __m128i*>(p)));
  }
  static F widen_bfloat16(const void* p, int n) { return shift(load_halves(p, n)); }

  static I zero_bytes() { return _mm256_setzero_si256(); }
  static I load_bytes(const void* p) { return _mm256_loadu_si256(static_cast<const __m256i*>(p)); }
  static I load_bytes(const void* p, int n) {
    alignas(32) char bytes[32] = {};
    std::memcpy(bytes, p, static_cast<size_t>(n));
    return load_bytes(bytes);
  }
  static void store_bytes(void* p, I x) { _mm256_storeu_si256(static_cast<__m256i*>(p), x); }

  static I offset(I w) { return w; }
  static I dot8(I sum, I w, I x) { return dot_signed(sum, w, x); }
  // |w| * (x with w's sign): two neighbours stay within 16 bits.
  static I dot_signed(I sum, I w, I x) {
    return dot4(sum, _mm256_abs_epi8(w), _mm256_sign_epi8(x, w));
  }
  static I dot4(I sum, I w, I x) {
    const I pairs = _mm256_maddubs_epi16(w, x);
    return _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
  }
  static I low_codes(I w) { return _mm256_and_si256(w, _mm256_set1_epi8(15)); }
  static I high_codes(I w) { return low_codes(_mm256_srli_epi16(w, 4)); }
  static I negate(I x) { return _mm256_sub_epi32(_mm256_setzero_si256(), x); }
  static F to_float(I x) { return _mm256_cvtepi32_ps(x); }
  static int32_t sum_lanes(I x) {
    int32_t parts[4];
    sum4(x, zero_bytes(), zero_bytes(), zero_bytes(), parts);
    return parts[0];
  }

  static F spread(const float* scales, int n, I index) {
    return _mm256_permutevar8x32_ps(load(scales, n), index);
  }

  static void sum4(F a, F b, F c, F d, float* out) {
    const F all = _mm256_hadd_ps(_mm256_hadd_ps(a, b), _mm256_hadd_ps(c, d));
    _mm_storeu_ps(out, _mm_add_ps(_mm256_castps256_ps128(all), _mm256_extractf128_ps(all, 1)));
  }
  static void sum4(I a, I b, I c, I d, int32_t* out) {
    const I all = _mm256_hadd_epi32(_mm256_hadd_epi32(a, b), _mm256_hadd_epi32(c, d));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(out),
                     _mm_add_epi32(_mm256_castsi256_si128(all), _mm256_extracti128_si256(all, 1)));
  }

  // out[t][r] = the total of sum[r][t].
  template <int T>
  static void totals(const F (&sum)[4][T], float (*out)[4]) {
    for (int t = 0; t < T; ++t) sum4(sum[0][t], sum[1][t], sum[2][t], sum[3][t], out[t]);
  }
  template <int T>
  static void totals(const I (&sum)[4][T], int32_t (*out)[4]) {
    for (int t = 0; t < T; ++t) sum4(sum[0][t], sum[1][t], sum[2][t], sum[3][t], out[t]);
  }

  static void quantise(const float* x, float factor, int8_t* out) {
    const I whole = _mm256_cvtps_epi32(mul(load(x), set(factor)));
    const __m128i words =
        _mm_packs_epi32(_mm256_castsi256_si128(whole), _mm256_extracti128_si256(whole, 1));
    _mm_storel_epi64(reinterpret_cast<__m128i*>(out), _mm_packs_epi16(words, words));
  }
  // 64 bytes into those at even and those at odd places.
  static void deinterleave(const int8_t* in, int8_t* even, int8_t* odd) {
    const I a = load_bytes(in), b = load_bytes(in + 32), low = _mm256_set1_epi16(255);
    store_bytes(even, pack(_mm256_and_si256(a, low), _mm256_and_si256(b, low)));
    store_bytes(odd, pack(_mm256_srli_epi16(a, 8), _mm256_srli_epi16(b, 8)));
  }

 private:
  static I pack(I a, I b) { return _mm256_permute4x64_epi64(_mm256_packus_epi16(a, b), 0xD8); }
  static __m128i load_halves(const void* p, int n) {
    alignas(16) char bytes[16] = {};
    std::memcpy(bytes, p, static_cast<size_t>(n) * 2);
    return _mm_load_si128(reinterpret_cast<const __m128i*>(bytes));
  }
  static F shift(__m128i x) {
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(x), 16));
  }
};

}  // namespace

#endif  // SWITCH_CORE_CPU_SIMD_AVX2_H_
