"""Export Switch Transformers checkpoints to model directories.

    import switch_export
    switch_export.export("switch-base-8", "out")
"""

from switch_export.errors import ExportError, UnsupportedCheckpoint, VerificationFailed
from switch_export.export import export

__all__ = ["ExportError", "UnsupportedCheckpoint", "VerificationFailed", "export"]
