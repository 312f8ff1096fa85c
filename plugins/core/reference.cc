#include "reference.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace switch_ops::reference {
namespace {

constexpr double kLowest = std::numeric_limits<float>::lowest();
constexpr double kInfinity = std::numeric_limits<double>::infinity();

// sign, 5 bits of exponent (15 is 2^0), 10 of fraction
double from_half(uint16_t bits) {
  const int exponent = bits >> 10 & 31, fraction = bits & 1023;
  const double sign = bits >> 15 ? -1 : 1;
  if (exponent == 31) {
    return fraction ? std::numeric_limits<double>::quiet_NaN()
                    : sign * std::numeric_limits<double>::infinity();
  }
  if (exponent == 0) return sign * std::ldexp(fraction, -24);
  return sign * std::ldexp(1024 + fraction, exponent - 25);
}

// sign, 8 bits of exponent (127 is 2^0), 7 of fraction
double from_bfloat(uint16_t bits) {
  const int exponent = bits >> 7 & 255, fraction = bits & 127;
  const double sign = bits >> 15 ? -1 : 1;
  if (exponent == 255) {
    return fraction ? std::numeric_limits<double>::quiet_NaN()
                    : sign * std::numeric_limits<double>::infinity();
  }
  if (exponent == 0) return sign * std::ldexp(fraction, -133);
  return sign * std::ldexp(128 + fraction, exponent - 134);
}

double activation(Activation kind, double x) {
  const double pi = std::acos(-1.0);
  switch (kind) {
    case Activation::kRelu: return x > 0 ? x : 0;
    case Activation::kGelu: return x / 2 * std::erfc(-x / std::sqrt(2.0));
    case Activation::kGeluTanh:
      return x / 2 * (1 + std::tanh(std::sqrt(2 / pi) * (x + 0.044715 * std::pow(x, 3))));
    case Activation::kSilu: return x / (1 + std::exp(-x));
  }
  return x;
}

// To the nearest number with `digits` binary digits whose last one is worth at least 2^last.
double rounded(double x, int digits, int last) {
  if (x == 0 || !std::isfinite(x)) return x;
  const int place = std::max(std::ilogb(x) + 1 - digits, last);
  return std::ldexp(std::nearbyint(std::ldexp(x, -place)), place);
}

// The hidden values of a token from its product with wi; of gated ones the second half are factors.
Values hidden_values(const Moe& a, const Values& both) {
  Values hidden;
  const auto d_ff = static_cast<size_t>(a.wo.columns);
  for (size_t i = 0; i < d_ff; ++i) {
    const double h = activation(a.activation, both[i]) * (a.is_gated ? both[d_ff + i] : 1);
    hidden.push_back(round_to(a.x_type, h));
  }
  return hidden;
}

Values row_of(const float* x, int64_t t, int64_t columns) {
  return Values(x + t * columns, x + (t + 1) * columns);
}

// One row x times the matrix `index` of a stack.
Values product(const Values& x, const Weight& w, int64_t index) {
  Values y(static_cast<size_t>(w.rows));
  const bool rounds = w.type == WeightType::kInt8 || w.type == WeightType::kInt4;
  const Quantised q = rounds ? quantise(x) : Quantised{{}, 1};
  for (int64_t o = 0; o < w.rows; ++o) {
    double sum = 0;
    for (int64_t i = 0; i < w.columns; ++i) {
      const auto at = static_cast<size_t>(i);
      sum += (rounds ? q.values[at] : x[at]) * value(w, index, o, i);
    }
    y[static_cast<size_t>(o)] = q.scale * sum;
  }
  return y;
}

Values softmax(Values scores) {
  const double most = *std::max_element(scores.begin(), scores.end());
  double total = 0;
  for (double& s : scores) total += s = std::exp(s - most);
  for (double& s : scores) s /= total;
  return scores;
}

double dot(const float* a, const float* b, int64_t count) {
  double sum = 0;
  for (int64_t i = 0; i < count; ++i) sum += static_cast<double>(a[i]) * b[i];
  return sum;
}

// bias of a key `ahead` places after the query
double bias_of(const float* bias, int64_t ahead, int64_t distance, int64_t heads, int64_t h) {
  return bias[(std::clamp(ahead, -distance, distance) + distance) * heads + h];
}

}  // namespace

double round_to(WeightType type, double x) {
  if (type == WeightType::kFloat16)
    return std::fabs(x) < 65520 ? rounded(x, 11, -24) : x * kInfinity;
  if (type == WeightType::kBFloat16) return rounded(x, 8, -133);
  return x;
}

double value(const Weight& w, int64_t index, int64_t row, int64_t column) {
  const int64_t line = index * w.rows + row, at = line * w.columns + column;
  switch (w.type) {
    case WeightType::kFloat32: return static_cast<const float*>(w.data)[at];
    case WeightType::kFloat16: return from_half(static_cast<const uint16_t*>(w.data)[at]);
    case WeightType::kBFloat16: return from_bfloat(static_cast<const uint16_t*>(w.data)[at]);
    case WeightType::kInt8:
    case WeightType::kInt4: break;
  }
  const int64_t per_row = w.block ? (w.columns - 1) / w.block + 1 : 1;
  const double scale = w.scale[line * per_row + (w.block ? column / w.block : 0)];
  if (w.type == WeightType::kInt8) return static_cast<const int8_t*>(w.data)[at] * scale;
  const int pair = static_cast<const uint8_t*>(w.data)[at / 2];  // rows have even lengths
  return ((at % 2 ? pair / 16 : pair % 16) - 8) * scale;
}

Quantised quantise(const Values& x) {
  float amax = 1e-30f;
  for (double v : x) amax = std::max(amax, std::fabs(static_cast<float>(v)));
  const float factor = 127.0f / amax;
  Quantised q{{}, static_cast<double>(amax) / 127};
  for (double v : x) {
    const float product = static_cast<float>(v) * factor;
    q.values.push_back(static_cast<int>(std::nearbyint(product)));
  }
  return q;
}

Values embedding(const int64_t* ids, int64_t tokens, const Weight& table) {
  Values y;
  for (int64_t t = 0; t < tokens; ++t) {
    for (int64_t i = 0; i < table.columns; ++i) y.push_back(value(table, 0, ids[t], i));
  }
  return y;
}

Values linear(const float* x, int64_t tokens, const Weight& weight) {
  Values y;
  for (int64_t t = 0; t < tokens; ++t) {
    const Values row = product(row_of(x, t, weight.columns), weight, 0);
    y.insert(y.end(), row.begin(), row.end());
  }
  return y;
}

KeysAndValues key_value(const KeyValue& a) {
  const Values both = linear(a.x, a.batch * a.tokens, a.weight);
  const int64_t size = a.weight.rows / 2 / a.heads;
  KeysAndValues result;
  for (int64_t b = 0; b < a.batch; ++b) {
    for (int64_t h = 0; h < a.heads; ++h) {
      for (int64_t s = 0; s < a.tokens; ++s) {
        for (int64_t d = 0; d < size; ++d) {
          const int64_t at = (b * a.tokens + s) * a.weight.rows + h * size + d;
          result.key.push_back(both[static_cast<size_t>(at)]);
          result.value.push_back(both[static_cast<size_t>(at + a.heads * size)]);
        }
      }
    }
  }
  return result;
}

Values moe(const Moe& a) {
  const int64_t columns = a.wi.columns;
  const Weight inputs{a.x_type, a.x, nullptr, a.tokens, columns};
  Values y;
  for (int64_t t = 0; t < a.tokens; ++t) {
    Values x;
    for (int64_t i = 0; i < columns; ++i) x.push_back(value(inputs, 0, t, i));
    const int64_t expert = a.expert ? a.expert[t] : 0;
    const double gate = a.gate ? a.gate[t] : 1;
    if (expert >= 0) {
      const Values hidden = hidden_values(a, product(x, a.wi, expert));
      for (double v : product(hidden, a.wo, expert)) y.push_back(gate * v);
    } else {
      for (double v : x) y.push_back(a.dropped == Dropped::kPass ? gate * v : 0);
    }
  }
  return y;
}

Normed norm(const NormRows& a) {
  const Norm& n = a.first;
  Normed result;
  for (int64_t t = 0; t < a.tokens; ++t) {
    Values sum;
    double squares = 0;
    for (int64_t i = t * n.columns; i < (t + 1) * n.columns; ++i) {
      sum.push_back(static_cast<double>(n.x[i]) + n.delta[i]);
      squares += sum.back() * sum.back();
    }
    const double root = std::sqrt(squares / static_cast<double>(n.columns) + n.epsilon);
    result.sum.insert(result.sum.end(), sum.begin(), sum.end());
    for (size_t i = 0; i < sum.size(); ++i) result.normed.push_back(sum[i] / root * n.weight[i]);
  }
  return result;
}

Routes route(const Router& a) {
  Routes result;
  for (int64_t t = 0; t < a.batch * a.tokens; ++t) {
    Values logits;
    for (int64_t e = 0; e < a.experts; ++e) {
      const double bias = a.bias ? a.bias[e] : 0;
      logits.push_back(bias +
                       dot(a.normed + t * a.columns, a.classifier + e * a.columns, a.columns));
    }
    const Values probs = softmax(logits);
    const auto best = std::max_element(probs.begin(), probs.end());  // the first of equal ones
    result.expert.push_back(static_cast<int32_t>(best - probs.begin()));
    result.gate.push_back(*best);
  }
  const std::vector<int32_t> chosen = result.expert;
  for (int64_t t = 0; a.capacity >= 0 && t < a.batch * a.tokens; ++t) {
    int64_t rank = 0;
    for (int64_t s = t / a.tokens * a.tokens; s <= t; ++s) {
      rank += chosen[static_cast<size_t>(s)] == chosen[static_cast<size_t>(t)];
    }
    if (rank > a.capacity) result.expert[static_cast<size_t>(t)] = -1;
  }
  return result;
}

Values self_attention(const SelfAttention& a) {
  const int64_t width = a.heads * a.size;
  Values y(static_cast<size_t>(a.batch * a.tokens * width));
  const auto part = [&](int64_t b, int64_t t, int64_t which, int64_t h) {
    return a.qkv + ((b * a.tokens + t) * 3 + which) * width + h * a.size;
  };
  for (int64_t row = 0; row < a.batch * a.tokens * a.heads; ++row) {
    const int64_t h = row % a.heads, i = row / a.heads % a.tokens, b = row / a.heads / a.tokens;
    Values scores;
    for (int64_t j = 0; j < a.tokens; ++j) {
      const double score = dot(part(b, i, 0, h), part(b, j, 1, h), a.size) +
                           bias_of(a.bias, j - i, a.distance, a.heads, h);
      scores.push_back(a.mask[b * a.tokens + j] ? score : kLowest);
    }
    const Values p = softmax(scores);
    for (int64_t j = 0; j < a.tokens; ++j) {
      for (int64_t d = 0; d < a.size; ++d) {
        y[static_cast<size_t>(row * a.size + d)] += p[static_cast<size_t>(j)] * part(b, j, 2, h)[d];
      }
    }
  }
  return y;
}

Values cached_attention(const CachedAttention& a) {
  const int64_t width = a.heads * a.size;
  Values y(static_cast<size_t>(a.rows * a.tokens * width));
  const auto fresh = [&](int64_t r, int64_t t, int64_t which, int64_t h) {
    return a.qkv + ((r * a.tokens + t) * 3 + which) * width + h * a.size;
  };
  for (int64_t row = 0; row < a.rows * a.tokens * a.heads; ++row) {
    const int64_t h = row % a.heads, t = row / a.heads % a.tokens, r = row / a.heads / a.tokens;
    const int64_t place = a.position + t;
    const auto at = [&](const float* cache, int64_t j, int64_t which) {
      return j < a.position ? cache + ((r * a.heads + h) * a.capacity + j) * a.size
                            : fresh(r, j - a.position, which, h);
    };
    Values scores;
    for (int64_t j = 0; j <= place; ++j) {
      scores.push_back(dot(fresh(r, t, 0, h), at(a.key, j, 1), a.size) +
                       bias_of(a.bias, j - place, a.distance, a.heads, h));
    }
    const Values p = softmax(scores);
    for (int64_t j = 0; j <= place; ++j) {
      for (int64_t d = 0; d < a.size; ++d) {
        y[static_cast<size_t>(row * a.size + d)] +=
            p[static_cast<size_t>(j)] * at(a.value, j, 2)[d];
      }
    }
  }
  return y;
}

Values cross_attention(const CrossAttention& a) {
  Values y(static_cast<size_t>(a.rows * a.tokens * a.heads * a.size));
  for (int64_t row = 0; row < a.rows * a.tokens * a.heads; ++row) {
    const int64_t h = row % a.heads, r = row / a.heads / a.tokens, b = r / (a.rows / a.batch);
    const int64_t start = (b * a.heads + h) * a.source * a.size;
    Values scores;
    for (int64_t j = 0; j < a.source; ++j) {
      const double score = dot(a.q + row * a.size, a.key + start + j * a.size, a.size);
      scores.push_back(a.mask[b * a.source + j] ? score : kLowest);
    }
    const Values p = softmax(scores);
    for (int64_t j = 0; j < a.source; ++j) {
      for (int64_t d = 0; d < a.size; ++d) {
        y[static_cast<size_t>(row * a.size + d)] +=
            p[static_cast<size_t>(j)] * a.value[start + j * a.size + d];
      }
    }
  }
  return y;
}

}  // namespace switch_ops::reference
