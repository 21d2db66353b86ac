"""Reliance on the image: how much worse the right answer gets without it."""

from __future__ import annotations

import io
import random
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from PIL import Image
from torch import nn

from holdfast.data.images import load_image
from holdfast.data.records import ImageRef, Message, Record
from holdfast.errors import DataError
from holdfast.measures.formulas import Array
from holdfast.measures.interval import Estimate
from holdfast.probes._contexts import Contexts, answered, cluster_of, images_key
from holdfast.probes._reading import Reading, read
from holdfast.probes._registry import Measure, probe
from holdfast.probes._rows import ProbeResult, ProbeRow, compared
from holdfast.tasks.room import BatchSize

NAME = "image-reliance"
WITHOUT = ("blank", "shuffled", "none")
"""A grey image of the same size; another example's image; no image at all."""


def prepare(
    base: nn.Module,
    processor: Any,
    prompts: Sequence[Record],
    *,
    seed: int = 0,
    batch_size: BatchSize = "auto",
    own_head: bool = False,
) -> Measure:
    """Read the base once; see :data:`image_reliance`. Nothing of the base's weights is kept."""
    views = {"right": list(prompts), **_views(prompts, seed)}
    clusters = [cluster_of(r) for r in prompts]
    before = _scores(base, processor, views, batch_size)

    def measure(tuned: nn.Module) -> ProbeResult:
        after = _scores(tuned, processor, views, batch_size)
        rows: list[ProbeRow] = []
        for what, unit in UNITS.items():
            for name in WITHOUT:
                like = ProbeRow(NAME, f"{what}.{name}", "base", Estimate(0.0), unit)
                one, two = (s[what]["right"] - s[what][name] for s in (before, after))
                rows += compared(like, one, two, clusters)
            right = ProbeRow(NAME, f"{what}.right", "base", Estimate(0.0), unit)
            rows += compared(right, before[what]["right"], after[what]["right"], clusters)
        facts = {"examples": len(prompts), "shuffled_with_seed": seed}
        return ProbeResult(NAME, tuple(rows), facts)

    return measure


UNITS = {"logprob": "nats per token", "greedy": "share of answers"}
"""Mean log-probability of the answer's tokens; whether each of them is the most likely one."""


def _scores(
    model: nn.Module, processor: Any, views: dict[str, list[Record]], batch_size: BatchSize
) -> dict[str, dict[str, Array]]:
    """By unit and view, [n]."""
    found: dict[str, dict[str, Array]] = {what: {} for what in UNITS}
    for name, records in views.items():
        fixed = answered(model, processor, records)
        reading = read(model, fixed, batch_size=batch_size)
        values = np.array([_answer(reading, fixed, i) for i in range(len(fixed))])
        found["logprob"][name], found["greedy"][name] = values.T
    return found


def _answer(reading: Reading, fixed: Contexts, i: int) -> tuple[float, float]:
    """Mean log-probability of an answer's tokens, and whether all of them are the first choice."""
    targets = fixed.encoded[i]["labels"][1:][fixed.positions(i)[:-1]]
    total, first, at = 0.0, True, 0
    for logits in reading.logits(i):
        wanted = targets[at : at + len(logits)].to(logits.device)
        at += len(logits)
        chosen = logits.double().log_softmax(-1).gather(1, wanted[:, None])
        total += float(chosen.sum())
        first = first and bool((logits.argmax(-1) == wanted).all())
    return total / len(targets), float(first)


def _views(prompts: Sequence[Record], seed: int) -> dict[str, list[Record]]:
    """The prompts as each of :data:`WITHOUT` shows them.

    Raises :class:`DataError` if a prompt has no image or no answer, or all have the same ones.
    """
    if not prompts or any(not r.images or not r.answer() for r in prompts):
        raise DataError(
            "reliance on the image needs prompts that all have an image and end with the right "
            "answer; choose a data set of questions about images."
        )
    others = _others(prompts, seed)
    return {
        "blank": [replace(r, images=tuple(_blank(i) for i in r.images)) for r in prompts],
        "shuffled": [replace(r, images=i) for r, i in zip(prompts, others, strict=True)],
        "none": [replace(r, images=(), messages=_text_only(r.messages)) for r in prompts],
    }


def _others(prompts: Sequence[Record], seed: int) -> list[tuple[ImageRef, ...]]:
    """For each prompt the images of one that has as many, but other ones."""
    rng = random.Random(seed)
    found = []
    for record in prompts:
        pool = [
            r.images
            for r in prompts
            if len(r.images) == len(record.images) and images_key(r) != images_key(record)
        ]
        if not pool:
            raise DataError(
                f"record '{record.id}' has {len(record.images)} image(s), and no other prompt has "
                "as many that are different ones: there is nothing to shuffle. Give more prompts."
            )
        found.append(rng.choice(pool))
    return found


def _blank(image: ImageRef) -> ImageRef:
    size = load_image(image).size
    buffer = io.BytesIO()
    Image.new("RGB", size, (128, 128, 128)).save(buffer, "PNG")
    return ImageRef(data=buffer.getvalue())


def _text_only(messages: Sequence[Message]) -> tuple[Message, ...]:
    return tuple(replace(m, parts=tuple(p for p in m.parts if p.kind == "text")) for m in messages)


@probe(
    NAME,
    summary="how much the right answer depends on the image: against blank, shuffled and none",
    paper="hidden forgetting: arXiv 2607.02020 (accuracy stays while evidence use shifts)",
    prepare=prepare,
    images=True,
)
def image_reliance(
    base: nn.Module,
    tuned: nn.Module,
    processor: Any,
    prompts: Sequence[Record],
    *,
    seed: int = 0,
    batch_size: BatchSize = "auto",
) -> ProbeResult:
    """The right image against a grey one of its size, another example's, and none.

    ``logprob.blank``: the mean log-probability of the right answer's tokens with the right
    image, minus that with the grey one; larger is more reliance. ``greedy.blank``: the same
    difference of the share of answers that greedy decoding would give word for word.
    ``logprob.right`` is the score with the right image itself. A model can keep its accuracy
    and stop looking, where the answer can be guessed.

    Args:
        base, tuned: multimodal models.
        processor: of both.
        prompts: with images and right answers.
        seed: of the shuffling. The other example never has the same image.

    Raises:
        DataError: prompts without images or answers, or with all the same image.
    """
    return prepare(base, processor, prompts, seed=seed, batch_size=batch_size)(tuned)
