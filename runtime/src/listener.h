// The caller during a call: its cancel flag and its callbacks.
#ifndef SWITCH_SRC_LISTENER_H_
#define SWITCH_SRC_LISTENER_H_

#include <cstdint>

#include "switch_runtime.h"

namespace switch_runtime {

// Every function throws Error SWITCH_CANCELLED if the flag, or the callback, asks for the end.
struct Listener {
  const volatile int32_t* cancel = nullptr;
  void* user_data = nullptr;
  switch_logits_callback on_logits = nullptr;
  switch_token_callback on_token = nullptr;
  switch_progress_callback on_progress = nullptr;

  void check_cancelled() const;
  void logits(const switch_step& step) const;
  void token(int64_t sequence, int64_t token) const;
  void progress(int64_t done, int64_t total) const;
};

}  // namespace switch_runtime

#endif  // SWITCH_SRC_LISTENER_H_
