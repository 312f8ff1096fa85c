"""Which checkpoint tensors every parameter of the two graphs is made of."""

from dataclasses import dataclass

from switch_export.config import SwitchConfig
from switch_export.quantize import Precision


@dataclass(frozen=True)
class Stored:
    """A tensor of weights.bin; an equal one is stored once, whatever uses it.

    Attributes:
        weights: names in the weight table, laid one under another along their first axis.
        form: `exact` is float32; `values` and `scale` are the two halves of their encoding in the
            file's precision.
    """

    weights: tuple[str, ...]
    form: str = "exact"


class Names(dict[str, Stored]):
    """Parameter -> what it is, for one precision."""

    def __init__(self, precision: Precision):
        super().__init__()
        self.precision = precision

    def exact(self, parameter: str, weight: str) -> None:
        """A norm, a router, a bias: float32 in every precision."""
        self[parameter] = Stored((weight,))

    def weight(self, parameter: str, *weights: str) -> None:
        """A weight in the file's precision, with its scale beside it where it has one."""
        self[parameter] = Stored(weights, "values")
        if self.precision.is_quantised:
            self[scale_name(parameter)] = Stored(weights, "scale")


def scale_name(parameter: str) -> str:
    """`a.weight` -> `a.scale`, `a.wi` -> `a.wi_scale`."""
    module, _, name = parameter.rpartition(".")
    name = f"{name}_scale".removeprefix("weight_")
    return f"{module}.{name}" if module else name


def encoder_names(
    config: SwitchConfig, embeddings: dict[str, str], task: str, precision: Precision
) -> Names:
    """Map the parameters of `Encoder` to checkpoint weights.

    Args:
        embeddings: the weight in each role, `encoder`, `decoder` and `head`.
    """
    names = Names(precision)
    names.weight("embedding.weight", embeddings["encoder"])
    _stack(names, "encoder", config.num_layers)
    for i in range(config.num_layers):
        sparse = i in config.sparse_encoder_layers
        _feed_forward(names, i, f"encoder.block.{i}.layer.1", sparse, config)
    if task != "encoder":
        for i in range(config.num_decoder_layers):
            source = f"decoder.block.{i}.layer.1.EncDecAttention"
            names.weight(f"cross.{i}.weight", f"{source}.k.weight", f"{source}.v.weight")
    return names


def decoder_names(
    config: SwitchConfig, embeddings: dict[str, str], task: str, precision: Precision
) -> Names:
    """Map the parameters of `Decoder` to checkpoint weights; arguments as `encoder_names`."""
    names = Names(precision)
    names.weight("embedding.weight", embeddings["decoder"])
    _stack(names, "decoder", config.num_decoder_layers)
    for i in range(config.num_decoder_layers):
        source, target = f"decoder.block.{i}.layer.1", f"blocks.{i}.cross"
        names.exact(f"{target}.norm.weight", f"{source}.layer_norm.weight")
        for part in "qo":
            names.weight(f"{target}.{part}.weight", f"{source}.EncDecAttention.{part}.weight")
        sparse = i in config.sparse_decoder_layers
        _feed_forward(names, i, f"decoder.block.{i}.layer.2", sparse, config)
    if task == "seq2seq":
        names.weight("head.linear.weight", embeddings["head"])
    return names


def _stack(names: Names, stack: str, layers: int) -> None:
    """Self-attention of every block, the position bias and the last norm."""
    bias = f"{stack}.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
    names.exact("position.weight", bias)
    names.exact("norm.weight", f"{stack}.final_layer_norm.weight")
    for i in range(layers):
        source, target = f"{stack}.block.{i}.layer.0", f"blocks.{i}.attention"
        names.exact(f"{target}.norm.weight", f"{source}.layer_norm.weight")
        parts = [f"{source}.SelfAttention.{part}.weight" for part in "qkv"]
        names.weight(f"{target}.qkv.weight", *parts)
        names.weight(f"{target}.o.weight", f"{source}.SelfAttention.o.weight")


def _feed_forward(names: Names, i: int, source: str, sparse: bool, config: SwitchConfig) -> None:
    target, norm = f"blocks.{i}.mlp", f"{source}.layer_norm.weight"
    if not sparse:
        names.exact(f"{target}.norm.weight", norm)
        for part in ("wi", "wo"):
            names.weight(f"{target}.dense.{part}", f"{source}.mlp.{part}.weight")
        return
    names.exact(f"{target}.router.norm.weight", norm)
    names.exact(f"{target}.router.weight", f"{source}.mlp.router.classifier.weight")
    if config.router_bias:
        names.exact(f"{target}.router.bias", f"{source}.mlp.router.classifier.bias")
    for part in ("wi", "wo"):
        names.weight(f"{target}.experts.{part}", f"{source}.mlp.experts.{part}")
