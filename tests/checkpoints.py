"""Seeded random checkpoints in Hugging Face layout, and what transformers says about them.

The weights are drawn so that mistakes show: logits far apart, position biases and norms that
matter, experts that all get tokens, a capacity that runs out, an eos that is reached now and then.
"""

import json
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

TINY = {
    "vocab_size": 131,
    "d_model": 32,
    "d_kv": 8,
    "d_ff": 48,
    "num_heads": 3,  # 3 * 8 is not d_model
    "num_layers": 2,
    "num_decoder_layers": 2,
    "num_sparse_encoder_layers": 1,
    "num_sparse_decoder_layers": 1,
    "num_experts": 4,
    "expert_capacity": 2,
    "decoder_start_token_id": 0,
}


@dataclass(frozen=True)
class Variant:
    """A checkpoint to export: what differs from TINY, and how it is exported.

    Attributes:
        config: fields of config.json.
        json: fields written over config.json after saving; None removes one.
        export: options of switch_export.export.
        seed: of the weights.
        one_embedding: save `shared` and the head, but no embedding of either stack.
    """

    config: dict = field(default_factory=dict)
    json: dict = field(default_factory=dict)
    export: dict = field(default_factory=dict)
    seed: int = 0
    one_embedding: bool = False


#: How much longer than others the embedding of an eos is.
EOS_SCALE = 2.6

# An export takes seconds, so that a variant has many differences at once.
VARIANTS = {
    "tiny": Variant(seed=11, export={"verify": True}),
    # Not fewer encoder than decoder blocks: transformers' generate makes too small a cache for it.
    "untied": Variant(
        {"tie_word_embeddings": False, "router_bias": True, "dense_act_fn": "gelu",
         "num_layers": 3, "eos_token_id": [1, 7, 11],
         "relative_attention_num_buckets": 12, "relative_attention_max_distance": 21},
        json={"encoder_sparse_step": 1, "decoder_sparse_step": 2},
    ),
    "tied_flag_other_head": Variant(
        {"tie_word_embeddings": False, "dense_act_fn": "gelu_new", "num_experts": 1},
        json={"tie_word_embeddings": True, "decoder_start_token_id": None}, one_embedding=True,
    ),
    "tied_flag_other_embeddings": Variant(
        {"tie_word_embeddings": False, "dense_act_fn": "silu", "num_experts": 37},
        json={"tie_word_embeddings": True, "encoder_sparse_step": 0},
    ),
    "capacity_zero": Variant({"expert_capacity": 0}, export={"target": "onnx"}),
    "no_drop": Variant(export={"capacity": "none"}),
    "legacy": Variant(export={"capacity": "legacy"}, json={"encoder_sparse_step": 1}),
    "bfloat16_router": Variant({"router_dtype": "bfloat16"}),
    "bf16": Variant(seed=11, export={"verify": True, "precision": "bf16"}),
    "fp16": Variant(seed=11, export={"verify": True, "precision": "fp16", "target": "onnx"}),
    "int8": Variant(seed=11, export={"verify": True, "precision": "int8"}),
    "int4": Variant(seed=11, export={"verify": True, "precision": "int4"}),
}

#: Those that compute what transformers computes: not the quantised, and no router that rounds its
#: gates to 8 bits, where the sum before rounding may be on another side.
EXACT = [
    name for name, variant in VARIANTS.items()
    if "precision" not in variant.export and name != "bfloat16_router"
]


def make_checkpoint(path: Path, variant: Variant) -> Path:
    """Save the variant's model to `path`, as transformers saves it."""
    import torch
    from transformers import (
        SwitchTransformersConfig,
        SwitchTransformersForConditionalGeneration,
    )

    config = SwitchTransformersConfig(**TINY | variant.config)
    for name, value in variant.json.items():
        if name.endswith("_sparse_step"):
            setattr(config, name, value)
    model = SwitchTransformersForConditionalGeneration(config).eval()
    generator = torch.Generator().manual_seed(variant.seed)
    for name, parameter in model.named_parameters():
        with torch.no_grad():
            parameter.copy_(draw(name, tuple(parameter.shape), config, generator))
    model.generation_config.decoder_start_token_id = variant.json.get("decoder_start_token_id", 0)
    model.save_pretrained(path)
    if variant.one_embedding:
        drop_embeddings(path / "model.safetensors")
    file = path / "config.json"
    merged = json.loads(file.read_text()) | variant.json
    file.write_text(json.dumps({k: v for k, v in merged.items() if v is not None}))
    return path


def drop_embeddings(file: Path) -> None:
    """Remove the stacks' own embeddings from a safetensors file."""
    from safetensors.numpy import load_file, save_file

    tensors = load_file(file)
    kept = {name: value for name, value in tensors.items() if "embed_tokens" not in name}
    save_file(kept, file, metadata={"format": "pt"})


def draw(name: str, shape: tuple, config, generator):
    """A random weight for the parameter of that name."""
    import torch

    values = torch.randn(shape, generator=generator)
    if "layer_norm" in name:
        sharp = 2.5 if name == "decoder.final_layer_norm.weight" else 1.0
        return (1.0 + 0.3 * values) * sharp
    if "relative_attention_bias" in name:
        return values
    if "router.classifier" in name:
        return values * 0.4
    if ".wo." in name or name.endswith(".wo.weight"):
        return values * 2.5 * config.d_ff**-0.5
    if "layer" in name:
        return values * 1.6 * config.d_model**-0.5
    scale = 1.0 if config.tie_word_embeddings or "lm_head" not in name else config.d_model**-0.5
    eos = config.eos_token_id
    ends = eos if isinstance(eos, list) else [eos]
    values[ends] *= EOS_SCALE  # often improbable, sometimes the best
    return values * scale


def load_oracle(path: Path, policy: str = "hf"):
    """The checkpoint in transformers, in float32; other capacity policies through hooks."""
    import torch
    from transformers import SwitchTransformersForConditionalGeneration

    model = SwitchTransformersForConditionalGeneration.from_pretrained(
        path, dtype=torch.float32, attn_implementation="eager"
    ).eval()
    for module in model.modules():
        if type(module).__name__ == "SwitchTransformersTop1Router" and policy == "none":
            module.expert_capacity = 10**6
        if type(module).__name__ == "SwitchTransformersSparseMLP" and policy == "legacy":
            module.register_forward_hook(pass_dropped)
    return model


def pass_dropped(mlp, arguments: tuple, output):
    """What transformers up to 4.51 did with a dropped token: gate * x instead of 0."""
    import torch

    chosen, gate, _ = mlp.router(arguments[0])
    return torch.where(chosen.sum(-1, keepdim=True) > 0, output, gate * arguments[0])


def record_routes(model) -> tuple[dict[str, tuple], list]:
    """Record what every router of `model` gives from now on.

    Returns:
        routes: "encoder.1" -> expert [B, T] (-1: dropped), gate [B, T], margin of the best two.
        handles: remove() each to stop.
    """
    routes: dict[str, tuple] = {}
    handles = []

    def hook_for(name: str):
        def hook(_router, _arguments, output):
            chosen, gate, logits = (part.detach().float().numpy() for part in output)
            expert = np.where(chosen.sum(-1) > 0, chosen.argmax(-1), -1)
            probabilities = np.exp(logits - logits.max(-1, keepdims=True))
            best = np.sort(probabilities / probabilities.sum(-1, keepdims=True), -1)
            margin = best[..., -1] - (best[..., -2] if best.shape[-1] > 1 else 0.0)
            routes[name] = expert, gate[..., 0], margin
        return hook

    for name, module in model.named_modules():
        if type(module).__name__ == "SwitchTransformersTop1Router":
            stack, _, index = name.split(".")[:3]
            handles.append(module.register_forward_hook(hook_for(f"{stack}.{index}")))
    return routes, handles


def pad(rows: list[list[int]], extra: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Right-pad to a rectangle: ids and mask, [B, S] int64 each."""
    width = max(map(len, rows)) + extra
    ids = np.zeros((len(rows), width), np.int64)
    mask = np.zeros_like(ids)
    for i, row in enumerate(rows):
        ids[i, : len(row)] = row
        mask[i, : len(row)] = 1
    return ids, mask


def random_rows(seed: int, lengths: tuple[int, ...], vocab_size: int = 131) -> list[list[int]]:
    """Rows of random ids, each ending in </s>."""
    random = np.random.default_rng(seed)
    return [[*random.integers(3, vocab_size, n - 1).tolist(), 1] for n in lengths]
