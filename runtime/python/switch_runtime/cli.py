"""switch-generate: decode texts with a model directory."""

import contextlib
import sys
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import BinaryIO

import click

from switch_runtime import Model, SwitchError, load
from switch_runtime.cli_options import encode_texts, generation_options, take_options
from switch_runtime.lines import Form, LineDecoder, chunk_seed


def _print_version(context: click.Context, _parameter: click.Parameter, value: bool) -> None:
    if not value or context.resilient_parsing:
        return
    from switch_runtime import native

    try:
        click.echo(f"switch-generate {native.version()}")
    except SwitchError as error:
        raise click.ClickException(str(error)) from None
    context.exit()


@click.command(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.argument("directory", type=click.Path(path_type=Path))
@click.argument("text", nargs=-1)
@click.option("--input", "file", type=click.Path(dir_okay=False, allow_dash=True),
              help="Read the texts from a file, one per line; - is standard input.")
@click.option("--output", type=click.Path(dir_okay=False, path_type=Path),
              help="Write the results to a file. A run that was broken off goes on.")
@click.option("--restart", is_flag=True, help="Begin again instead of going on.")
@click.option("--force", is_flag=True, help="Replace an existing --output file.")
@click.option("--chunk-lines", type=click.IntRange(min=1), default=1024, show_default=True,
              help="Lines that are read, decoded and written together.")
@click.option("--skip-errors", is_flag=True,
              help="Write an error for a line that cannot be decoded, and go on.")
@click.option("--jsonl", is_flag=True,
              help="Lines are JSON objects with text or token_ids; implied by a name in .jsonl.")
@click.option("--json", "as_json", is_flag=True,
              help="One JSON object per line: source, text, token_ids, score.")
@click.option("--ids", is_flag=True,
              help="Texts are token ids separated by spaces, and token ids are printed.")
@click.option("--stream", "streams", is_flag=True, help="Print one text while it is decoded.")
@generation_options
@click.option("--threads", type=click.IntRange(min=0), default=0, help="0: one per core (default).")
@click.option("--progress/--no-progress", "shows_progress", default=True,
              help="A progress bar for --input where standard error is a terminal.")
@click.option("--verify", is_flag=True, help="Compare the files' sha256 before loading.")
@click.option("--version", is_flag=True, is_eager=True, expose_value=False,
              callback=_print_version, help="Print the version and exit.")
def main(directory: Path, text: tuple[str, ...], **given: object) -> None:
    """Decode each TEXT with the model in DIRECTORY and print one line per result.

    Without TEXT and --input, texts are read from standard input, one per line. What is not given is
    the model's default.
    """
    options = take_options(given)
    _check_usage(text, given)
    form = _form(given)
    try:
        with load(directory, threads=given["threads"], verify=given["verify"]) as model:
            options = encode_texts(model, options)
            if given["streams"]:
                _stream(model, text[0], options, form)
            elif text:
                _decode_arguments(model, text, options, form)
            elif given["output"] is not None:
                _decode_to_file(model, options, form, given)
            else:
                _decode_lines(model, options, form, given)
    except SwitchError as error:
        raise click.ClickException(str(error)) from None
    except KeyboardInterrupt:
        if given["output"] is not None:
            click.echo("interrupted; the same command goes on", err=True)
        sys.exit(130)


def _check_usage(text: tuple[str, ...], given: dict) -> None:
    """Refuse options that exclude each other."""
    if text and given["file"] is not None:
        raise click.UsageError("give texts as arguments or --input, not both")
    if text and given["output"] is not None:
        raise click.UsageError("--output takes its texts from --input")
    if given["output"] is None and (given["restart"] or given["force"]):
        raise click.UsageError("--restart and --force are about an --output file")
    if given["streams"] and (len(text) != 1 or given["as_json"] or given["jsonl"]):
        raise click.UsageError("--stream prints one TEXT as it is, without --json and --jsonl")


def _form(given: dict) -> Form:
    jsonl = given["jsonl"] or str(given["file"]).endswith(".jsonl")
    as_json = given["as_json"] or jsonl or str(given["output"]).endswith(".jsonl")
    return Form(given["ids"], as_json, jsonl, given["skip_errors"])


def _stream(model: Model, text: str, options: dict, form: Form) -> None:
    """Print one text piece by piece."""
    if form.ids:
        ids = model.stream_ids(_ids_argument(text), **options)
        pieces = (f" {token}" if index else str(token) for index, token in enumerate(ids))
    else:
        pieces = model.stream(text, **options)
    for piece in pieces:
        click.echo(piece, nl=False)
    click.echo()


def _ids_argument(text: str) -> list[int]:
    try:
        return [int(word) for word in text.split()]
    except ValueError:
        message = f"--ids: {text!r} is not token ids separated by spaces"
        raise click.ClickException(message) from None


def _decode_arguments(model: Model, text: tuple[str, ...], options: dict, form: Form) -> None:
    """Decode the texts of the command line in one call."""
    decoder = LineDecoder(model, options, form, what="text")
    decoder.check_options()
    lines = [word.encode("utf-8", "surrogateescape") for word in text]
    for line in decoder.decode(lines, seed=options.get("seed")).written:
        click.echo(line)


def _decode_lines(model: Model, options: dict, form: Form, given: dict) -> None:
    """Print the results of a file's or of standard input's lines, chunk by chunk."""
    decoder = LineDecoder(model, options, form)
    decoder.check_options()
    seed = options.get("seed")
    typed = given["file"] in (None, "-") and sys.stdin.isatty()
    size = 1 if typed else given["chunk_lines"]
    first = 1
    with _open_input(given["file"] or "-") as source, _bar(given, source, 0) as advance:
        while lines := list(islice(source, size)):
            chunk = (first - 1) // size
            seeded = None if seed is None else chunk_seed(seed, chunk)
            for line in decoder.decode(lines, first, seeded, advance(len(lines))).written:
                click.echo(line)
            first += len(lines)


def _decode_to_file(model: Model, options: dict, form: Form, given: dict) -> None:
    """Write the results to --output, going on where an earlier run was broken off."""
    from switch_runtime import batch_file, native

    decoder = LineDecoder(model, options, form)
    decoder.check_options()
    settings = {"seed": None, "chunk_lines": given["chunk_lines"], "ids": form.ids}
    settings |= {"json": form.as_json, "jsonl": form.jsonl} | options
    directory = Path(model.describe()["directory"])
    fingerprint = batch_file.run_fingerprint(directory, native.version(), settings)
    output, begin = given["output"], {"restart": given["restart"], "force": given["force"]}
    with _open_input(given["file"] or "-") as source:
        resumes = given["file"] not in (None, "-") and source.seekable()
        files = batch_file.BatchFile(output, given["chunk_lines"], resumes)
        try:
            done = files.begin(source, fingerprint, **begin)
            if done is not None:
                with _bar(given, source, done.lines) as advance:
                    files.run(source, done, lambda lines, first, seed: decoder.decode(
                        lines, first, seed, advance(len(lines))))
        except OSError as error:
            raise click.ClickException(f"{error.filename or output}: {error.strerror}") from None
    if done is not None and done.errors:
        click.echo(f"{done.errors} of {done.lines} lines have an error", err=True)
    click.echo(output)


@contextlib.contextmanager
def _open_input(file: str) -> Iterator[BinaryIO]:
    try:
        opened = click.open_file(file, "rb")
    except OSError as error:
        raise click.ClickException(f"cannot read {file}: {error.strerror}") from None
    with opened as stream:
        yield stream


@contextlib.contextmanager
def _bar(given: dict, source: BinaryIO, done: int) -> Iterator[Callable]:
    """Show a progress bar; give a function that makes the progress callback of a chunk."""
    shows = given["shows_progress"] and given["file"] is not None and sys.stderr.isatty()
    if not shows or (given["output"] is None and sys.stdout.isatty()):
        yield lambda _lines: None
        return
    from tqdm import tqdm

    total = None
    if source.seekable():
        total = sum(1 for _ in source)
        source.seek(0)
    with tqdm(total=total, initial=done, unit="line", file=sys.stderr) as bar:
        ended = done

        def advance(lines: int) -> Callable:
            nonlocal ended
            start, ended = ended, ended + lines

            def update(finished: int, _rows: int) -> None:
                bar.update(start + finished - bar.n)

            return update

        yield advance


if __name__ == "__main__":
    main(prog_name="switch-generate")
