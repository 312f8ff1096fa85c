"""One test per class of the model's documentation in transformers."""

import numpy as np
import pytest
import torch
from checkpoints import VARIANTS, pad, random_rows
from graphs import Graphs
from tolerances import TIE, assert_close
from transformers import (
    SwitchTransformersConfig,
    SwitchTransformersEncoderModel,
    SwitchTransformersModel,
    SwitchTransformersSparseMLP,
    SwitchTransformersTop1Router,
)

from switch_export.config import SwitchConfig
from switch_export.model.feed_forward import FeedForward
from switch_export.moe.router import Capacity, Router
from switch_export.quantize import Precision

SIZES = {
    "vocab_size": 31, "d_model": 24, "d_ff": 16, "d_kv": 4, "num_heads": 2, "num_layers": 2,
    "num_decoder_layers": 2, "num_experts": 5, "expert_capacity": 2,
}


def pair(**fields) -> tuple[SwitchTransformersConfig, SwitchConfig]:
    """One config for transformers and for us."""
    theirs = SwitchTransformersConfig(**SIZES | fields)
    return theirs, SwitchConfig.from_dict(theirs.to_dict())


def router_pair(**fields) -> tuple[SwitchTransformersTop1Router, Router]:
    """The same random router twice."""
    config, ours = pair(**fields)
    theirs = SwitchTransformersTop1Router(config).eval()
    made = Router(ours, Capacity("hf", ours.expert_capacity))
    made.weight.data = theirs.classifier.weight.detach().clone()
    if ours.router_bias:
        made.bias.data = theirs.classifier.bias.detach().clone()
    return theirs, made


def states(seed: int = 0) -> torch.Tensor:
    return torch.randn(3, 19, 24, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("fields", [
    {}, {"num_sparse_encoder_layers": 0}, {"num_layers": 12, "num_decoder_layers": None},
    {"num_layers": 5, "num_sparse_encoder_layers": 2, "num_sparse_decoder_layers": 3},
    {"num_layers": 1, "num_sparse_encoder_layers": 0, "router_bias": True},
    *({"num_layers": 6, "encoder_sparse_step": step, "decoder_sparse_step": step}
      for step in range(5)),
])
def test_config_places_the_sparse_layers_where_transformers_does(fields):
    theirs, ours = pair(**fields)
    for stack, sparse in (("encoder", ours.sparse_encoder_layers),
                          ("decoder", ours.sparse_decoder_layers)):
        with torch.device("meta"):
            model = SwitchTransformersModel(theirs)
        blocks = getattr(model, stack).block
        assert sparse == tuple(i for i, block in enumerate(blocks) if block.is_sparse)


@pytest.mark.parametrize("fields", [{}, {"router_bias": True}, {"expert_capacity": 0},
                                    {"num_experts": 1}])
def test_top1_router_forward_gives_the_same_indices_and_probabilities(fields):
    theirs, ours = router_pair(**fields)
    with torch.no_grad():
        chosen, gate, _ = theirs(states())
        expert, our_gate = ours.route(states())
    expected = torch.where(chosen.sum(-1) > 0, chosen.argmax(-1), -1)
    assert (expected == -1).any()
    assert expert.tolist() == expected.tolist()
    assert_close(our_gate, gate[..., 0])


@pytest.mark.parametrize("kind", ["float32", "float16", "bfloat16"])
def test_top1_router_compute_router_probabilities_gives_the_same_logits_and_probabilities(kind):
    theirs, ours = router_pair(router_dtype=kind, router_bias=True)
    with torch.no_grad():
        _, gate, logits = theirs(states())
        computed = ours.probabilities(states())
    expected = torch.softmax(logits, -1, dtype=getattr(torch, kind)).float()
    # A half rounds once more or once less where a sum lies between two of its numbers.
    limit = {"float32": TIE, "float16": 2**-9, "bfloat16": 2**-6}[kind]
    assert (computed - expected).abs().max() <= limit
    assert (computed.amax(-1) - gate[..., 0].float()).abs().max() <= limit


@pytest.mark.parametrize("policy", ["hf", "none"])
@pytest.mark.parametrize("activation", ["relu", "gelu", "silu"])
def test_sparse_mlp_gives_the_same_states(policy, activation):
    config, ours = pair(dense_act_fn=activation)
    theirs = SwitchTransformersSparseMLP(config).eval()
    torch.manual_seed(3)
    for parameter in theirs.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    mlp = FeedForward(ours, True, Capacity(policy, ours.expert_capacity), Precision())
    mlp.router.weight.data = theirs.router.classifier.weight.detach().clone()
    mlp.router.norm.weight.data = torch.ones(24)

    def load_expert(index: int) -> tuple[torch.Tensor, torch.Tensor]:
        expert = theirs.experts[f"expert_{index}"]
        return expert.wi.weight, expert.wo.weight

    mlp.experts.load_expert = load_expert
    if policy == "none":
        theirs.router.expert_capacity = 10**6
    with torch.no_grad():
        total, y, (expert, _) = mlp(states(), states(1))
        _, normed = mlp.router.norm(states(), states(1))
        assert_close(total, states() + states(1))
        assert_close(y, theirs(normed))
    assert (expert == -1).any() == (policy == "hf")


def test_model_gives_the_same_decoder_states(cases, sources):
    case = cases["tiny"]
    model = SwitchTransformersModel.from_pretrained(case.checkpoint, dtype=torch.float32).eval()
    source, target = sources[0], random_rows(8, (11,))[0]
    with torch.no_grad():
        expected = model(
            input_ids=torch.tensor([source]), decoder_input_ids=torch.tensor([[0, *target[:-1]]])
        ).last_hidden_state
    assert_close(case.model("hidden").forward(source, target), expected[0])


def test_encoder_model_gives_the_same_encoder_states(cases, sources):
    case = cases["tiny"]
    model = SwitchTransformersEncoderModel.from_pretrained(
        case.checkpoint, dtype=torch.float32
    ).eval()
    ids, mask = pad(sources)
    with torch.no_grad():
        expected = model(input_ids=torch.tensor(ids), attention_mask=torch.tensor(mask))
    computed = case.model("encoder").encode(sources)
    for i, tokens in enumerate(sources):
        assert_close(computed[i], expected.last_hidden_state[i, : len(tokens)])


def test_for_conditional_generation_gives_the_same_logits_and_ids(cases, sources):
    case = cases["tiny"]
    ids, mask = pad(sources)
    target = np.array(random_rows(8, (6,) * len(sources)))
    graphs = Graphs(case.directory())
    encoded = graphs.encode(ids, mask) | {"attention_mask": mask}
    with torch.no_grad():
        expected = case.oracle(
            input_ids=torch.tensor(ids), attention_mask=torch.tensor(mask),
            decoder_input_ids=torch.tensor(target),
        ).logits
        sequences = case.oracle.generate(
            input_ids=torch.tensor(ids), attention_mask=torch.tensor(mask), max_new_tokens=9
        ).tolist()
    computed = graphs.decode(target, graphs.cache(len(ids), 1), encoded)["logits"]
    assert_close(computed, expected)
    for result, row in zip(case.model().generate(sources, max_new_tokens=9), sequences,
                           strict=True):
        given = result.token_ids + ([] if result.eos is None else [result.eos])
        assert row[1 : 1 + len(given)] == given


def test_every_variant_is_a_legal_config_of_transformers():
    for variant in VARIANTS.values():
        SwitchTransformersConfig(**SIZES | variant.config)
