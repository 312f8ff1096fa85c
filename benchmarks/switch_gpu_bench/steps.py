"""Whole decoder steps of base-8: ours in one graph, transformers eager and compiled."""

import faulthandler
import math
import traceback
from collections.abc import Iterator
from dataclasses import asdict

import torch
from torch import Tensor

from switch_bench.shapes import SHAPES
from switch_bench.shapes import config as config_of
from switch_export.config import SwitchConfig
from switch_gpu_bench import weights
from switch_gpu_bench.ceilings import Ceilings
from switch_gpu_bench.ops import CudaOps
from switch_gpu_bench.packed import FLOATS
from switch_gpu_bench.step import Source, Step
from switch_gpu_bench.timing import (
    DEVICE,
    Deadline,
    Taken,
    summary,
    synchronize,
    time_device,
    time_host,
)
from switch_gpu_bench.torch_ops import TorchOps

IS_TRIAL = DEVICE == "cpu"  # of the code alone
ROWS = (1, 2) if IS_TRIAL else (1, 8, 32)
SOURCE, CACHED, TIMED, CAPACITY = 32, 32, 2 if IS_TRIAL else 24, 64  # tokens
_CHECKED = 3  # steps that are compared with float32
_SHORT, _LONG = 8, 40  # new tokens of the two generations whose difference is timed


def contents_of_base_8() -> dict:
    """Return config.json of switch-base-8; of something small for a trial."""
    small = {"num_layers": 2, "num_decoder_layers": 2, "vocab_size": 512, "d_ff": 256}
    return config_of(SHAPES["base-8"]) | (small if IS_TRIAL else {})


def step_bytes(config: SwitchConfig, rows: int) -> float:
    """Return the bytes that one bf16 step has to read: weights once, and the caches."""
    inner, square = config.num_heads * config.d_kv, 2 * config.d_model
    attentions = config.num_decoder_layers * 6 * inner * square
    mlp = 2 * config.d_ff * square
    experts = config.num_experts
    distinct = experts * (1 - (1 - 1 / experts) ** rows)  # expected, of equal chances
    sparse = len(config.sparse_decoder_layers)
    routers = sparse * experts * 2 * square
    mlps = (config.num_decoder_layers - sparse + sparse * distinct) * mlp
    cached = rows * (SOURCE + CACHED + TIMED / 2) * 2 * inner * 2 * config.num_decoder_layers
    return attentions + routers + mlps + config.vocab_size * square + cached


def source_for(config: SwitchConfig, rows: int) -> Source:
    """Return random cross keys and values of `rows` sources."""
    generator = torch.Generator(DEVICE).manual_seed(rows)
    shape = (rows, config.num_heads, SOURCE, config.d_kv)

    def draw() -> Tensor:
        values = torch.empty(shape, dtype=torch.bfloat16, device=DEVICE)
        return values.normal_(generator=generator)

    cross = [(draw(), draw()) for _ in range(config.num_decoder_layers)]
    return Source(cross, torch.ones(rows, SOURCE, dtype=torch.int64, device=DEVICE))


def error_of(ours: Step, reference: Step) -> float:
    """Return the error of the logits after some steps that read the same tokens."""
    ours.restart()
    reference.restart()
    for _ in range(_CHECKED):
        ours.run()
        reference.run()
        ours.ids.copy_(reference.ids)
    difference = (ours.logits - reference.logits).double().norm()
    return float(difference / reference.logits.double().norm())


@torch.inference_mode()
def ours(ceiling: Ceilings, ops: CudaOps | TorchOps) -> Iterator[dict]:
    """Measure the exporter's model with our kernels, one graph for each batch."""
    config = SwitchConfig.from_dict(contents_of_base_8())
    _, decoder = weights.random(config, "bf16", DEVICE, 1)
    for rows in ROWS:
        source = source_for(config, rows)
        step = Step(decoder, ops, source, rows, CAPACITY)
        error = error_of(step, Step(decoder, TorchOps(), source, rows, CAPACITY))
        for cache in (part for pair in step.caches for part in pair):
            cache.normal_()
        replay = step.capture()

        def body(replay=replay) -> None:
            for _ in range(TIMED):
                replay()

        taken = time_device(body, TIMED, 1.0, lambda step=step: step.restart(CACHED))
        yield row("ours, one graph", rows, taken, ceiling, config) | {
            "error": error if math.isfinite(error) else None, "checked": True, "how": "graph"
        }


def row(engine: str, rows: int, taken: Taken, ceiling: Ceilings, config: SwitchConfig) -> dict:
    """Return what a row says of a step."""
    floor = ceiling.floor(step_bytes(config, rows), 0)
    return {
        "measure": "step", "cell": f"base-8 step, batch {rows}", "rows": rows, "engine": engine,
        "tokens_per_second": rows / taken.us * 1e6, "floor_us": floor,
        "floor_share": floor / taken.us, **asdict(taken),
    }


class Transformers:
    """transformers' model with random weights of base-8."""

    def __init__(self):
        from transformers import (
            SwitchTransformersConfig,
            SwitchTransformersForConditionalGeneration,
        )

        config = SwitchTransformersConfig(**{
            key: value for key, value in contents_of_base_8().items()
            if key not in ("architectures", "dtype", "model_type")
        })
        default = torch.get_default_dtype()
        torch.set_default_dtype(FLOATS["bf16"])
        try:
            with torch.device(DEVICE):
                self.model = SwitchTransformersForConditionalGeneration(config).eval()
        finally:
            torch.set_default_dtype(default)
        for name, parameter in self.model.named_parameters():
            if parameter.dim() > 1:
                scale = 4.0 if "router" in name else 1.0
                torch.nn.init.normal_(parameter, 0, scale * parameter.shape[-1] ** -0.5)
            else:
                torch.nn.init.ones_(parameter)
        self.config = config

    def source(self, rows: int) -> dict[str, Tensor]:
        """Return random source tokens."""
        generator = torch.Generator().manual_seed(rows)
        ids = torch.randint(2, self.config.vocab_size, (rows, SOURCE), generator=generator)
        ids = ids.to(DEVICE)
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}

    @torch.inference_mode()
    def eager(self, rows: int) -> Taken:
        """Time calls of forward with one token each, as `generate` makes them."""
        from transformers.modeling_outputs import MoEModelOutput

        source = self.source(rows)
        encoded = self.model.get_encoder()(**source).last_hidden_state
        given = {
            "encoder_outputs": MoEModelOutput(encoded), "use_cache": True,
            "attention_mask": source["attention_mask"],
        }
        first = torch.randint(2, self.config.vocab_size, (rows, CACHED), device=DEVICE)
        samples = []
        for _ in range(4):
            out = self.model(decoder_input_ids=first, **given)

            def steps(out=out) -> None:
                for _ in range(TIMED):
                    ids = out.logits[:, -1:].argmax(-1)
                    out = self.model(
                        decoder_input_ids=ids, past_key_values=out.past_key_values, **given
                    )

            samples.append(time_host(steps, 2, TIMED).us)
        return summary(samples)

    @torch.inference_mode()
    def compiled(self, rows: int) -> Taken:
        """Time generation with a static cache and a compiled forward: long minus short."""
        model = self.model
        if not getattr(model.forward, "_torchdynamo_orig_callable", None):
            model.forward = torch.compile(model.forward, mode="reduce-overhead")
        source = self.source(rows)

        def generate(tokens: int) -> float:
            return time_host(lambda: model.generate(
                **source, max_new_tokens=tokens, min_new_tokens=tokens, do_sample=False,
                num_beams=1, cache_implementation="static",
            ), 2).us

        generate(_LONG)  # compiles
        pairs = [(generate(_LONG), generate(_SHORT)) for _ in range(2)]
        return summary([(long - short) / (_LONG - _SHORT) for long, short in pairs])


def peers(ceiling: Ceilings, seconds: float) -> Iterator[dict]:
    """Measure transformers; compiling may take long, so that it comes last."""
    deadline, theirs = Deadline(seconds), Transformers()
    config = SwitchConfig.from_dict(contents_of_base_8())
    for name, rows in (*(("eager", n) for n in ROWS), *(("compiled", n) for n in ROWS[:2])):
        engine = f"transformers {name}"
        about = {"measure": "step", "cell": f"base-8 step, batch {rows}", "engine": engine}
        if deadline.left() < 10:
            yield about | {"rows": rows, "failed": "no time left"}
            continue
        try:
            yield row(engine, rows, getattr(theirs, name)(rows), ceiling, config) | {
                "how": name, "checked": False
            }
        except Exception as error:  # a peer that fails costs its own row alone
            traceback.print_exc()
            yield about | {"rows": rows, "failed": f"{type(error).__name__}: {error}"[:500]}
            synchronize()


def run(stage: str, ceiling: Ceilings, arguments) -> Iterator[dict]:
    """Measure one of the stages "steps" and "step-peers"."""
    from switch_gpu_bench.stage import kernels

    arguments.state.write_text("0")
    faulthandler.dump_traceback_later(max(10, arguments.seconds), exit=True)
    if stage == "steps":
        yield from ours(ceiling, kernels())
    else:
        yield from peers(ceiling, arguments.seconds)
    faulthandler.cancel_dump_traceback_later()
