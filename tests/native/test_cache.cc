// The self cache: growth, appending, and reordering by every possible choice of parents.
#include <vector>

#include "cache.h"
#include "check.h"

using namespace switch_runtime;
using namespace switch_tests;

namespace {

constexpr CacheShape kShape = {2, 4, 3, 2};

// Fill the first `tokens` of every row with numbers that name their place.
void fill(const SelfCache& cache, int64_t tokens) {
  for (size_t i = 0; i < cache.tensors().size(); ++i) {
    auto* data = static_cast<float*>(cache.tensors()[i].data);
    for (int64_t line = 0; line < kShape.rows * kShape.heads; ++line) {
      for (int64_t j = 0; j < tokens * kShape.head_size; ++j) {
        data[line * cache.capacity() * kShape.head_size + j] =
            static_cast<float>(i * 100000 + static_cast<size_t>(line) * 1000 + j);
      }
    }
  }
}

// `row_of[r]`: the row whose numbers row r must hold.
void expect_rows(const SelfCache& cache, const std::vector<int64_t>& row_of, int64_t tokens) {
  for (size_t i = 0; i < cache.tensors().size(); ++i) {
    const auto* data = static_cast<float*>(cache.tensors()[i].data);
    for (int64_t line = 0; line < kShape.rows * kShape.heads; ++line) {
      const int64_t old = row_of[line / kShape.heads] * kShape.heads + line % kShape.heads;
      for (int64_t j = 0; j < tokens * kShape.head_size; ++j) {
        expect_equal(data[line * cache.capacity() * kShape.head_size + j],
                     static_cast<float>(i * 100000 + static_cast<size_t>(old) * 1000 + j),
                     "parents " + show(row_of) + ", line " + show(line));
      }
    }
  }
}

void every_choice_of_parents_gives_the_right_rows() {
  for (int64_t code = 0; code < 256; ++code) {
    const std::vector<int64_t> parents = {code % 4, code / 4 % 4, code / 16 % 4, code / 64};
    SelfCache cache(kShape, 100);
    fill(cache, 5);
    cache.reorder(parents, 5);
    expect_rows(cache, parents, 5);
  }
}

void rows_that_keep_their_parent_are_not_moved() {
  expect_equal(plan_row_copies({0, 1, 2, 3}).size(), 0u, "copies of no change");
  expect_equal(plan_row_copies({0, 0, 2, 3}).size(), 1u, "copies of one change");
  // A cycle of two needs the spare row, and no more than one extra copy.
  expect_equal(plan_row_copies({1, 0, 2, 3}).size(), 3u, "copies of an exchange");
}

void growth_keeps_the_valid_tokens() {
  SelfCache cache(kShape, 100);
  expect_equal(cache.capacity(), 32, "first capacity");
  fill(cache, 32);
  expect(!cache.reserve(32, 32), "nothing moves while there is room");
  expect(cache.reserve(33, 32), "the tensors move when the cache grows");
  expect_equal(cache.capacity(), 64, "second capacity");
  expect_rows(cache, {0, 1, 2, 3}, 32);
  cache.reserve(65, 32);
  expect_equal(cache.capacity(), 100, "last capacity");
  expect_rows(cache, {0, 1, 2, 3}, 32);
}

void unused_places_are_zero() {
  SelfCache cache(kShape, 100);
  fill(cache, 32);
  cache.reserve(33, 32);
  for (const Tensor& tensor : cache.tensors()) {
    const auto* data = static_cast<float*>(tensor.data);
    for (int64_t j = 32 * kShape.head_size; j < 64 * kShape.head_size; ++j) {
      expect_equal(data[j], 0.0f, tensor.name);
    }
  }
}

void a_cache_for_one_token_has_room_for_it() {
  const SelfCache cache(kShape, 1);
  expect_equal(cache.capacity(), 1, "capacity");
}

}  // namespace

#define TEST(name) {#name, name}

int main() {
  return run_tests({
      TEST(every_choice_of_parents_gives_the_right_rows),
      TEST(rows_that_keep_their_parent_are_not_moved),
      TEST(growth_keeps_the_valid_tokens),
      TEST(unused_places_are_zero),
      TEST(a_cache_for_one_token_has_room_for_it),
  });
}
