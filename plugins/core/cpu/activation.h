// What stands between the two products of an MLP: act(h), in gated ones times a factor.
#ifndef SWITCH_CORE_CPU_ACTIVATION_H_
#define SWITCH_CORE_CPU_ACTIVATION_H_

#include <math.h>

#include <cstdint>

#include "rows.h"

namespace {

using switch_ops::Activation;

// From exp(-|z|), which cannot overflow: 1 / (1 + e), for negative z e / (1 + e).
template <class S>
typename S::F sigmoid(typename S::F z) {
  const typename S::F one = S::set(1.0f);
  const typename S::F e = exp_negative<S>(S::sub(S::zero(), S::abs(z)));
  return S::div(S::max(S::zero_below(z, S::zero(), one), e), S::add(one, e));
}

template <class S>
struct Relu {
  static typename S::F of(typename S::F x) { return S::zero_below(x, S::zero(), x); }
};

template <class S>
struct Silu {
  static typename S::F of(typename S::F x) { return S::mul(x, sigmoid<S>(x)); }
};

// x / 2 * (1 + tanh(u)) is x * sigmoid(2 u); u = sqrt(2 / pi) * (x + 0.044715 x^3).
template <class S>
struct GeluTanh {
  static typename S::F of(typename S::F x) {
    const typename S::F slope =
        S::fma(S::mul(x, x), S::set(1.59576912f * 0.044715f), S::set(1.59576912f));
    return S::mul(x, sigmoid<S>(S::mul(x, slope)));
  }
};

// Its values are there already.
template <class S>
struct Nothing {
  static typename S::F of(typename S::F x) { return x; }
};

template <class S, class Act>
void activate_with(float* h, const float* factor, int64_t count) {
  constexpr int L = S::kLanes;
  int64_t i = 0;
  for (; i + L <= count; i += L) {
    const typename S::F active = Act::of(S::load(h + i));
    S::store(h + i, factor ? S::mul(active, S::load(factor + i)) : active);
  }
  if (const int rest = static_cast<int>(count - i); rest > 0) {
    const typename S::F active = Act::of(S::load(h + i, rest));
    S::store(h + i, factor ? S::mul(active, S::load(factor + i, rest)) : active, rest);
  }
}

template <class S>
void activate(Activation activation, float* h, const float* factor, int64_t count) {
  switch (activation) {
    case Activation::kRelu: return activate_with<S, Relu<S>>(h, factor, count);
    case Activation::kGelu:
      for (int64_t i = 0; i < count; ++i) h[i] = 0.5f * h[i] * (1.0f + erff(h[i] * 0.70710678f));
      if (factor) activate_with<S, Nothing<S>>(h, factor, count);
      return;
    case Activation::kGeluTanh: return activate_with<S, GeluTanh<S>>(h, factor, count);
    case Activation::kSilu: return activate_with<S, Silu<S>>(h, factor, count);
  }
}

}  // namespace

#endif  // SWITCH_CORE_CPU_ACTIVATION_H_
