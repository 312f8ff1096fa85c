// Attention over a cache and over a source, on a device.
#include "cuda/operators.h"
#include "device_array.h"

using namespace switch_tests;
namespace cuda = switch_ops::cuda;
namespace reference = switch_ops::reference;

namespace {

const std::vector<WeightType> kTypes = {WeightType::kFloat32, WeightType::kFloat16,
                                        WeightType::kBFloat16};
// Groups of 8, 16 and 32 lanes, full and not.
const std::vector<int64_t> kHeadSizes = {8, 24, 64, 72, 128, 136, 256};

// Of the largest |y|: that of float32, and one rounding to the type.
double tolerance(WeightType type) {
  const double rounding = type == WeightType::kFloat16 ? 0x1p-11 : 0x1p-8;
  return kTolerance + (type == WeightType::kFloat32 ? 0 : rounding);
}

int64_t size_of(WeightType type) { return type == WeightType::kFloat32 ? 4 : 2; }

// Rows whose products with rows of the same size are a few units.
Typed some_rows(Random& random, WeightType type, int64_t count, int64_t size) {
  return as_type(
      type, random.normals(count * size, 1.4f / std::sqrt(std::sqrt(static_cast<float>(size)))));
}

// Makes element `i` what no kernel may read.
void poison(const Typed& array, int64_t i) {
  const int64_t bytes = array.bits.size() / array.values.size();
  std::fill_n(array.bits.data() + i * bytes, bytes, static_cast<char>(0xff));
  array.values[i] = Array<float>::unset();
}

// --- cached attention ---

struct CachedSizes {
  int64_t rows, tokens, heads, size, capacity, position, distance = 3;
  WeightType type = WeightType::kFloat32;

  int64_t line() const { return capacity * size; }  // of one head in a cache
  int64_t values() const { return rows * tokens * heads * size; }
  std::string name() const {
    return show(rows) + " rows of " + show(tokens) + " tokens, position " + show(position) +
           " of " + show(capacity) + ", " + show(heads) + " heads of " + show(size) + ", type " +
           show(static_cast<int>(type));
  }
};

struct Cached {
  Typed qkv, key, value;
  Array<float> bias;
};

Cached make_cached(Random& random, const CachedSizes& s) {
  const int64_t lines = s.rows * s.heads;
  Cached cached{some_rows(random, s.type, 3 * s.rows * s.tokens * s.heads, s.size),
                some_rows(random, s.type, lines * s.capacity, s.size),
                as_type(s.type, random.normals(lines * s.line())),
                random.normals((2 * s.distance + 1) * s.heads, 2)};
  for (int64_t i = 0; i < lines * s.line(); ++i) {
    if (i % s.line() < s.position * s.size) continue;
    poison(cached.key, i), poison(cached.value, i);
  }
  return cached;
}

std::vector<double> expected_of(const CachedSizes& s, const Cached& cached) {
  return reference::cached_attention({cached.qkv.values.data(), cached.key.values.data(),
                                      cached.value.values.data(), cached.bias.data(), s.rows,
                                      s.tokens, s.heads, s.size, s.capacity, s.position, s.distance,
                                      nullptr, nullptr, nullptr});
}

struct CachedResult {
  Array<char> y, key, value, new_key, new_value;
};

CachedResult run(const CachedSizes& s, const Cached& cached, bool in_cache) {
  Array<int64_t> place(1);
  place[0] = s.position;
  const DeviceArray<char> qkv(cached.qkv.bits), key(cached.key.bits), value(cached.value.bits);
  const DeviceArray<int64_t> position(place);
  const DeviceArray<float> bias(cached.bias);
  const int64_t bytes = s.values() * size_of(s.type);
  const DeviceArray<char> y(bytes), new_key(bytes), new_value(bytes);
  cuda::cached_attention(
      {}, {qkv.data(), key.data(), value.data(), position.data(), bias.data(), s.rows, s.tokens,
           s.heads, s.size, s.capacity, s.distance, static_cast<int32_t>(s.type), y.data(),
           in_cache ? nullptr : new_key.data(), in_cache ? nullptr : new_value.data()});
  return {y.values(), key.values(), value.values(), new_key.values(), new_value.values()};
}

// The bytes of k (1) or v (2) of a new token's head in qkv.
const char* fresh(const CachedSizes& s, const Cached& cached, int64_t row, int64_t token,
                  int64_t head, int64_t which) {
  const int64_t at = (((row * s.tokens + token) * 3 + which) * s.heads + head) * s.size;
  return cached.qkv.bits.data() + at * size_of(s.type);
}

void expect_same(const char* found, const char* expected, int64_t bytes, const std::string& what) {
  expect(std::memcmp(found, expected, static_cast<size_t>(bytes)) == 0, what + " differs");
}

// Caches as they were, but for the new rows where they belong.
void expect_caches(const CachedSizes& s, const Cached& cached, const CachedResult& result,
                   bool in_cache) {
  const int64_t row_bytes = s.size * size_of(s.type);
  for (int64_t line = 0; line < s.rows * s.heads; ++line) {
    const int64_t r = line / s.heads, h = line % s.heads;
    for (int64_t which : {1, 2}) {
      const Array<char>& after = which == 1 ? result.key : result.value;
      const Array<char>& before = which == 1 ? cached.key.bits : cached.value.bits;
      const Array<char>& own = which == 1 ? result.new_key : result.new_value;
      for (int64_t j = 0; j < s.capacity; ++j) {
        const int64_t at = (line * s.capacity + j) * row_bytes, t = j - s.position;
        const bool is_new = in_cache && t >= 0 && t < s.tokens;
        expect_same(after.data() + at,
                    is_new ? fresh(s, cached, r, t, h, which) : before.data() + at, row_bytes,
                    "place " + show(j) + " of the cache");
      }
      for (int64_t t = 0; t < s.tokens && !in_cache; ++t) {
        expect_same(own.data() + (line * s.tokens + t) * row_bytes,
                    fresh(s, cached, r, t, h, which), row_bytes, "new row " + show(t));
      }
    }
  }
}

void check_cached(const CachedSizes& s, const Cached& cached) {
  const auto expected = expected_of(s, cached);
  in_every_order(8, s.name(), [&] {
    for (bool in_cache : {false, true}) {
      if (in_cache && s.position + s.tokens > s.capacity) continue;
      const CachedResult result = run(s, cached, in_cache);
      expect_near(from_type(s.type, result.y), expected, tolerance(s.type), "y");
      expect_caches(s, cached, result, in_cache);
    }
  });
}

void check_cached(Random& random, const CachedSizes& s) { check_cached(s, make_cached(random, s)); }

void cached_attention_at_every_position() {
  Random random(91);
  for (int64_t tokens = 1; tokens <= 4; ++tokens) {
    for (int64_t position = 0; position <= 20; ++position) {
      check_cached(random,
                   {random.between(1, 3), tokens, random.between(1, 3), random.of(kHeadSizes), 20,
                    position, random.of<int64_t>({0, 1, 3, 127}), random.of(kTypes)});
    }
  }
}

// One turn of all groups, less, and more: 256 keys in heads of 64, 64 in heads of 256.
void cached_attention_over_long_caches() {
  Random random(92);
  for (WeightType type : kTypes) {
    for (int64_t position : {255, 256, 599})
      check_cached(random, {1, 1, 2, 64, 600, position, 127, type});
    for (int64_t position : {1, 63, 300})
      check_cached(random, {2, 1, 1, 256, 301, position, 30, type});
    check_cached(random, {1, 2, 1, 128, 400, 263, 64, type});
  }
}

void cached_attention_of_a_prefix() {
  Random random(93);
  for (WeightType type : kTypes) {
    check_cached(random, {2, 30, 2, 64, 40, 10, 5, type});
    check_cached(random, {1, 70, 1, 24, 70, 0, 127, type});
    check_cached(random, {2, 3, 2, 8, 0, 0, 2, type});  // no cache at all
  }
}

// Whole numbers: scores are exact, whatever their size.
void cached_attention_of_scores_far_apart() {
  Random random(94);
  for (float scale : {10.0f, 1000.0f}) {
    const CachedSizes s{2, 2, 2, 8, 30, 25};
    Cached cached = make_cached(random, s);
    Array<float> whole(cached.qkv.values.size());
    for (float& v : whole) v = static_cast<float>(random.between(-3, 3)) * scale;
    cached.qkv = as_type(s.type, whole);
    for (float& v : cached.bias) v = static_cast<float>(random.between(-3, 3)) * scale * scale;
    for (int64_t i = 0; i < cached.key.values.size(); ++i) {
      if (std::isnan(cached.key.values[i])) continue;
      cached.key.values[i] = static_cast<float>(random.between(-3, 3)) * scale;
      std::memcpy(cached.key.bits.data() + 4 * i, &cached.key.values[i], 4);
    }
    check_cached(s, cached);
  }
}

void a_position_outside_the_cache_touches_nothing_beyond_it() {
  Random random(95);
  CachedSizes s{2, 2, 2, 16, 12, 12};
  const Cached cached = make_cached(random, s);
  for (int64_t position : {-1, 12, 13, 1 << 20}) {
    s.position = position;
    in_every_order(8, s.name(), [&] {
      const CachedResult result = run(s, cached, true);
      const int64_t row_bytes = s.size * 4, line_bytes = s.line() * 4;
      for (int64_t line = 0; line < s.rows * s.heads; ++line) {
        const int64_t first = position < 0 ? s.tokens * row_bytes : 0,
                      at = line * line_bytes + first;
        expect_same(result.key.data() + at, cached.key.bits.data() + at, line_bytes - first, "key");
        expect_same(result.value.data() + at, cached.value.bits.data() + at, line_bytes - first,
                    "value");
      }
    });
  }
}

// --- cross attention ---

struct CrossSizes {
  int64_t batch, beams, tokens, heads, size, source;
  WeightType type = WeightType::kFloat32;

  int64_t rows() const { return batch * beams; }
  std::string name() const {
    return show(batch) + " sources of " + show(source) + ", " + show(beams) + " beams of " +
           show(tokens) + " tokens, " + show(heads) + " heads of " + show(size) + ", type " +
           show(static_cast<int>(type));
  }
};

struct Cross {
  Typed q, key, value;
  Array<int64_t> mask;
};

Cross make_cross(Random& random, const CrossSizes& s) {
  const int64_t keys = s.batch * s.heads * s.source;
  Cross cross{some_rows(random, s.type, s.rows() * s.tokens * s.heads, s.size),
              some_rows(random, s.type, keys, s.size),
              as_type(s.type, random.normals(keys * s.size)), Array<int64_t>(s.batch * s.source)};
  const bool holes = random.below(2) == 0;
  for (int64_t b = 0; b < s.batch; ++b) {
    const int64_t kept = random.between(1, s.source);
    for (int64_t j = 0; j < s.source; ++j) {
      cross.mask[b * s.source + j] = holes ? random.below(3) : j < kept;
    }
  }
  return cross;
}

std::vector<double> expected_of(const CrossSizes& s, const Cross& cross) {
  return reference::cross_attention({cross.q.values.data(), cross.key.values.data(),
                                     cross.value.values.data(), cross.mask.data(), s.rows(),
                                     s.tokens, s.heads, s.size, s.batch, s.source, nullptr});
}

Array<float> run(const CrossSizes& s, const Cross& cross) {
  const DeviceArray<char> q(cross.q.bits), key(cross.key.bits), value(cross.value.bits),
      y(cross.q.bits.size());
  const DeviceArray<int64_t> mask(cross.mask);
  cuda::cross_attention(
      {}, {q.data(), key.data(), value.data(), mask.data(), s.rows(), s.tokens, s.heads, s.size,
           s.batch, s.source, static_cast<int32_t>(s.type), y.data()});
  return from_type(s.type, y.values());
}

void check_cross(const CrossSizes& s, const Cross& cross) {
  const auto expected = expected_of(s, cross);
  in_every_order(8, s.name(),
                 [&] { expect_near(run(s, cross), expected, tolerance(s.type), "y"); });
}

void check_cross(Random& random, const CrossSizes& s) { check_cross(s, make_cross(random, s)); }

void cross_attention_of_every_length() {
  Random random(101);
  for (int64_t source = 1; source <= 130; source += source < 20 ? 1 : 11) {
    check_cross(random, {random.between(1, 2), random.of<int64_t>({1, 2, 4}), random.between(1, 3),
                         random.between(1, 3), random.of(kHeadSizes), source, random.of(kTypes)});
  }
  for (WeightType type : kTypes) {
    for (int64_t size : kHeadSizes) check_cross(random, {1, 1, 1, 2, size, 37, type});  // one query
    for (int64_t size : kHeadSizes)
      check_cross(random, {2, 3, 3, 2, size, 37, type});  // 4, 4 and 1
  }
}

void cross_attention_over_long_sources() {
  Random random(102);
  for (WeightType type : kTypes) {
    for (int64_t source : {256, 257, 600}) check_cross(random, {1, 1, 1, 2, 64, source, type});
    check_cross(random, {1, 5, 1, 2, 64, 300, type});
    check_cross(random, {1, 1, 1, 1, 256, 131, type});
  }
  check_cross(random, {2, 4, 3, 12, 64, 9});  // shared by beams on a large device, too
}

void cross_attention_of_a_masked_source_is_uniform() {
  Random random(103);
  for (int64_t beams : {1, 5}) {
    for (int64_t source : {9, 150}) {
      const CrossSizes s{2, beams, 2, 1, 64, source};
      const Cross cross = make_cross(random, s);
      for (int64_t j = 0; j < source; ++j) cross.mask[source + j] = 0;
      check_cross(s, cross);
      double mean = 0;  // of the first value of the second source
      for (int64_t j = 0; j < source; ++j) {
        mean += cross.value.values[(source + j) * 64] / static_cast<double>(source);
      }
      expect_close(run(s, cross)[beams * 2 * 64], mean, kTolerance, "the mean of all values");
    }
  }
}

// A source's beams see its own keys, whatever those of other sources hold.
void cross_attention_reads_no_other_source() {
  Random random(104);
  for (int64_t beams : {1, 4}) {
    const CrossSizes s{3, beams, 1, 1, 8, 11};
    const Cross cross = make_cross(random, s);
    const auto expected = expected_of(s, cross);
    for (int64_t i = 0; i < 11 * 8; ++i) poison(cross.key, i), poison(cross.value, 2 * 11 * 8 + i);
    in_every_order(8, s.name(), [&] {
      const Array<float> y = run(s, cross);
      Array<float> middle(beams * 8);
      std::copy(y.begin() + beams * 8, y.begin() + 2 * beams * 8, middle.begin());
      expect_near(middle, {expected.begin() + beams * 8, expected.begin() + 2 * beams * 8},
                  kTolerance, "y");
    });
  }
}

// --- arguments ---

void no_row_is_no_work() {
  cuda::cached_attention({}, {nullptr, nullptr, nullptr, nullptr, nullptr, 0, 1, 2, 8, 4, 0, 0,
                              nullptr, nullptr, nullptr});
  cuda::cross_attention({}, {nullptr, nullptr, nullptr, nullptr, 2, 0, 2, 8, 1, 3, 0, nullptr});
}

void wrong_arguments_of_cached_attention_are_refused() {
  const DeviceArray<float> array(64);
  const DeviceArray<int64_t> position(1);
  const switch_cuda_cached_attention right{
      array.data(), array.data(), array.data(), position.data(), array.data(), 1, 1, 1, 8, 4, 0, 0,
      array.data(), nullptr,      nullptr};
  const auto refused = [&](const std::vector<std::string>& parts, auto change) {
    switch_cuda_cached_attention wrong = right;
    change(wrong);
    expect_refused(parts, [&] { cuda::cached_attention({}, wrong); });
  };
  refused({"SwitchCachedAttention", "size is 12", "multiple of 8"}, [](auto& a) { a.size = 12; });
  refused({"size is 264", "up to 256"}, [](auto& a) { a.size = 264; });
  refused({"capacity is -4"}, [](auto& a) { a.capacity = -4; });
  refused({"type is 4"}, [](auto& a) { a.type = 4; });
  refused({"tokens is 5", "capacity of 4"}, [](auto& a) { a.tokens = 5; });
  refused({"new_key and new_value"}, [](auto& a) { a.new_key = a.y; });
  refused({"qkv is NULL"}, [](auto& a) { a.qkv = nullptr; });
  refused({"position or bias is NULL"}, [](auto& a) { a.position = nullptr; });
  refused({"key is not aligned"}, [](auto& a) { a.key = static_cast<char*>(a.key) + 8; });
}

void wrong_arguments_of_cross_attention_are_refused() {
  const DeviceArray<float> array(64);
  const DeviceArray<int64_t> mask(3);
  const switch_cuda_cross_attention right{
      array.data(), array.data(), array.data(), mask.data(), 2, 1, 1, 8, 1, 3, 0, array.data()};
  const auto refused = [&](const std::vector<std::string>& parts, auto change) {
    switch_cuda_cross_attention wrong = right;
    change(wrong);
    expect_refused(parts, [&] { cuda::cross_attention({}, wrong); });
  };
  refused({"SwitchCrossAttention", "rows is 2", "multiple of batch"}, [](auto& a) { a.batch = 4; });
  refused({"source is 0", "at least 1"}, [](auto& a) { a.source = 0; });
  refused({"mask is NULL"}, [](auto& a) { a.mask = nullptr; });
  refused({"y is not aligned"}, [](auto& a) { a.y = static_cast<char*>(a.y) + 4; });
}

}  // namespace

int main() {
  return run_tests({
      {"cached attention at every position", cached_attention_at_every_position},
      {"cached attention over long caches", cached_attention_over_long_caches},
      {"cached attention of a prefix", cached_attention_of_a_prefix},
      {"cached attention of scores far apart", cached_attention_of_scores_far_apart},
      {"a position outside the cache touches nothing beyond it",
       a_position_outside_the_cache_touches_nothing_beyond_it},
      {"cross attention of every length", cross_attention_of_every_length},
      {"cross attention over long sources", cross_attention_over_long_sources},
      {"cross attention of a masked source is uniform",
       cross_attention_of_a_masked_source_is_uniform},
      {"cross attention reads no other source", cross_attention_reads_no_other_source},
      {"no row is no work", no_row_is_no_work},
      {"wrong arguments of cached attention are refused",
       wrong_arguments_of_cached_attention_are_refused},
      {"wrong arguments of cross attention are refused",
       wrong_arguments_of_cross_attention_are_refused},
  });
}
