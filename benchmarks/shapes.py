"""Checkpoints to measure: random weights at real shapes, seeded."""

from pathlib import Path

#: Values of the released config.json files.
SHAPES = {
    "base-8": {
        "d_model": 768, "d_kv": 64, "d_ff": 3072, "num_heads": 12, "num_experts": 8,
        "num_layers": 12, "num_decoder_layers": 12,
        "num_sparse_encoder_layers": 6, "num_sparse_decoder_layers": 6,
        "vocab_size": 32128, "decoder_start_token_id": 0,
    },
}


def random_checkpoint(name: str, folder: Path, seed: int = 0) -> Path:
    """Make (once) a random fp32 checkpoint of the shape `name` in `folder`; gives its path."""
    import torch
    from transformers import SwitchTransformersConfig, SwitchTransformersForConditionalGeneration

    path = folder / f"switch-{name}-random"
    if (path / "model.safetensors").exists():
        return path
    torch.manual_seed(seed)
    model = SwitchTransformersForConditionalGeneration(SwitchTransformersConfig(**SHAPES[name]))
    with torch.no_grad():
        # transformers' initial weights route every token alike and give flat logits.
        for parameter_name, parameter in model.named_parameters():
            if parameter.dim() == 2:
                scale = 4.0 if "router" in parameter_name else 1.0
                parameter.normal_(0.0, scale * parameter.shape[-1] ** -0.5)
        model.shared.weight.normal_(0.0, 1.0)
    model.save_pretrained(path)
    return path
