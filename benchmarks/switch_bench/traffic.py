"""How many bytes one decoder step has to read: arithmetic, no measurement.

Every weight that the step needs counts once, however many rows use it, and so does a source's
cross cache, which its beams share. Activations, the embedding's rows and the position bias are
left out: they are thousands of times smaller and stay in the caches.
"""

from dataclasses import dataclass

_BITS = {"fp32": 32, "bf16": 16, "fp16": 16, "int8": 8, "int4": 4}
_FLOAT = 4  # bytes of a scale, a router weight, a norm weight and a cache value


@dataclass(frozen=True)
class Format:
    """How weights are stored: `precision`, and for int8 and int4 inputs per scale (0: a row)."""

    precision: str
    block: int = 0

    def weight(self, outputs: float, inputs: int) -> float:
        """Return the bytes of the codes of a matrix."""
        return outputs * inputs * _BITS[self.precision] / 8

    def scales(self, outputs: float, inputs: int) -> float:
        """Return the bytes of its scales."""
        if self.precision not in ("int8", "int4"):
            return 0.0
        return outputs * (-(-inputs // self.block) if self.block else 1) * _FLOAT


@dataclass(frozen=True)
class Step:
    """What one decoder step works on.

    sources: rows of the batch; beams: hypotheses of each; source: tokens of a source;
    cached: tokens that the self cache holds, averaged over the steps;
    experts: distinct experts of each sparse decoder layer, averaged over the steps.
    """

    sources: int
    beams: int
    source: int
    cached: float
    experts: tuple[float, ...]


def matrices(model: dict, experts: tuple[float, ...]) -> dict[str, list[tuple[float, int]]]:
    """Return part -> (outputs, inputs) of each weight that a step reads.

    Args:
        model: the sizes of switch.json.
        experts: distinct experts of each sparse decoder layer.
    """
    layers, d_model, d_ff = model["num_decoder_layers"], model["d_model"], model["d_ff"]
    inner = model["num_heads"] * model["d_kv"]
    sparse = len(model["sparse_decoder_layers"])
    mlp = [(d_ff, d_model), (d_model, d_ff)]
    return {
        "self-attention": [(3 * inner, d_model), (d_model, inner)] * layers,
        "cross-attention": [(inner, d_model), (d_model, inner)] * layers,
        "dense MLPs": mlp * (layers - sparse),
        "experts": [(n * outputs, inputs) for n in experts for outputs, inputs in mlp],
        "head": [(model["vocab_size"], d_model)],
    }


def step_bytes(model: dict, form: Format, step: Step) -> dict[str, float]:
    """Return part -> bytes that one decoder step reads; "scales" of all weights apart."""
    parts = matrices(model, step.experts)
    counted = {name: sum(form.weight(*size) for size in sizes) for name, sizes in parts.items()}
    layers, d_model = model["num_decoder_layers"], model["d_model"]
    router = len(model["sparse_decoder_layers"]) * model["num_experts"] * d_model
    norms = (3 * layers + 1) * d_model
    row = 2 * layers * model["num_heads"] * model["d_kv"]  # keys and values of one token
    tokens = step.sources * (step.source + step.beams * step.cached)
    return counted | {
        "scales": sum(form.scales(*size) for sizes in parts.values() for size in sizes),
        "router and norms": (router + norms) * _FLOAT,
        "caches": row * tokens * _FLOAT,
    }


def dense_bytes(model: dict, form: Format) -> float:
    """Return the bytes of what every step reads whatever the routing, without the caches."""
    step = Step(1, 1, 0, 0, (0.0,) * len(model["sparse_decoder_layers"]))
    return sum(step_bytes(model, form, step).values())


def expert_bytes(model: dict, form: Format) -> float:
    """Return the bytes of one expert."""
    sizes = ((model["d_ff"], model["d_model"]), (model["d_model"], model["d_ff"]))
    return sum(form.weight(*size) + form.scales(*size) for size in sizes)
