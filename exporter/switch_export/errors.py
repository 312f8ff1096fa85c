"""What can go wrong with an export, as exceptions whose text is meant for a person."""


class ExportError(Exception):
    """An export that cannot be made; the text names what was found and what to do."""


class UnsupportedCheckpoint(ExportError):
    """The checkpoint is not one that can be exported; the text lists every reason."""


class VerificationFailed(ExportError):
    """The written graphs do not compute what the checkpoint computes."""


def listing(title: str, reasons: list[str], hint: str = "") -> str:
    """One message for all `reasons`: a title, an item per reason and what to do."""
    lines = [title, *(f"  - {reason}" for reason in reasons)]
    return "\n".join([*lines, hint] if hint else lines)
