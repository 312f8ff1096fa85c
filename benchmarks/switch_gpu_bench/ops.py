"""The kernels on tensors: one call of switch_cuda.h each, on PyTorch's current stream.

torch_ops.TorchOps has the same methods in plain PyTorch. Outputs are arguments, so that a model
made of either can be captured in a graph.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from switch_gpu_bench.packed import PRECISION_OF, Packed
from switch_gpu_bench.timing import DEVICE
from switch_plugins import cuda


@dataclass(frozen=True)
class Norm:
    """x / sqrt(mean(x^2) + epsilon) * weight, rounded to `dtype`."""

    weight: Tensor
    epsilon: float
    dtype: torch.dtype


@dataclass(frozen=True)
class Mlp:
    """What an MLP is beside its weights, by the names of docs/operators.md."""

    activation: str = "relu"
    is_gated: bool = False
    dropped: str = "zero"


@dataclass(frozen=True)
class Experts:
    """The MLPs of a layer: wi [E, F or 2 F, D], wo [E, D, F]."""

    wi: Packed
    wo: Packed
    mlp: Mlp = Mlp()


@dataclass(frozen=True)
class Classifier:
    """The router's matrix [E, D], float32, its bias [E], and what an expert takes of a row."""

    weight: Tensor
    bias: Tensor | None = None
    capacity: int = -1


@dataclass(frozen=True)
class Routes:
    """What a router writes: normed [B, T, D], expert int32 and gate float32 [B, T]."""

    normed: Tensor
    expert: Tensor
    gate: Tensor


def type_of(tensor: Tensor) -> int:
    """Return SWITCH_FLOAT32, ... of a tensor."""
    return cuda.TYPES[PRECISION_OF[tensor.dtype]]


def weight_of(packed: Packed) -> cuda.Weight:
    """Describe a stack of weights."""
    count, rows, _ = packed.values.shape
    return cuda.Weight(
        packed.values.data_ptr(), None if packed.scale is None else packed.scale.data_ptr(),
        cuda.TYPES[packed.precision.name], packed.precision.block, count, rows, packed.columns,
    )


def _pointer(tensor: Tensor | None) -> int | None:
    if tensor is not None and not tensor.is_contiguous():
        raise ValueError(f"a tensor of shape {tuple(tensor.shape)} is not contiguous")
    return None if tensor is None else tensor.data_ptr()


def moe_call(x: Tensor, experts: Experts) -> cuda.Moe:
    """Describe a SwitchMoE, as far as its workspace depends on it."""
    mlp = experts.mlp
    return cuda.Moe(
        x=_pointer(x), x_type=type_of(x), activation=cuda.ACTIVATIONS[mlp.activation],
        is_gated=int(mlp.is_gated), dropped=cuda.DROPPED[mlp.dropped], tokens=len(x),
        wi=weight_of(experts.wi), wo=weight_of(experts.wo),
    )


class CudaOps:
    """The kernels of a library.

    Args:
        overlap: whether a kernel may start while the one before it ends.
        allocate: makes workspaces: bytes -> uint8 tensor; they are kept, one for each size.
    """

    def __init__(
        self, kernels: cuda.Kernels, overlap: bool = True,
        allocate: Callable[[int], Tensor] | None = None,
    ):
        self.kernels, self.overlap = kernels, overlap
        self.allocate = allocate or _allocate
        self.workspaces: dict[int, Tensor] = {}

    def _stream(self) -> cuda.Stream:
        handle = torch.cuda.current_stream().cuda_stream if DEVICE == "cuda" else None
        return cuda.Stream(handle, int(self.overlap))

    def linear(
        self, x: Tensor, weight: Packed, y: Tensor, norm: Norm | None = None,
        mlp: Mlp | None = None, accumulate: bool = False,
    ) -> None:
        """x [tokens, I] -> y [tokens, O] = act(norm(x) @ weight^T), act as `mlp` says."""
        call = cuda.Linear(
            x=_pointer(x), x_type=type_of(x), tokens=len(x), weight=weight_of(weight),
            activation=cuda.NO_ACTIVATION if mlp is None else cuda.ACTIVATIONS[mlp.activation],
            is_gated=int(mlp is not None and mlp.is_gated), accumulate=int(accumulate),
            y=_pointer(y), y_type=type_of(y),
        )
        if norm is not None:
            call.norm, call.epsilon = _pointer(norm.weight), norm.epsilon
            call.normed_type = cuda.TYPES[PRECISION_OF[norm.dtype]]
        self.kernels.linear(self._stream(), call)

    def router(self, x: Tensor, norm: Norm, classifier: Classifier, routes: Routes) -> None:
        """x float32 [batch, tokens, D] -> `routes`."""
        batch, tokens, columns = x.shape
        self.kernels.router(self._stream(), cuda.Router(
            x=_pointer(x), norm=_pointer(norm.weight), epsilon=norm.epsilon,
            classifier=_pointer(classifier.weight), bias=_pointer(classifier.bias), batch=batch,
            tokens=tokens, columns=columns, experts=len(classifier.weight),
            capacity=classifier.capacity, normed=_pointer(routes.normed),
            normed_type=type_of(routes.normed), expert=_pointer(routes.expert),
            gate=_pointer(routes.gate),
        ))

    def moe(
        self, x: Tensor, expert: Tensor | None, gate: Tensor | None, experts: Experts, y: Tensor,
        accumulate: bool = False,
    ) -> None:
        """x [tokens, D], expert int32 and gate float32 [tokens] -> y float32 [tokens, D]."""
        call = moe_call(x, experts)
        call.expert, call.gate, call.y = _pointer(expert), _pointer(gate), _pointer(y)
        call.accumulate = int(accumulate)
        size = self.kernels.moe_workspace(call)
        if size not in self.workspaces:
            self.workspaces[size] = self.allocate(size)
        call.workspace, call.workspace_bytes = self.workspaces[size].data_ptr(), size
        self.kernels.moe(self._stream(), call)

    def cached_attention(
        self, qkv: Tensor, key: Tensor, value: Tensor, position: Tensor, bias: Tensor, y: Tensor
    ) -> None:
        """qkv [rows, tokens, 3 H K] -> y [rows, tokens, H K]; caches [rows, H, C, K] grow."""
        rows, tokens, _ = qkv.shape
        _, heads, capacity, size = key.shape
        self.kernels.cached_attention(self._stream(), cuda.CachedAttention(
            qkv=_pointer(qkv), key=_pointer(key), value=_pointer(value),
            position=_pointer(position), bias=_pointer(bias), rows=rows, tokens=tokens,
            heads=heads, size=size, capacity=capacity, distance=len(bias) // 2,
            type=type_of(qkv), y=_pointer(y),
        ))

    def cross_attention(
        self, q: Tensor, key: Tensor, value: Tensor, mask: Tensor, y: Tensor
    ) -> None:
        """q [rows, tokens, H K], key and value [batch, H, S, K], mask [batch, S] -> y as q."""
        rows, tokens, _ = q.shape
        batch, heads, source, size = key.shape
        self.kernels.cross_attention(self._stream(), cuda.CrossAttention(
            q=_pointer(q), key=_pointer(key), value=_pointer(value), mask=_pointer(mask),
            rows=rows, tokens=tokens, heads=heads, size=size, batch=batch, source=source,
            type=type_of(q), y=_pointer(y),
        ))


def _allocate(size: int) -> Tensor:
    return torch.empty(size, dtype=torch.uint8, device=DEVICE)
