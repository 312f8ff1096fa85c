"""The name table: every tensor of a checkpoint used exactly once, or the whole list of why not."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from switch_export.checkpoint import Checkpoint
from switch_export.config import SwitchConfig
from switch_export.errors import UnsupportedCheckpoint, listing
from switch_export.readers import FLOATS, LazyTensor
from switch_export.repair import check_described, with_our_names

if TYPE_CHECKING:
    from torch import Tensor

SHARED, HEAD = "shared.weight", "lm_head.weight"
#: The embedding may be stored under any of these, as aliases or as different tensors.
EMBEDDINGS = (SHARED, "encoder.embed_tokens.weight", "decoder.embed_tokens.weight", HEAD)
OWN_EMBEDDING = dict(zip(("encoder", "decoder", "head"), EMBEDDINGS[1:], strict=True))
ROLES = {
    "seq2seq": ("encoder", "decoder", "head"),
    "hidden": ("encoder", "decoder"),
    "encoder": ("encoder",),
}
#: What a checkpoint of the whole model holds beyond the task.
NOT_NEEDED = {"seq2seq": (), "hidden": (HEAD,), "encoder": ("decoder.", HEAD)}

Equal = Callable[[LazyTensor, LazyTensor], bool]


@dataclass(frozen=True)
class Weight:
    """A weight of the model: one checkpoint tensor, or one per expert.

    Attributes:
        shape: with a leading axis of experts if the weight is one of experts.
        parts: the checkpoint's tensors.
    """

    name: str
    shape: tuple[int, ...]
    parts: tuple[LazyTensor, ...]

    def load(self) -> "Tensor":
        """Read the whole weight, float32 and contiguous.

        Raises:
            UnsupportedCheckpoint: it holds NaN or infinite values.
        """
        import torch

        if len(self.shape) > len(self.parts[0].shape):
            return torch.stack([self.load_part(i) for i in range(len(self.parts))])
        return self.load_part(0)

    def load_part(self, index: int) -> "Tensor":
        """Read one checkpoint tensor (the expert `index`), float32 and contiguous.

        Raises:
            UnsupportedCheckpoint: it holds NaN or infinite values.
        """
        import torch

        part = self.parts[index]
        tensor = part.read().to(torch.float32).contiguous()
        low, high = torch.aminmax(tensor)  # both are NaN if anything is
        if not (torch.isfinite(low) and torch.isfinite(high)):
            nan, infinite = int(tensor.isnan().sum()), int(tensor.isinf().sum())
            raise UnsupportedCheckpoint(
                f"{part.name} in {part.file} holds {nan} NaN and {infinite} infinite values "
                f"of {tensor.numel()}, expected finite numbers (in float32): the checkpoint is "
                "damaged, or its training diverged"
            )
        return tensor


@dataclass(frozen=True)
class WeightTable:
    """All weights that a task needs.

    Attributes:
        weights: by name; the experts of a layer are one weight, `...mlp.experts.wi`.
        embeddings: role (`encoder`, `decoder`, `head`) -> name of its weight; tied roles share one.
    """

    weights: dict[str, Weight]
    embeddings: dict[str, str]


def open_weights(checkpoint: Checkpoint, task: str) -> WeightTable:
    """Match the tensors of a checkpoint with the weights that `task` needs.

    Raises:
        UnsupportedCheckpoint: with every missing, unused, misshapen or unreadable tensor, or with
            every contradiction between tensors and configuration where they can be repaired.
    """
    tensors = checkpoint.tensors
    check_described(checkpoint.config, tensors, checkpoint.name)
    return match_weights(checkpoint, tensors, task, _have_equal_values)


def match_weights(
    checkpoint: Checkpoint, tensors: dict[str, LazyTensor], task: str, equal: Equal
) -> WeightTable:
    """Match given tensors with the weights that `task` needs, as the configuration has them.

    Args:
        equal: whether two embeddings have the same values, so that one is stored.

    Raises:
        UnsupportedCheckpoint: with every missing, unused, misshapen or unreadable tensor.
    """
    config = checkpoint.config
    tensors = with_our_names(tensors)
    expected = dict(_expected(config, task))
    roles = _roles(tensors, config, task)
    embedding = (config.vocab_size, config.d_model)
    shapes = {}
    for name, (shape, parts) in expected.items():
        shapes |= dict.fromkeys(parts, shape[1:]) if parts else {name: shape}
    shapes |= {name: embedding for name in EMBEDDINGS if name in tensors or name in roles.values()}
    _check(checkpoint, tensors, shapes, task)

    weights = {
        name: Weight(name, shape, tuple(tensors[part] for part in parts or (name,)))
        for name, (shape, parts) in expected.items()
    }
    embeddings = _merge_equal(tensors, roles, equal)
    for name in embeddings.values():
        weights[name] = Weight(name, embedding, (tensors[name],))
    return WeightTable(weights, embeddings)


def _check(
    checkpoint: Checkpoint,
    tensors: dict[str, LazyTensor],
    shapes: dict[str, tuple[int, ...]],
    task: str,
) -> None:
    """Compare what is there with the shapes that should be."""
    problems = []
    for name, shape in shapes.items():
        found = tensors.get(name)
        if found is None:
            problems.append(f"{name} is missing, expected shape {list(shape)}")
        elif found.shape != shape:
            problems.append(
                f"{name} has shape {list(found.shape)}, config.json makes it {list(shape)}"
            )
        elif found.dtype not in FLOATS:
            problems.append(f"{name} is {found.dtype}, expected one of {', '.join(FLOATS)}")
    for name, found in tensors.items():
        if name not in shapes and not name.startswith(NOT_NEEDED[task]):
            problems.append(f"{name} {list(found.shape)} is not used by this configuration")
    if not problems:
        return
    hint = ""
    if task != "encoder" and not any(name.startswith("decoder.block") for name in tensors):
        hint = "There is no decoder in it: export it with --task encoder"
    raise UnsupportedCheckpoint(
        listing(f"{checkpoint.name} cannot be exported:", problems, hint)
    )


def _roles(
    tensors: dict[str, LazyTensor], config: SwitchConfig, task: str
) -> dict[str, str]:
    """The tensor that each embedding role reads; one that should be there if none is.

    A role has its own tensor if the file holds it. Otherwise, tied: the first of EMBEDDINGS that
    is there, as transformers ties in both directions. Untied: `shared` for the two stacks, which
    transformers 4 always shared (5 leaves them random), and nothing for the head.
    """
    roles = {}
    for role in ROLES[task]:
        own = OWN_EMBEDDING[role]
        candidates: tuple[str, ...] = (own, *EMBEDDINGS)
        if not config.tie_word_embeddings:
            candidates = (own,) if role == "head" else (own, SHARED)
        missing = SHARED if config.tie_word_embeddings else own
        roles[role] = next((name for name in candidates if name in tensors), missing)
    return roles


def _merge_equal(
    tensors: dict[str, LazyTensor], roles: dict[str, str], equal: Equal
) -> dict[str, str]:
    """Give roles whose tensors have equal values the same name, so that one is stored."""
    kept = [name for name in EMBEDDINGS if name in tensors]
    return {
        role: next(
            other for other in kept if other == name or equal(tensors[other], tensors[name])
        )
        for role, name in roles.items()
    }


def _have_equal_values(one: LazyTensor, other: LazyTensor) -> bool:
    import torch

    first, second = one.read(), other.read()
    if first.dtype != second.dtype:
        return False
    return first.data_ptr() == second.data_ptr() or torch.equal(first, second)


_Entry = tuple[str, tuple[tuple[int, ...], tuple[str, ...]]]


def _expected(config: SwitchConfig, task: str) -> Iterator[_Entry]:
    """Every weight of a task but the embeddings: its name, its shape and the names of its parts."""
    yield from _stack(config, "encoder", config.num_layers, config.sparse_encoder_layers)
    if task != "encoder":
        layers, sparse = config.num_decoder_layers, config.sparse_decoder_layers
        yield from _stack(config, "decoder", layers, sparse)


def _stack(
    config: SwitchConfig, stack: str, layers: int, sparse: tuple[int, ...]
) -> Iterator[_Entry]:
    norm = ((config.d_model,), ())
    yield f"{stack}.final_layer_norm.weight", norm
    if layers:
        bias = f"{stack}.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
        yield bias, ((config.num_buckets, config.num_heads), ())
    attentions = ("SelfAttention",) if stack == "encoder" else ("SelfAttention", "EncDecAttention")
    inner = config.num_heads * config.d_kv
    for i in range(layers):
        for j, attention in enumerate(attentions):
            source = f"{stack}.block.{i}.layer.{j}"
            yield f"{source}.layer_norm.weight", norm
            for part in "qkv":
                yield f"{source}.{attention}.{part}.weight", ((inner, config.d_model), ())
            yield f"{source}.{attention}.o.weight", ((config.d_model, inner), ())
        source = f"{stack}.block.{i}.layer.{len(attentions)}"
        yield f"{source}.layer_norm.weight", norm
        yield from _feed_forward(config, f"{source}.mlp", i in sparse)


def _feed_forward(config: SwitchConfig, source: str, is_sparse: bool) -> Iterator[_Entry]:
    inputs = 2 * config.d_ff if config.is_gated else config.d_ff
    shapes = {"wi": (inputs, config.d_model), "wo": (config.d_model, config.d_ff)}
    experts = range(config.num_experts)
    for part, shape in shapes.items():
        if is_sparse:
            parts = tuple(f"{source}.experts.expert_{e}.{part}.weight" for e in experts)
            yield f"{source}.experts.{part}", ((len(experts), *shape), parts)
        else:
            yield f"{source}.{part}.weight", (shape, ())
    if is_sparse:
        yield f"{source}.router.classifier.weight", ((len(experts), config.d_model), ())
        if config.router_bias:
            yield f"{source}.router.classifier.bias", ((len(experts),), ())
