"""The parts without tokens mixing: linear maps, norms, the dense MLP, the tied head."""

import torch
from torch import Tensor, nn

#: `dense_act_fn` of config.json -> what it computes, with transformers' meaning.
ACTIVATIONS = {
    "relu": torch.relu,
    "gelu": nn.functional.gelu,
    "gelu_new": lambda x: nn.functional.gelu(x, approximate="tanh"),
    "gelu_pytorch_tanh": lambda x: nn.functional.gelu(x, approximate="tanh"),
    "silu": nn.functional.silu,
    "swish": nn.functional.silu,
}


class Linear(nn.Module):
    """y = x @ weight (+ bias), weight [inputs, outputs].

    The checkpoint's matrix is stored transposed, so that the graph has a plain MatMul and no
    engine has to transpose (that is: copy) a weight.
    """

    def __init__(self, inputs: int, outputs: int, bias: bool = False):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(inputs, outputs), requires_grad=False)
        self.bias = nn.Parameter(torch.empty(outputs), requires_grad=False) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        y = matmul(x, self.weight)
        return y if self.bias is None else y + self.bias


class RmsNorm(nn.Module):
    """Root mean square norm: no mean is subtracted, there is no bias."""

    def __init__(self, d_model: int, epsilon: float):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(d_model), requires_grad=False)
        self.epsilon = epsilon

    def forward(self, x: Tensor) -> Tensor:
        # Pow, ReduceMean, Add, Sqrt, Div, Mul: the form that ONNX Runtime fuses into one node.
        return x / torch.sqrt(x.pow(2).mean(-1, keepdim=True) + self.epsilon) * self.weight


class DenseMlp(nn.Module):
    """wo(act(wi(x))), the MLP of the blocks without experts."""

    def __init__(self, d_model: int, d_ff: int, activation: str):
        super().__init__()
        self.wi = Linear(d_model, d_ff)
        self.wo = Linear(d_ff, d_model)
        self.activation = ACTIVATIONS[activation]

    def forward(self, x: Tensor) -> Tensor:
        return self.wo(self.activation(self.wi(x)))


class Embedding(nn.Module):
    """Token ids [B, T] -> rows of weight [V, D]: [B, T, D], not scaled."""

    def __init__(self, vocab_size: int, d_model: int):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(vocab_size, d_model), requires_grad=False)

    def forward(self, ids: Tensor) -> Tensor:
        return nn.functional.embedding(ids, self.weight)


class Head(nn.Module):
    """Hidden states [R, T, D] -> logits [R, T, V] with weight [V, D], the embedding's own layout.

    `scale` is d_model ** -0.5 where the configuration ties the embeddings: it depends on the flag
    alone, not on whether the tensors are shared (transformers, modeling_switch_transformers.py).
    """

    def __init__(self, vocab_size: int, d_model: int, scale: float):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(vocab_size, d_model), requires_grad=False)
        self.scale = scale

    def forward(self, hidden: Tensor) -> Tensor:
        rows = hidden.reshape(-1, hidden.shape[-1]) * self.scale
        logits = gemm_transposed(rows, self.weight)
        return logits.reshape(hidden.shape[0], hidden.shape[1], self.weight.shape[0])


def matmul(a: Tensor, b: Tensor) -> Tensor:
    """a [..., N, D] @ b [..., D, M] with the batch axes of `a`, as one MatMul node.

    torch.export would spell it out as expand, reshape, bmm and reshape.
    """
    if not torch.compiler.is_exporting():
        return a @ b
    return torch.onnx.ops.symbolic(
        "::MatMul", (a, b), dtype=a.dtype, shape=(*a.shape[:-1], b.shape[-1])
    )


def gemm_transposed(x: Tensor, weight: Tensor) -> Tensor:
    """x [N, D] @ weight [V, D]^T, as one Gemm node: a Transpose would copy the whole embedding."""
    if not torch.compiler.is_exporting():
        return x @ weight.T
    return torch.onnx.ops.symbolic(
        "::Gemm", (x, weight), {"transB": 1}, dtype=x.dtype,
        shape=(x.shape[0], weight.shape[0]),
    )
