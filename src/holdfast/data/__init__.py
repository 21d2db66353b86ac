"""Data: records of any common format in, batches out.

Nothing here imports torch or transformers before an encoder is made.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from holdfast.data.records import ImageRef, Message, Part, Record, say

if TYPE_CHECKING:
    from holdfast.data.batch import collate
    from holdfast.data.counting import Survey, survey
    from holdfast.data.dataset import DataSet, read
    from holdfast.data.encode import Encoder

_LAZY = {
    "DataSet": "holdfast.data.dataset",
    "Encoder": "holdfast.data.encode",
    "Survey": "holdfast.data.counting",
    "collate": "holdfast.data.batch",
    "read": "holdfast.data.dataset",
    "survey": "holdfast.data.counting",
}

__all__ = [
    "DataSet",
    "Encoder",
    "ImageRef",
    "Message",
    "Part",
    "Record",
    "Survey",
    "collate",
    "read",
    "say",
    "survey",
]


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(importlib.import_module(_LAZY[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
