"""The two graphs of a model directory run as docs/model-directory.md says, without our runtime."""

import json
from functools import cached_property
from pathlib import Path

import numpy as np


class Graphs:
    """A model directory in ONNX Runtime's Python module."""

    def __init__(self, directory: Path):
        self.directory = directory
        self.description = json.loads((directory / "switch.json").read_text())
        sizes = self.description["model"]
        self.layers = sizes["num_decoder_layers"]
        self.row_shape = sizes["num_heads"], sizes["d_kv"]

    @cached_property
    def encoder(self):
        """encoder.onnx."""
        return session(self.directory / "encoder.onnx")

    @cached_property
    def decoder(self):
        """decoder.onnx."""
        return session(self.directory / "decoder.onnx")

    def encode(self, ids: np.ndarray, mask: np.ndarray) -> dict[str, np.ndarray]:
        """Run the encoder: ids and mask [B, S] -> every output by name."""
        return run(self.encoder, {"input_ids": ids, "attention_mask": mask})

    def decode(self, ids: np.ndarray, cache: "Cache", source: dict) -> dict[str, np.ndarray]:
        """Run the decoder and append the new rows to the cache.

        Args:
            ids: the new tokens, [R, T].
            source: the encoder's outputs and `attention_mask` [B, S].
        """
        kept = {"input_ids": ids, "position": np.array(cache.position)}
        kept |= {k: v for k, v in source.items() if k.startswith(("cross_", "attention_mask"))}
        outputs = run(self.decoder, kept | cache.tensors)
        cache.append(outputs)
        return outputs

    def cache(self, rows: int, capacity: int, tail: float = 7.5) -> "Cache":
        """An empty self cache for `rows` sequences."""
        heads, d_kv = self.row_shape
        return Cache(self.layers, (rows, heads, capacity, d_kv), tail)


class Cache:
    """Keys and values [R, H, C, K] per layer; what is beyond `position` holds `tail`."""

    def __init__(self, layers: int, shape: tuple[int, ...], tail: float):
        self.position = 0
        self.tail = tail
        self.tensors = {
            f"self_{part}.{i}": np.full(shape, tail, np.float32)
            for i in range(layers) for part in ("key", "value")
        }

    def append(self, outputs: dict[str, np.ndarray]) -> None:
        """Write the new rows at `position`; a cache that is full grows."""
        end = self.position + outputs["new_key.0"].shape[2]
        for name, tensor in self.tensors.items():
            if end > tensor.shape[2]:
                more = np.full_like(tensor, self.tail)
                tensor = np.concatenate((tensor, *[more] * (end // tensor.shape[2])), 2)
            tensor[:, :, self.position : end] = outputs[name.replace("self", "new")]
            self.tensors[name] = tensor
        self.position = end


def session(path: Path):
    """Load one graph, on one thread."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def run(graph, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Feed what the graph takes; every output by name."""
    names = [output.name for output in graph.get_outputs()]
    wanted = {value.name for value in graph.get_inputs()}
    feeds = {name: value for name, value in feeds.items() if name in wanted}
    return dict(zip(names, graph.run(names, feeds), strict=True))
