// Look-ups and products with one weight: SwitchEmbedding, SwitchLinear, SwitchKeyValue.
#include "kernel_cases.h"

using namespace switch_tests;
using switch_ops::KeyValue;
namespace reference = switch_ops::reference;

namespace {

const std::vector<int64_t> kColumns = {1, 3, 7, 31, 33, 63, 65, 97, 100, 128, 768, 160, 320};
const std::vector<int64_t> kRows = {1, 2, 3, 5, 17, 64};
const std::vector<int64_t> kTokens = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 17, 64, 130};

std::string describe(const Stack& w, const Format& format, int64_t tokens) {
  return format.name() + " [" + show(w.weight.rows) + ", " + show(w.weight.columns) + "], " +
         show(tokens) + " tokens";
}

void check_linear(const Stack& w, const Format& format, const Array<float>& x) {
  const int64_t tokens = x.size() / w.weight.columns;
  const auto expected = reference::linear(x.data(), tokens, w.weight);
  on_everything(describe(w, format, tokens), [&](const Context& context) {
    Array<float> y(tokens * w.weight.rows);
    switch_ops::linear(context, x.data(), tokens, w.weight, y.data());
    expect_near(y, expected, kTolerance, "y");
  });
}

// Every number of columns and every number of tokens occurs with every format.
void linear_of_every_format_and_size() {
  Random random(1);
  for (const Format& format : formats()) {
    const size_t shift = static_cast<size_t>(random.below(13));
    for (size_t i = 0; i < kColumns.size(); ++i) {
      const int64_t columns = format.legal(kColumns[i]);
      int64_t tokens = kTokens[(i + shift) % kTokens.size()];
      if (kSanitized && tokens * columns > 20000) tokens = 9;
      const Stack w = random_stack(random, format, {kRows[i % kRows.size()], columns});
      check_linear(w, format, random.normals(tokens * columns));
    }
  }
}

void linear_of_random_sizes() {
  Random random(2);
  for (int i = 0; i < (kSanitized ? 13 : 260); ++i) {
    const Format& format = formats()[static_cast<size_t>(i) % formats().size()];
    const int64_t columns = format.legal(random.between(1, 300)), rows = random.between(1, 80);
    const Stack w = random_stack(random, format, {rows, columns});
    check_linear(w, format, random.normals(random.between(0, 20) * columns, 30));
  }
}

// Enough rows for many tasks, a last task that is shorter, and tiles of every number of tokens.
void linear_in_many_tasks() {
  Random random(3);
  for (const Format& format : formats()) {
    for (int64_t tokens : {1, 4, 6, 31}) {
      const Stack w = random_stack(random, format, {kSanitized ? 333 : 1003, 384});
      check_linear(w, format, random.normals(tokens * 384));
    }
  }
}

// An input far from zero in one token leaves its neighbours as they are.
void linear_quantises_each_token_by_itself() {
  Random random(4);
  for (const Format& format : formats()) {
    const Stack w = random_stack(random, format, {9, 66});
    Array<float> x = random.normals(3 * 66);
    const Array<float> alone = random.normals(66, 1e-3f);
    std::copy(alone.begin(), alone.end(), x.data() + 66);
    x[5] = 1e6f, x[2 * 66 + 65] = -1e6f;
    const auto expected = reference::linear(alone.data(), 1, w.weight);
    on_everything(format.name(), [&](const Context& context) {
      Array<float> y(3 * 9), middle(9);
      switch_ops::linear(context, x.data(), 3, w.weight, y.data());
      std::copy(y.data() + 9, y.data() + 18, middle.begin());
      expect_near(middle, expected, kTolerance, "the token between outliers");
    });
  }
}

// x * 127 / amax halfway between integers: to the even one, with either sign and in every place.
void linear_rounds_half_to_even() {
  Random random(5);
  for (const Format& format : formats()) {
    for (int64_t columns : {34, 130}) {
      const Stack w = random_stack(random, format, {5, columns});
      Array<float> x(columns);
      for (int64_t i = 0; i < columns; ++i)
        x[i] = static_cast<float>(i % 2 ? i / 2 : -i / 2) + 0.5f;
      x[0] = 127;
      check_linear(w, format, x);
    }
  }
}

void linear_of_zeros_tiny_and_huge_rows() {
  Random random(6);
  for (const Format& format : formats()) {
    const Stack w = random_stack(random, format, {5, 70});
    for (float scale : {0.0f, 1e-38f, 1e-31f, 1e-20f, 1e30f}) {
      check_linear(w, format, random.normals(2 * 70, scale));
    }
  }
}

// The largest sums that integers must hold, and -128, which no writer makes but a file may hold.
void linear_of_extreme_integers() {
  Random random(7);
  for (const Format& format : formats()) {
    if (!format.quantised()) continue;
    for (int64_t columns : {66, 768, kSanitized ? 2050 : 20002}) {
      const Stack w = random_stack(random, format, {4, columns});
      const int8_t codes[] = {127, -128, -127, 0};
      const uint8_t pairs[] = {0x00, 0xFF, 0x0F, 0x80};
      for (int64_t i = 0; i < w.values.size(); ++i) {
        const int64_t row = i / w.weight.row_bytes();
        w.values[i] = static_cast<char>(format.type == WeightType::kInt8 ? codes[row] : pairs[row]);
      }
      Array<float> x(2 * columns);
      for (int64_t i = 0; i < 2 * columns; ++i) x[i] = i < columns ? -3.0f : 3.0f;
      check_linear(w, format, x);
    }
  }
}

void half_precision_weights_of_every_bit_pattern() {
  for (WeightType type : {WeightType::kFloat16, WeightType::kBFloat16}) {
    Array<uint16_t> bits(1 << 16);
    for (int64_t i = 0; i < bits.size(); ++i) bits[i] = static_cast<uint16_t>(i);
    Weight table;
    table.type = type, table.data = bits.data(), table.rows = 1 << 11, table.columns = 32;
    Array<int64_t> ids(table.rows);
    for (int64_t i = 0; i < ids.size(); ++i) ids[i] = i;
    const auto expected = reference::embedding(ids.data(), ids.size(), table);
    on_everything(Format{type, 0}.name(), [&](const Context& context) {
      Array<float> y(bits.size());
      switch_ops::embedding(context, ids.data(), ids.size(), table, y.data());
      for (int64_t i = 0; i < y.size(); ++i) {
        const double e = expected[static_cast<size_t>(i)];
        if (y[i] == e || (std::isnan(y[i]) && std::isnan(e))) continue;
        throw Failure{"pattern " + show(i) + " is " + show(y[i]) + ", expected " + show(e)};
      }
    });
  }
}

void embedding_is_exact() {
  Random random(8);
  for (const Format& format : formats()) {
    for (int64_t wanted : kColumns) {
      const int64_t columns = format.legal(wanted), tokens = random.of(kTokens);
      const Stack table = random_stack(random, format, {random.of(kRows), columns});
      Array<int64_t> ids(tokens);
      for (int64_t& id : ids) id = random.below(table.weight.rows);
      if (tokens > 1) ids[0] = table.weight.rows - 1, ids[1] = 0;
      auto expected = reference::embedding(ids.data(), tokens, table.weight);
      for (double& e : expected) e = static_cast<float>(e);
      on_everything(describe(table, format, tokens), [&](const Context& context) {
        Array<float> y(tokens * columns);
        switch_ops::embedding(context, ids.data(), tokens, table.weight, y.data());
        expect_near(y, expected, 0, "y");
      });
    }
  }
}

void embedding_refuses_ids_outside_the_table() {
  Random random(9);
  const Stack table = random_stack(random, formats()[0], {5, 3});
  for (int64_t id : {-1, 5}) {
    on_everything("id " + show(id), [&](const Context& context) {
      const int64_t ids[] = {4, id};
      Array<float> y(6);
      expect_refused({"SwitchEmbedding", show(id), "token 1", "0 to 4"},
                     [&] { switch_ops::embedding(context, ids, 2, table.weight, y.data()); });
    });
  }
}

void key_value_splits_keys_from_values() {
  Random random(10);
  for (const Format& format : formats()) {
    for (int64_t tokens : {0, 1, 7, 65}) {
      const int64_t heads = random.between(1, 3), size = random.of<int64_t>({1, 4, 33, 64});
      const int64_t batch = random.between(1, 3), columns = format.legal(random.of(kColumns));
      const Stack w = random_stack(random, format, {2 * heads * size, columns});
      const Array<float> x = random.normals(batch * tokens * columns);
      KeyValue call{x.data(), batch, tokens, heads, w.weight, nullptr, nullptr};
      const auto expected = reference::key_value(call);
      on_everything(describe(w, format, tokens), [&](const Context& context) {
        Array<float> key(batch * heads * tokens * size), value(key.size());
        KeyValue own = call;
        own.key = key.data(), own.value = value.data();
        switch_ops::key_value(context, own);
        expect_near(key, expected.key, kTolerance, "key");
        expect_near(value, expected.value, kTolerance, "value");
      });
    }
  }
}

}  // namespace

int main() {
  return run_tests({
      {"linear of every format and size", linear_of_every_format_and_size},
      {"linear of random sizes", linear_of_random_sizes},
      {"linear in many tasks", linear_in_many_tasks},
      {"linear quantises each token by itself", linear_quantises_each_token_by_itself},
      {"linear rounds half to even", linear_rounds_half_to_even},
      {"linear of zeros, tiny and huge rows", linear_of_zeros_tiny_and_huge_rows},
      {"linear of extreme integers", linear_of_extreme_integers},
      {"half precision weights of every bit pattern", half_precision_weights_of_every_bit_pattern},
      {"embedding is exact", embedding_is_exact},
      {"embedding refuses ids outside the table", embedding_refuses_ids_outside_the_table},
      {"key_value splits keys from values", key_value_splits_keys_from_values},
  });
}
