"""Export Switch Transformers checkpoints to model directories.

    import switch_export
    switch_export.export("switch-base-8", "out")
    switch_export.inspect("out").problems
"""

from switch_export.errors import ExportError, UnsupportedCheckpoint, VerificationFailed
from switch_export.export import export
from switch_export.inspection import Inspection, inspect

__all__ = [
    "ExportError", "Inspection", "UnsupportedCheckpoint", "VerificationFailed", "export", "inspect",
]
