// The one virtual interface: whatever runs the two graphs of a model directory.
#ifndef SWITCH_SRC_BACKEND_H_
#define SWITCH_SRC_BACKEND_H_

#include <memory>
#include <vector>

#include "tensor.h"

namespace switch_runtime {

enum class GraphKind { kEncoder, kDecoder };

// A graph with all its tensors bound to fixed addresses: run it as often as their contents change.
class BoundGraph {
 public:
  virtual ~BoundGraph() = default;
  virtual void run() = 0;
};

class Backend {
 public:
  virtual ~Backend() = default;

  // Bind every input and those outputs that are wanted; the engine writes into the given memory.
  // The memory must outlive the result. Safe to call from several threads.
  virtual std::unique_ptr<BoundGraph> bind(GraphKind graph, const std::vector<Tensor>& inputs,
                                           const std::vector<Tensor>& outputs) = 0;
};

}  // namespace switch_runtime

#endif  // SWITCH_SRC_BACKEND_H_
