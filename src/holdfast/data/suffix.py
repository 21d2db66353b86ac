"""Models that read a prefix with full attention and write a suffix (PaliGemma).

Their processors take the answer apart from the question, and mark with token types which
part is which: the model needs both to build its attention mask. There is no chat template
and one answer a record.
"""

from __future__ import annotations

import inspect
from typing import Any

from holdfast.data.problems import shown
from holdfast.data.records import Record
from holdfast.errors import DataError


def takes_suffix(processor: Any) -> bool:
    """Whether the processor is of this kind."""
    if getattr(processor, "image_processor", None) is None:
        return False
    return "suffix" in inspect.signature(type(processor).__call__).parameters


def prefix_of(record: Record, image_token: str) -> str:
    """The question, with its images in front as these models are trained."""
    messages = record.prompt().messages
    return image_token * len(record.images) + "\n".join(m.text for m in messages)


def suffix_of(record: Record) -> str:
    """The answer.

    Raises:
        DataError: the record is not one question with one answer.
    """
    trained = [m for m in record.messages if m.role == "assistant" and m.train]
    if record.raw or len(trained) != 1 or record.messages[-1] is not trained[0]:
        raise DataError(
            f"record {shown(record.id)}: this model reads one question and writes one answer; the "
            f"record has {len(trained)} assistant turn(s) to learn from. Split the conversation"
        )
    return trained[0].text
