"""The story of an export in one function: resolve, plan, trace, write, verify."""

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from importlib.metadata import version
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING

from switch_export import checkpoint as checkpoints
from switch_export.directory import check_output, staged, write_description
from switch_export.errors import ExportError
from switch_export.generation import defaults_for
from switch_export.quantize import PRECISIONS, Precision, find_precision

if TYPE_CHECKING:
    from switch_export.verify import Verification

#: Of the model directory, see docs/model-directory.md.
FORMAT = 1
TARGETS = ("onnx", "cpu")
TASKS = ("seq2seq", "encoder", "hidden")
CAPACITIES = ("hf", "none", "legacy")

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Options:
    """What to make of a checkpoint.

    Attributes:
        target: `onnx` is standard operators only; `cpu` may lower further.
        precision: of the weights.
        block: inputs that share a scale, 0 for one scale per output; None: what suits `precision`.
        capacity: `hf` drops to zero past the configured capacity, `none` never drops,
            `legacy` passes gate * x (transformers <= 4.51).
        task: `seq2seq`, `encoder` (hidden states of the encoder) or `hidden` (of the decoder);
            None: what the checkpoint is.
        revision: of a hub model.
        adapter: directory of a PEFT LoRA adapter that is merged into the model.
        repair: take what config.json has wrong from the tensors; implied by the two released
            names that need it.
        verify: run both graphs against PyTorch before the directory appears.
        force: replace an existing output.
    """

    target: str = "cpu"
    precision: str = "fp32"
    block: int | None = None
    capacity: str = "hf"
    task: str | None = None
    revision: str | None = None
    adapter: str | None = None
    repair: bool = False
    verify: bool = True
    force: bool = False

    def __post_init__(self):
        choices = {
            "target": TARGETS, "precision": PRECISIONS, "capacity": CAPACITIES,
            "task": (None, *TASKS),
        }
        wrong = [
            f"  - {name} is {getattr(self, name)!r}, expected one of "
            f"{', '.join(filter(None, known))}"
            for name, known in choices.items() if getattr(self, name) not in known
        ]
        if wrong:
            raise ExportError("these options cannot be exported:\n" + "\n".join(wrong))
        find_precision(self.precision, self.block)


@dataclass
class Summary:
    """What an export made.

    Attributes:
        graphs: name and number of nodes of each graph.
        files: name -> bytes.
        verification: the graphs against PyTorch; None if not verified.
        adapter: what was merged into the model, as the user named it.
        repairs: what was taken from the tensors, as config.json has it wrong.
    """

    path: Path
    graphs: list[tuple[str, int]] = field(default_factory=list)
    parameters: int = 0
    files: dict[str, int] = field(default_factory=dict)
    verification: "Verification | None" = None
    seconds: float = 0.0
    adapter: str | None = None
    repairs: list[str] = field(default_factory=list)


def export(
    model: str, output: str | Path | None = None, *, progress: Progress | None = None, **choices
) -> Summary:
    """Export a Switch Transformers checkpoint to a model directory.

    Args:
        model: a known name (`switch-base-8`), a hub id or a directory; a directory that holds only
            a PEFT adapter stands for its model with the adapter.
        output: the directory to make; the default is the model's last name + `-onnx`, here.
        progress: called with a stage, and work done and to do in units of that stage.
        choices: the attributes of `Options`.

    Raises:
        ExportError: with every reason; nothing was written.
        OSError: the output could not be written; nothing was left behind.
    """
    started = time.perf_counter()
    options = Options(**choices)
    report = progress or (lambda stage, done, total: None)
    output = Path(output) if output else Path(f"{Path(str(model)).resolve().name}-onnx")
    check_output(output, options.force)
    adapter = None if options.adapter is None else str(options.adapter)
    checkpoint = checkpoints.find_checkpoint(
        str(model), options.revision, adapter, repair=options.repair
    )
    options = replace(options, task=checkpoints.choose_task(checkpoint, options.task))
    with staged(output, options.force) as directory:
        summary = _write(checkpoint, options, directory, report)
    summary.path = output
    summary.adapter = checkpoint.adapter and checkpoint.adapter.name
    summary.repairs = list(checkpoint.repairs)
    summary.seconds = time.perf_counter() - started
    return summary


def _write(checkpoint, options: Options, directory: Path, report: Progress) -> Summary:
    from switch_export.graph import check_graph, save_graph, trace
    from switch_export.moe.router import Capacity
    from switch_export.plan import describe_graph, plan_graphs
    from switch_export.storage import WeightFile
    from switch_export.tokenizer import copy_tokenizer
    from switch_export.verify import verify
    from switch_export.weights import open_weights

    config = checkpoint.config
    generation = defaults_for(checkpoint, options.task)
    table = open_weights(checkpoint, options.task)
    capacity = Capacity(options.capacity, config.expert_capacity)
    precision = find_precision(options.precision, options.block)

    def planned(other: Precision) -> list:
        return plan_graphs(config, capacity, options.task, table.embeddings, other)

    plans = planned(precision)
    wanted = [stored for plan in plans for stored in plan.names.values()]
    weights = WeightFile(directory / "weights.bin", table.weights, wanted, precision)
    summary = Summary(directory)
    tokenizer = copy_tokenizer(checkpoint.path, directory, config)
    for i, plan in enumerate(plans):
        report("trace", i, len(plans))
        summary.graphs.append((plan.name, save_graph(plan, trace(plan), weights, options.target)))
    report("trace", len(plans), len(plans))
    weights.write(lambda done, total: report("write", done, total))
    for plan in plans:
        check_graph(plan, directory)
    used = {name for stored in wanted for name in stored.weights}
    summary.parameters = sum(prod(table.weights[name].shape) for name in used)
    if options.verify:
        loss = None if precision == Precision() else (plans, planned(Precision()))
        summary.verification = verify(
            directory, planned(replace(precision, rounds_tokens=False)), loss, table.weights,
            lambda done, total: report("verify", done, total),
        )
    description = _describe(checkpoint, options, summary)
    description["graphs"] = {plan.name: describe_graph(plan) for plan in plans}
    description |= {"tokenizer": tokenizer, "generation": generation}
    write_description(directory, description)
    summary.files = {file.name: file.stat().st_size for file in sorted(directory.iterdir())}
    return summary


def _describe(checkpoint, options: Options, summary: Summary) -> dict:
    """switch.json but for its graphs, tokenizer, generation and files."""
    config = checkpoint.config
    sizes = (
        "vocab_size", "d_model", "d_kv", "d_ff", "num_heads", "num_layers", "num_decoder_layers",
        "num_experts", "sparse_encoder_layers", "sparse_decoder_layers", "activation", "is_gated",
    )
    verification = summary.verification and asdict(summary.verification)
    return {
        "format": FORMAT,
        "producer": {
            "switch_export": version("switch-export"),
            "torch": version("torch"),
            "onnx": version("onnx"),
        },
        "source": {
            "model": checkpoint.name, "revision": checkpoint.revision,
            "adapter": checkpoint.adapter and checkpoint.adapter.name,
            "repairs": list(checkpoint.repairs),
        },
        "target": options.target,
        "task": options.task,
        "precision": options.precision,
        "block": find_precision(options.precision, options.block).block,
        "capacity": {"policy": options.capacity, "tokens": config.expert_capacity},
        "model": {name: getattr(config, name) for name in sizes}
        | {"parameters": summary.parameters},
        "tokens": {
            "pad": config.pad_id,
            "eos": list(config.eos_ids),
            "decoder_start": config.decoder_start_id,
        },
        "verification": verification,
    }
