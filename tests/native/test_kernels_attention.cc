// The three attention operators.
#include "kernel_cases.h"

using namespace switch_tests;
using switch_ops::CachedAttention;
using switch_ops::CrossAttention;
using switch_ops::SelfAttention;
namespace reference = switch_ops::reference;

namespace {

const std::vector<int64_t> kHeadSizes = {4, 8, 32, 64, 65};

// Rows whose products with normal rows of the same size are a few units.
Array<float> queries_and_more(Random& random, int64_t rows, int64_t size) {
  return random.normals(rows * size, 1.4f / std::sqrt(std::sqrt(static_cast<float>(size))));
}

// Kept tokens first, as padding is on the right, or with holes.
Array<int64_t> random_mask(Random& random, int64_t rows, int64_t tokens, bool holes) {
  Array<int64_t> mask(rows * tokens);
  for (int64_t r = 0; r < rows; ++r) {
    const int64_t kept = 1 + random.below(std::max<int64_t>(1, tokens));
    for (int64_t j = 0; j < tokens; ++j) {
      mask[r * tokens + j] = holes ? random.below(3) != 0 : j < kept;
    }
  }
  return mask;
}

struct Self {
  Array<float> qkv, bias;
  Array<int64_t> mask;
  SelfAttention call;
};

Self make_self(Random& random, SelfAttention sizes, bool holes) {
  Self self;
  const int64_t heads = sizes.heads;
  self.qkv = queries_and_more(random, sizes.batch * sizes.tokens * 3 * heads, sizes.size);
  self.bias = random.normals((2 * sizes.distance + 1) * heads, 2);
  self.mask = random_mask(random, sizes.batch, sizes.tokens, holes);
  self.call = sizes;
  self.call.qkv = self.qkv.data(), self.call.mask = self.mask.data();
  self.call.bias = self.bias.data();
  return self;
}

void check_self(const SelfAttention& call) {
  const auto expected = reference::self_attention(call);
  const std::string what = show(call.batch) + " x " + show(call.tokens) + " tokens, " +
                           show(call.heads) + " heads of " + show(call.size) + ", distance " +
                           show(call.distance);
  on_everything(what, [&](const Context& context) {
    Array<float> y(call.batch * call.tokens * call.heads * call.size);
    SelfAttention own = call;
    own.y = y.data();
    switch_ops::self_attention(context, own);
    expect_near(y, expected, kTolerance, "y");
  });
}

SelfAttention self_sizes(int64_t batch, int64_t tokens, int64_t heads, int64_t size,
                         int64_t distance) {
  return {nullptr, nullptr, nullptr, batch, tokens, heads, size, distance, nullptr};
}

void self_attention_of_every_length() {
  Random random(61);
  const std::vector<int64_t> distances = {0, 1, 5, 127};
  for (int64_t tokens = 1; tokens <= 150; tokens += kSanitized ? 23 : tokens < 40 ? 1 : 6) {
    const Self self = make_self(random,
                                self_sizes(random.between(1, 3), tokens, random.between(1, 3),
                                           random.of(kHeadSizes), random.of(distances)),
                                random.below(2) == 0);
    check_self(self.call);
  }
  for (int64_t size : kHeadSizes) {
    for (int64_t tokens : {0, 1, 2, 5, 24, 25, 49, kSanitized ? 50 : 150}) {
      check_self(make_self(random, self_sizes(1, tokens, 2, size, 30), true).call);
    }
  }
}

void self_attention_of_a_masked_row_is_uniform() {
  Random random(62);
  for (int64_t tokens : {1, 7, 33}) {
    const Self self = make_self(random, self_sizes(3, tokens, 2, 8, 4), false);
    for (int64_t j = 0; j < tokens; ++j) self.mask[tokens + j] = 0;
    check_self(self.call);
    on_everything("masked row", [&](const Context& context) {
      Array<float> y(3 * tokens * 16);
      SelfAttention own = self.call;
      own.y = y.data();
      switch_ops::self_attention(context, own);
      double mean = 0;  // of the first value of head 1
      for (int64_t j = 0; j < tokens; ++j) {
        mean += self.qkv[((tokens + j) * 3 + 2) * 16 + 8] / static_cast<double>(tokens);
      }
      expect_close(y[tokens * 16 + 8], mean, kTolerance, "the mean of all values");
    });
  }
}

void self_attention_of_scores_far_apart() {
  Random random(63);
  for (float scale : {10.0f, 1000.0f}) {
    // Whole numbers: scores are exact, whatever their size.
    Self self = make_self(random, self_sizes(2, 30, 2, 8, 4), true);
    for (float& v : self.qkv) v = static_cast<float>(random.between(-3, 3)) * scale;
    for (float& v : self.bias) v = static_cast<float>(random.between(-3, 3)) * scale * scale;
    check_self(self.call);
  }
}

struct Cached {
  Array<float> qkv, key, value, bias;
  CachedAttention call;
};

// Cache rows from `position` on are NaN: one that is read shows.
Cached make_cached(Random& random, CachedAttention sizes) {
  Cached cached;
  const int64_t lines = sizes.rows * sizes.heads, line = sizes.capacity * sizes.size;
  cached.qkv = queries_and_more(random, sizes.rows * sizes.tokens * 3 * sizes.heads, sizes.size);
  cached.key = queries_and_more(random, lines * sizes.capacity, sizes.size);
  cached.value = random.normals(lines * line);
  for (int64_t l = 0; l < lines; ++l) {
    for (int64_t i = sizes.position * sizes.size; i < line; ++i) {
      cached.key[l * line + i] = cached.value[l * line + i] = Array<float>::unset();
    }
  }
  cached.bias = random.normals((2 * sizes.distance + 1) * sizes.heads, 2);
  cached.call = sizes;
  cached.call.qkv = cached.qkv.data(), cached.call.bias = cached.bias.data();
  cached.call.key = cached.key.data(), cached.call.value = cached.value.data();
  return cached;
}

void check_cached(const CachedAttention& call) {
  const auto expected = reference::cached_attention(call);
  const int64_t width = call.heads * call.size;
  const std::string what = show(call.rows) + " rows of " + show(call.tokens) +
                           " tokens, position " + show(call.position) + " of " +
                           show(call.capacity) + ", " + show(call.heads) + " heads of " +
                           show(call.size);
  on_everything(what, [&](const Context& context) {
    Array<float> y(call.rows * call.tokens * width), key(y.size()), value(y.size());
    CachedAttention own = call;
    own.y = y.data(), own.new_key = key.data(), own.new_value = value.data();
    switch_ops::cached_attention(context, own);
    expect_near(y, expected, kTolerance, "y");
    for (int64_t i = 0; i < y.size(); ++i) {
      const int64_t d = i % call.size, t = i / call.size % call.tokens;
      const int64_t h = i / call.size / call.tokens % call.heads, r = i / width / call.tokens;
      const float* from = call.qkv + (r * call.tokens + t) * 3 * width + h * call.size + d;
      if (key[i] == from[width] && value[i] == from[2 * width]) continue;
      throw Failure{"new_key[" + show(i) + "] or new_value is not what qkv holds"};
    }
  });
}

CachedAttention cached_sizes(int64_t rows, int64_t tokens, int64_t size, int64_t capacity,
                             int64_t position) {
  return {nullptr, nullptr,  nullptr,  nullptr, rows,    tokens,  2,
          size,    capacity, position, 3,       nullptr, nullptr, nullptr};
}

void cached_attention_at_every_position() {
  Random random(64);
  for (int64_t tokens = 1; tokens <= 5; ++tokens) {
    for (int64_t position = 0; position <= 20; position += kSanitized ? 5 : 1) {
      const CachedAttention sizes =
          cached_sizes(random.between(1, 5), tokens, random.of(kHeadSizes), 20, position);
      check_cached(make_cached(random, sizes).call);
    }
  }
  for (int64_t size : kHeadSizes) {
    for (int64_t position : {0, 1, 31, 32, 33, 64, 150}) {
      for (int64_t rows : {1, 4}) {
        CachedAttention sizes = cached_sizes(rows, 1, size, 150, position);
        sizes.heads = random.between(1, 3);
        sizes.distance = random.of<int64_t>({0, 1, 64, 127, 200});
        check_cached(make_cached(random, sizes).call);
      }
    }
  }
  check_cached(make_cached(random, cached_sizes(2, 3, 8, 0, 0)).call);     // no cache at all
  check_cached(make_cached(random, cached_sizes(0, 1, 8, 4, 2)).call);     // no row
  check_cached(make_cached(random, cached_sizes(2, 30, 8, 40, 10)).call);  // many new tokens
}

struct Cross {
  Array<float> q, key, value;
  Array<int64_t> mask;
  CrossAttention call;
};

Cross make_cross(Random& random, CrossAttention sizes, bool holes) {
  Cross cross;
  const int64_t keys = sizes.batch * sizes.heads * sizes.source;
  cross.q = queries_and_more(random, sizes.rows * sizes.tokens * sizes.heads, sizes.size);
  cross.key = queries_and_more(random, keys, sizes.size);
  cross.value = random.normals(keys * sizes.size);
  cross.mask = random_mask(random, sizes.batch, sizes.source, holes);
  cross.call = sizes;
  cross.call.q = cross.q.data(), cross.call.key = cross.key.data();
  cross.call.value = cross.value.data(), cross.call.mask = cross.mask.data();
  return cross;
}

void check_cross(const CrossAttention& call) {
  const auto expected = reference::cross_attention(call);
  const std::string what = show(call.rows) + " rows of " + show(call.tokens) + " tokens, " +
                           show(call.batch) + " sources of " + show(call.source) + ", " +
                           show(call.heads) + " heads of " + show(call.size);
  on_everything(what, [&](const Context& context) {
    Array<float> y(call.rows * call.tokens * call.heads * call.size);
    CrossAttention own = call;
    own.y = y.data();
    switch_ops::cross_attention(context, own);
    expect_near(y, expected, kTolerance, "y");
  });
}

CrossAttention cross_sizes(int64_t batch, int64_t beams, int64_t tokens, int64_t size,
                           int64_t source) {
  return {nullptr, nullptr, nullptr, nullptr, batch * beams, tokens,
          3,       size,    batch,   source,  nullptr};
}

void cross_attention_of_every_length() {
  Random random(65);
  for (int64_t source = 1; source <= 150; source += kSanitized ? 29 : source < 40 ? 1 : 7) {
    const CrossAttention sizes = cross_sizes(random.between(1, 3), random.of<int64_t>({1, 2, 4}),
                                             random.between(1, 5), random.of(kHeadSizes), source);
    check_cross(make_cross(random, sizes, random.below(2) == 0).call);
  }
  for (int64_t size : kHeadSizes) {
    for (int64_t beams : {1, 4}) {
      for (int64_t tokens : {0, 1, 3, 30}) {
        check_cross(make_cross(random, cross_sizes(2, beams, tokens, size, 37), true).call);
      }
    }
  }
}

void cross_attention_of_a_masked_source_is_uniform() {
  Random random(66);
  for (int64_t beams : {1, 3}) {
    const Cross cross = make_cross(random, cross_sizes(2, beams, 2, 8, 9), false);
    for (int64_t j = 0; j < 9; ++j) cross.mask[9 + j] = 0;
    check_cross(cross.call);
  }
}

// A source's beams see its own keys, whatever those of other sources hold.
void cross_attention_reads_no_other_source() {
  Random random(67);
  const Cross cross = make_cross(random, cross_sizes(3, 4, 1, 8, 11), false);
  const auto expected = reference::cross_attention(cross.call);
  const int64_t source = 3 * 11 * 8, rows = 4 * 3 * 8;  // of one source
  for (int64_t i = 0; i < source; ++i) {
    cross.key[i] = cross.value[2 * source + i] = Array<float>::unset();
  }
  on_everything("the middle source", [&](const Context& context) {
    Array<float> y(3 * rows), middle(rows);
    CrossAttention own = cross.call;
    own.y = y.data();
    switch_ops::cross_attention(context, own);
    std::copy(y.data() + rows, y.data() + 2 * rows, middle.begin());
    expect_near(middle, {expected.begin() + rows, expected.begin() + 2 * rows}, kTolerance, "y");
  });
}

}  // namespace

int main() {
  return run_tests({
      {"self attention of every length", self_attention_of_every_length},
      {"self attention of a masked row is uniform", self_attention_of_a_masked_row_is_uniform},
      {"self attention of scores far apart", self_attention_of_scores_far_apart},
      {"cached attention at every position", cached_attention_at_every_position},
      {"cross attention of every length", cross_attention_of_every_length},
      {"cross attention of a masked source is uniform",
       cross_attention_of_a_masked_source_is_uniform},
      {"cross attention reads no other source", cross_attention_reads_no_other_source},
  });
}
