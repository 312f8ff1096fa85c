// The same interface in plain C++: 8 lanes that any compiler can turn into what the target has.
#ifndef SWITCH_CORE_CPU_SIMD_PORTABLE_H_
#define SWITCH_CORE_CPU_SIMD_PORTABLE_H_

#include <cmath>
#include <cstdint>
#include <cstring>

namespace {

struct Portable {
  static constexpr int kLanes = 8;
  static constexpr int kBytes = 32;
  static constexpr int kFloatTokens = 2;
  static constexpr int kIntTokens = 2;
  static constexpr int kBlockTokens = 2;
  static constexpr int kMixRows = 2;
  static constexpr int kMixVectors = 2;
  static constexpr int kOffset = 0;

  struct F {
    float v[kLanes];
  };
  struct I {  // bytes of weights and inputs, or 32-bit lanes
    union {
      int8_t b[kBytes];
      int32_t v[kLanes];
    };
  };

  template <typename Of>
  static F make(Of of) {
    F r;
    for (int l = 0; l < kLanes; ++l) r.v[l] = of(l);
    return r;
  }

  static F zero() { return set(0); }
  static F set(float x) {
    return make([&](int) { return x; });
  }
  static F load(const float* p) {
    return make([&](int l) { return p[l]; });
  }
  static F load(const float* p, int n) {
    return make([&](int l) { return l < n ? p[l] : 0; });
  }
  static void store(float* p, F x) { std::memcpy(p, x.v, sizeof x.v); }
  static void store(float* p, F x, int n) {
    std::memcpy(p, x.v, static_cast<size_t>(n) * sizeof(float));
  }
  static F add(F a, F b) {
    return make([&](int l) { return a.v[l] + b.v[l]; });
  }
  static F sub(F a, F b) {
    return make([&](int l) { return a.v[l] - b.v[l]; });
  }
  static F mul(F a, F b) {
    return make([&](int l) { return a.v[l] * b.v[l]; });
  }
  static F div(F a, F b) {
    return make([&](int l) { return a.v[l] / b.v[l]; });
  }
  static F max(F a, F b) {
    return make([&](int l) { return a.v[l] > b.v[l] ? a.v[l] : b.v[l]; });
  }
  static F abs(F a) {
    return make([&](int l) { return std::fabs(a.v[l]); });
  }
  static F fma(F a, F b, F c) {
    return make([&](int l) { return a.v[l] * b.v[l] + c.v[l]; });
  }
  static F round(F a) {
    return make([&](int l) { return std::nearbyintf(a.v[l]); });
  }
  static F scale2(F a, F n) {  // a * 2^n, n above -127
    return make([&](int l) {
      const uint32_t bits = static_cast<uint32_t>(static_cast<int32_t>(n.v[l]) + 127) << 23;
      return a.v[l] * as_float(bits);
    });
  }
  static F zero_below(F x, F limit, F y) {
    return make([&](int l) { return x.v[l] < limit.v[l] ? 0 : y.v[l]; });
  }
  static float sum(F a) {
    float total = 0;
    for (float x : a.v) total += x;
    return total;
  }
  static float largest(F a) {
    float most = a.v[0];
    for (float x : a.v) most = x > most ? x : most;
    return most;
  }

  static F widen_float16(const void* p, int n = kLanes) { return widen(p, n, from_float16); }
  static F widen_bfloat16(const void* p, int n = kLanes) { return widen(p, n, from_bfloat16); }

  static I zero_bytes() { return I{}; }
  static I load_bytes(const void* p, int n = kBytes) {
    I r{};
    std::memcpy(r.b, p, static_cast<size_t>(n));
    return r;
  }
  static void store_bytes(void* p, I x) { std::memcpy(p, x.b, sizeof x.b); }

  static I offset(I w) { return w; }
  static I dot8(I sum, I w, I x) { return dot_signed(sum, w, x); }
  static I dot_signed(I sum, I w, I x) {
    for (int l = 0; l < kLanes; ++l) {
      for (int i = 4 * l; i < 4 * l + 4; ++i) sum.v[l] += w.b[i] * x.b[i];
    }
    return sum;
  }
  static I dot4(I sum, I w, I x) { return dot_signed(sum, w, x); }  // codes are below 128
  static I low_codes(I w) {
    for (int8_t& b : w.b) b &= 15;
    return w;
  }
  static I high_codes(I w) {
    for (int8_t& b : w.b) b = static_cast<int8_t>((b >> 4) & 15);
    return w;
  }
  static I negate(I x) {
    for (int32_t& v : x.v) v = -v;
    return x;
  }
  static F to_float(I x) {
    return make([&](int l) { return static_cast<float>(x.v[l]); });
  }
  static int32_t sum_lanes(I x) {
    int32_t total = 0;
    for (int32_t v : x.v) total += v;
    return total;
  }

  static F spread(const float* scales, int n, I index) {
    return make([&](int l) { return index.v[l] < n ? scales[index.v[l]] : 0; });
  }

  static void sum4(F a, F b, F c, F d, float* out) {
    out[0] = sum(a), out[1] = sum(b), out[2] = sum(c), out[3] = sum(d);
  }
  static void sum4(I a, I b, I c, I d, int32_t* out) {
    out[0] = sum_lanes(a), out[1] = sum_lanes(b), out[2] = sum_lanes(c), out[3] = sum_lanes(d);
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
    for (int l = 0; l < kLanes; ++l) {
      const float whole = std::nearbyintf(x[l] * factor);
      out[l] = static_cast<int8_t>(whole > 127 ? 127 : whole >= -128 ? whole : -128);
    }
  }
  static void deinterleave(const int8_t* in, int8_t* even, int8_t* odd) {
    for (int i = 0; i < kBytes; ++i) even[i] = in[2 * i], odd[i] = in[2 * i + 1];
  }

 private:
  static float as_float(uint32_t bits) {
    float x;
    std::memcpy(&x, &bits, sizeof x);
    return x;
  }
  static float from_bfloat16(uint16_t x) { return as_float(static_cast<uint32_t>(x) << 16); }
  static float from_float16(uint16_t x) {
    const uint32_t sign = static_cast<uint32_t>(x & 0x8000) << 16, rest = x & 0x7FFF;
    if (rest >= 0x7C00) return as_float(sign | 0x7F800000 | rest << 13);  // infinite or NaN
    // 2^112 makes up for the smaller bias of the exponent, subnormal numbers included.
    const float magnitude = as_float(rest << 13) * 5.192296858534828e33f;
    return sign ? -magnitude : magnitude;
  }
  template <typename Convert>
  static F widen(const void* p, int n, Convert convert) {
    uint16_t halves[kLanes] = {};
    std::memcpy(halves, p, static_cast<size_t>(n) * 2);
    return make([&](int l) { return convert(halves[l]); });
  }
};

}  // namespace

#endif  // SWITCH_CORE_CPU_SIMD_PORTABLE_H_
