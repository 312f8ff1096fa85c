"""The tokenizer of a checkpoint: spiece.model copied, or rebuilt from tokenizer.json."""

import base64
import json
import shutil
from pathlib import Path
from typing import Any

from switch_export.config import SwitchConfig
from switch_export.errors import UnsupportedCheckpoint, listing

SPIECE = "spiece.model"
SENTINELS = 100
#: Normalizers that SentencePiece's own white space handling covers.
_WHITE_SPACE = ("Replace", "Strip")
_ADVICE = (
    "Put the original spiece.model beside it, or move tokenizer.json away to export a model that "
    "takes token ids only."
)


def copy_tokenizer(checkpoint: Path, directory: Path, config: SwitchConfig) -> dict | None:
    """Write spiece.model into `directory`.

    Returns:
        the `tokenizer` entry of switch.json; None if the checkpoint has no tokenizer.

    Raises:
        UnsupportedCheckpoint: the tokenizer is damaged, is of another kind or has more pieces than
            the model has embeddings.
    """
    described = _read_json(checkpoint / "tokenizer.json")
    if (checkpoint / SPIECE).is_file():
        shutil.copyfile(checkpoint / SPIECE, directory / SPIECE)
    elif described is not None:
        (directory / SPIECE).write_bytes(rebuild(described))
    else:
        return None
    pieces = _pieces(directory / SPIECE)
    if len(pieces) > config.vocab_size:
        raise UnsupportedCheckpoint(
            f"the tokenizer has {len(pieces)} pieces, the model {config.vocab_size} embeddings "
            "(vocab_size), expected at least as many: it belongs to another model"
        )
    settings = _read_json(checkpoint / "tokenizer_config.json") or {}
    if described is not None:
        special = _added(described.get("added_tokens", []))
    else:
        extra = _read_json(checkpoint / "added_tokens.json") or {}
        special = _by_rule(pieces, settings) | extra
        added = settings.get("added_tokens_decoder", {})
        special |= _added([{"id": int(key), **token} for key, token in added.items()])
    ordered = dict(sorted(special.items(), key=lambda entry: entry[1]))
    return {"file": SPIECE, "special": ordered}


def rebuild(described: dict[str, Any]) -> bytes:
    """Make a SentencePiece model of the Unigram table in tokenizer.json.

    Special tokens that follow the pieces (T5's sentinels) are left out, as in T5's own file.

    Raises:
        UnsupportedCheckpoint: SentencePiece cannot express the tokenizer; lists every reason.
    """
    from sentencepiece import sentencepiece_model_pb2 as protobuf

    charsmap = _check(described)
    special = _added(described.get("added_tokens", []))
    table = described["model"]["vocab"]
    unknown = described["model"]["unk_id"]
    count = len(table)
    while count and table[count - 1][0] in special and count - 1 != unknown:
        count -= 1
    model = protobuf.ModelProto()
    kinds = protobuf.ModelProto.SentencePiece
    for i, (text, score) in enumerate(table[:count]):
        kind = kinds.UNKNOWN if i == unknown else kinds.CONTROL if text in special else kinds.NORMAL
        model.pieces.add(piece=text, score=score, type=kind)
    spec = model.trainer_spec
    spec.model_type = protobuf.TrainerSpec.UNIGRAM
    spec.vocab_size = count
    spec.unk_id, spec.unk_piece = unknown, table[unknown][0]
    spec.bos_id = -1
    spec.eos_id = special.get(spec.eos_piece, -1)
    spec.pad_id = special.get(spec.pad_piece, -1)
    rules = model.normalizer_spec
    rules.name = "nmt_nfkc" if charsmap else "identity"
    rules.precompiled_charsmap = charsmap
    rules.add_dummy_prefix = rules.remove_extra_whitespaces = rules.escape_whitespaces = True
    return model.SerializeToString()


def _check(described: dict[str, Any]) -> bytes:
    """Give the precompiled normalisation table, if SentencePiece can be all of the tokenizer."""
    model = described.get("model") or {}
    reasons = []
    if model.get("type") != "Unigram":
        reasons.append(f"its model is {model.get('type')!r}, expected 'Unigram'")
    elif not isinstance(model.get("unk_id"), int):
        reasons.append("it has no unknown token (unk_id)")
    if model.get("byte_fallback"):
        reasons.append("it falls back to bytes")
    splits = [entry.get("type") for entry in _flatten(described.get("pre_tokenizer"))]
    if "Metaspace" not in splits or set(splits) - {"Metaspace", "WhitespaceSplit"}:
        reasons.append(f"it splits text by {splits}, expected white space and Metaspace")
    charsmaps = []
    for entry in _flatten(described.get("normalizer")):
        if entry.get("type") == "Precompiled":
            charsmaps.append(base64.b64decode(entry.get("precompiled_charsmap") or ""))
        elif entry.get("type") not in _WHITE_SPACE:
            reasons.append(f"it normalises text by {entry.get('type')}")
    if len(charsmaps) > 1:
        reasons.append("it has several normalisation tables")
    if reasons:
        raise UnsupportedCheckpoint(
            listing("tokenizer.json cannot become a SentencePiece model:", reasons, _ADVICE)
        )
    return charsmaps[0] if charsmaps else b""


def _flatten(entry: dict[str, Any] | None) -> list[dict[str, Any]]:
    """The members of a (nested) Sequence of normalizers or pre-tokenizers."""
    if entry is None:
        return []
    members = entry.get("normalizers") or entry.get("pretokenizers")
    if members is None:
        return [entry]
    return [leaf for member in members for leaf in _flatten(member)]


def _added(tokens: list[dict[str, Any]]) -> dict[str, int]:
    """Text -> id of the added tokens."""
    plain = [f"{t['content']!r} (id {t['id']})" for t in tokens if not t.get("special")]
    if plain:
        raise UnsupportedCheckpoint(listing(
            "the tokenizer has added tokens that are not special, which SentencePiece does not "
            "know:", plain, _ADVICE,
        ))
    return {token["content"]: token["id"] for token in tokens}


def _by_rule(pieces: list[str], settings: dict[str, Any]) -> dict[str, int]:
    """What T5Tokenizer adds to a bare spiece.model: sentinels above the pieces, 0 the highest."""
    names = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    special = {}
    for key, usual in names.items():
        text = settings.get(key) or usual
        text = text["content"] if isinstance(text, dict) else text
        if text in pieces:
            special[text] = pieces.index(text)
    count = settings.get("extra_ids", SENTINELS)
    top = len(pieces) + count - 1
    return special | {f"<extra_id_{i}>": top - i for i in range(count)}


def _pieces(path: Path) -> list[str]:
    from sentencepiece import SentencePieceProcessor

    try:
        processor = SentencePieceProcessor(model_proto=path.read_bytes())
        return [processor.id_to_piece(i) for i in range(processor.get_piece_size())]
    except RuntimeError as error:
        raise UnsupportedCheckpoint(
            f"{SPIECE} ({path.stat().st_size} bytes) is not a SentencePiece model: {error}"
        ) from error


def _read_json(path: Path) -> dict[str, Any] | None:
    if not path.is_file():
        return None
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UnsupportedCheckpoint(f"{path.name} cannot be read: {error}") from error
    if not isinstance(found, dict):
        raise UnsupportedCheckpoint(f"{path.name} is not a JSON object")
    return found
