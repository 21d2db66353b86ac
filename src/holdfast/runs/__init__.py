"""What a run writes, and how it is read back."""

from holdfast.runs.run import Run

__all__ = ["Run"]
