#include "listener.h"

#include "error.h"

namespace switch_runtime {

void Listener::check_cancelled() const {
  if (cancel && __atomic_load_n(cancel, __ATOMIC_RELAXED))
    throw Error(SWITCH_CANCELLED, "cancelled by the caller");
}

void Listener::logits(const switch_step& step) const {
  if (on_logits && on_logits(user_data, &step)) {
    throw Error(SWITCH_CANCELLED, "cancelled by on_logits");
  }
}

void Listener::token(int64_t sequence, int64_t token) const {
  if (on_token && on_token(user_data, sequence, token)) {
    throw Error(SWITCH_CANCELLED, "cancelled by on_token");
  }
}

void Listener::progress(int64_t done, int64_t total) const {
  if (on_progress && on_progress(user_data, done, total)) {
    throw Error(SWITCH_CANCELLED, "cancelled by on_progress");
  }
}

}  // namespace switch_runtime
