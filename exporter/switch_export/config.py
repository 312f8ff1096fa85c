"""config.json -> SwitchConfig, or every reason why it cannot be exported."""

import math
from dataclasses import dataclass
from typing import Any

from switch_export.errors import UnsupportedCheckpoint, listing

MODEL_TYPE = "switch_transformers"
KNOWN_NAMES = (
    *(f"switch-base-{experts}" for experts in (8, 16, 32, 64, 128, 256)),
    "switch-large-128", "switch-xxl-128", "switch-c-2048",
)
#: `dense_act_fn` -> the exporter has it in PyTorch and as ONNX operators.
ACTIVATIONS = ("relu", "gelu", "gelu_new", "gelu_pytorch_tanh", "silu", "swish")
#: `dense_act_fn` of a gated MLP is this and the activation; T5 means the tanh by `gated-gelu`.
GATED = "gated-"
ROUTER_DTYPES = ("float32", "float16", "bfloat16")
ALIASES = {
    "hidden_size": "d_model", "num_attention_heads": "num_heads", "num_hidden_layers": "num_layers",
}
#: Sizes: transformers' default where config.json has none, and the least that makes a model.
#: Four buckets: below that the encoder's half has no bucket for an exact distance.
_SIZES = {
    "vocab_size": (32128, 1), "d_model": (768, 1), "d_kv": (64, 1), "d_ff": (2048, 1),
    "num_heads": (12, 1), "num_layers": (12, 1), "num_experts": (8, 1), "expert_capacity": (64, 0),
    "relative_attention_num_buckets": (32, 4), "relative_attention_max_distance": (128, 1),
}


@dataclass(frozen=True)
class SwitchConfig:
    """What the exporter needs to know of a checkpoint.

    Attributes:
        sparse_encoder_layers, sparse_decoder_layers: indices of the blocks with experts.
        router_dtype: `float32`, `float16` or `bfloat16`.
        tie_word_embeddings: also decides whether the logits are scaled by d_model ** -0.5.
        eos_ids: the ids that end a sequence; may be empty.
        is_gated: the MLPs have two input matrices: act(wi_0 x) * (wi_1 x).
    """

    vocab_size: int
    d_model: int
    d_kv: int
    d_ff: int
    num_heads: int
    num_layers: int
    num_decoder_layers: int
    num_experts: int
    expert_capacity: int
    sparse_encoder_layers: tuple[int, ...]
    sparse_decoder_layers: tuple[int, ...]
    router_bias: bool
    router_dtype: str
    activation: str
    num_buckets: int
    max_distance: int
    layer_norm_epsilon: float
    tie_word_embeddings: bool
    pad_id: int
    eos_ids: tuple[int, ...]
    decoder_start_id: int
    is_gated: bool = False

    @classmethod
    def from_dict(cls, config: dict[str, Any], name: str = "the checkpoint") -> "SwitchConfig":
        """Read the contents of config.json with transformers' defaults.

        Args:
            config: the parsed file, generation ids already merged in where they differ.
            name: of the checkpoint, for the error.

        Raises:
            UnsupportedCheckpoint: with every reason.
        """
        if not isinstance(config, dict):
            raise UnsupportedCheckpoint(f"{name}: config.json is not a JSON object")
        fields = _Fields(config)
        result = fields.read()
        if fields.reasons:
            raise UnsupportedCheckpoint(listing(
                f"{name} cannot be exported:", fields.reasons,
                f"Known names: {', '.join(KNOWN_NAMES)}",
            ))
        return cls(**result)


def sparse_layers(layers: int, step: int) -> tuple[int, ...]:
    """Indices of the blocks with experts: transformers' placement, step 0 is none."""
    return tuple(i for i in range(layers) if step > 0 and (step == 1 or i % step == 1))


class _Fields:
    """Reads fields one by one and remembers what is wrong with them.

    A wrong field reads as its default, so that the remaining ones are checked too.
    """

    def __init__(self, config: dict[str, Any]):
        self.reasons: list[str] = []
        self._config = dict(config)
        for alias, name in ALIASES.items():
            if alias not in config:
                continue
            if config.get(name, config[alias]) != config[alias]:
                self.reasons.append(f"{alias} is {config[alias]!r} but {name} is {config[name]!r}")
            self._config[name] = config[alias]

    def read(self) -> dict[str, Any]:
        """Every attribute of SwitchConfig; meaningless when `reasons` is not empty."""
        self._check_model()
        found = {name: self._integer(name, *limits) for name, limits in _SIZES.items()}
        found["num_buckets"] = found.pop("relative_attention_num_buckets")
        found["max_distance"] = found.pop("relative_attention_max_distance")
        if found["max_distance"] <= found["num_buckets"] // 2:
            self.reasons.append(
                f"relative_attention_max_distance is {found['max_distance']}, expected more than "
                f"half of relative_attention_num_buckets ({found['num_buckets']})"
            )
        layers = found["num_layers"]
        decoder_layers = layers
        if self._config.get("num_decoder_layers", 12) is not None:
            decoder_layers = self._integer("num_decoder_layers", 12, 0)
        found |= {
            "num_decoder_layers": decoder_layers,
            "sparse_encoder_layers": self._sparse("encoder", layers),
            "sparse_decoder_layers": self._sparse("decoder", decoder_layers),
            "router_bias": self._boolean("router_bias", False),
            "router_dtype": self._choice("router_dtype", "float32", ROUTER_DTYPES),
            "layer_norm_epsilon": self._epsilon(),
            "tie_word_embeddings": self._boolean("tie_word_embeddings", True),
        }
        return found | self._activation() | self._tokens(found["vocab_size"])

    def _check_model(self) -> None:
        found = self._config.get("model_type")
        if found != MODEL_TYPE:
            self.reasons.append(f"model_type is {found!r}, expected {MODEL_TYPE!r}")
        quantised = self._config.get("quantization_config")
        if quantised is not None:
            method = quantised.get("quant_method") if isinstance(quantised, dict) else quantised
            self.reasons.append(
                f"its weights are quantised ({method!r}); export the checkpoint it was made from"
            )

    def _integer(self, name: str, default: int, least: int | None) -> int:
        value = self._config.get(name, default)
        if type(value) is not int:
            self.reasons.append(f"{name} is {value!r}, expected an integer")
            return default
        if least is not None and value < least:
            self.reasons.append(f"{name} is {value}, expected at least {least}")
            return default
        return value

    def _boolean(self, name: str, default: bool) -> bool:
        value = self._config.get(name, default)
        if not isinstance(value, bool):
            self.reasons.append(f"{name} is {value!r}, expected true or false")
            return default
        return value

    def _choice(self, name: str, default: str, known: tuple[str, ...]) -> str:
        value = self._config.get(name, default)
        if value not in known:
            self.reasons.append(f"{name} is {value!r}, expected one of {', '.join(known)}")
            return default
        return value

    def _activation(self) -> dict[str, Any]:
        """transformers' own classes refuse gated names; released files have them nevertheless."""
        value = self._config.get("dense_act_fn", "relu")
        is_gated = isinstance(value, str) and value.startswith(GATED)
        activation = value.removeprefix(GATED) if is_gated else value
        if activation not in ACTIVATIONS:
            self.reasons.append(
                f"dense_act_fn is {value!r}, expected one of {', '.join(ACTIVATIONS)}, "
                f"or one of them after {GATED!r}"
            )
            return {"activation": "relu", "is_gated": False}
        if value == "gated-gelu":
            activation = "gelu_new"
        return {"activation": activation, "is_gated": is_gated}

    def _epsilon(self) -> float:
        value = self._config.get("layer_norm_epsilon", 1e-6)
        number = type(value) in (int, float) and math.isfinite(value)
        if not number or value < 0:
            self.reasons.append(f"layer_norm_epsilon is {value!r}, expected a number from 0 up")
            return 1e-6
        return float(value)

    def _sparse(self, stack: str, layers: int) -> tuple[int, ...]:
        """Where config.json gives a step it wins over what follows from the count of layers."""
        count = self._integer(f"num_sparse_{stack}_layers", 3, None)
        step = layers // count if count > 0 else layers
        return sparse_layers(layers, self._integer(f"{stack}_sparse_step", step, None))

    def _tokens(self, vocab_size: int) -> dict[str, Any]:
        pad = self._token("pad_token_id", 0, vocab_size)
        bos = self._token("bos_token_id", pad, vocab_size)
        start = self._token("decoder_start_token_id", bos, vocab_size)
        value = self._config.get("eos_token_id", 1)
        several = value if isinstance(value, list) else [] if value is None else [value]
        eos = [self._token("eos_token_id", 0, vocab_size, entry) for entry in several]
        return {"pad_id": pad, "eos_ids": tuple(dict.fromkeys(eos)), "decoder_start_id": start}

    def _token(self, name: str, default: int, vocab_size: int, value: Any = None) -> int:
        if value is None:
            value = self._config.get(name)
        if value is None:
            return default
        if type(value) is not int or not 0 <= value < vocab_size:
            self.reasons.append(f"{name} is {value!r}, expected an id from 0 to {vocab_size - 1}")
            return default
        return value
