"""A checkpoint with random weights in the exact layout of google/switch-base-8.

    python tests/released_layout.py DIR      # full size: 619,339,008 parameters, 1.24 GB

One pytorch_model.bin of 440 names: 434 bfloat16 tensors and 6 float32 ones (the encoder's routers),
the four names of the embedding on one storage.
"""

import json
import sys
from pathlib import Path
from typing import Any

#: config.json of google/switch-base-8, with the fields that nothing reads any more.
RELEASED = {
    "architectures": ["SwitchTransformersForConditionalGeneration"],
    "model_type": "switch_transformers", "torch_dtype": "bfloat16",
    "vocab_size": 32128, "d_model": 768, "d_kv": 64, "d_ff": 3072, "num_heads": 12,
    "num_layers": 12, "num_decoder_layers": 12, "num_experts": 8, "expert_capacity": 64,
    "num_sparse_encoder_layers": 6, "num_sparse_decoder_layers": 6,
    "encoder_sparse_step": 2, "decoder_sparse_step": 2,
    "relative_attention_num_buckets": 32, "relative_attention_max_distance": 128,
    "layer_norm_epsilon": 1e-06, "dropout_rate": 0.1, "initializer_factor": 1.0,
    "dense_act_fn": "relu", "feed_forward_proj": "relu", "is_gated_act": False,
    "router_type": "tokens_masked", "router_dtype": "float32", "router_bias": False,
    "router_jitter_noise": 0, "router_ignore_padding_tokens": False, "add_router_probs": False,
    "router_aux_loss_coef": 0.001, "router_z_loss_coef": 0.001,
    "num_selected_experts": 1, "batch_prioritized_routing": False,
    "is_encoder_decoder": True, "use_cache": True,
    "pad_token_id": 0, "eos_token_id": 1, "decoder_start_token_id": 0,
    "task_specific_params": {"summarization": {"num_beams": 4, "prefix": "summarize: "}},
}
#: The same with 0.1 % of the parameters, and all 440 names.
REDUCED = {"vocab_size": 48, "d_model": 16, "d_kv": 4, "d_ff": 24, "num_heads": 3}


def make_released(path: Path, seed: int = 0, **changes: Any) -> Path:
    """Write config.json, generation_config.json and pytorch_model.bin into `path`."""
    import torch

    config = RELEASED | changes
    path.mkdir(parents=True, exist_ok=True)
    (path / "config.json").write_text(json.dumps(config, indent=2))
    ids = {name: config[name] for name in config if name.endswith("token_id")}
    (path / "generation_config.json").write_text(json.dumps({"_from_model_config": True} | ids))

    generator = torch.Generator().manual_seed(seed)

    def random(*shape: int, scale: float, dtype=torch.bfloat16):
        return (torch.randn(shape, generator=generator) * scale).to(dtype)

    state = {}
    embedding = random(config["vocab_size"], config["d_model"], scale=1.0)
    for name in ("shared", "encoder.embed_tokens", "decoder.embed_tokens", "lm_head"):
        state[f"{name}.weight"] = embedding
    for stack in ("encoder", "decoder"):
        for name, shape in _shapes(config, stack):
            is_router = stack == "encoder" and "router" in name
            dtype = torch.float32 if is_router else torch.bfloat16
            if len(shape) == 1:
                state[name] = (1 + random(*shape, scale=0.1)).to(dtype)
            else:
                state[name] = random(*shape, scale=shape[-1] ** -0.5, dtype=dtype)
    torch.save(state, path / "pytorch_model.bin")
    return path


def _shapes(config: dict, stack: str):
    """Name and shape of each tensor of one stack."""
    d_model, inner = config["d_model"], config["num_heads"] * config["d_kv"]
    attentions = ["SelfAttention"] + ["EncDecAttention"] * (stack == "decoder")
    mlp = {"wi": (config["d_ff"], d_model), "wo": (d_model, config["d_ff"])}
    for i in range(config["num_layers"]):
        for j, attention in enumerate(attentions):
            source = f"{stack}.block.{i}.layer.{j}"
            for part in "qkv":
                yield f"{source}.{attention}.{part}.weight", (inner, d_model)
            yield f"{source}.{attention}.o.weight", (d_model, inner)
            yield f"{source}.layer_norm.weight", (d_model,)
        source = f"{stack}.block.{i}.layer.{len(attentions)}"
        yield f"{source}.layer_norm.weight", (d_model,)
        if i % 2 == 0:
            yield from ((f"{source}.mlp.{part}.weight", shape) for part, shape in mlp.items())
            continue
        experts = config["num_experts"]
        yield f"{source}.mlp.router.classifier.weight", (experts, d_model)
        for e in range(experts):
            for part, shape in mlp.items():
                yield f"{source}.mlp.experts.expert_{e}.{part}.weight", shape
    bias = f"{stack}.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
    yield bias, (config["relative_attention_num_buckets"], config["num_heads"])
    yield f"{stack}.final_layer_norm.weight", (d_model,)


if __name__ == "__main__":
    print(make_released(Path(sys.argv[1])))
