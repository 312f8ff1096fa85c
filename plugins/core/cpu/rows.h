// Kernels over single rows: quantise, softmax, norm, decode. `S` is one of the simd_*.h types.
#ifndef SWITCH_CORE_CPU_ROWS_H_
#define SWITCH_CORE_CPU_ROWS_H_

#include <cstdint>
#include <cstring>

#include "../kernels.h"

namespace {

using switch_ops::Norm;
using switch_ops::Weight;
using switch_ops::WeightType;

constexpr int64_t kAlign = 64;

inline int64_t round_up(int64_t n, int64_t to) { return (n + to - 1) / to * to; }

// What stands before the quantised values of a prepared row.
struct alignas(kAlign) RowHeader {
  float scale;
  int32_t sum;  // of the values
};

// int8: the values, zeros up to a whole vector.
// int4: for every 2 * kBytes values those at even places, those at odd places, and for each lane
// -8 times the sum of its values, because codes are stored as value + 8.
template <class S>
struct Int4Group {
  int8_t even[S::kBytes];
  int8_t odd[S::kBytes];
  int32_t correction[S::kLanes];
};

template <class S>
int64_t prepared_stride(WeightType type, int64_t columns) {
  const int64_t header = sizeof(RowHeader);
  if (type == WeightType::kInt8) return header + round_up(columns, kAlign);
  const int64_t groups = round_up(columns, 2 * S::kBytes) / (2 * S::kBytes);
  return header + round_up(groups * static_cast<int64_t>(sizeof(Int4Group<S>)), kAlign);
}

template <class S>
float largest_magnitude(const float* x, int64_t columns) {
  typename S::F most = S::zero();
  int64_t i = 0;
  for (; i + S::kLanes <= columns; i += S::kLanes) most = S::max(most, S::abs(S::load(x + i)));
  if (i < columns) most = S::max(most, S::abs(S::load(x + i, static_cast<int>(columns - i))));
  return S::largest(most);
}

// Values first .. first + count of a row as int8, zeros beyond the row's end.
template <class S>
void quantise_part(const float* x, int64_t columns, int64_t first, int count, float factor,
                   int8_t* out) {
  for (int i = 0; i < count; i += S::kLanes) {
    const int64_t at = first + i;
    if (at + S::kLanes <= columns) {
      S::quantise(x + at, factor, out + i);
      continue;
    }
    float tail[S::kLanes] = {};
    for (int64_t j = at; j < columns; ++j) tail[j - at] = x[j];
    S::quantise(tail, factor, out + i);
  }
}

template <class S>
void prepare_int4(const float* x, int64_t columns, float factor, Int4Group<S>* groups) {
  int8_t values[2 * S::kBytes];
  int8_t eights[S::kBytes];
  std::memset(eights, 8, sizeof eights);
  const typename S::I eight = S::load_bytes(eights);
  for (int64_t k = 0; k < columns; k += 2 * S::kBytes, ++groups) {
    quantise_part<S>(x, columns, k, 2 * S::kBytes, factor, values);
    S::deinterleave(values, groups->even, groups->odd);
    typename S::I sums = S::dot4(S::zero_bytes(), eight, S::load_bytes(groups->even));
    sums = S::dot4(sums, eight, S::load_bytes(groups->odd));
    S::store_bytes(groups->correction, S::negate(sums));
  }
}

template <class S>
void prepare_int8(const float* x, int64_t columns, float factor, RowHeader* header) {
  auto* values = reinterpret_cast<int8_t*>(header + 1);
  int8_t ones[S::kBytes];
  std::memset(ones, 1, sizeof ones);
  const typename S::I one = S::load_bytes(ones);
  typename S::I sums = S::zero_bytes();
  const int64_t padded = round_up(columns, kAlign);
  for (int64_t k = 0; k < padded; k += S::kBytes) {
    quantise_part<S>(x, columns, k, S::kBytes, factor, values + k);
    sums = S::dot4(sums, one, S::load_bytes(values + k));
  }
  header->sum = S::sum_lanes(sums);
}

template <class S>
void prepare(WeightType type, const float* x, int64_t columns, void* prepared) {
  const float most = largest_magnitude<S>(x, columns);
  const float amax = most > 1e-30f ? most : 1e-30f;
  auto* header = static_cast<RowHeader*>(prepared);
  header->scale = amax / 127.0f;
  header->sum = 0;
  const float factor = 127.0f / amax;
  if (type == WeightType::kInt8) {
    prepare_int8<S>(x, columns, factor, header);
  } else {
    prepare_int4<S>(x, columns, factor, reinterpret_cast<Int4Group<S>*>(header + 1));
  }
}

// exp(x) for x <= 0, to about one unit in the last place; 0 where it would not be a normal number.
template <class S>
typename S::F exp_negative(typename S::F x) {
  const typename S::F limit = S::set(-87.0f);
  const typename S::F clamped = S::max(x, limit);
  const typename S::F n = S::round(S::mul(clamped, S::set(1.44269504f)));
  // x = n log(2) + r, log(2) in two parts so that r is nearly exact
  typename S::F r = S::fma(n, S::set(-0.693359375f), clamped);
  r = S::fma(n, S::set(2.12194440e-4f), r);
  typename S::F p = S::set(1.9875691500e-4f);
  p = S::fma(p, r, S::set(1.3981999507e-3f));
  p = S::fma(p, r, S::set(8.3334519073e-3f));
  p = S::fma(p, r, S::set(4.1665795894e-2f));
  p = S::fma(p, r, S::set(1.6666665459e-1f));
  p = S::fma(p, r, S::set(5.0000001201e-1f));
  p = S::fma(S::mul(p, r), r, S::add(r, S::set(1.0f)));
  return S::zero_below(x, limit, S::scale2(p, n));
}

template <class S>
void softmax(float* x, int64_t count) {
  constexpr int L = S::kLanes;
  float most = x[0];
  int64_t i = 0;
  if (count >= L) {
    typename S::F best = S::load(x);
    for (i = L; i + L <= count; i += L) best = S::max(best, S::load(x + i));
    most = S::largest(best);
  }
  for (; i < count; ++i) most = x[i] > most ? x[i] : most;

  const typename S::F top = S::set(most);
  typename S::F total = S::zero();
  for (i = 0; i + L <= count; i += L) {
    const typename S::F e = exp_negative<S>(S::sub(S::load(x + i), top));
    S::store(x + i, e);
    total = S::add(total, e);
  }
  if (const int rest = static_cast<int>(count - i); rest > 0) {
    const typename S::F e = exp_negative<S>(S::sub(S::load(x + i, rest), top));
    S::store(x + i, e, rest);
    total = S::add(total, S::load(x + i, rest));  // zeros beyond the end
  }
  const typename S::F factor = S::set(1.0f / S::sum(total));
  for (i = 0; i + L <= count; i += L) S::store(x + i, S::mul(S::load(x + i), factor));
  if (const int rest = static_cast<int>(count - i); rest > 0) {
    S::store(x + i, S::mul(S::load(x + i, rest), factor), rest);
  }
}

template <class S>
void norm(const Norm& a) {
  constexpr int L = S::kLanes;
  typename S::F squares = S::zero();
  const int64_t whole = a.columns / L * L;
  const int rest = static_cast<int>(a.columns - whole);
  for (int64_t i = 0; i < whole; i += L) {
    const typename S::F v = S::add(S::load(a.x + i), S::load(a.delta + i));
    S::store(a.sum + i, v);
    squares = S::fma(v, v, squares);
  }
  if (rest) {
    const typename S::F v = S::add(S::load(a.x + whole, rest), S::load(a.delta + whole, rest));
    S::store(a.sum + whole, v, rest);
    squares = S::fma(v, v, squares);
  }
  const float mean = S::sum(squares) / static_cast<float>(a.columns);
  const typename S::F factor = S::set(1.0f / __builtin_sqrtf(mean + a.epsilon));
  for (int64_t i = 0; i < whole; i += L) {
    S::store(a.normed + i, S::mul(S::mul(S::load(a.sum + i), factor), S::load(a.weight + i)));
  }
  if (rest) {
    const typename S::F v = S::mul(S::load(a.sum + whole, rest), factor);
    S::store(a.normed + whole, S::mul(v, S::load(a.weight + whole, rest)), rest);
  }
}

template <class S>
void decode_row(const Weight& weight, int64_t row, float* out) {
  const char* data = weight.row(row);
  const float* scale = weight.row_scale(row);
  const int64_t columns = weight.columns, block = weight.block ? weight.block : columns;
  if (weight.type == WeightType::kInt8) {
    const auto* values = reinterpret_cast<const int8_t*>(data);
    for (int64_t i = 0; i < columns; ++i) out[i] = static_cast<float>(values[i]) * scale[i / block];
    return;
  }
  if (weight.type == WeightType::kInt4) {
    for (int64_t i = 0; i < columns; ++i) {
      const int code = (static_cast<uint8_t>(data[i / 2]) >> (i % 2 * 4)) & 15;
      out[i] = static_cast<float>(code - 8) * scale[i / block];
    }
    return;
  }
  for (int64_t i = 0; i < columns; i += S::kLanes) {
    const int64_t left = columns - i;
    const int n = static_cast<int>(left < S::kLanes ? left : S::kLanes);
    const char* from = data + i * (weight.type == WeightType::kFloat32 ? 4 : 2);
    typename S::F v = S::zero();
    if (weight.type == WeightType::kFloat32) v = S::load(reinterpret_cast<const float*>(from), n);
    if (weight.type == WeightType::kFloat16) v = S::widen_float16(from, n);
    if (weight.type == WeightType::kBFloat16) v = S::widen_bfloat16(from, n);
    S::store(out + i, v, n);
  }
}

template <class S>
float read(const void* data, int64_t bytes, int streams) {
  constexpr int64_t kUnit = 4 * S::kBytes;
  const int64_t part = bytes / streams / kUnit * kUnit;
  // max, unlike a sum, is as fast on every bit pattern
  typename S::F most[4] = {S::zero(), S::zero(), S::zero(), S::zero()};
  for (int64_t at = 0; at < part; at += kUnit) {
    for (int s = 0; s < streams; ++s) {
      const auto* from =
          reinterpret_cast<const float*>(static_cast<const char*>(data) + s * part + at);
#pragma GCC unroll 4
      for (int i = 0; i < 4; ++i) most[i] = S::max(most[i], S::load(from + i * S::kLanes));
    }
  }
  return S::largest(S::max(S::max(most[0], most[1]), S::max(most[2], most[3])));
}

}  // namespace

#endif  // SWITCH_CORE_CPU_ROWS_H_
