// Everything that switch_runtime.hpp has, on real models. Prints what tests/test_embedding.py
// compares; what does not hold is thrown.
//
//   wrapper SEQ2SEQ_DIRECTORY ENCODER_DIRECTORY
#include <cmath>
#include <iostream>
#include <numeric>
#include <switch_runtime.hpp>
#include <thread>

namespace {

using switch_runtime::Arrays;
using switch_runtime::BatchOptions;
using switch_runtime::Failure;
using switch_runtime::GenerateOptions;
using switch_runtime::Ids;
using switch_runtime::Model;

const std::vector<Ids> kSources = {{24, 64, 201, 34, 1}, {28, 1}};
const Ids kTarget = {5, 9, 4, 1};

struct Stop : std::exception {};

void expect(bool holds, const std::string& what) {
  if (!holds) throw std::logic_error(what);
}

template <typename Exception, typename Call>
Exception thrown_by(const Call& call, const std::string& what) {
  try {
    call();
  } catch (const Exception& exception) {
    return exception;
  }
  throw std::logic_error(what + " throws nothing");
}

void print(const std::string& name, const Ids& ids) {
  std::cout << name;
  for (const int64_t id : ids) std::cout << " " << id;
  std::cout << "\n";
}

int64_t first(const Model& model, const GenerateOptions& options) {
  const Ids ids = model.generate({kSources[0]}, options)[0].ids;
  return ids.empty() ? -1 : ids[0];
}

void generate(const Model& model) {
  const auto result = model.generate(kSources);
  expect(result.size() == 2 && result.steps > 0, "there is a sequence per source");
  for (const auto& sequence : result) print("greedy", sequence.ids);
  GenerateOptions options = model.generate_options();
  options.num_beams = 4;
  options.num_return_sequences = 2;
  for (const auto& sequence : model.generate(kSources, options)) print("beams", sequence.ids);
}

void lists(const Model& model) {
  GenerateOptions options = model.generate_options();
  const Ids usual = model.generate({kSources[0]}, options)[0].ids;
  options.decoder_input_ids = {{usual.at(0), usual.at(1)}};
  options.max_new_tokens = static_cast<int64_t>(usual.size()) - 2;
  const Ids rest(usual.begin() + 2, usual.end());
  expect(model.generate({kSources[0]}, options)[0].ids == rest, "a prefix is gone on with");

  options = model.generate_options();
  options.bad_words_ids = {{usual.at(0)}};
  expect(first(model, options) != usual.at(0), "a bad word is left");
  options.bad_words_ids = {};
  options.begin_suppress_tokens = {usual.at(0)};
  expect(first(model, options) != usual.at(0), "one is suppressed");
  options.begin_suppress_tokens = {};
  options.eos_token_id = {usual.at(1)};
  const auto ended = model.generate({kSources[0]}, options)[0];
  expect(ended.eos == usual.at(1) && ended.ids.size() == 1, "another token ends a sequence");
  options.eos_token_id = {};
  options.max_new_tokens = 3;
  const auto endless = model.generate({kSources[0]}, options)[0];
  expect(endless.ids.size() == 3 && endless.eos == -1, "nothing ends a sequence");
}

void callbacks(const Model& model) {
  GenerateOptions options = model.generate_options();
  std::vector<Ids> streamed(2), progress;
  int64_t ended = 0, vocab = 0;
  options.on_token = [&](int64_t sequence, int64_t token) {
    token < 0 ? void(++ended) : streamed.at(static_cast<size_t>(sequence)).push_back(token);
    return 0;
  };
  options.on_logits = [&](const switch_step& step) {
    vocab = step.vocab_size;
    return 0;
  };
  options.on_progress = [&](int64_t done, int64_t total) {
    progress.push_back({done, total});
    return 0;
  };
  const auto result = model.generate(kSources, options);
  expect(streamed == std::vector<Ids>{result[0].ids, result[1].ids} && ended == 2, "on_token");
  expect(progress == std::vector<Ids>{{1, 2}, {2, 2}} && vocab > 0, "on_progress and on_logits");

  options.on_token = [](int64_t, int64_t) -> int32_t { throw Stop(); };
  thrown_by<Stop>([&] { model.generate(kSources, options); }, "on_token");
  options.on_token = nullptr;
  options.on_logits = [](const switch_step&) -> int32_t { throw Stop(); };
  thrown_by<Stop>([&] { model.generate(kSources, options); }, "on_logits");
  options.on_logits = nullptr;
  options.on_progress = [](int64_t, int64_t) { return 1; };
  const auto failure =
      thrown_by<Failure>([&] { model.generate(kSources, options); }, "on_progress that returns 1");
  expect(failure.status() == SWITCH_CANCELLED, "a callback that returns 1 cancels");
}

void arrays(const Model& model) {
  const Arrays scores = model.score(kSources, {kTarget, kTarget});
  const Arrays forward = model.forward(kSources[1], kTarget);
  expect(scores.size() == 2 && forward[0].shape().at(0) == 4, "shapes of score and forward");
  const auto vocab = static_cast<size_t>(forward[0].shape().at(1));
  const std::vector<float> found = scores[1].values<float>();
  for (size_t t = 0; t < found.size(); ++t) {
    const float* row = forward.at("logits").data<float>() + t * vocab;
    const double sum = std::accumulate(row, row + vocab, 0.0,
                                       [](double all, float x) { return all + std::exp(x); });
    const double expected = row[kTarget[t]] - std::log(sum);
    expect(std::abs(found[t] - expected) < 1e-4, "score is the logarithm of forward's softmax");
  }

  const Arrays route = model.route(kSources[0], kTarget);
  expect(route.size() > model.route(kSources[0]).size(), "a target is routed too");
  expect(route[0].type() == SWITCH_INT32 && route[0].values<int32_t>().size() == 5, "experts");
  thrown_by<Failure>([&] { route[0].data<float>(); }, "a wrong type");
  thrown_by<Failure>([&] { route.at("nothing"); }, "a wrong name");
  thrown_by<Failure>([&] { model.score(kSources, {kTarget}); }, "a missing target");
  BatchOptions options;
  options.on_progress = [](int64_t, int64_t) -> int32_t { throw Stop(); };
  thrown_by<Stop>([&] { model.score(kSources, {kTarget, kTarget}, options); }, "on_progress");
}

void encode(const Model& model) {
  const std::vector<Ids> sources = {{7, 19, 4, 1}, {3, 1}};
  const Arrays states = model.encode(sources), means = model.encode(sources, SWITCH_POOLING_MEAN);
  expect(states[1].shape().at(0) == 2 && means[1].shape() == Ids{states[1].shape().at(1)},
         "shapes of encode");
  const float first = states[1].data<float>()[0] + states[1].data<float>()[means[1].size()];
  expect(std::abs(first / 2 - means[1].data<float>()[0]) < 1e-6, "the mean is that of the states");
}

void threads(const Model& model) {
  std::vector<Ids> found(4);
  std::vector<std::thread> running;
  for (Ids& ids : found) {
    running.emplace_back([&model, &ids] { ids = model.generate({kSources[0]})[0].ids; });
  }
  for (std::thread& each : running) each.join();
  for (const Ids& ids : found) expect(ids == found[0], "threads do not disturb each other");
}

}  // namespace

int main(int, char** argv) try {
  switch_runtime::LoadOptions options;
  options.threads = 2;
  const Model model(argv[1], options);
  std::cout << model.describe() << "\n";
  generate(model);
  lists(model);
  callbacks(model);
  arrays(model);
  threads(model);
  encode(Model(argv[2], options));
  expect(thrown_by<Failure>([] { Model("/nowhere"); }, "Model").status() == SWITCH_INVALID_MODEL,
         "a missing directory is a Failure with its status");
  return 0;
} catch (const std::exception& exception) {
  std::cerr << exception.what() << "\n";
  return 1;
}
