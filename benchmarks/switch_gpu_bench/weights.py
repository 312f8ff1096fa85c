"""The exporter's model as tensors: parameters of its encoder and decoder, by their own names."""

import math
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from switch_export.checkpoint import find_checkpoint
from switch_export.config import SwitchConfig
from switch_export.model.attention import bucket_table
from switch_export.model.decoder import Decoder
from switch_export.model.encoder import Encoder
from switch_export.model.names import Names, decoder_names, encoder_names
from switch_export.moe.router import Capacity
from switch_export.quantize import Precision
from switch_export.weights import open_weights
from switch_gpu_bench.packed import FLOATS, Packed

TASK = "seq2seq"
#: Routers of random models: softmax over standard normals times this is a clear choice.
_ROUTER_SCALE = 4.0


@dataclass(frozen=True)
class Stack:
    """The encoder or the decoder: parameters by the exporter's names, weights in `precision`."""

    config: SwitchConfig
    precision: Precision
    parameters: dict[str, Tensor]

    def weight(self, name: str) -> Packed:
        """Return a weight; one matrix is a stack of one."""
        values = self.parameters[name]
        return Packed(values if values.dim() == 3 else values[None], None, self.precision)

    def bias(self) -> Tensor:
        """Return the position bias by distance, float32 [2 M + 1, H]."""
        table, buckets = self.parameters["position.weight"], self.parameters["position.buckets"]
        return table[buckets].contiguous()


def load(path: Path, precision: str, device: str, rounded: bool) -> tuple[Stack, Stack]:
    """Read encoder and decoder of a checkpoint.

    Args:
        rounded: also norms, routers and position biases hold only what `precision` holds, as in
            a checkpoint that transformers loads in that type; they stay float32.
    """
    checkpoint = find_checkpoint(str(path))
    table = open_weights(checkpoint, TASK)
    form = Precision(precision)

    def read(names: Names, bidirectional: bool) -> Stack:
        parameters = {}
        for parameter, stored in names.items():
            parts = [table.weights[name].load() for name in stored.weights]
            tensor = torch.cat(parts) if len(parts) > 1 else parts[0]
            kept = tensor.to(FLOATS[precision])
            if stored.form == "exact":
                kept = kept.to(torch.float32) if rounded else tensor
            parameters[parameter] = kept.contiguous().to(device)
        return _stack(checkpoint.config, form, parameters, bidirectional, device)

    arguments = checkpoint.config, table.embeddings, TASK, form
    return read(encoder_names(*arguments), True), read(decoder_names(*arguments), False)


def random(config: SwitchConfig, precision: str, device: str, seed: int) -> tuple[Stack, Stack]:
    """Make encoder and decoder with random weights; routes and predictions change at every step.

    The head is a matrix of its own: a random one that is also the embedding predicts the token it
    has just read, for ever.
    """
    form, capacity = Precision(precision), Capacity("none", -1)
    generator = torch.Generator(device).manual_seed(seed)

    def draw(module: type, bidirectional: bool) -> Stack:
        with torch.device("meta"):
            made = module(config, capacity, TASK, form)
        parameters = {}
        for name, parameter in made.named_parameters():
            if name.endswith("norm.weight"):
                parameters[name] = torch.ones(parameter.shape, device=device)
                continue
            values = torch.empty(parameter.shape, dtype=parameter.dtype, device=device)
            deviation = _deviation(name, parameter, config)
            parameters[name] = values.normal_(0, deviation, generator=generator)
        return _stack(config, form, parameters, bidirectional, device)

    return draw(Encoder, True), draw(Decoder, False)


def _deviation(name: str, parameter: Tensor, config: SwitchConfig) -> float:
    """T5's own initialisation: q carries 1 / sqrt(d_kv), or attention would be all or nothing."""
    if name in ("embedding.weight", "position.weight"):
        return 1.0
    deviation = 1 / math.sqrt(parameter.shape[-1])
    if name.endswith("router.weight"):
        return deviation * _ROUTER_SCALE
    return deviation * config.d_kv**-0.5 if name.endswith(".q.weight") else deviation


def _stack(
    config: SwitchConfig, form: Precision, parameters: dict, bidirectional: bool, device: str
) -> Stack:
    table = bucket_table(config.num_buckets, config.max_distance, bidirectional)
    return Stack(config, form, parameters | {"position.buckets": table.to(device)})
