"""Switch Transformers in float64 NumPy, written from the papers; what the layers are compared with.

T5 (https://arxiv.org/abs/1910.10683): pre-norm blocks with RMS norms, unscaled attention, relative
position buckets. Switch (https://arxiv.org/abs/2101.03961): top-1 experts with a capacity per row.
Gated MLPs (https://arxiv.org/abs/2002.05202): GEGLU and its sisters.
B batch, T tokens, S source, E experts, D d_model, F d_ff, H heads, K head size, V vocabulary.
"""

import math
from fractions import Fraction

import numpy as np

LOWEST = np.finfo(np.float32).min  # what a masked score gets: finite, so that no row is NaN

ACTIVATIONS = {
    "relu": lambda x: np.maximum(x, 0),
    "gelu": lambda x: x * 0.5 * (1 + np.vectorize(math.erf)(x / math.sqrt(2))),
    "gelu_new": lambda x: (
        0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
    ),
    "silu": lambda x: x / (1 + np.exp(-x)),
}


def mlp_parts(activation: str) -> tuple[str, ...]:
    """Names of an MLP's matrices, wo last."""
    return ("wi_0", "wi_1", "wo") if activation.startswith("gated-") else ("wi", "wo")


def mlp(x: np.ndarray, matrices: tuple[np.ndarray, ...], activation: str) -> np.ndarray:
    """x [..., D] -> [..., D].

    Args:
        matrices: wi [F, D] and wo [D, F]; gated: V [F, D] of the paper between them.
        activation: as in config.json; `gated-gelu` is T5's name of a gated `gelu_new`.
    """
    name = "gelu_new" if activation == "gated-gelu" else activation.removeprefix("gated-")
    hidden = ACTIVATIONS[name](x @ matrices[0].T)
    for factor in matrices[1:-1]:
        hidden = hidden * (x @ factor.T)
    return hidden @ matrices[-1].T


def softmax(x: np.ndarray) -> np.ndarray:
    """Normalise along the last axis."""
    shifted = np.exp(x - x.max(-1, keepdims=True))
    return shifted / shifted.sum(-1, keepdims=True)


def rms_norm(x: np.ndarray, weight: np.ndarray, epsilon: float) -> np.ndarray:
    """Scale x [..., D] to unit mean square, then by weight [D]; no mean is subtracted."""
    return weight * x / np.sqrt((x**2).mean(-1, keepdims=True) + epsilon)


def bucket(relative: int, bidirectional: bool, num_buckets: int, max_distance: int) -> int:
    """Give key_pos - query_pos its bucket: exact for near keys, logarithmic for far ones.

    n lies in logarithmic bucket j or a later one if log(n/e) / log(m/e) * c >= j, that is
    (n/e) ** c >= (m/e) ** j: decided in integers, so that no rounding is involved.
    """
    first = 0
    if bidirectional:
        num_buckets //= 2
        first = num_buckets if relative > 0 else 0
        distance = abs(relative)
    else:
        distance = max(-relative, 0)
    exact = num_buckets // 2
    if distance < exact:
        return first + distance
    coarse = num_buckets - exact
    power = Fraction(distance, exact) ** coarse
    steps = sum(power >= Fraction(max_distance, exact) ** j for j in range(1, coarse))
    return first + exact + steps


def position_bias(
    table: np.ndarray, queries: range, keys: range, bidirectional: bool, max_distance: int
) -> np.ndarray:
    """Look up table [buckets, H] for all pairs of positions: [H, queries, keys]."""
    known = {}
    for relative in range(keys[0] - queries[-1], keys[-1] - queries[0] + 1):
        known[relative] = table[bucket(relative, bidirectional, len(table), max_distance)]
    return np.array([[known[k - q] for k in keys] for q in queries]).transpose(2, 0, 1)


def attention(
    x: np.ndarray, source: np.ndarray, weights: dict[str, np.ndarray], bias: np.ndarray, heads: int
) -> np.ndarray:
    """Attend from x [B, T, D] to source [B, S, D]; bias [B or 1, H or 1, T or 1, S]; no scaling."""
    def split(y: np.ndarray) -> np.ndarray:
        return y.reshape(*y.shape[:2], heads, -1).transpose(0, 2, 1, 3)  # [B, H, T, K]

    q, k, v = (
        split(y @ weights[name].T) for name, y in (("q", x), ("k", source), ("v", source))
    )
    mixed = softmax(q @ k.transpose(0, 1, 3, 2) + bias) @ v              # [B, H, T, K]
    return mixed.transpose(0, 2, 1, 3).reshape(*x.shape[:2], -1) @ weights["o"].T


def route(logits: np.ndarray, capacity: int | None) -> tuple[np.ndarray, np.ndarray]:
    """Pick one expert per token and drop the tokens an expert has no room for.

    Args:
        logits: router scores, [B, T, E].
        capacity: tokens an expert accepts per row; None keeps every token.

    Returns:
        expert: chosen expert, [B, T], the lowest index on ties; -1 where the token was dropped.
        gate: its probability, [B, T], dropped or not.
    """
    probabilities = softmax(logits)
    expert = probabilities.argmax(-1)
    gate = probabilities.max(-1)
    if capacity is None:
        return expert, gate
    kept = expert.copy()
    for row in range(len(expert)):
        taken = [0] * logits.shape[-1]
        for token, choice in enumerate(expert[row]):
            taken[choice] += 1
            if taken[choice] > capacity:
                kept[row, token] = -1
    return kept, gate


def switch_moe(
    x: np.ndarray,
    routes: tuple[np.ndarray, np.ndarray],
    stacks: tuple[np.ndarray, ...],
    activation: str = "relu",
    dropped: str = "zero",
) -> np.ndarray:
    """The operator: y[t] = gate[t] * (act(x[t] @ wi[e]^T) @ wo[e]^T), e = expert[t].

    Args:
        x: [T, D].
        routes: expert and gate, [T] each; expert -1 is a dropped token.
        stacks: the matrices of `mlp`, each with an axis of experts before its own.
        dropped: a dropped token gives 0 (`zero`) or gate * x (`pass`).
    """
    y = np.zeros_like(x)
    for token, (expert, gate) in enumerate(zip(*routes, strict=True)):
        if expert >= 0:
            matrices = [stack[expert] for stack in stacks]
            y[token] = gate * mlp(x[token], matrices, activation)
        elif dropped == "pass":
            y[token] = gate * x[token]
    return y


class Model:
    """A whole model: config.json as a dict, and the checkpoint's tensors by name."""

    def __init__(self, config: dict, tensors: dict[str, np.ndarray], policy: str = "hf"):
        self.config = config
        self.tensors = {name: np.asarray(value, np.float64) for name, value in tensors.items()}
        self.policy = policy
        self.epsilon = config["layer_norm_epsilon"]

    def encode(self, ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
        """Encode ids [B, S] under mask [B, S] of ones and zeros: hidden states [B, S, D]."""
        positions = range(ids.shape[1])
        bias = self._positions("encoder", positions)[None]
        bias = bias + np.where(mask == 1, 0.0, LOWEST)[:, None, None, :]
        x = self._embedding("encoder")[ids]
        for i in range(self.config["num_layers"]):
            block = f"encoder.block.{i}.layer"
            x = x + self._attend(f"{block}.0", "SelfAttention", x, None, bias)
            x = x + self._feed_forward(f"{block}.1", "encoder", i, x, cached=False)
        return rms_norm(x, self.tensors["encoder.final_layer_norm.weight"], self.epsilon)

    def decode(
        self, ids: np.ndarray, encoded: np.ndarray, mask: np.ndarray, cached: bool
    ) -> np.ndarray:
        """Decode ids [B, T] over encoded [B, S, D]: hidden states [B, T, D].

        Args:
            cached: one token at a time, as with a cache, so that capacity is counted over one
                token; otherwise over all of them.
        """
        positions = range(ids.shape[1])
        causal = np.where(np.tri(len(positions)) == 1, 0.0, LOWEST)
        bias = (self._positions("decoder", positions) + causal)[None]
        padding = np.where(mask == 1, 0.0, LOWEST)[:, None, None, :]
        x = self._embedding("decoder")[ids]
        for i in range(self.config["num_decoder_layers"]):
            block = f"decoder.block.{i}.layer"
            x = x + self._attend(f"{block}.0", "SelfAttention", x, None, bias)
            x = x + self._attend(f"{block}.1", "EncDecAttention", x, encoded, padding)
            x = x + self._feed_forward(f"{block}.2", "decoder", i, x, cached)
        return rms_norm(x, self.tensors["decoder.final_layer_norm.weight"], self.epsilon)

    def logits(self, hidden: np.ndarray) -> np.ndarray:
        """hidden [B, T, D] -> [B, T, V]; a tied head scales, shared in fact or not."""
        scale = self.config["d_model"] ** -0.5 if self.config["tie_word_embeddings"] else 1.0
        head = self.tensors.get("lm_head.weight", self.tensors.get("shared.weight"))
        return hidden * scale @ head.T

    def greedy(self, ids: np.ndarray, mask: np.ndarray, new_tokens: int) -> list[list[int]]:
        """The most probable token, new_tokens times or up to and with eos, for every row."""
        encoded = self.encode(ids, mask)
        start = self.config.get("decoder_start_token_id") or 0
        answers = []
        for row in range(len(ids)):
            target = [start]
            source = encoded[row : row + 1], mask[row : row + 1]
            while len(target) <= new_tokens and target[-1] != self.config["eos_token_id"]:
                hidden = self.decode(np.array([target]), *source, cached=True)
                target.append(int(self.logits(hidden[:, -1:]).argmax()))
            answers.append(target[1:])
        return answers

    def _embedding(self, stack: str) -> np.ndarray:
        name = f"{stack}.embed_tokens.weight"
        return self.tensors[name if name in self.tensors else "shared.weight"]

    def _positions(self, stack: str, positions: range) -> np.ndarray:
        name = f"{stack}.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
        limit = self.config["relative_attention_max_distance"]
        table = self.tensors[name]
        return position_bias(table, positions, positions, stack == "encoder", limit)

    def _attend(
        self, layer: str, kind: str, x: np.ndarray, source: np.ndarray | None, bias: np.ndarray
    ) -> np.ndarray:
        """One attention layer; source None is self-attention."""
        normed = rms_norm(x, self.tensors[f"{layer}.layer_norm.weight"], self.epsilon)
        weights = {part: self.tensors[f"{layer}.{kind}.{part}.weight"] for part in "qkvo"}
        source = normed if source is None else source
        return attention(normed, source, weights, bias, self.config["num_heads"])

    def _is_sparse(self, stack: str, index: int) -> bool:
        step = self.config[f"{stack}_sparse_step"]
        return step == 1 or (step > 1 and index % step == 1)

    def _feed_forward(
        self, layer: str, stack: str, index: int, x: np.ndarray, cached: bool
    ) -> np.ndarray:
        normed = rms_norm(x, self.tensors[f"{layer}.layer_norm.weight"], self.epsilon)
        if self._is_sparse(stack, index):
            return self.sparse_mlp(f"{layer}.mlp", normed, cached)
        activation = self.config["dense_act_fn"]
        names = (f"{layer}.mlp.{part}.weight" for part in mlp_parts(activation))
        return mlp(normed, [self.tensors[name] for name in names], activation)

    def router_logits(self, mlp: str, x: np.ndarray) -> np.ndarray:
        """x [B, T, D], layer-normed -> router scores [B, T, E] of the sparse layer `mlp`."""
        name = f"{mlp}.router.classifier"
        return x @ self.tensors[f"{name}.weight"].T + self.tensors.get(f"{name}.bias", 0.0)

    def sparse_mlp(self, mlp: str, x: np.ndarray, cached: bool = False) -> np.ndarray:
        """x [B, T, D], layer-normed -> [B, T, D]: route, then let each token's expert answer."""
        capacity = None if self.policy == "none" else self.config["expert_capacity"]
        logits = self.router_logits(mlp, x)
        if cached:  # every token is a row of its own
            expert, gate = route(logits.reshape(-1, 1, logits.shape[-1]), capacity)
        else:
            expert, gate = route(logits, capacity)
        stacks = [
            np.stack([
                self.tensors[f"{mlp}.experts.expert_{e}.{part}.weight"]
                for e in range(self.config["num_experts"])
            ])
            for part in mlp_parts(self.config["dense_act_fn"])
        ]
        dropped = "pass" if self.policy == "legacy" else "zero"
        flat = x.reshape(-1, x.shape[-1])
        routes = expert.reshape(-1), gate.reshape(-1)
        return switch_moe(flat, routes, stacks, self.config["dense_act_fn"], dropped).reshape(
            x.shape
        )
