"""Text to token ids and back, equal to transformers' fast T5Tokenizer.

    text ──► cut at special tokens ──► charsmap ──► words ──► "▁word" ──► Unigram ──► ids, </s>

The sentencepiece package reads the model file. It does not segment: it adds scores in float32 where
the fast tokenizer adds them in float64, so that ties ("......", "aaaa") are broken differently, and
it never gives a special token for text that is one only after normalisation (full-width letters).
"""

import functools
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from switch_runtime.charsmap import Charsmap
from switch_runtime.errors import InvalidArgument, InvalidModel

_SPACE = "▁"
_EOS = "</s>"
_UNK_PENALTY = 10.0  # an unknown character scores that much less than the worst piece
_CACHED_WORD = 64  # longer words are seldom seen twice

# Unicode's White_Space, which is not Python's str.isspace.
_WORDS = re.compile("[^\t-\r \x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]+")
_PARTS = re.compile(f"{_SPACE}[^{_SPACE}]*")


class Tokenizer:
    """The tokenizer of a model directory."""

    def __init__(self, path: str | Path, special: dict[str, int]):
        """Read a SentencePiece Unigram model.

        Args:
            path: the spiece.model file.
            special: text and id of every special token (`tokenizer.special` in switch.json); ids
                may lie beyond the file's pieces.

        Raises InvalidModel if the file is damaged, or there is no </s>.
        """
        pieces, charsmap, unk = _read(Path(path))
        self._special = dict(special)
        self._text = {index: piece for index, (piece, _) in enumerate(pieces)}
        self._text.update((index, text) for text, index in special.items())

        # piece: (score, id). The fast tokenizer's vocabulary holds the special tokens too.
        self._pieces = {text: (0.0, index) for text, index in special.items()}
        self._pieces.update((piece, (score, index)) for index, (piece, score) in enumerate(pieces))
        if _EOS not in self._pieces:
            raise InvalidModel(f"{path} has no piece {_EOS!r}, which ends every T5 input")
        self._eos = special.get(_EOS, self._pieces[_EOS][1])
        self._unk = (min(score for score, _ in self._pieces.values()) - _UNK_PENALTY, unk)

        self._longest: dict[str, int] = {}  # by first character
        for piece in self._pieces:
            self._longest[piece[:1]] = max(len(piece), self._longest.get(piece[:1], 0))
        self._charsmap = Charsmap(charsmap) if charsmap else None
        by_length = sorted(special, key=len, reverse=True)
        self._split = re.compile("|".join(map(re.escape, by_length)) or "(?!)")
        self._segment_cached = functools.lru_cache(maxsize=1 << 16)(self._segment)

    def encode(self, text: str) -> list[int]:
        """Return the token ids of `text`, ended by </s>.

        Special tokens in the text are themselves. Raises InvalidArgument for text that is not
        valid Unicode (a lone surrogate).
        """
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise InvalidArgument(
                f"the text is not valid Unicode: {error.reason} at character {error.start}"
            ) from None
        ids: list[int] = []
        start = 0
        for match in self._split.finditer(text):
            self._encode_plain(text[start : match.start()], ids)
            ids.append(self._special[match.group()])
            start = match.end()
        self._encode_plain(text[start:], ids)
        ids.append(self._eos)
        return ids

    def decode(self, ids: Iterable[int]) -> str:
        """Return the text of token ids: special tokens and ids without a piece give nothing."""
        return "".join(self.decode_each(ids))

    def decode_each(self, ids: Iterable[int]) -> Iterator[str]:
        """Yield what each token id adds to the text, where it adds something."""
        space = ""  # the first piece has none before it
        for index in ids:
            text = self._text.get(index)
            if text is not None and text not in self._special:
                yield text.replace(_SPACE, space)
                space = " "

    def _encode_plain(self, text: str, ids: list[int]) -> None:
        """Append the ids of text without special tokens."""
        if self._charsmap is not None and text:
            text = self._charsmap.normalize(text)
        for word in _WORDS.findall(text):
            for part in _PARTS.findall(word if word[0] == _SPACE else _SPACE + word):
                segment = self._segment_cached if len(part) <= _CACHED_WORD else self._segment
                ids.extend(segment(part))

    def _segment(self, word: str) -> tuple[int, ...]:
        """Return the ids of the best segmentation: the first best one in float64, as it must be.

        Neighbouring unknown characters are one unknown token.
        """
        pieces, longest, size = self._pieces, self._longest, len(word)
        unk_score, unk = self._unk
        best: list[float | None] = [0.0] + [None] * size  # score of the best way to each position,
        start_of, id_of = [0] * (size + 1), [unk] * (size + 1)  # its last piece
        for start in range(size):
            here = best[start]
            ends = range(start + 1, min(start + longest.get(word[start], 0), size) + 1)
            found = [(end, pieces.get(word[start:end])) for end in ends]
            if not found or found[0][1] is None:
                found.append((start + 1, (unk_score, unk)))
            for end, piece in found:
                if piece is not None:
                    score = piece[0] + here
                    if best[end] is None or score > best[end]:
                        best[end], start_of[end], id_of[end] = score, start, piece[1]
        ids: list[int] = []
        end = size
        while end > 0:
            if not (ids and ids[-1] == unk == id_of[end]):
                ids.append(id_of[end])
            end = start_of[end]
        return tuple(reversed(ids))


def _read(path: Path) -> tuple[list[tuple[str, float]], bytes, int]:
    """Return the pieces with their scores, the charsmap (empty: none), the unknown piece's id."""
    import sentencepiece

    try:
        blob = path.read_bytes()
        if not blob:
            raise ValueError("the file is empty")
        processor = sentencepiece.SentencePieceProcessor(model_proto=blob)
        normalizer = b"".join(_members(blob, 3))  # ModelProto.normalizer_spec
        charsmap = b"".join(_members(normalizer, 2))  # NormalizerSpec.precompiled_charsmap
        size = processor.get_piece_size()
    except (OSError, RuntimeError, IndexError, ValueError) as error:
        raise InvalidModel(f"{path} is not a readable SentencePiece model: {error}") from None
    indices = list(range(size))
    pieces = zip(processor.id_to_piece(indices), processor.get_score(indices), strict=True)
    return list(pieces), charsmap, processor.unk_id()


def _members(message: bytes, number: int) -> Iterator[bytes]:
    """Yield the byte strings of one member of a protobuf message."""
    position = 0
    while position < len(message):
        tag, position = _varint(message, position)
        if tag & 7 == 2:
            size, position = _varint(message, position)
            if tag >> 3 == number:
                yield message[position : position + size]
            position += size
        elif tag & 7 == 0:
            _, position = _varint(message, position)
        elif tag & 7 in (1, 5):
            position += 8 if tag & 7 == 1 else 4
        else:
            raise ValueError(f"unknown wire type {tag & 7} at byte {position}")


def _varint(message: bytes, position: int) -> tuple[int, int]:
    """Return the number that begins at `position`, and the position after it."""
    value = shift = 0
    while True:
        byte = message[position]
        position += 1
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            return value, position
