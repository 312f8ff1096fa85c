"""Checkpoints to measure: random weights at real shapes, seeded, written shard by shard.

    python -m switch_bench.shapes base-8 FOLDER     # what exports.py starts

Every tensor has a seed of its own made from its name, so that `decoder-8` and `decoder-128` agree
wherever both have a tensor, and only one shard is ever in memory.
"""

import json
import math
import shutil
import sys
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_ROUTER_SCALE = 4.0  # with 1.0, random routers send most tokens to the same few experts


@dataclass(frozen=True)
class Shape:
    """What a checkpoint differs in from switch-base; `stored` is torch's name of its type."""

    experts: int
    encoder_layers: int = 12
    stored: str = "float32"


#: base-64 would be 15 GB in float32, and nothing reads it in float32. `decoder-N` has base-N's
#: whole decoder and an encoder of two blocks: that is all that a decoder step can tell of, and
#: decoder-128 then takes 8.6 GB, and 4.4 GB as int8, instead of twice that.
SHAPES = {
    "base-8": Shape(8),
    "base-64": Shape(64, stored="bfloat16"),
    **{f"decoder-{n}": Shape(n, encoder_layers=2, stored="bfloat16") for n in (8, 32, 128)},
}
_DECODER_LAYERS, _D_MODEL, _D_FF, _HEADS, _D_KV, _VOCABULARY = 12, 768, 3072, 12, 64, 32128


def config(shape: Shape) -> dict:
    """Return the contents of config.json."""
    return {
        "architectures": ["SwitchTransformersForConditionalGeneration"],
        "model_type": "switch_transformers", "is_encoder_decoder": True,
        "d_model": _D_MODEL, "d_kv": _D_KV, "d_ff": _D_FF, "num_heads": _HEADS,
        "num_experts": shape.experts, "expert_capacity": 64,
        "num_layers": shape.encoder_layers, "num_decoder_layers": _DECODER_LAYERS,
        "num_sparse_encoder_layers": shape.encoder_layers // 2,
        "num_sparse_decoder_layers": _DECODER_LAYERS // 2,
        "encoder_sparse_step": 2, "decoder_sparse_step": 2,
        "vocab_size": _VOCABULARY, "tie_word_embeddings": True, "dtype": shape.stored,
        "pad_token_id": 0, "eos_token_id": 1, "decoder_start_token_id": 0,
    }


def shards(shape: Shape) -> Iterator[dict[str, tuple[int, ...]]]:
    """Yield the names and shapes of the tensors of each shard: one shard per block."""
    yield {"shared.weight": (_VOCABULARY, _D_MODEL)}
    for stack, layers in (("encoder", shape.encoder_layers), ("decoder", _DECODER_LAYERS)):
        for index in range(layers):
            yield _block(f"{stack}.block.{index}.layer.", index, stack == "decoder", shape.experts)
        yield {f"{stack}.final_layer_norm.weight": (_D_MODEL,)}


def _block(prefix: str, index: int, decoder: bool, experts: int) -> dict[str, tuple[int, ...]]:
    square = (_HEADS * _D_KV, _D_MODEL)
    attentions = ("SelfAttention", "EncDecAttention") if decoder else ("SelfAttention",)
    names = {
        f"{prefix}{at}.{attention}.{part}.weight": square
        for at, attention in enumerate(attentions) for part in "qkvo"
    }
    if index == 0:
        names[f"{prefix}0.SelfAttention.relative_attention_bias.weight"] = (32, _HEADS)
    norms = len(attentions) + 1
    names |= {f"{prefix}{at}.layer_norm.weight": (_D_MODEL,) for at in range(norms)}
    mlp = f"{prefix}{norms - 1}.mlp."
    if index % 2 == 0:
        return names | {f"{mlp}wi.weight": (_D_FF, _D_MODEL), f"{mlp}wo.weight": (_D_MODEL, _D_FF)}
    names[f"{mlp}router.classifier.weight"] = (experts, _D_MODEL)
    for expert in range(experts):
        names[f"{mlp}experts.expert_{expert}.wi.weight"] = (_D_FF, _D_MODEL)
        names[f"{mlp}experts.expert_{expert}.wo.weight"] = (_D_MODEL, _D_FF)
    return names


def random_checkpoint(name: str, folder: Path) -> Path:
    """Make (once) the checkpoint of the shape `name` in `folder`; return its path."""
    from safetensors.torch import save_file

    path, shape = folder / f"{name}-checkpoint", SHAPES[name]
    if path.exists():
        return path
    partial = folder / f".{name}-checkpoint.partial"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    places, size = {}, 0
    for number, shard in enumerate(shards(shape)):
        tensors = {tensor: _random(tensor, sizes, shape.stored) for tensor, sizes in shard.items()}
        file = f"model-{number:05}.safetensors"
        save_file(tensors, partial / file, {"format": "pt"})
        places |= dict.fromkeys(tensors, file)
        size += sum(tensor.nbytes for tensor in tensors.values())
    index = {"metadata": {"total_size": size}, "weight_map": places}
    (partial / "model.safetensors.index.json").write_text(json.dumps(index))
    (partial / "config.json").write_text(json.dumps(config(shape), indent=2))
    partial.rename(path)
    return path


def _random(name: str, sizes: tuple[int, ...], stored: str):
    """Make one tensor: transformers' initial weights route every token alike, flat logits too.

    q carries 1 / sqrt(d_kv), as in T5's own initialisation: without it attention is all or
    nothing. The head reads the last hidden state with random signs: a tied embedding would
    otherwise predict the token it has just read, for ever, and every step would be the same.
    """
    import torch

    dtype = getattr(torch, stored)
    seed = torch.Generator().manual_seed(zlib.crc32(name.encode()))
    if name == "decoder.final_layer_norm.weight":
        return torch.randint(0, 2, sizes, generator=seed).mul(2).sub(1).to(dtype)
    if len(sizes) == 1:
        return torch.ones(sizes, dtype=dtype)
    deviation = 1.0 if name == "shared.weight" else 1 / math.sqrt(sizes[-1])
    if "router" in name:
        deviation *= _ROUTER_SCALE
    if name.endswith(".q.weight"):
        deviation *= _D_KV**-0.5
    return torch.empty(sizes).normal_(0.0, deviation, generator=seed).to(dtype)


if __name__ == "__main__":
    random_checkpoint(sys.argv[1], Path(sys.argv[2]))
