// y[t] = gate[t] * (act(x[t] @ wi[e]^T) @ wo[e]^T), e = expert[t]: which kernels, and their memory.
//
//   up to 16 tokens       product ──► product                                          2 launches
//   more                  sort ──► product ──► product                                 3
//   more, quantised       sort ──► quantise x ──► product ──► quantise h ──► product   5
//
// Nothing is gathered or scattered between them: the products read and write rows by token.
#include <algorithm>

#include "checks.h"
#include "products.h"
#include "vectors.h"

namespace switch_ops::cuda {
namespace {

constexpr size_t kAlignment = 256;
// wgmma has tiles of 64 tokens and more.
constexpr int64_t kWgmmaTokens = 256, kWgmmaAverage = 48;

// Who computes the products of a call.
enum class Way { kFew, kVectors, kTiles, kQuantisedTiles, kWgmma };

Way choose(const Moe& a) {
  if (a.tokens <= kFewTokens) return Way::kFew;
  if (is_quantised(a.wi.type) && is_quantised(a.wo.type)) return Way::kQuantisedTiles;
  const bool same_half =
      a.x_type == a.wi.type && a.x_type == a.wo.type && a.x_type != WeightType::kFloat32;
  if (!same_half) return Way::kVectors;
  const int64_t average = a.tokens / std::min(a.tokens, a.wi.count);
  const bool is_large = a.tokens >= kWgmmaTokens && average >= kWgmmaAverage;
  return is_large && has_wgmma() ? Way::kWgmma : Way::kTiles;
}

// Parts of the workspace.
struct Layout {
  size_t tokens = 0, first = 0, hidden = 0, quantised = 0, scale = 0, bytes = 0;

  explicit Layout(const Moe& a) {
    const auto count = static_cast<size_t>(a.tokens);
    const auto d_model = static_cast<size_t>(a.wi.columns);
    const auto d_ff = static_cast<size_t>(a.wo.columns);
    const Way way = choose(a);
    hidden = take(count * d_ff * (a.x_type == WeightType::kFloat32 ? 4 : 2));
    if (way == Way::kFew) return;
    tokens = take(count * sizeof(int32_t));
    first = take((static_cast<size_t>(a.wi.count) + 1) * sizeof(int32_t));
    if (way != Way::kQuantisedTiles) return;
    quantised = take(count * std::max(d_model, d_ff));  // of x, then of h
    scale = take(count * sizeof(float));
  }

 private:
  size_t take(size_t size) {
    const size_t start = bytes;
    bytes += (size + kAlignment - 1) / kAlignment * kAlignment;
    return start;
  }
};

void check_shapes(const Moe& a, Checks& checks) {
  checks.float_type(a.x_type, "x_type");
  checks.require(a.tokens >= 0 && a.tokens <= 1 << 30, std::to_string(a.tokens) + " tokens",
                 "0 to 2^30");
  checks.weight(a.wi, "wi");
  checks.weight(a.wo, "wo");
  const int64_t width = a.wo.columns * (a.is_gated ? 2 : 1);
  const bool fits = a.wi.rows == width && a.wo.rows == a.wi.columns && a.wi.count == a.wo.count;
  checks.require(fits,
                 "wi is [" + std::to_string(a.wi.count) + ", " + std::to_string(a.wi.rows) + ", " +
                     std::to_string(a.wi.columns) + "] and wo [" + std::to_string(a.wo.count) +
                     ", " + std::to_string(a.wo.rows) + ", " + std::to_string(a.wo.columns) + "]",
                 a.is_gated ? "[experts, 2 d_ff, d_model] and [experts, d_model, d_ff]"
                            : "[experts, d_ff, d_model] and [experts, d_model, d_ff]");
  checks.require(is_quantised(a.wi.type) == is_quantised(a.wo.type),
                 "one of wi and wo is quantised", "both or none");
  const auto activation = static_cast<int>(a.activation), dropped = static_cast<int>(a.dropped);
  checks.require(activation >= 0 && activation <= static_cast<int>(Activation::kSilu),
                 "activation is " + std::to_string(activation), "0 to 3");
  checks.require(dropped == 0 || dropped == 1, "dropped is " + std::to_string(dropped), "0 or 1");
}

void check_call(const Moe& a, const MoeMemory& memory) {
  Checks shapes("SwitchMoE");
  check_shapes(a, shapes);
  shapes.finish();
  if (a.tokens == 0) return;
  Checks checks("SwitchMoE");
  checks.array(a.x, "x", 16);
  checks.array(a.y, "y", 16);
  checks.weight_arrays(a.wi, "wi");
  checks.weight_arrays(a.wo, "wo");
  checks.array(memory.workspace, "workspace", 16);
  const size_t needed = Layout(a).bytes;
  checks.require(memory.bytes >= needed,
                 "the workspace has " + std::to_string(memory.bytes) + " bytes",
                 std::to_string(needed) + " at least");
  checks.finish();
}

void run_few(const Stream& stream, const Moe& a, const MoeMemory& memory) {
  VectorProduct hidden;
  hidden.x = a.x;
  hidden.x_type = a.x_type;
  hidden.tokens = a.tokens;
  hidden.weight = a.wi;
  hidden.expert = a.expert;
  hidden.y = memory.workspace;
  hidden.y_type = a.x_type;
  hidden.has_activation = true;
  hidden.activation = a.activation;
  hidden.is_gated = a.is_gated;
  multiply_vectors(stream, hidden);

  VectorProduct output;
  output.x = hidden.y;
  output.x_type = a.x_type;
  output.tokens = a.tokens;
  output.weight = a.wo;
  output.expert = a.expert;
  output.routes_are_ready = true;
  output.y = a.y;
  output.accumulate = memory.accumulate;
  output.gate = a.gate;
  output.dropped_x = a.x;
  output.dropped_type = a.x_type;
  output.dropped = a.dropped;
  multiply_vectors(stream, output);
}

void multiply(Way way, const Stream& stream, const GroupedProduct& product) {
  if (way == Way::kVectors) return multiply_vectors(stream, product);
  if (way == Way::kWgmma) return multiply_wgmma(stream, product);
  multiply_tiles(stream, product);
}

void run_sorted(Way way, const Stream& stream, const Moe& a, const MoeMemory& memory) {
  const Layout layout(a);
  auto* base = static_cast<char*>(memory.workspace);
  const Groups groups{reinterpret_cast<int32_t*>(base + layout.tokens),
                      reinterpret_cast<int32_t*>(base + layout.first)};
  sort_tokens(stream, a, groups, memory.accumulate);

  auto* quantised = reinterpret_cast<int8_t*>(base + layout.quantised);
  auto* scale = reinterpret_cast<float*>(base + layout.scale);
  const auto with_rows = [&](GroupedProduct product) {
    if (way == Way::kQuantisedTiles) {
      quantise_rows(
          stream, {product.x, product.x_type, a.tokens, product.weight.columns, quantised, scale});
      product.x = quantised;
      product.x_type = WeightType::kInt8;
      product.x_scale = scale;
    }
    multiply(way, stream, product);
  };
  GroupedProduct hidden{Stage::kHidden,       a.x,     a.x_type, nullptr, a.tokens, groups, a.wi,
                        base + layout.hidden, a.x_type};
  hidden.activation = a.activation;
  hidden.is_gated = a.is_gated;
  with_rows(hidden);

  GroupedProduct output{
      Stage::kOutput,      base + layout.hidden, a.x_type, nullptr, a.tokens, groups, a.wo, a.y,
      WeightType::kFloat32};
  output.gate = a.gate;
  output.accumulate = memory.accumulate;
  with_rows(output);
}

}  // namespace

size_t moe_workspace(const Moe& a) {
  Checks checks("SwitchMoE");
  check_shapes(a, checks);
  checks.finish();
  return std::max(Layout(a).bytes, kAlignment);
}

void moe(const Stream& stream, const Moe& a, const MoeMemory& memory) {
  check_call(a, memory);
  if (a.tokens == 0) return;
  const Way way = choose(a);
  if (way == Way::kFew) return run_few(stream, a, memory);
  run_sorted(way, stream, a, memory);
}

}  // namespace switch_ops::cuda
