#include "text.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <stdexcept>

Text::Text(const std::string& description) {
  // switch.json names the tokenizer's file and the id of every special token
  // (docs/model-directory.md).
  const nlohmann::json described = nlohmann::json::parse(description);
  const nlohmann::json& tokenizer = described.at("switch_json").at("tokenizer");
  const std::string directory = described.at("directory");
  if (tokenizer.is_null())
    throw std::runtime_error(directory + " has no tokenizer: token ids only");

  const std::string file = tokenizer.at("file");
  const auto status = pieces_.Load(directory + "/" + file);
  if (!status.ok()) throw std::runtime_error(status.ToString());
  const nlohmann::json& special = tokenizer.at("special");
  for (const auto& [text, id] : special.items()) special_.emplace_back(text, id);
  std::stable_sort(special_.begin(), special_.end(), [](const auto& one, const auto& other) {
    return one.first.size() > other.first.size();
  });
  eos_ = special.value("</s>", static_cast<int64_t>(pieces_.eos_id()));
}

std::vector<int64_t> Text::encode(const std::string& text) const {
  std::vector<int64_t> ids;
  size_t plain = 0;  // where the text began that holds no special token
  for (size_t here = 0; here < text.size();) {
    const auto found = std::find_if(special_.begin(), special_.end(), [&](const auto& token) {
      return text.compare(here, token.first.size(), token.first) == 0;
    });
    if (found == special_.end()) {
      ++here;
      continue;
    }
    encode_plain(text.substr(plain, here - plain), ids);
    ids.push_back(found->second);
    here += found->first.size();
    plain = here;
  }
  encode_plain(text.substr(plain), ids);
  ids.push_back(eos_);
  return ids;
}

void Text::encode_plain(const std::string& text, std::vector<int64_t>& ids) const {
  std::vector<int> found;
  const auto status = pieces_.Encode(text, &found);
  if (!status.ok()) throw std::runtime_error(status.ToString());
  ids.insert(ids.end(), found.begin(), found.end());
}

std::string Text::decode(const std::vector<int64_t>& ids) const {
  std::vector<int> kept;
  for (const int64_t id : ids) {
    const bool special = std::any_of(special_.begin(), special_.end(),
                                     [id](const auto& token) { return token.second == id; });
    if (!special && id >= 0 && id < pieces_.GetPieceSize()) kept.push_back(static_cast<int>(id));
  }
  std::string text;
  const auto status = pieces_.Decode(kept, &text);
  if (!status.ok()) throw std::runtime_error(status.ToString());
  return text;
}
