"""switch-generate: decode texts with a model directory."""

import json
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import click

from switch_runtime import Model, Result, SwitchError, load

_BATCH = 8


@dataclass(frozen=True)
class Format:
    """How lines are read and results are written."""

    ids: bool
    as_json: bool


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
              help="Read the texts from a file, one per line.")
@click.option("--num-beams", type=int, help="Beams of the search; 1 is greedy.")
@click.option("--max-new-tokens", type=int, help="Stop after that many tokens.")
@click.option("--max-length", type=int, help="The same, counting the start token.")
@click.option("--min-new-tokens", type=int, help="Do not end before that many tokens.")
@click.option("--length-penalty", type=float, help="> 0 favours long sequences, < 0 short ones.")
@click.option("--early-stopping", type=click.Choice(["false", "true", "never"]),
              help="When beam search ends, as in transformers.")
@click.option("--num-return-sequences", type=int, help="Results per text, at most --num-beams.")
@click.option("--threads", type=click.IntRange(min=0), default=0, help="0: one per core (default).")
@click.option("--batch-size", type=click.IntRange(min=1), default=_BATCH, show_default=True,
              help="Texts decoded together.")
@click.option("--json", "as_json", is_flag=True,
              help="One JSON object per line: source, text, token_ids, score.")
@click.option("--ids", is_flag=True,
              help="Texts are token ids separated by spaces, and token ids are printed.")
@click.option("--verify", is_flag=True, help="Compare the files' sha256 before loading.")
@click.option("--version", is_flag=True, is_eager=True, expose_value=False,
              callback=_print_version, help="Print the version and exit.")
def main(directory: Path, text: tuple[str, ...], file: str | None, **options: object) -> None:
    """Decode each TEXT with the model in DIRECTORY and print one line per result.

    Without TEXT and --input, texts are read from standard input, one per line. What is not given is
    the model's default.
    """
    if text and file:
        raise click.UsageError("give texts as arguments or --input, not both")
    form = Format(options.pop("ids"), options.pop("as_json"))
    threads, verify = options.pop("threads"), options.pop("verify")
    batch_size = options.pop("batch_size")
    if options["early_stopping"] in ("false", "true"):
        options["early_stopping"] = options["early_stopping"] == "true"
    try:
        with load(directory, threads=threads, verify=verify) as model:
            for batch in _batches(text or _lines(file or "-"), batch_size):
                _decode(model, batch, options, form)
    except SwitchError as error:
        raise click.ClickException(str(error)) from None
    except KeyboardInterrupt:
        sys.exit(130)


def _lines(file: str) -> Iterator[str]:
    """Yield the lines of a file or of standard input ("-")."""
    try:
        with click.open_file(file, encoding="utf-8") as stream:
            for line in stream:
                yield line.removesuffix("\n")
    except OSError as error:
        raise click.ClickException(f"cannot read {file}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise click.ClickException(f"{file} is not UTF-8 text: {error}") from None


def _batches(texts: Iterable[str], size: int) -> Iterator[list[str]]:
    """Yield the texts in lists; one by one where a person is typing them."""
    typed = not isinstance(texts, tuple) and sys.stdin.isatty()
    texts = iter(texts)
    while batch := list(islice(texts, 1 if typed else size)):
        yield batch


def _decode(model: Model, texts: list[str], options: dict, form: Format) -> None:
    """Decode one batch and print it."""
    sources = [_token_ids(text) for text in texts] if form.ids else texts
    results = model.generate(sources, **options)
    each = len(results) // len(sources)
    for index, result in enumerate(results):
        click.echo(_line(sources[index // each], result, form))


def _token_ids(text: str) -> list[int]:
    try:
        return [int(word) for word in text.split()]
    except ValueError:
        message = f"--ids: {text!r} is not token ids separated by spaces"
        raise click.ClickException(message) from None


def _line(source: str | list[int], result: Result, form: Format) -> str:
    if form.as_json:
        values = {"source": source, "text": result.text}
        values |= {"token_ids": result.token_ids, "score": result.score}
        return json.dumps(values, ensure_ascii=False)
    if form.ids or result.text is None:
        return " ".join(map(str, result.token_ids))
    return result.text


if __name__ == "__main__":
    main(prog_name="switch-generate")
