"""Models that write the free-text answers of :mod:`holdfast.data.styles`.

A teacher is asked for JSON and read leniently; what it does not give in that form is left to the
template. Prompts follow the keys of the released code of Chen et al. 2025 (SEFE): an
``explanation`` of a question and its known answer.
"""

from __future__ import annotations

import base64
import json
import mimetypes
import os
import re
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from holdfast.data.records import ImageRef, Record, say
from holdfast.data.styles import Question, Style, Writer
from holdfast.errors import RunError, UsageError

if TYPE_CHECKING:
    from torch import nn

WORDS: Mapping[str, int] = {"brief": 20, "detail": 50}
KEY = "OPENAI_API_KEY"
"""The environment variable that an endpoint's key is read from; it is written nowhere."""
AGAIN = (429, 500, 502, 503, 504)
TRIES = 4


def instruction(question: Question, style: Style) -> str:
    """What a teacher is told about one question."""
    return (
        f"Question: {question.text}\nCorrect answer: {question.answer}\n"
        f"Explain in about {WORDS[style]} words why this answer is correct, and state the answer "
        'in the explanation. Reply with JSON only: {"explanation": "..."}'
    )


def explanation(reply: str) -> str | None:
    """The explanation in a reply; None if the reply has none."""
    found = re.search(r"\{.*\}", reply, re.DOTALL)
    try:
        value = json.loads(found.group()) if found else None
    except ValueError:
        return None
    text = value.get("explanation", value.get("description")) if isinstance(value, dict) else None
    return text.strip() or None if isinstance(text, str) else None


def local_teacher(model: nn.Module, processor: Any, *, max_new_tokens: int = 160) -> Writer:
    """A transformers model as the writer; it sees the records' images if it takes any.

    Raises, when asked, as :func:`holdfast.tasks.generate`.
    """
    from holdfast.tasks.generation import generate

    sees = getattr(processor, "image_processor", None) is not None

    def write(
        records: Sequence[Record], questions: Sequence[Question], style: Style
    ) -> list[str | None]:
        prompts = []
        for record, q in zip(records, questions, strict=True):
            images = record.images if sees else ()
            parts = (*(None for _ in images), instruction(q, style))
            prompts.append(Record((say("user", *parts),), images, record.id))
        replies = generate(model, processor, prompts, max_new_tokens=max_new_tokens)
        return [explanation(reply) for reply in replies]

    return write


def endpoint_teacher(url: str, model: str, *, key: str = KEY, timeout: float = 60.0) -> Writer:
    """An OpenAI-compatible endpoint as the writer, one question per request.

    Args:
        url: up to where ``/chat/completions`` follows, such as ``http://localhost:8000/v1``.
        model: as the endpoint calls it.
        key: the environment variable with the key; without it no key is sent.
        timeout: seconds per request.

    Raises:
        UsageError: the address is not http(s).
        RunError: when asked: the endpoint refuses, or cannot be reached in four tries.
    """
    if not re.match(r"https?://[^/]", url):
        raise UsageError(f"{url!r} is not the address of an endpoint; expected http(s)://HOST/v1")
    target = f"{url.rstrip('/')}/chat/completions"

    def write(
        records: Sequence[Record], questions: Sequence[Question], style: Style
    ) -> list[str | None]:
        return [
            explanation(_ask(target, model, record, instruction(q, style), key, timeout))
            for record, q in zip(records, questions, strict=True)
        ]

    return write


def _ask(url: str, model: str, record: Record, text: str, key: str, timeout: float) -> str:
    content = [*(_picture(image) for image in record.images), {"type": "text", "text": text}]
    body = {
        "model": model,
        "temperature": 0,
        "messages": [{"role": "user", "content": content if record.images else text}],
    }
    headers = {"Content-Type": "application/json"}
    if secret := os.environ.get(key):
        headers["Authorization"] = f"Bearer {secret}"
    request = urllib.request.Request(url, json.dumps(body).encode(), headers)
    reply = _post(request, timeout)
    try:
        return str(reply["choices"][0]["message"]["content"] or "")
    except (KeyError, IndexError, TypeError):
        raise RunError(f"the endpoint {url} answered without choices[0].message.content") from None


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A redirect would take the key to another host."""

    def redirect_request(self, *args: Any, **kwargs: Any) -> None:
        return None


def _post(request: urllib.request.Request, timeout: float) -> Any:
    """The answer as JSON; a busy endpoint is asked again after 1, 2 and 4 seconds."""
    why, opener = "", urllib.request.build_opener(_NoRedirect)
    for attempt in range(TRIES):
        if attempt:
            time.sleep(2 ** (attempt - 1))
        try:
            with opener.open(request, timeout=timeout) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            why = f"{error.code} {error.reason}"
            if error.code not in AGAIN:
                break
        except (OSError, ValueError) as error:
            why = str(getattr(error, "reason", error))
    raise RunError(f"the endpoint {request.full_url} did not answer: {why:.200}")


def _picture(image: ImageRef) -> dict[str, Any]:
    data = image.data if image.data is not None else Path(image.path or "").read_bytes()
    guess = mimetypes.guess_type(image.path or "x.png")[0] or "image/png"
    encoded = base64.b64encode(data).decode()
    return {"type": "image_url", "image_url": {"url": f"data:{guess};base64,{encoded}"}}
