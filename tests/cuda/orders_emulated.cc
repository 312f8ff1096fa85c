#include "device_array.h"
#include "emulator.h"

namespace switch_tests {

void in_every_order(int major, const std::string& what, const std::function<void()>& body) {
  using emulator::Order;
  emulator::settings().overlaps = true;
  const std::pair<Order, const char*> orders[] = {
      {Order::kForward, "forward"}, {Order::kBackward, "backward"}, {Order::kShuffled, "shuffled"}};
  for (const auto& [order, name] : orders) {
    emulator::settings().order = order;
    // Kernels overlap from 9.0 on.
    emulator::settings().major = order == Order::kForward ? major : 9;
    try {
      body();
      emulator::synchronise();
    } catch (const Failure& failure) {
      throw Failure{what + ", threads " + name + ": " + failure.message};
    } catch (const std::exception& error) {
      throw std::runtime_error(what + ", threads " + name + ": " + error.what());
    }
  }
}

}  // namespace switch_tests
