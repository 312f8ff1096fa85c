"""switch-export: parse, call export() or inspect(), print a table."""

import contextlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click
from click.core import ParameterSource

from switch_export.errors import ExportError
from switch_export.export import CAPACITIES, TARGETS, TASKS, Options, Progress, export
from switch_export.inspection import inspect
from switch_export.quantize import PRECISIONS

if TYPE_CHECKING:
    from switch_export.export import Summary

#: Stages that count bytes; the others count steps.
_BYTES = ("write",)
_DEFAULTS = Options()


class Failure(click.ClickException):
    """A user's mistake or a checkpoint's: a message and exit code 1, no traceback."""


@click.group(invoke_without_command=True, subcommand_metavar="[COMMAND]")
@click.option(
    "--model", metavar="NAME|HUB_ID|DIR",
    help="A known name (switch-base-8), a hub id (google/switch-base-8) or a directory.  "
    "[required]",
)
@click.option(
    "--output", type=click.Path(path_type=Path), metavar="DIR",
    help="The model directory to make.  [default: ./<last part of the model>-onnx]",
)
@click.option(
    "--target", type=click.Choice(TARGETS), default=_DEFAULTS.target, show_default=True,
    help="onnx: standard operators only, for any engine. cpu: may use more of ONNX Runtime.",
)
@click.option(
    "--precision", type=click.Choice(PRECISIONS), default=_DEFAULTS.precision, show_default=True,
    help="Of the weights.",
)
@click.option(
    "--block", type=int, metavar="N",
    help="Inputs that share a scale, for int8 and int4: 32, 64, 128 ..., or 0 for one scale per "
    "output.  [default: 0 for int8, 32 for int4]",
)
@click.option(
    "--capacity", type=click.Choice(CAPACITIES), default=_DEFAULTS.capacity, show_default=True,
    help="What becomes of tokens that an expert has no room for. hf: zero, as transformers 5.18 "
    "and later. none: there is always room. legacy: gate * x, as transformers up to 4.51.",
)
@click.option(
    "--task", type=click.Choice(TASKS),
    help="seq2seq: logits. encoder: hidden states of the encoder. hidden: of the decoder.  "
    "[default: what the checkpoint is]",
)
@click.option(
    "--adapter", metavar="DIR", help="A PEFT LoRA adapter, merged into the model.",
)
@click.option(
    "--repair", is_flag=True,
    help="Take the layout from the weights where config.json contradicts them; each repair is "
    "listed.",
)
@click.option("--revision", metavar="REV", help="Branch, tag or commit of a hub model.")
@click.option("--no-verify", is_flag=True, help="Do not compare the result with PyTorch.")
@click.option("--force", is_flag=True, help="Replace an existing model directory.")
@click.version_option(package_name="switch-export", prog_name="switch-export")
@click.pass_context
def main(
    context: click.Context, model: str | None, output: Path | None, no_verify: bool,
    **choices: str | int | bool | None,
) -> None:
    """Export a Switch Transformers checkpoint to a model directory.

    The directory holds ONNX graphs, weights and tokenizer; switch-generate decodes it without
    PyTorch.

    switch-export inspect DIR says what a checkpoint or a model directory is.
    """
    if context.invoked_subcommand is None:
        if model is None:
            raise click.UsageError("Missing option '--model'.")
        _export(model, output, verify=not no_verify, **choices)
        return
    given = [
        option.opts[0] for option in context.command.params
        if context.get_parameter_source(option.name) == ParameterSource.COMMANDLINE
    ]
    if given:
        raise click.UsageError(
            f"{', '.join(given)} cannot be used with {context.invoked_subcommand}."
        )


@main.command("inspect")
@click.argument("directory", metavar="DIR")
@click.option("--json", "as_json", is_flag=True, help="Print the same as one JSON object.")
def inspect_command(directory: str, as_json: bool) -> None:
    """Say what a checkpoint or a model directory is.

    Sizes, parameters, stored types and defaults, what an export of a checkpoint writes, and every
    problem that would refuse it. Only headers are read.
    """
    from switch_export.inspection_text import render

    with _failures():
        found = inspect(directory)
    click.echo(json.dumps(found.to_dict(), indent=1) if as_json else render(found))


def _export(model: str, output: Path | None, **choices: str | int | bool | None) -> None:
    with _failures("; nothing was written"), _bars() as progress:
        summary = export(model, output, progress=progress, **choices)
    click.echo(_table(summary))
    click.echo(summary.path)


@contextlib.contextmanager
def _failures(consequence: str = "") -> Iterator[None]:
    """Make a message of what is the user's, the checkpoint's or the system's."""
    try:
        yield
    except ExportError as error:
        raise Failure(str(error)) from error
    except ImportError as error:
        raise Failure(f"{error}: install the exporter with pip install 'switch-export[export]'") \
            from error
    except OSError as error:
        raise Failure(f"{error}{consequence}") from error


@contextlib.contextmanager
def _bars() -> Iterator[Progress]:
    """A progress bar per stage on a terminal, a line per stage elsewhere."""
    from tqdm import tqdm

    terminal = sys.stderr.isatty()
    bars: dict[str, tqdm] = {}

    def progress(stage: str, done: int, total: int) -> None:
        if stage not in bars:
            for bar in bars.values():
                bar.close()
            if not terminal:
                click.echo(f"{stage} ...", err=True)
            units = {"unit": "B", "unit_scale": True} if stage in _BYTES else {"unit": "step"}
            bars[stage] = tqdm(desc=stage, total=total, disable=not terminal, **units)
        bars[stage].update(done - bars[stage].n)

    try:
        yield progress
    finally:
        for bar in bars.values():
            bar.close()


def _table(summary: "Summary") -> str:
    rows = [(f"graph {name}", f"{nodes:,} nodes") for name, nodes in summary.graphs]
    rows.append(("parameters", f"{summary.parameters:,}"))
    rows += [(name, _size(size)) for name, size in summary.files.items()]
    verification = summary.verification
    verified = "not verified"
    if verification is not None:
        verified = f"{verification.error:.1e} relative ({verification.tensor})"
    rows.append(("largest error", verified))
    if verification is not None and verification.quantisation:
        layer, lost = max(verification.quantisation.items(), key=lambda item: item[1])
        rows.append(("quantisation", f"{lost:.1e} relative ({layer})"))
    rows += [("repair", repair) for repair in summary.repairs]
    if summary.adapter is not None:
        rows.append(("adapter", summary.adapter))
    rows.append(("seconds", f"{summary.seconds:.1f}"))
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"{name:<{width}}  {value}" for name, value in rows)


def _size(count: int) -> str:
    return f"{count / 2**20:,.1f} MiB" if count >= 2**20 else f"{count:,} bytes"
