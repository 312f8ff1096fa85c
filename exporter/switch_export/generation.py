"""generation_config.json -> `generation` of switch.json: kept, dropped, or every reason why not.

The runtime reads what is kept (runtime/src/generation_config.cc has the same lists), so that a
file that asks for something it does not have is refused here, where it can still be changed.
"""

import json
import math
import struct
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from switch_export.config import SwitchConfig
from switch_export.errors import UnsupportedCheckpoint, listing

if TYPE_CHECKING:
    from switch_export.checkpoint import Checkpoint

#: Ids that switch.json keeps under `tokens`.
TOKEN_IDS = ("pad_token_id", "eos_token_id", "bos_token_id", "decoder_start_token_id")
#: How transformers computes, or what it returns beside the ids: no value changes them.
DROPPED = frozenset({
    *TOKEN_IDS, "transformers_version",
    "cache_config", "cache_implementation", "max_cache_len", "return_legacy_cache", "use_cache",
    "compile_config", "continuous_batching_config", "disable_compile", "prefill_chunk_size",
    "output_attentions", "output_hidden_states", "output_logits", "output_scores",
    "return_dict_in_generate",
    # Of a second model that proposes tokens, or the prompt that does: the same ids, sooner.
    "assistant_confidence_threshold", "assistant_early_exit", "assistant_ensemble_weight",
    "assistant_lookbehind", "is_assistant", "max_matching_ngram_size", "num_assistant_tokens",
    "num_assistant_tokens_schedule", "prompt_lookup_num_tokens", "speculation_type",
    "target_lookbehind",
})
#: Of what the runtime does not have, the value that changes nothing.
NEUTRAL = {
    "diversity_penalty": 0.0, "encoder_repetition_penalty": 1.0, "epsilon_cutoff": 0.0,
    "eta_cutoff": 0.0, "guidance_scale": 1.0, "low_memory": False, "num_beam_groups": 1,
    "penalty_alpha": 0.0, "remove_invalid_values": False, "renormalize_logits": False,
    "token_healing": False, "use_mtp": False,
}
#: What transformers has besides, and nobody can leave at a value that does nothing.
FOREIGN = frozenset({
    "constraints", "dola_layers", "exponential_decay_length_penalty", "force_words_ids",
    "max_time", "sequence_bias", "stop_strings", "top_h", "watermarking_config",
})
_MOST = (2**63 - 1) // 4
#: One decoder step cannot be interrupted: the runtime searches no wider.
_MOST_ROWS = 1024

Expected = Callable[[Any, int], str | None]


def read_generation(
    found: dict[str, Any], config: SwitchConfig, name: str = "the checkpoint"
) -> dict[str, Any]:
    """Choose what a model directory keeps of generation_config.json.

    Args:
        found: the parsed file.
        name: of the checkpoint, for the error.

    Raises:
        UnsupportedCheckpoint: with every key that would change results or that the runtime refuses.
    """
    kept, reasons = {}, []
    for key, value in named(found).items():
        if key in KEPT:
            kept[key] = value
            expected = KEPT[key](value, config.vocab_size)
            if expected is not None:
                reasons.append(f"{key} is {_text(value)}, expected {expected}")
        elif not _is_neutral(key, value):
            reasons.append(_refusal(key, value))
    if not reasons:
        reasons = _together(kept)
    if reasons:
        raise UnsupportedCheckpoint(listing(
            f"{name} cannot be exported, its generation_config.json cannot be obeyed:", reasons,
            "Remove these keys or set them to what is expected, or export with --task encoder.",
        ))
    return kept


def defaults_for(checkpoint: "Checkpoint", task: str) -> dict[str, Any]:
    """What a model directory of this task keeps: nothing where nothing is generated.

    Raises:
        UnsupportedCheckpoint: as `read_generation`.
    """
    if task != "seq2seq":
        return {}
    return read_generation(checkpoint.generation, checkpoint.config, checkpoint.name)


def named(found: dict[str, Any]) -> dict[str, Any]:
    """What generation_config.json sets of the search; whether it can be obeyed is not asked."""
    return {
        key: value for key, value in found.items()
        if value is not None and key not in DROPPED and not key.startswith("_")
    }


def _is_neutral(key: str, value: Any) -> bool:
    if key not in NEUTRAL:
        return False
    neutral = NEUTRAL[key]
    return isinstance(value, bool) == isinstance(neutral, bool) and value == neutral


def _refusal(key: str, value: Any) -> str:
    if key in NEUTRAL:
        neutral = _text(NEUTRAL[key])
        return f"{key} is {_text(value)}, expected {neutral}: switch_runtime does not have it"
    known = "switch_runtime does not have it" if key in FOREIGN else \
        "it is no option of transformers' generate"
    return f"{key} is {_text(value)}, expected nothing: {known}"


def _together(kept: dict[str, Any]) -> list[str]:
    """What only several keys together can get wrong."""
    beams, results = kept.get("num_beams", 1), kept.get("num_return_sequences", 1)
    if results <= beams or (kept.get("do_sample") and beams == 1):
        return []
    return [
        f"num_return_sequences is {results}, expected at most num_beams ({beams}), or do_sample "
        "with one beam"
    ]


def _text(value: Any) -> str:
    """A value as JSON has it, short whatever the file holds."""
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _whole(low: int, high: int = _MOST) -> Expected:
    text = f"{low} or more" if high == _MOST else f"{low} to {high}"

    def check(value: Any, _vocab_size: int) -> str | None:
        return None if type(value) is int and low <= value <= high else f"a whole number, {text}"

    return check


def _real(low: float, high: float = math.inf, closed: bool = True) -> Expected:
    text = f"{'from' if closed else 'more than'} {low:g}"
    text += f" to {high:g}" if high < math.inf else " on" if closed else ""

    def check(value: Any, _vocab_size: int) -> str | None:
        fits = _is_float(value) and value <= high and (value >= low if closed else value > low)
        return None if fits else f"a number, {text}"

    return check


def _is_float(value: Any) -> bool:
    """Whether it is a number that float32 holds."""
    if type(value) not in (int, float):
        return False
    try:
        return math.isfinite(struct.unpack("f", struct.pack("f", value))[0])
    except OverflowError:
        return False


def _is_id(value: Any, vocab_size: int) -> bool:
    return type(value) is int and 0 <= value < vocab_size


def _one_token(value: Any, vocab_size: int) -> str | None:
    return None if _is_id(value, vocab_size) else f"an id from 0 to {vocab_size - 1}"


def _tokens(value: Any, vocab_size: int) -> str | None:
    several = value if isinstance(value, list) else [value]
    if all(_is_id(entry, vocab_size) for entry in several):
        return None
    return f"an id from 0 to {vocab_size - 1} or a list of them"


def _words(value: Any, vocab_size: int) -> str | None:
    if isinstance(value, list) and all(
        isinstance(word, list) and word and all(_is_id(entry, vocab_size) for entry in word)
        for word in value
    ):
        return None
    return f"a list of lists of ids from 0 to {vocab_size - 1}"


def _flag(value: Any, _vocab_size: int) -> str | None:
    return None if isinstance(value, bool) else "true or false"


def _stopping(value: Any, _vocab_size: int) -> str | None:
    return None if isinstance(value, bool) or value == "never" else 'true, false or "never"'


#: What the runtime obeys -> says what is expected where a value is not that.
KEPT: dict[str, Expected] = {
    "max_new_tokens": _whole(1), "max_length": _whole(2),
    "min_new_tokens": _whole(0), "min_length": _whole(0),
    "num_beams": _whole(1, _MOST_ROWS), "num_return_sequences": _whole(1, _MOST_ROWS),
    "length_penalty": _real(-1e9, 1e9), "early_stopping": _stopping, "do_sample": _flag,
    "temperature": _real(0, closed=False), "top_k": _whole(0), "top_p": _real(0, 1),
    "min_p": _real(0, 1), "typical_p": _real(0, 1, closed=False),
    "repetition_penalty": _real(0, closed=False),
    "no_repeat_ngram_size": _whole(0), "encoder_no_repeat_ngram_size": _whole(0),
    "bad_words_ids": _words, "forced_bos_token_id": _one_token, "forced_eos_token_id": _tokens,
    "suppress_tokens": _tokens, "begin_suppress_tokens": _tokens,
}
