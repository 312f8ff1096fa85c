// Reads typed values out of a JSON object and collects what is wrong instead of throwing.
#ifndef SWITCH_SRC_JSON_READER_H_
#define SWITCH_SRC_JSON_READER_H_

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

namespace switch_runtime {

using Json = nlohmann::json;

class JsonReader {
 public:
  JsonReader(const Json& object, std::string where, std::vector<std::string>& problems)
      : object_(object), where_(std::move(where)), problems_(problems) {}

  const Json& object() const { return object_; }

  void report(const std::string& key, const std::string& problem) const {
    problems_.push_back(path(key) + " " + problem);
  }

  std::string path(const std::string& key) const {
    return where_.empty() ? key : where_ + "." + key;
  }

  // Null where the key is missing, JSON null, or not of the wanted kind.
  const Json* find(const std::string& key) const {
    const auto found = object_.find(key);
    return found == object_.end() || found->is_null() ? nullptr : &*found;
  }

  const Json* need(const std::string& key, Json::value_t kind, const char* expected) const {
    const Json* value = find(key);
    if (value && value->type() == kind) return value;
    report(key, value ? std::string("is ") + describe(*value) + ", expected " + expected
                      : std::string("is missing, expected ") + expected);
    return nullptr;
  }

  const Json* object(const std::string& key) const {
    return need(key, Json::value_t::object, "an object");
  }

  std::string text(const std::string& key) const {
    const Json* value = need(key, Json::value_t::string, "a string");
    return value ? value->get<std::string>() : std::string();
  }

  int64_t integer(const std::string& key, int64_t low, int64_t high) const {
    const Json* value = find(key);
    if (value) return checked(*value, key, low, high);
    report(key, "is missing, expected a whole number");
    return low;
  }

  std::vector<int64_t> integers(const std::string& key, int64_t low, int64_t high) const {
    std::vector<int64_t> result;
    const Json* list = need(key, Json::value_t::array, "a list of whole numbers");
    if (!list) return result;
    for (const auto& value : *list) result.push_back(checked(value, key, low, high));
    return result;
  }

  int64_t checked(const Json& value, const std::string& key, int64_t low, int64_t high) const {
    const bool fits = !value.is_number_unsigned() || value.get<uint64_t>() <= uint64_t(INT64_MAX);
    if (value.is_number_integer() && fits) {
      const auto number = value.get<int64_t>();
      if (low <= number && number <= high) return number;
    }
    report(key, "is " + describe(value) + ", expected a whole number from " + std::to_string(low) +
                    " to " + std::to_string(high));
    return low;
  }

  // A value as it is shown in a message: short, whatever the file holds.
  static std::string describe(const Json& value) {
    if (value.is_object()) return "an object";
    if (value.is_array()) return "a list";
    std::string text = value.dump(-1, ' ', true, Json::error_handler_t::replace);
    return text.size() <= 60 ? text : text.substr(0, 60) + "...";
  }

 private:
  const Json& object_;
  std::string where_;
  std::vector<std::string>& problems_;
};

}  // namespace switch_runtime

#endif  // SWITCH_SRC_JSON_READER_H_
