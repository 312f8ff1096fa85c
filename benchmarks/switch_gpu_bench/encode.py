"""The encoder in PyTorch, with the kernels for its sparse layers."""

import torch
from torch import Tensor

from switch_export.model.layers import ACTIVATIONS
from switch_gpu_bench.ops import Classifier, CudaOps, Experts, Mlp, Norm, Routes
from switch_gpu_bench.packed import FLOATS, Packed
from switch_gpu_bench.torch_ops import TorchOps
from switch_gpu_bench.weights import Stack

Pair = tuple[Tensor, Tensor]


def encode(stack: Stack, ops: CudaOps | TorchOps, ids: Tensor, mask: Tensor) -> list[Pair]:
    """Return the decoder's cross keys and values, [B, H, S, K] of each block.

    Args:
        ids, mask: int64, [B, S] each.
    """
    config, dtype = stack.config, FLOATS[stack.precision.name]
    x = stack.parameters["embedding.weight"][ids].to(torch.float32)   # [B, S, D]
    bias = _position_bias(stack, ids.shape[1])                        # [H, S, S]
    allowed = mask[:, None, None] != 0
    for i in range(config.num_layers):
        block = f"blocks.{i}"
        normed = _norm(stack, f"{block}.attention.norm.weight", x)
        q, k, v = _heads(normed @ _matrix(stack, f"{block}.attention.qkv.weight").T, 3, config)
        scores = (q @ k.transpose(-1, -2)).to(torch.float32) + bias
        scores = scores.masked_fill(~allowed, torch.finfo(torch.float32).min)
        mixed = (torch.softmax(scores, -1).to(dtype) @ v).transpose(1, 2).flatten(2)
        x += mixed @ _matrix(stack, f"{block}.attention.o.weight").T
        _feed_forward(stack, ops, f"{block}.mlp", i in config.sparse_encoder_layers, x)
    normed = _norm(stack, "norm.weight", x)
    return [
        tuple(part.contiguous() for part in _heads(
            normed @ _matrix(stack, f"cross.{i}.weight").T, 2, config
        ))
        for i in range(config.num_decoder_layers)
    ]


def _feed_forward(stack: Stack, ops, name: str, is_sparse: bool, x: Tensor) -> None:
    """Add the MLP of x [B, S, D] to it."""
    config, dtype = stack.config, FLOATS[stack.precision.name]
    mlp = Mlp(config.activation, config.is_gated)
    if is_sparse:
        weight = stack.parameters[f"{name}.router.norm.weight"]
        norm = Norm(weight, config.layer_norm_epsilon, dtype)
        routes = Routes(
            torch.empty(x.shape, dtype=dtype, device=x.device),
            torch.empty(x.shape[:2], dtype=torch.int32, device=x.device),
            torch.empty(x.shape[:2], device=x.device),
        )
        classifier = Classifier(
            stack.parameters[f"{name}.router.weight"], stack.parameters.get(f"{name}.router.bias")
        )
        ops.router(x, norm, classifier, routes)
        experts = Experts(*(stack.weight(f"{name}.experts.{part}") for part in ("wi", "wo")), mlp)
        rows = x.view(-1, config.d_model)
        normed = routes.normed.view(rows.shape)
        ops.moe(normed, routes.expert.view(-1), routes.gate.view(-1), experts, rows, True)
        return
    hidden = _norm(stack, f"{name}.norm.weight", x) @ _matrix(stack, f"{name}.dense.wi").T
    act = ACTIVATIONS[config.activation]
    if config.is_gated:
        first, second = hidden.chunk(2, -1)
        hidden = act(first) * second
    else:
        hidden = act(hidden)
    x += hidden @ _matrix(stack, f"{name}.dense.wo").T


def _matrix(stack: Stack, name: str) -> Tensor:
    packed: Packed = stack.weight(name)
    return packed.values[0]


def _norm(stack: Stack, name: str, x: Tensor) -> Tensor:
    config = stack.config
    scale = torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + config.layer_norm_epsilon)
    return (x * scale * stack.parameters[name]).to(FLOATS[stack.precision.name])


def _heads(x: Tensor, parts: int, config) -> tuple[Tensor, ...]:
    """x [B, S, parts * H * K] -> `parts` tensors [B, H, S, K]."""
    batch, tokens, _ = x.shape
    split = x.view(batch, tokens, parts, config.num_heads, config.d_kv).permute(2, 0, 3, 1, 4)
    return tuple(split)


def _position_bias(stack: Stack, tokens: int) -> Tensor:
    bias = stack.bias()
    place = torch.arange(tokens, device=bias.device)
    limit = len(bias) // 2
    relative = (place[None] - place[:, None]).clamp(-limit, limit) + limit
    return bias[relative].permute(2, 0, 1)
