// SwitchNorm and routing.
#include "kernel_cases.h"

using namespace switch_tests;
using switch_ops::Router;
namespace reference = switch_ops::reference;

namespace {

void check_norm(const Array<float>& x, const Array<float>& delta, const Array<float>& weight,
                float epsilon) {
  const int64_t columns = weight.size(), tokens = x.size() / columns;
  switch_ops::NormRows call{
      {x.data(), delta.data(), weight.data(), epsilon, columns, nullptr, nullptr}, tokens};
  const auto expected = reference::norm(call);
  on_everything(show(tokens) + " x " + show(columns), [&](const Context& context) {
    Array<float> sum(x.size()), normed(x.size());
    switch_ops::NormRows own = call;
    own.first.sum = sum.data(), own.first.normed = normed.data();
    switch_ops::norm(context, own);
    expect_near(sum, expected.sum, kTolerance, "sum");
    expect_near(normed, expected.normed, kTolerance, "normed");
  });
}

void norm_of_every_size() {
  Random random(41);
  const std::vector<int64_t> tokens = {0, 1, 2, 3, 5, 8, 17, 64, 130};
  for (int64_t columns : {1, 2, 3, 7, 8, 15, 16, 17, 31, 33, 63, 65, 97, 100, 128, 768, 2049}) {
    for (int64_t count : {random.of(tokens), int64_t{1}}) {
      const Array<float> x = random.normals(count * columns, 20);
      check_norm(x, random.normals(x.size()), random.normals(columns), 1e-6f);
    }
  }
  for (int64_t count : tokens) {
    const Array<float> x = random.normals(count * 33);
    check_norm(x, random.normals(x.size()), random.normals(33), 0.1f);
  }
}

void norm_of_zeros_tiny_and_huge_rows() {
  Random random(42);
  for (int64_t columns : {1, 19, 65}) {
    const Array<float> weight = random.normals(columns);
    for (float scale : {0.0f, 1e-18f, 1e-4f, 1e15f}) {
      const Array<float> x = random.normals(3 * columns, scale);
      check_norm(x, random.normals(3 * columns, scale), weight, 1e-6f);
    }
    // What is added takes all of x away.
    const Array<float> x = random.normals(columns);
    Array<float> minus(columns);
    for (int64_t i = 0; i < columns; ++i) minus[i] = -x[i];
    check_norm(x, minus, weight, 1e-6f);
  }
}

struct Routing {
  Array<float> normed, classifier, bias;
  Router call;
};

struct RoutingSizes {
  int64_t batch, tokens, columns, experts;
};

// Small integers: logits are exact, so that ties are ties everywhere, and there are many.
Routing make_routing(Random& random, const RoutingSizes& s, bool biased) {
  Routing r;
  r.normed = Array<float>(s.batch * s.tokens * s.columns);
  r.classifier = Array<float>(s.experts * s.columns);
  r.bias = Array<float>(s.experts);
  for (float& v : r.normed) v = static_cast<float>(random.between(-2, 2));
  for (float& v : r.classifier) v = static_cast<float>(random.between(-2, 2)) * 0.25f;
  for (float& v : r.bias) v = static_cast<float>(random.between(-2, 2)) * 0.5f;
  r.call = {r.normed.data(),
            s.batch,
            s.tokens,
            s.columns,
            s.experts,
            r.classifier.data(),
            biased ? r.bias.data() : nullptr,
            -1,
            nullptr,
            nullptr};
  return r;
}

void check_route(const Router& call) {
  const auto expected = reference::route(call);
  const std::string what = show(call.batch) + " x " + show(call.tokens) + " tokens of " +
                           show(call.columns) + ", " + show(call.experts) + " experts, capacity " +
                           show(call.capacity);
  on_everything(what, [&](const Context& context) {
    Array<int32_t> expert(call.batch * call.tokens);
    Array<float> gate(expert.size());
    Router own = call;
    own.expert = expert.data(), own.gate = gate.data();
    switch_ops::route(context, own);
    for (int64_t t = 0; t < expert.size(); ++t) {
      expect_equal(expert[t], expected.expert[static_cast<size_t>(t)], "expert of " + show(t));
    }
    expect_near(gate, expected.gate, kTolerance, "gate");
  });
}

void route_of_every_number_of_experts() {
  Random random(43);
  for (int64_t experts : {1, 2, 3, 7, 8, 9, 16, 17, 31, 64, 128, 2048}) {
    for (bool biased : {false, true}) {
      for (int64_t capacity : {-1, 0, 1, 2}) {
        const RoutingSizes sizes{random.between(1, 3), random.between(0, kSanitized ? 3 : 13),
                                 random.of<int64_t>({1, 3, 33, 64}), experts};
        Routing routing = make_routing(random, sizes, biased);
        routing.call.capacity = capacity;
        check_route(routing.call);
      }
    }
  }
}

void ties_go_to_the_lowest_index() {
  Random random(44);
  for (int64_t experts : {2, 5, 16, 33}) {
    for (int64_t first : {int64_t{0}, experts / 2, experts - 2}) {
      Routing routing = make_routing(random, {1, 2, 4, experts}, true);
      std::fill(routing.classifier.begin(), routing.classifier.end(), 0.0f);
      std::fill(routing.bias.begin(), routing.bias.end(), -1.0f);
      routing.bias[first] = routing.bias[experts - 1] = 3.0f;
      check_route(routing.call);
      on_everything("tie", [&](const Context& context) {
        Array<int32_t> expert(2);
        Array<float> gate(2);
        Router own = routing.call;
        own.expert = expert.data(), own.gate = gate.data();
        switch_ops::route(context, own);
        expect_equal(static_cast<int64_t>(expert[0]), first, "expert");
      });
    }
  }
}

// Each row of the batch by itself, whatever the others chose; the gate stays.
void capacity_counts_each_row_by_itself() {
  Random random(45);
  for (int64_t capacity : {-1, 0, 1, 2, 4, 5}) {
    Routing routing = make_routing(random, {3, 5, 7, 4}, false);
    for (float& v : routing.classifier) v = 0;  // every token chooses expert 0
    routing.call.capacity = capacity;
    check_route(routing.call);
    on_everything("capacity " + show(capacity), [&](const Context& context) {
      Array<int32_t> expert(15);
      Array<float> gate(15);
      Router own = routing.call;
      own.expert = expert.data(), own.gate = gate.data();
      switch_ops::route(context, own);
      for (int64_t t = 0; t < 15; ++t) {
        const bool kept = capacity < 0 || t % 5 < capacity;
        expect_equal(expert[t], kept ? 0 : -1, "expert of " + show(t));
        expect_equal(gate[t], 0.25f, "gate of " + show(t));
      }
    });
  }
}

void logits_far_apart_give_a_gate_of_one() {
  Random random(46);
  Routing routing = make_routing(random, {2, 3, 5, 9}, false);
  for (float& v : routing.normed) v *= 1000;
  check_route(routing.call);
}

void route_of_many_tokens() {
  Random random(47);
  for (int64_t experts : {8, 130}) {
    Routing routing = make_routing(random, {4, kSanitized ? 40 : 200, 96, experts}, true);
    routing.call.capacity = 3;
    check_route(routing.call);
  }
}

}  // namespace

int main() {
  return run_tests({
      {"norm of every size", norm_of_every_size},
      {"norm of zeros, tiny and huge rows", norm_of_zeros_tiny_and_huge_rows},
      {"route of every number of experts", route_of_every_number_of_experts},
      {"ties go to the lowest index", ties_go_to_the_lowest_index},
      {"capacity counts each row by itself", capacity_counts_each_row_by_itself},
      {"logits far apart give a gate of one", logits_far_apart_give_a_gate_of_one},
      {"route of many tokens", route_of_many_tokens},
  });
}
