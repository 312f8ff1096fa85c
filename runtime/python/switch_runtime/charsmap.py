"""The normalisation stored in a SentencePiece model, as transformers' fast T5Tokenizer does it.

SentencePiece replaces the longest match at every position. The fast tokenizer looks at what a
reader takes for one character (grapheme clusters): a cluster of fewer than 6 bytes is replaced
*whole* by what its shortest matching prefix maps to; else each code point is looked up alone. Ids
depend on the difference (a circled digit before a combining accent eats it), so it is done here.
"""

import struct
import unicodedata

# Grapheme_Cluster_Break=Prepend, and the exceptions among categories Mn, Me, Mc (Unicode Annex 29).
# The rules for Hangul, flags and emoji sequences are left out: what they join has 6 bytes or more.
_PREPEND = {
    *range(0x600, 0x606), 0x6DD, 0x70F, 0x890, 0x891, 0x8E2, 0xD4E, 0x110BD, 0x110CD, 0x111C2,
    0x111C3, 0x1193F, 0x11941, 0x11A3A, *range(0x11A84, 0x11A8A), 0x11D46, 0x11F02,
}
_JOINS = {
    0x200C, 0x200D, 0xFF9E, 0xFF9F, 0xE33, 0xEB3,
    *range(0xE0020, 0xE0080), *range(0x1F3FB, 0x1F400),
}
_JOINS_NOT = {
    0x102B, 0x102C, 0x1038, *range(0x1062, 0x1065), *range(0x1067, 0x106E), 0x1083,
    *range(0x1087, 0x108D), 0x108F, *range(0x109A, 0x109D), 0x1A61, 0x1A63, 0x1A64, 0xAA7B, 0xAA7D,
    0x11720, 0x11721,
}  # fmt: skip
_SHORT_CLUSTER = 6  # bytes


def _joins(char: str) -> bool:
    """Say whether `char` belongs to the cluster of the character before it."""
    code = ord(char)
    if code in _JOINS:
        return True
    return unicodedata.category(char) in ("Mn", "Me", "Mc") and code not in _JOINS_NOT


def _is_control(char: str) -> bool:
    """Say whether there is a cluster boundary on both sides of `char`."""
    code = ord(char)
    if code in _JOINS or code in _PREPEND:
        return False
    return unicodedata.category(char) in ("Cc", "Cf", "Zl", "Zp")


def _clusters(text: str) -> list[str]:
    """Split text into grapheme clusters, exact for those of fewer than 6 bytes."""
    kinds = {c: (_joins(c), _is_control(c), ord(c) in _PREPEND) for c in set(text)}
    clusters: list[str] = []
    start, control, prepend = 0, True, False
    for index, char in enumerate(text):
        joins, is_control, is_prepend = kinds[char]
        line_end = char == "\n" and index > 0 and text[index - 1] == "\r"
        if index > start and not line_end and (control or is_control or not (joins or prepend)):
            clusters.append(text[start:index])
            start = index
        control, prepend = is_control, is_prepend
    clusters.append(text[start:])
    return clusters


class Charsmap(dict):
    """Normalise text by a precompiled_charsmap.

    As a dict it maps a code point to its replacement and is filled as code points are met, which is
    what str.translate takes.
    """

    def __init__(self, blob: bytes):
        """Read a blob: the size of a double array in bytes, the array, then the replacements."""
        super().__init__()
        size = int.from_bytes(blob[:4], "little")
        if len(blob) < 4 + size or size % 4:
            raise ValueError(f"the charsmap has {len(blob)} bytes, its array alone needs {size}")
        self._units = struct.unpack_from(f"<{size // 4}I", blob, 4)
        self._replacements = blob[4 + size :]

    def __missing__(self, code: int) -> str:
        char = chr(code)
        replacement = self._replacement(char)
        self[code] = char if replacement is None else replacement
        return self[code]

    def _replacement(self, text: str) -> str | None:
        """Return what the shortest prefix of `text` that is in the map becomes."""
        node = self._offset(self._units[0])
        for byte in text.encode():
            node ^= byte
            # A zero byte ends the keys of the array, it is never part of one.
            if byte == 0 or node >= len(self._units):
                return None
            unit = self._units[node]
            if unit & 0x800000FF != byte:
                return None
            node ^= self._offset(unit)
            if unit >> 8 & 1:
                start = self._units[node] & 0x7FFFFFFF
                return self._replacements[start : self._replacements.index(0, start)].decode()
        return None

    @staticmethod
    def _offset(unit: int) -> int:
        return unit >> 10 << ((unit & 0x200) >> 6)

    def normalize(self, text: str) -> str:
        """Return the normalised text."""
        if text.isascii() and "\r\n" not in text:
            return text.translate(self)
        pieces = []
        for cluster in _clusters(text):
            if 1 < len(cluster) < _SHORT_CLUSTER > len(cluster.encode()):
                whole = self._replacement(cluster)
                pieces.append(cluster.translate(self) if whole is None else whole)
            else:
                pieces.append(cluster.translate(self))
        return "".join(pieces)
