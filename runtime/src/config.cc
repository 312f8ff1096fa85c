#include "config.h"

#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <cstring>
#include <fstream>
#include <set>

#include "error.h"
#include "json_reader.h"

namespace switch_runtime {
namespace {

constexpr int64_t kNewestFormat = 1;
constexpr int64_t kLargestSize = int64_t{1} << 24;  // of an axis: keeps every product in 64 bits
constexpr int64_t kMostLayers = 4096;
constexpr int kDeepestNesting = 32;         // the parser and the printer recurse
constexpr int64_t kLargestJson = 64 << 20;  // bytes

[[noreturn]] void refuse(const std::string& directory, const std::vector<std::string>& problems) {
  throw Error(SWITCH_INVALID_MODEL, list_problems(directory + " cannot be loaded", problems) +
                                        "\nExport the checkpoint again with switch-export.");
}

Json parse_document(const std::string& text, const std::string& directory) {
  const auto shallow = [](int depth, Json::parse_event_t, Json&) {
    if (depth > kDeepestNesting) throw std::runtime_error("it is nested too deeply");
    return true;
  };
  Json document;
  try {
    document = Json::parse(text, shallow);
  } catch (const std::exception& error) {
    refuse(directory, {std::string("switch.json is not valid JSON: ") + error.what()});
  }
  if (!document.is_object()) refuse(directory, {"switch.json is not a JSON object"});
  return document;
}

void check_format(const Json& document, const std::string& directory) {
  std::vector<std::string> problems;
  const JsonReader reader(document, "", problems);
  const int64_t format = reader.integer("format", 1, INT64_MAX);
  if (!problems.empty()) refuse(directory, problems);
  if (format <= kNewestFormat) return;
  throw Error(SWITCH_INVALID_MODEL,
              directory + " has format " + std::to_string(format) + ", this runtime reads up to " +
                  std::to_string(kNewestFormat) +
                  ": newer switch-export runtime needed (pip install --upgrade switch-export)");
}

Task read_task(const JsonReader& reader) {
  const std::string task = reader.text("task");
  for (Task known : {Task::kSeq2Seq, Task::kEncoder, Task::kHidden}) {
    if (task == name_of(known)) return known;
  }
  if (reader.find("task")) {
    reader.report("task", "is \"" + task + "\", expected seq2seq, encoder or hidden");
  }
  return Task::kSeq2Seq;
}

void read_model(const JsonReader& reader, Config& config) {
  config.vocab_size = reader.integer("vocab_size", 1, kLargestSize);
  config.d_model = reader.integer("d_model", 1, kLargestSize);
  config.d_kv = reader.integer("d_kv", 1, kLargestSize);
  config.d_ff = reader.integer("d_ff", 1, kLargestSize);
  config.num_heads = reader.integer("num_heads", 1, kLargestSize);
  config.num_layers = reader.integer("num_layers", 1, kMostLayers);
  const int64_t least = config.task == Task::kEncoder ? 0 : 1;
  config.num_decoder_layers = reader.integer("num_decoder_layers", least, kMostLayers);
  config.sparse_encoder_layers =
      reader.integers("sparse_encoder_layers", 0, std::max<int64_t>(0, config.num_layers - 1));
  config.sparse_decoder_layers = reader.integers(
      "sparse_decoder_layers", 0, std::max<int64_t>(0, config.num_decoder_layers - 1));
}

void read_tokens(const JsonReader& reader, Config& config) {
  const int64_t last = std::max<int64_t>(0, config.vocab_size - 1);
  config.pad = reader.integer("pad", 0, last);
  config.generation.decoder_start = reader.integer("decoder_start", 0, last);
  std::vector<int64_t>& eos = config.generation.eos;
  eos = reader.integers("eos", 0, last);
  if (static_cast<int64_t>(eos.size()) > kMostEosTokens) {
    reader.report("eos", "has more than " + std::to_string(kMostEosTokens) + " tokens");
  }
  std::sort(eos.begin(), eos.end());
  eos.erase(std::unique(eos.begin(), eos.end()), eos.end());
}

std::vector<TensorSpec> read_tensors(const JsonReader& graph, const char* key,
                                     std::vector<std::string>& problems) {
  std::vector<TensorSpec> tensors;
  const Json* list = graph.need(key, Json::value_t::array, "a list of tensors");
  if (!list) return tensors;
  for (const auto& item : *list) {
    if (!item.is_object()) {
      graph.report(key, "holds " + JsonReader::describe(item) + ", expected tensors");
      return tensors;
    }
    const JsonReader reader(item, graph.path(key), problems);
    TensorSpec tensor;
    tensor.name = reader.text("name");
    const std::string type = reader.text("type");
    bool known = false;
    for (Type candidate : {Type::kFloat32, Type::kInt32, Type::kInt64}) {
      if (type == name_of(candidate)) tensor.type = candidate, known = true;
    }
    if (!known) reader.report(tensor.name, "has type \"" + type + "\", which is not known");
    const Json* shape = reader.need("shape", Json::value_t::array, "a list");
    for (const auto& axis : shape ? *shape : Json::array()) {
      const bool letter = axis.is_string();
      tensor.shape.push_back(letter ? Axis{axis.get<std::string>(), 0}
                                    : Axis{"", reader.checked(axis, "shape", 1, kLargestSize)});
    }
    tensors.push_back(std::move(tensor));
  }
  return tensors;
}

bool is_plain_file_name(const std::string& name) {
  return !name.empty() && name != "." && name != ".." && name.size() <= 255 &&
         name.find_first_of(std::string("/\\\0", 3)) == std::string::npos;
}

std::optional<GraphSpec> read_graph(const Json& document, const std::string& name,
                                    std::vector<std::string>& problems) {
  const JsonReader root(document, "", problems);
  const Json* graphs = root.object("graphs");
  if (!graphs) return std::nullopt;
  const Json* graph = JsonReader(*graphs, "graphs", problems).object(name);
  if (!graph) return std::nullopt;
  const JsonReader reader(*graph, "graphs." + name, problems);
  GraphSpec spec;
  spec.file = reader.text("file");
  spec.inputs = read_tensors(reader, "inputs", problems);
  spec.outputs = read_tensors(reader, "outputs", problems);
  const Json* files = root.find("files");
  if (files && files->is_object() && !files->contains(spec.file)) {
    reader.report("file", "\"" + spec.file + "\" is not among the listed files");
  }
  return spec;
}

void check_file(const std::string& directory, const std::string& name, int64_t size,
                std::vector<std::string>& problems) {
  struct stat found{};
  if (stat((directory + "/" + name).c_str(), &found) != 0) {
    problems.push_back(name + " is missing (" + std::strerror(errno) + ")");
  } else if (!S_ISREG(found.st_mode)) {
    problems.push_back(name + " is not a file");
  } else if (found.st_size != size) {
    problems.push_back(name + " has " + std::to_string(found.st_size) + " bytes, expected " +
                       std::to_string(size));
  }
}

// `look`: also compare the sizes with the files themselves.
void check_files(const Json& document, const std::string& directory, bool look,
                 std::vector<std::string>& problems) {
  const Json* files = JsonReader(document, "", problems).object("files");
  if (!files) return;
  for (const auto& [name, entry] : files->items()) {
    const JsonReader reader(*files, "files", problems);
    if (!is_plain_file_name(name)) {
      reader.report(JsonReader::describe(Json(name)), "is not a file name without folders");
    } else if (!entry.is_object()) {
      reader.report(name, "is " + JsonReader::describe(entry) + ", expected an object");
    } else {
      const size_t before = problems.size();
      const int64_t size =
          JsonReader(entry, "files." + name, problems).integer("size", 0, INT64_MAX);
      if (look && problems.size() == before) check_file(directory, name, size, problems);
    }
  }
}

Config build_config(const Json& document, const std::string& directory, bool look) {
  check_format(document, directory);
  std::vector<std::string> problems;
  const JsonReader root(document, "", problems);
  Config config;
  config.directory = directory;
  config.document = document.dump(-1, ' ', false, Json::error_handler_t::replace);
  config.task = read_task(root);
  if (const Json* model = root.object("model")) {
    read_model(JsonReader(*model, "model", problems), config);
  }
  if (const Json* tokens = root.object("tokens")) {
    read_tokens(JsonReader(*tokens, "tokens", problems), config);
  }
  if (root.find("generation")) {
    if (const Json* generation = root.object("generation")) {
      read_generation(JsonReader(*generation, "generation", problems), config);
    }
  }
  config.encoder = read_graph(document, "encoder", problems).value_or(GraphSpec{});
  if (config.task != Task::kEncoder) config.decoder = read_graph(document, "decoder", problems);
  check_files(document, directory, look, problems);
  // The tensors follow from the sizes: with those wrong, only noise would be added.
  if (problems.empty()) problems = check_contract(config);
  if (!problems.empty()) refuse(directory, problems);
  return config;
}

[[noreturn]] void refuse_directory(const std::string& directory, const std::string& why) {
  throw Error(SWITCH_INVALID_MODEL,
              "\"" + directory + "\" is not a model directory: " + why +
                  "; expected a directory written by switch-export, with a switch.json");
}

std::string read_document(const std::string& directory) {
  struct stat found{};
  if (stat(directory.c_str(), &found) != 0) refuse_directory(directory, std::strerror(errno));
  if (!S_ISDIR(found.st_mode)) refuse_directory(directory, "it is not a directory");
  const std::string path = directory + "/switch.json";
  if (stat(path.c_str(), &found) != 0 || !S_ISREG(found.st_mode)) {
    refuse_directory(directory, "it has no switch.json");
  }
  if (found.st_size > kLargestJson) refuse(directory, {"switch.json is larger than 64 MiB"});
  std::ifstream file(path, std::ios::binary);
  std::string text(static_cast<size_t>(found.st_size), '\0');
  if (!file.read(text.data(), found.st_size)) {
    refuse(directory, {std::string("switch.json cannot be read: ") + std::strerror(errno)});
  }
  return text;
}

}  // namespace

const char* name_of(Task task) {
  switch (task) {
    case Task::kSeq2Seq: return "seq2seq";
    case Task::kEncoder: return "encoder";
    case Task::kHidden: return "hidden";
  }
  return "?";
}

bool GraphSpec::has_output(const std::string& name) const {
  return std::any_of(outputs.begin(), outputs.end(),
                     [&](const TensorSpec& tensor) { return tensor.name == name; });
}

Config parse_config(const std::string& text, const std::string& directory) {
  return build_config(parse_document(text, directory), directory, false);
}

Config read_config(const std::string& directory) {
  const std::string text = read_document(directory);
  return build_config(parse_document(text, directory), directory, true);
}

}  // namespace switch_runtime
