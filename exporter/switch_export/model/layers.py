"""The parts without tokens mixing: embedding, linear maps, norms, the dense MLP, the head."""

import torch
from torch import Tensor, nn

from switch_export.config import SwitchConfig
from switch_export.model.operators import add_weight, node, product, tracing, weights
from switch_export.quantize import Precision

#: `dense_act_fn` of config.json -> what it computes, with transformers' meaning.
ACTIVATIONS = {
    "relu": torch.relu,
    "gelu": nn.functional.gelu,
    "gelu_new": lambda x: nn.functional.gelu(x, approximate="tanh"),
    "gelu_pytorch_tanh": lambda x: nn.functional.gelu(x, approximate="tanh"),
    "silu": nn.functional.silu,
    "swish": nn.functional.silu,
}


class Embedding(nn.Module):
    """Token ids [B, T] -> rows of weight [V, D]: [B, T, D], not scaled."""

    def __init__(self, vocab_size: int, d_model: int, precision: Precision):
        super().__init__()
        self.d_model, self.precision = d_model, precision
        add_weight(self, "weight", (vocab_size, d_model), precision)

    def forward(self, ids: Tensor) -> Tensor:
        if not tracing():
            return nn.functional.embedding(ids, self.weight)
        return node(
            "SwitchEmbedding", (ids, *weights(self, "weight")),
            [(torch.float32, (*ids.shape, self.d_model))], block=self.precision.block,
        )


class Linear(nn.Module):
    """y [..., O] = x [..., I] @ weight [O, I]^T, the checkpoint's own layout."""

    def __init__(self, inputs: int, outputs: int, precision: Precision):
        super().__init__()
        self.outputs, self.precision = outputs, precision
        add_weight(self, "weight", (outputs, inputs), precision)

    def forward(self, x: Tensor) -> Tensor:
        if not tracing():
            return product(x, self.weight, self.precision)
        return node(
            "SwitchLinear", (x, *weights(self, "weight")),
            [(x.dtype, (*x.shape[:-1], self.outputs))], block=self.precision.block,
        )


class Norm(nn.Module):
    """The residual sum and its root mean square norm: no mean is subtracted, there is no bias."""

    def __init__(self, d_model: int, epsilon: float):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(d_model), requires_grad=False)
        self.epsilon = epsilon

    def forward(self, x: Tensor, delta: Tensor | None) -> tuple[Tensor, Tensor]:
        """x [..., D] and what the sublayer before adds to it -> x + delta, and that normed.

        The first norm of a stack has no delta. It stays in standard operators: Pow, ReduceMean,
        Add, Sqrt, Div, Mul, the form that ONNX Runtime fuses into one node.
        """
        if delta is not None and tracing():
            outputs = [(x.dtype, x.shape)] * 2
            return node("SwitchNorm", (x, delta, self.weight), outputs, epsilon=self.epsilon)
        x = x if delta is None else x + delta
        return x, x / torch.sqrt(x.pow(2).mean(-1, keepdim=True) + self.epsilon) * self.weight


class Activation:
    """What comes between the two products of an MLP, the same for dense ones and experts.

    Attributes:
        rows: of wi. A gated MLP has two for each hidden value: first those that are activated, then
            those that multiply them.
        attributes: what its nodes carry; a file without gated MLPs says nothing of gates.
    """

    def __init__(self, config: SwitchConfig):
        self.is_gated = config.is_gated
        self.rows = 2 * config.d_ff if config.is_gated else config.d_ff
        self.attributes = {"activation": config.activation}
        if config.is_gated:
            self.attributes["gated"] = 1
        self._act = ACTIVATIONS[config.activation]

    def __call__(self, hidden: Tensor) -> Tensor:
        """[..., rows] -> [..., F]."""
        if not self.is_gated:
            return self._act(hidden)
        first, factor = hidden.chunk(2, -1)
        return self._act(first) * factor


class DenseMlp(nn.Module):
    """act(x @ wi^T) @ wo^T, the MLP of the blocks without experts."""

    def __init__(self, config: SwitchConfig, precision: Precision):
        super().__init__()
        self.act, self.precision = Activation(config), precision
        add_weight(self, "wi", (self.act.rows, config.d_model), precision)
        add_weight(self, "wo", (config.d_model, config.d_ff), precision)

    def forward(self, x: Tensor) -> Tensor:
        """x [..., D] -> [..., D]."""
        if not tracing():
            hidden = self.act(product(x, self.wi, self.precision))
            return product(hidden, self.wo, self.precision)
        return node(
            "SwitchMLP", (x, *weights(self, "wi", "wo")), [(x.dtype, x.shape)],
            **self.act.attributes, block=self.precision.block,
        )


class Head(nn.Module):
    """Hidden states [R, T, D] -> logits [R, T, V] with weight [V, D], the embedding's own layout.

    `scale` is d_model ** -0.5 where the configuration ties the embeddings: it depends on the flag
    alone, not on whether the tensors are shared (transformers, modeling_switch_transformers.py).
    """

    def __init__(self, vocab_size: int, d_model: int, scale: float, precision: Precision):
        super().__init__()
        self.linear = Linear(d_model, vocab_size, precision)
        self.scale = scale

    def forward(self, hidden: Tensor) -> Tensor:
        return self.linear(hidden if self.scale == 1.0 else hidden * self.scale)
