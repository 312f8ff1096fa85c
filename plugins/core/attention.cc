// Attention over many queries, over a cache, and over a source.
//
// Scores are dot products with the keys as they lie where there are few queries, and sums of
// transposed keys where there are many: those vectorise over keys instead of over the head.
#include <cstring>
#include <limits>

#include "operators.h"
#include "partition.h"

namespace switch_ops {
namespace {

constexpr float kLowest = std::numeric_limits<float>::lowest();
// Keys and values that one task reads at least. They come from memory: a step's weights have pushed
// them out of the caches, so that even little work is worth several threads.
constexpr int64_t kAttentionBytes = 32 << 10;
// Queries of one head that are scored together: their scores stay in the nearest caches.
constexpr int64_t kQueries = 24;

int64_t clamp(int64_t value, int64_t limit) { return std::min(std::max(value, -limit), limit); }

// scores[i, j] = q[i] . key[j] for keys that lie one after the other.
void score_rows(const Kernels& kernels, Inputs q, int64_t queries, const float* keys, int64_t count,
                int64_t size, float* scores, int64_t stride) {
  Product product;
  product.weight.data = keys;
  product.weight.rows = count;
  product.weight.columns = size;
  product.x = q;
  product.count = queries;
  product.y = scores;
  product.y_stride = stride;
  kernels.product(product, 0, count);
}

// Values are needed once all scores are known: they are on their way meanwhile.
void ask_for(const float* values, int64_t count) {
  constexpr int64_t kMost = 4096, kLine = 16;
  for (int64_t i = 0; i < std::min(count, kMost); i += kLine) __builtin_prefetch(values + i);
}

int64_t bytes(int64_t floats) { return floats * static_cast<int64_t>(sizeof(float)); }

}  // namespace

void self_attention(const Context& context, const SelfAttention& a) {
  const int64_t width = a.heads * a.size, stride = 3 * width, tokens = a.tokens;
  if (a.batch * tokens == 0) return;
  // Enough tasks for any number of threads, few enough that transposing the keys stays cheap.
  const int64_t parts = std::min(ceil_div(tokens, 4 * kQueries), ceil_div(32, a.batch * a.heads));
  const int64_t part = ceil_div(ceil_div(tokens, parts), kQueries) * kQueries;
  context.parallel.each(a.batch * a.heads * parts, [&](int64_t task) {
    const int64_t h = task / parts % a.heads, b = task / parts / a.heads;
    const float* q = a.qkv + b * tokens * stride + h * a.size;
    const int64_t* mask = a.mask + b * tokens;
    float* keys = scratch<float>(Slot::kKeys, a.size * tokens);  // transposed
    for (int64_t j = 0; j < tokens; ++j) {
      const float* key = q + width + j * stride;
      for (int64_t d = 0; d < a.size; ++d) keys[d * tokens + j] = key[d];
    }
    // bias[j - i] of this head, for every difference that occurs
    float* by_difference = scratch<float>(Slot::kScores, 2 * tokens + kQueries * tokens);
    for (int64_t d = -tokens + 1; d < tokens; ++d) {
      by_difference[d + tokens] = a.bias[(clamp(d, a.distance) + a.distance) * a.heads + h];
    }
    float* scores = by_difference + 2 * tokens;
    const int64_t end = std::min(tokens, (task % parts + 1) * part);
    for (int64_t i = task % parts * part; i < end; i += kQueries) {
      const int64_t rows = std::min(kQueries, end - i);
      for (int64_t r = 0; r < rows; ++r) {
        std::memcpy(scores + r * tokens, by_difference + tokens - (i + r),
                    static_cast<size_t>(bytes(tokens)));
      }
      context.kernels.mix(
          {q + i * stride, stride, keys, tokens, scores, tokens, rows, a.size, tokens, true});
      for (int64_t r = 0; r < rows; ++r) {
        float* row = scores + r * tokens;
        for (int64_t j = 0; j < tokens; ++j) row[j] = mask[j] ? row[j] : kLowest;
        context.kernels.softmax(row, tokens);
      }
      context.kernels.mix({scores, tokens, q + 2 * width, stride,
                           a.y + (b * tokens + i) * width + h * a.size, width, rows, tokens, a.size,
                           false});
    }
  });
}

void cached_attention(const Context& context, const CachedAttention& a) {
  const int64_t width = a.heads * a.size, stride = 3 * width;
  const int64_t keys = a.position + a.tokens;
  const auto one_head = [&](int64_t task) {
    const int64_t r = task / a.heads, h = task % a.heads;
    const float* q = a.qkv + r * a.tokens * stride + h * a.size;
    float* new_key = a.new_key + task * a.tokens * a.size;
    float* new_value = a.new_value + task * a.tokens * a.size;
    for (int64_t t = 0; t < a.tokens; ++t) {
      const auto size = static_cast<size_t>(bytes(a.size));
      std::memcpy(new_key + t * a.size, q + width + t * stride, size);
      std::memcpy(new_value + t * a.size, q + 2 * width + t * stride, size);
    }
    float* scores = scratch<float>(Slot::kScores, a.tokens * keys);
    const Inputs queries{q, bytes(stride)};
    const int64_t cached = task * a.capacity * a.size;
    if (a.position > 0) {
      ask_for(a.value + cached, a.position * a.size);
      score_rows(context.kernels, queries, a.tokens, a.key + cached, a.position, a.size, scores,
                 keys);
    }
    score_rows(context.kernels, queries, a.tokens, new_key, a.tokens, a.size, scores + a.position,
               keys);
    for (int64_t t = 0; t < a.tokens; ++t) {
      float* row = scores + t * keys;
      const int64_t query = a.position + t;
      for (int64_t j = 0; j <= query; ++j) {
        row[j] += a.bias[(clamp(j - query, a.distance) + a.distance) * a.heads + h];
      }
      context.kernels.softmax(row, query + 1);
      std::fill(row + query + 1, row + keys, 0.0f);  // new keys after their query
    }
    float* y = a.y + r * a.tokens * width + h * a.size;
    context.kernels.mix(
        {scores, keys, a.value + cached, a.size, y, width, a.tokens, a.position, a.size, false});
    context.kernels.mix(
        {scores + a.position, keys, new_value, a.size, y, width, a.tokens, a.tokens, a.size, true});
  };
  const int64_t tasks = a.rows * a.heads;
  if (a.tokens == 0 || tasks == 0) return;
  const int64_t together = std::max<int64_t>(1, kAttentionBytes / bytes(2 * keys * a.size));
  context.parallel.each(ceil_div(tasks, together), [&](int64_t group) {
    for (int64_t i = group * together; i < std::min(tasks, (group + 1) * together); ++i)
      one_head(i);
  });
}

void cross_attention(const Context& context, const CrossAttention& a) {
  const int64_t width = a.heads * a.size;
  if (a.rows * a.tokens == 0) return;
  const int64_t queries = a.rows / a.batch * a.tokens;  // of one source: its beams and their tokens
  const auto one_head = [&](int64_t task) {
    const int64_t b = task / a.heads, h = task % a.heads;
    const float* q = a.q + b * queries * width + h * a.size;
    const int64_t* mask = a.mask + b * a.source;
    const int64_t at = task * a.source * a.size;
    float* scores = scratch<float>(Slot::kScores, std::min(queries, kQueries) * a.source);
    for (int64_t i = 0; i < queries; i += kQueries) {
      const int64_t rows = std::min(kQueries, queries - i);
      ask_for(a.value + at, a.source * a.size);
      score_rows(context.kernels, {q + i * width, bytes(width)}, rows, a.key + at, a.source, a.size,
                 scores, a.source);
      for (int64_t r = 0; r < rows; ++r) {
        float* row = scores + r * a.source;
        for (int64_t j = 0; j < a.source; ++j) row[j] = mask[j] ? row[j] : kLowest;
        context.kernels.softmax(row, a.source);
      }
      float* y = a.y + (b * queries + i) * width + h * a.size;
      context.kernels.mix(
          {scores, a.source, a.value + at, a.size, y, width, rows, a.source, a.size, false});
    }
  };
  const int64_t tasks = a.batch * a.heads;
  const int64_t work = bytes(2 * a.source * a.size) * ceil_div(queries, 4);
  const int64_t together = std::max<int64_t>(1, kAttentionBytes / std::max<int64_t>(1, work));
  context.parallel.each(ceil_div(tasks, together), [&](int64_t group) {
    for (int64_t i = group * together; i < std::min(tasks, (group + 1) * together); ++i)
      one_head(i);
  });
}

}  // namespace switch_ops
