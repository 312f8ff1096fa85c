"""Which checkpoint tensor every parameter of the two graphs is."""

from dataclasses import dataclass

from switch_export.config import SwitchConfig


@dataclass(frozen=True)
class Stored:
    """A weight as weights.bin holds it: its checkpoint name, and whether it is transposed.

    One (name, transposed) pair is stored once, whichever graphs and parameters use it.
    """

    name: str
    transposed: bool = False


def encoder_names(config: SwitchConfig, embeddings: dict[str, str], task: str) -> dict[str, Stored]:
    """Map the parameters of `Encoder` to checkpoint weights.

    Args:
        embeddings: the weight in each role, `encoder`, `decoder` and `head`.
    """
    names = {"embedding.weight": Stored(embeddings["encoder"])}
    names |= _stack("encoder", config.num_layers)
    for i in range(config.num_layers):
        sparse = i in config.sparse_encoder_layers
        names |= _feed_forward(i, f"encoder.block.{i}.layer.1", sparse, config.router_bias)
    if task != "encoder":
        for i in range(config.num_decoder_layers):
            source = f"decoder.block.{i}.layer.1.EncDecAttention"
            for part in "kv":
                names[f"cross.{i}.map.{part}.weight"] = Stored(f"{source}.{part}.weight", True)
    return names


def decoder_names(config: SwitchConfig, embeddings: dict[str, str], task: str) -> dict[str, Stored]:
    """Map the parameters of `Decoder` to checkpoint weights; arguments as `encoder_names`."""
    names = {"embedding.weight": Stored(embeddings["decoder"])}
    names |= _stack("decoder", config.num_decoder_layers)
    for i in range(config.num_decoder_layers):
        cross = f"decoder.block.{i}.layer.1"
        names[f"blocks.{i}.cross.norm.weight"] = Stored(f"{cross}.layer_norm.weight")
        for part in "qo":
            source = f"{cross}.EncDecAttention.{part}.weight"
            names[f"blocks.{i}.cross.map.{part}.weight"] = Stored(source, True)
        sparse = i in config.sparse_decoder_layers
        names |= _feed_forward(i, f"decoder.block.{i}.layer.2", sparse, config.router_bias)
    if task == "seq2seq":
        names["head.weight"] = Stored(embeddings["head"])
    return names


def _stack(stack: str, layers: int) -> dict[str, Stored]:
    """Self-attention of every block, the position bias and the last norm."""
    bias = f"{stack}.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
    names = {
        "position.weight": Stored(bias),
        "norm.weight": Stored(f"{stack}.final_layer_norm.weight"),
    }
    for i in range(layers):
        source = f"{stack}.block.{i}.layer.0"
        names[f"blocks.{i}.attention.norm.weight"] = Stored(f"{source}.layer_norm.weight")
        for part in "qkvo":
            matrix = Stored(f"{source}.SelfAttention.{part}.weight", True)
            names[f"blocks.{i}.attention.map.{part}.weight"] = matrix
    return names


def _feed_forward(i: int, source: str, sparse: bool, router_bias: bool) -> dict[str, Stored]:
    target = f"blocks.{i}.mlp"
    names = {f"{target}.norm.weight": Stored(f"{source}.layer_norm.weight")}
    if not sparse:
        for part in ("wi", "wo"):
            matrix = Stored(f"{source}.mlp.{part}.weight", True)
            names[f"{target}.dense.{part}.weight"] = matrix
        return names
    router = f"{target}.sparse.router"
    names[f"{router}.weight"] = Stored(f"{source}.mlp.router.classifier.weight", True)
    if router_bias:
        names[f"{router}.bias"] = Stored(f"{source}.mlp.router.classifier.bias")
    for part in ("wi", "wo"):
        names[f"{target}.sparse.experts.{part}"] = Stored(f"{source}.mlp.experts.{part}")
    return names
