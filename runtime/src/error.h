// The one exception type of the runtime; api.cc turns it into a status and a message.
#ifndef SWITCH_SRC_ERROR_H_
#define SWITCH_SRC_ERROR_H_

#include <stdexcept>
#include <string>
#include <vector>

#include "switch_runtime.h"

namespace switch_runtime {

class Error : public std::runtime_error {
 public:
  Error(switch_status status, const std::string& message)
      : std::runtime_error(message), status_(status) {}

  switch_status status() const { return status_; }

 private:
  switch_status status_;
};

// "HEADLINE:\n  - problem\n  - problem": every problem of one input in one message.
inline std::string list_problems(const std::string& headline,
                                 const std::vector<std::string>& problems) {
  std::string text = headline + ":";
  for (const auto& problem : problems) text += "\n  - " + problem;
  return text;
}

}  // namespace switch_runtime

#endif  // SWITCH_SRC_ERROR_H_
