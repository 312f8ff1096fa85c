"""Adapter files as PEFT writes them, their sums by NumPy, and what our exporter reads of them."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from switch_export.checkpoint import find_checkpoint
from switch_export.errors import UnsupportedCheckpoint
from switch_export.weights import open_weights


def halves(shape: tuple[int, int], rank: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """A [r, in] and B [out, r] for a matrix [out, in], large enough to show."""
    random = np.random.default_rng(seed)
    a, b = random.normal(size=(rank, shape[1])), random.normal(size=(shape[0], rank))
    return a.astype(np.float32), (b * 0.2).astype(np.float32)


def write_adapter(path: Path, tensors: dict, *, extension: str = "safetensors", **config) -> Path:
    """What PEFT's save_pretrained leaves in a directory; names without `base_model.model.`."""
    path.mkdir(exist_ok=True)
    fields = {
        "peft_type": "LORA", "r": 3, "lora_alpha": 6, "bias": "none", "use_rslora": False,
        "fan_in_fan_out": False, "modules_to_save": None, "rank_pattern": {}, "alpha_pattern": {},
        "use_dora": False, "lora_bias": False, "layer_replication": None,
        "init_lora_weights": True, "target_modules": ["q"], "task_type": "SEQ_2_SEQ_LM",
    }
    (path / "adapter_config.json").write_text(json.dumps(fields | config))
    tensors = {f"base_model.model.{name}": value for name, value in tensors.items()}
    if extension == "bin":
        state = {name: torch.from_numpy(value) for name, value in tensors.items()}
        torch.save(state, path / "adapter_model.bin")
    else:
        save_file(tensors, path / "adapter_model.safetensors")
    return path


def pairs(
    state: dict, modules: tuple[str, ...], ranks: dict | None = None, infix: str = ""
) -> dict:
    """The tensors of an adapter of those modules."""
    tensors = {}
    for seed, module in enumerate(modules):
        rank = (ranks or {}).get(module, 3)
        a, b = halves(state[f"{module}.weight"].shape, rank, seed)
        tensors |= {f"{module}.lora_A{infix}.weight": a, f"{module}.lora_B{infix}.weight": b}
    return tensors


def merged(state: dict, tensors: dict, scales: dict[str, float]) -> dict:
    """W + scale * B A, by NumPy in float64."""
    result = dict(state)
    for module, scale in scales.items():
        a, b = (tensors[f"{module}.lora_{half}.weight"].astype(np.float64) for half in "AB")
        total = state[f"{module}.weight"] + scale * np.einsum("or,ri->oi", b, a)
        result[f"{module}.weight"] = total.astype(np.float32)
    return result


def copy_with(path: Path, source: Path, state: dict) -> Path:
    """The checkpoint `source` with other weights."""
    path.mkdir()
    for name in ("config.json", "generation_config.json"):
        (path / name).write_text((source / name).read_text())
    save_file(state, path / "model.safetensors", metadata={"format": "pt"})
    return path


def table(model: Path, adapter: Path) -> dict:
    """Name -> merged tensor, of everything that an export reads."""
    opened = find_checkpoint(str(model), adapter=str(adapter))
    weights = open_weights(opened, "seq2seq").weights
    return {
        part.name: weight.load_part(i).numpy()
        for weight in weights.values() for i, part in enumerate(weight.parts)
    }


def refusal(model: Path, adapter: Path) -> str:
    with pytest.raises(UnsupportedCheckpoint) as caught:
        table(model, adapter)
    return str(caught.value)
