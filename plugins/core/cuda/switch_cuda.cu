#include <exception>
#include <string>

#include "operators.h"
#include "switch_cuda.h"

namespace {

using switch_ops::Moe;
using switch_ops::WeightType;
using switch_ops::cuda::weight_of;

thread_local std::string last_error;

template <typename Body>
int guarded(const Body& body) {
  try {
    body();
    return 0;
  } catch (const std::exception& error) {
    last_error = error.what();
  }
  return -1;
}

switch_ops::cuda::Stream stream_of(const switch_cuda_stream* stream) {
  return stream ? switch_ops::cuda::Stream{stream->stream, stream->overlap != 0}
                : switch_ops::cuda::Stream{};
}

Moe moe_of(const switch_cuda_moe& a) {
  return {a.x,
          a.tokens,
          a.expert,
          a.gate,
          weight_of(a.wi),
          weight_of(a.wo),
          static_cast<switch_ops::Activation>(a.activation),
          static_cast<switch_ops::Dropped>(a.dropped),
          a.y,
          a.is_gated != 0,
          static_cast<WeightType>(a.x_type)};
}

}  // namespace

size_t switch_cuda_moe_workspace(const switch_cuda_moe* moe) {
  size_t bytes = 0;
  guarded([&] { bytes = switch_ops::cuda::moe_workspace(moe_of(*moe)); });
  return bytes;
}

int switch_cuda_moe_run(const switch_cuda_stream* stream, const switch_cuda_moe* moe) {
  return guarded([&] {
    switch_ops::cuda::moe(stream_of(stream), moe_of(*moe),
                          {moe->workspace, moe->workspace_bytes, moe->accumulate != 0});
  });
}

int switch_cuda_linear_run(const switch_cuda_stream* stream, const switch_cuda_linear* linear) {
  return guarded([&] { switch_ops::cuda::linear(stream_of(stream), *linear); });
}

int switch_cuda_router_run(const switch_cuda_stream* stream, const switch_cuda_router* router) {
  return guarded([&] { switch_ops::cuda::route(stream_of(stream), *router); });
}

int switch_cuda_cached_attention_run(const switch_cuda_stream* stream,
                                     const switch_cuda_cached_attention* attention) {
  return guarded([&] { switch_ops::cuda::cached_attention(stream_of(stream), *attention); });
}

int switch_cuda_cross_attention_run(const switch_cuda_stream* stream,
                                    const switch_cuda_cross_attention* attention) {
  return guarded([&] { switch_ops::cuda::cross_attention(stream_of(stream), *attention); });
}

const char* switch_cuda_last_error(void) { return last_error.c_str(); }
