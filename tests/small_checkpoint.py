"""Very small seeded checkpoints in every file format, saved by transformers' own classes."""

import json
from pathlib import Path
from typing import Any

SIZES = {
    "vocab_size": 40, "d_model": 16, "d_kv": 4, "d_ff": 8, "num_heads": 2, "num_experts": 2,
    "num_layers": 2, "num_decoder_layers": 2,
    "num_sparse_encoder_layers": 1, "num_sparse_decoder_layers": 1,
}
KINDS = ("ForConditionalGeneration", "Model", "EncoderModel")


def save_small(path: Path, kind: str = "ForConditionalGeneration", **config: Any) -> Path:
    """Save a model of class `SwitchTransformers<kind>` as safetensors."""
    import torch
    import transformers

    torch.manual_seed(7)
    settings = transformers.SwitchTransformersConfig(**SIZES | config)
    model = getattr(transformers, f"SwitchTransformers{kind}")(settings)
    for parameter in model.parameters():  # norms start as ones: no two tensors are to be equal
        torch.nn.init.normal_(parameter)
    model.save_pretrained(path)
    return Path(path)


def read_state(path: Path) -> dict:
    """The tensors of a checkpoint that `save_small` made."""
    from safetensors.torch import load_file

    return load_file(path / "model.safetensors")


def write_state(path: Path, state: dict) -> Path:
    """Replace the tensors of a checkpoint."""
    from safetensors.torch import save_file

    save_file(state, path / "model.safetensors")
    return path


def write_bin(path: Path, state: dict, **options: Any) -> Path:
    """Replace the safetensors file by pytorch_model.bin."""
    import torch

    (path / "model.safetensors").unlink()
    torch.save(state, path / "pytorch_model.bin", **options)
    return path


def write_shards(path: Path, state: dict, extension: str, count: int = 3) -> Path:
    """Replace the safetensors file by `count` shards and their index."""
    import torch
    from safetensors.torch import save_file

    (path / "model.safetensors").unlink()
    stem = "model" if extension == "safetensors" else "pytorch_model"
    names = sorted(state)
    weight_map = {}
    for i in range(count):
        shard = f"{stem}-{i + 1:05}-of-{count:05}.{extension}"
        part = {name: state[name] for name in names[i::count]}
        weight_map |= dict.fromkeys(part, shard)
        save = save_file if extension == "safetensors" else torch.save
        save(part, path / shard)
    index = {"metadata": {}, "weight_map": weight_map}
    (path / f"{stem}.{extension}.index.json").write_text(json.dumps(index))
    return path


def edit_config(path: Path, **fields: Any) -> Path:
    """Change fields of config.json."""
    file = path / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | fields))
    return path
