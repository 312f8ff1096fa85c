"""The command line's generation options: one flag for every option of `Model.generate`."""

from collections.abc import Callable

import click

from switch_runtime import Model


class _Ids(click.ParamType):
    """Token ids separated by commas or spaces; nothing is an empty list."""

    name = "ids"

    def convert(self, value: object, param: object, ctx: object) -> list[int]:
        if isinstance(value, list):
            return value
        try:
            return [int(word) for word in str(value).replace(",", " ").split()]
        except ValueError:
            self.fail(f"{value!r} is not token ids separated by commas", param, ctx)


_IDS = _Ids()
_STOPPING = click.Choice(["false", "true", "never"])

# name of the option: (type, help). Types: see `_option`.
_FLAGS = {
    "max_new_tokens": (int, "Stop after that many tokens."),
    "max_length": (int, "The same, counting the start token and a prefix."),
    "min_new_tokens": (int, "Do not end before that many tokens."),
    "min_length": (int, "The same, counting the start token and a prefix."),
    "num_beams": (int, "Beams of the search; 1 is greedy or sampling."),
    "num_return_sequences": (int, "Results per text; at most --num-beams unless sampling."),
    "length_penalty": (float, "> 0 favours long sequences, < 0 short ones."),
    "early_stopping": (_STOPPING, "When beam search ends, as in transformers."),
    "do_sample": (bool, "Draw tokens instead of taking the best."),
    "temperature": (float, "> 1 evens the probabilities out, < 1 sharpens them."),
    "top_k": (int, "Draw from the k most probable tokens; 0 is off."),
    "top_p": (float, "Draw from the most probable tokens that have this sum; 1 is off."),
    "min_p": (float, "Drop tokens below this share of the best one's probability."),
    "typical_p": (float, "Draw from the most typical tokens that have this sum; 1 is off."),
    "repetition_penalty": (float, "> 1 makes tokens that were there less probable."),
    "no_repeat_ngram_size": (int, "No n tokens in a row occur twice; 0 is off."),
    "encoder_no_repeat_ngram_size": (int, "No n tokens in a row are the source's; 0 is off."),
    "bad_words_ids": ([_IDS], "A sequence of ids that may not occur; repeat for more."),
    "forced_bos_token_id": (int, "The first new token."),
    "forced_eos_token_id": (_IDS, "The last token where the length limit is reached."),
    "suppress_tokens": (_IDS, "Ids that are never chosen."),
    "begin_suppress_tokens": (_IDS, "Ids that are not chosen first."),
    "eos_token_id": (_IDS, "Ids that end a sequence; '' for none."),
    "decoder_start_token_id": (int, "What the decoder reads first."),
    "decoder_input_ids": (_IDS, "Ids that every result begins with (they are not printed)."),
    "seed": (click.IntRange(min=0), "Of sampling; the same seed gives the same texts."),
    "max_batch_tokens": (int, "Sources are decoded in batches of at most this many tokens."),
}


def generation_options(command: Callable) -> Callable:
    """Add a flag for every generation option, in the table's order."""
    made = [_option(name, *entry) for name, entry in _FLAGS.items()]
    made.append(click.option("--bad-words", multiple=True, metavar="TEXT",
                             help="Words that may not occur; repeat for more."))  # fmt: skip
    made.append(click.option("--decoder-text", metavar="TEXT",
                             help="As --decoder-input-ids, in words."))  # fmt: skip
    for option in reversed(made):
        command = option(command)
    return command


def _option(name: str, kind: object, text: str) -> Callable:
    """Return the flag of one option; [_IDS] is a list of lists, one for each time it is given."""
    flag = "--" + name.replace("_", "-")
    if kind is bool:
        return click.option(f"{flag}/--no-{flag[2:]}", name, default=None, help=text)
    lists = isinstance(kind, list)
    if lists or kind is _IDS:
        return click.option(flag, name, type=_IDS, multiple=True, help=text)
    return click.option(flag, name, type=kind, help=text)


def take_options(given: dict[str, object]) -> dict[str, object]:
    """Take the generation options out of `given`, as `Model.generate` wants them.

    What the user did not give is left out. `bad_words` and `decoder_text` are still texts.
    """
    values = {name: given.pop(name) for name in [*_FLAGS, "bad_words", "decoder_text"]}
    for name, (kind, _) in _FLAGS.items():
        if kind is _IDS and values[name]:
            values[name] = [token for ids in values[name] for token in ids]
    if values["early_stopping"] in ("false", "true"):
        values["early_stopping"] = values["early_stopping"] == "true"
    if values["decoder_text"] is not None and values["decoder_input_ids"]:
        raise click.UsageError("give --decoder-text or --decoder-input-ids, not both")
    return {name: value for name, value in values.items() if value is not None and value != ()}


def encode_texts(model: Model, options: dict[str, object]) -> dict[str, object]:
    """Return the options with the texts among them as token ids, without their </s>."""
    made = dict(options)
    words, prefix = made.pop("bad_words", ()), made.pop("decoder_text", None)
    if model.tokenizer is None and (words or prefix is not None):
        raise click.ClickException(
            "--bad-words and --decoder-text need a tokenizer, which the model directory does not "
            "have: use --bad-words-ids and --decoder-input-ids"
        )
    if words:
        encoded = [model.tokenizer.encode(word)[:-1] for word in words]
        made["bad_words_ids"] = [*made.get("bad_words_ids", ()), *encoded]
    if prefix is not None:
        made["decoder_input_ids"] = model.tokenizer.encode(prefix)[:-1]
    return made
