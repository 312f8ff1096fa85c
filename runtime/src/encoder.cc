#include "encoder.h"

#include <algorithm>

#include "error.h"
#include "memory.h"

namespace switch_runtime {
namespace {

Tensor int64_tensor(const char* name, const std::vector<int64_t>& values, int64_t rows,
                    int64_t width) {
  // The engine only reads its inputs; its interface has no const.
  return Tensor{name, Type::kInt64, {rows, width}, const_cast<int64_t*>(values.data())};
}

constexpr size_t kMostProblems = 10;  // listed of one call

}  // namespace

Tensor Sources::ids_tensor() const { return int64_tensor("input_ids", ids, batch, width); }

Tensor Sources::mask_tensor() const { return int64_tensor("attention_mask", mask, batch, width); }

void check_ids(const Config& config, const char* what, const int64_t* ids, int64_t count) {
  for (int64_t i = 0; i < count; ++i) {
    if (ids[i] >= 0 && ids[i] < config.vocab_size) continue;
    throw Error(SWITCH_INVALID_ARGUMENT, std::string(what) + ": token " + std::to_string(i) +
                                             " is " + std::to_string(ids[i]) +
                                             ", expected an id from 0 to " +
                                             std::to_string(config.vocab_size - 1));
  }
}

void check_lists(const Config& config, const char* what, const TokenLists& lists) {
  if (lists.batch <= 0) {
    throw Error(SWITCH_INVALID_ARGUMENT,
                "empty batch: batch is " + std::to_string(lists.batch) + ", expected 1 or more");
  }
  if (!lists.rows) throw Error(SWITCH_INVALID_ARGUMENT, std::string(what) + "s must not be NULL");
  std::vector<std::string> problems;
  for (int64_t i = 0; i < lists.batch && problems.size() < kMostProblems; ++i) {
    const switch_ids& row = lists.rows[i];
    const std::string name = std::string(what) + " " + std::to_string(i);
    if (row.count == 0) problems.push_back(name + " is empty");
    if (row.count < 0) problems.push_back(name + " has length " + std::to_string(row.count));
    if (row.count > 0 && !row.ids) problems.push_back(name + " has its tokens at NULL");
  }
  if (problems.size() == kMostProblems) problems.push_back("and perhaps more");
  if (!problems.empty()) {
    throw Error(
        SWITCH_INVALID_ARGUMENT,
        list_problems("every " + std::string(what) + " needs at least one token", problems));
  }
  for (int64_t i = 0; i < lists.batch; ++i) {
    const switch_ids& row = lists.rows[i];
    check_ids(config, (std::string(what) + " " + std::to_string(i)).c_str(), row.ids, row.count);
  }
}

Sources make_sources(const Config& config, const TokenLists& lists,
                     const std::vector<int64_t>& rows) {
  Sources sources;
  sources.batch = static_cast<int64_t>(rows.size());
  for (int64_t row : rows) sources.lengths.push_back(lists.rows[row].count);
  sources.width = *std::max_element(sources.lengths.begin(), sources.lengths.end());
  check_memory("the encoder", encoder_demand(config, sources.batch, sources.width),
               "Shorten the sources or pass fewer at once.");
  const size_t size = count_of({sources.batch, sources.width});
  sources.ids.assign(size, config.pad);
  sources.mask.assign(size, 0);
  for (int64_t i = 0; i < sources.batch; ++i) {
    const switch_ids& row = lists.rows[rows[i]];
    std::copy_n(row.ids, row.count, sources.ids.begin() + i * sources.width);
    std::fill_n(sources.mask.begin() + i * sources.width, row.count, 1);
  }
  return sources;
}

void Sources::drop(int64_t row) {
  const int64_t last = --batch;
  lengths[row] = lengths[last];
  lengths.pop_back();
  for (std::vector<int64_t>* values : {&ids, &mask}) {
    if (row != last)
      std::copy_n(values->begin() + last * width, width, values->begin() + row * width);
  }
}

std::vector<Array> make_cross(const Config& config, const Sources& sources) {
  std::vector<Array> cross;
  const std::vector<int64_t> shape = {sources.batch, config.num_heads, sources.width, config.d_kv};
  const int64_t layers = config.task == Task::kEncoder ? 0 : config.num_decoder_layers;
  for (int64_t i = 0; i < layers; ++i) {
    cross.emplace_back("cross_key." + std::to_string(i), Type::kFloat32, shape);
    cross.emplace_back("cross_value." + std::to_string(i), Type::kFloat32, shape);
  }
  return cross;
}

void add_routes(std::vector<Array>& arrays, const std::vector<int64_t>& layers, int64_t rows,
                int64_t tokens) {
  const std::vector<int64_t> shape = {rows, tokens};
  for (int64_t i : layers) {
    arrays.emplace_back("expert." + std::to_string(i), Type::kInt32, shape);
    arrays.emplace_back("gate." + std::to_string(i), Type::kFloat32, shape);
  }
}

void run_encoder(Backend& backend, const Sources& sources, const std::vector<Array>& outputs) {
  const std::vector<Tensor> inputs = {sources.ids_tensor(), sources.mask_tensor()};
  backend.bind(GraphKind::kEncoder, inputs, tensors_of(outputs))->run();
}

std::vector<Tensor> tensors_of(const std::vector<Array>& arrays) {
  std::vector<Tensor> tensors;
  for (const Array& array : arrays) tensors.push_back(array.tensor);
  return tensors;
}

}  // namespace switch_runtime
