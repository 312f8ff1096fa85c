// Memory of one call: each thread keeps what its largest call needed.
#ifndef SWITCH_CORE_SCRATCH_H_
#define SWITCH_CORE_SCRATCH_H_

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <new>

namespace switch_ops {

enum class Slot { kPrepared, kHidden, kHiddenPrepared, kRoutes, kScores, kKeys, kCount };

// `count` uninitialised values, 64-byte aligned, valid until this thread asks for the slot again.
template <typename T>
T* scratch(Slot slot, int64_t count) {
  struct Free {
    void operator()(void* data) const { std::free(data); }
  };
  struct Buffer {
    std::unique_ptr<void, Free> data;
    size_t bytes = 0;
  };
  static thread_local Buffer buffers[static_cast<size_t>(Slot::kCount)];
  Buffer& buffer = buffers[static_cast<size_t>(slot)];
  const size_t bytes = (static_cast<size_t>(count) * sizeof(T) / 64 + 1) * 64;
  if (buffer.bytes < bytes) {
    buffer.data.reset();
    buffer.bytes = 0;
    buffer.data.reset(std::aligned_alloc(64, bytes));
    if (!buffer.data) throw std::bad_alloc();
    buffer.bytes = bytes;
  }
  return static_cast<T*>(buffer.data.get());
}

}  // namespace switch_ops

#endif  // SWITCH_CORE_SCRATCH_H_
