"""Checks that every method must pass, for ours and for those of other packages.

>>> from holdfast.testing import check_method
>>> check_method("my-method", rank=4)

The functions raise ``AssertionError`` with a sentence; they need no test framework, no
network and a few seconds.
"""

from __future__ import annotations

from holdfast.testing.battery import check_entry, check_method, check_plan, check_training
from holdfast.testing.models import Tiny, tiny_llama, tiny_llava
from holdfast.testing.resume import check_resume

__all__ = [
    "Tiny",
    "check_entry",
    "check_method",
    "check_plan",
    "check_resume",
    "check_training",
    "tiny_llama",
    "tiny_llava",
]
