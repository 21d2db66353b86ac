"""Pre-training the lab's two models again, from a seed.

A plain loop, on purpose: pictures are drawn once, rows of like length go together, the loss
is read off answers only and every answer counts the same however many tokens it has; AdamW
(Loshchilov and Hutter, 2019) under a warm-up and a cosine.
"""

from __future__ import annotations

import itertools
import json
import math
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from queue import Empty
from typing import TYPE_CHECKING, Any

from holdfast.errors import UnknownName
from holdfast.lab.architecture import PATCH, make_model, make_processor
from holdfast.lab.canvas import SIDE
from holdfast.lab.catalogue import HELD_OUT, PREFIX
from holdfast.lab.corpus import batches, texts
from holdfast.lab.packing import Packed, token_losses
from holdfast.lab.seeing import STEPS as SEEING_STEPS
from holdfast.lab.seeing import teach_to_see
from holdfast.lab.tokenizer import Codec, train_tokenizer

if TYPE_CHECKING:
    from torch import Tensor

STEPS = {"vlm": 1000, "lm": 1500}
PEAK, WARM_UP, CLIP, DECAY = 1.5e-3, 100, 1.0, 0.01
CARD = "lab.json"
"""The file next to the weights that says which lab model it is and what it was taught."""

Progress = Callable[[int, int, float], None]
"""Told (step, steps, loss) as the training goes on."""


def build_all(
    which: Sequence[str],
    home: Path,
    seed: int = 0,
    *,
    workers: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> list[Path]:
    """:func:`build` each of ``which`` into a folder of its name, side by side.

    Each model trains in a process of its own on one thread, so that what comes out does not
    depend on how many are built at once.

    Args:
        workers: how many at once; by default one for each core.
        progress: told (steps done, steps) over all models.
    """
    context = get_context("spawn")
    workers = min(len(which), workers or os.cpu_count() or 1)
    done: dict[str, tuple[int, int]] = {}
    with context.Manager() as manager:
        news = manager.Queue()
        with ProcessPoolExecutor(workers, mp_context=context) as pool:
            jobs = [pool.submit(_build_one, name, home / name, seed, news) for name in which]
            while not all(job.done() for job in jobs):
                try:
                    name, step, steps = news.get(timeout=0.5)
                except Empty:
                    continue
                done[name] = (step, steps)
                if progress is not None and len(done) == len(which):
                    progress(sum(a for a, _ in done.values()), sum(b for _, b in done.values()))
            return [job.result() for job in jobs]


def _build_one(which: str, out: Path, seed: int, news: Any) -> Path:
    import torch

    torch.set_num_threads(1)
    steps = _all_steps(which)
    news.put((which, 0, steps))
    return build(which, out, seed, progress=lambda step, _, loss: news.put((which, step, steps)))


def _all_steps(which: str) -> int:
    return STEPS[which] + (SEEING_STEPS if which == "vlm" else 0)


def build(
    which: str,
    out: Path,
    seed: int = 0,
    *,
    steps: int | None = None,
    progress: Progress | None = None,
) -> Path:
    """Pre-train ``which`` ('vlm' or 'lm') from nothing and save it as a folder.

    The folder holds a model and a processor that transformers loads by itself, and
    ``lab.json``, which says what the model was taught.

    Raises:
        UnknownName: ``which`` is neither.
    """
    if which not in HELD_OUT:
        raise UnknownName("lab model", which, HELD_OUT)
    import torch

    torch.manual_seed(seed)
    steps = STEPS[which] if steps is None else steps
    tell = progress or (lambda step, steps, loss: None)
    tokenizer = train_tokenizer(texts(which, seed))
    model = make_model(which, tokenizer)
    codec = Codec(tokenizer, (SIDE // PATCH) ** 2)
    seeing = 0
    if which == "vlm":
        seeing = SEEING_STEPS
        for step, loss in teach_to_see(model.model.vision_tower, seed):
            tell(step, seeing + steps, loss)
    for step, loss in pretrain(model, batches(which, codec, seed), steps):
        tell(seeing + step, seeing + steps, loss)
    return save(which, model, tokenizer, out, seed=seed, steps=steps)


def pretrain(model: Any, source: Iterator[list[Packed]], steps: int) -> Iterator[tuple[int, float]]:
    """Train in place; yields (steps done, mean loss of the step's answers) after each step."""
    import torch

    model.train()
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=PEAK, betas=(0.9, 0.98), weight_decay=DECAY, fused=True
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate(step, steps))
    for step, groups in enumerate(itertools.islice(source, steps), start=1):
        answers = sum(int(packed.answer[-1]) + 1 for packed in groups)
        total = 0.0
        for packed in groups:
            loss = _answer_loss(model, packed) / answers
            torch.autograd.backward(loss)
            total += loss.item()
        torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        yield step, total


def _answer_loss(model: Any, packed: Packed) -> Tensor:
    """The sum over answers of each answer's mean loss per token."""
    losses, _ = token_losses(model, packed)
    share: Tensor = losses / packed.answer.bincount()[packed.answer]
    return share.sum()


def _rate(step: int, steps: int) -> float:
    """A straight warm-up, then a cosine to zero, as a share of the peak."""
    warm = min(1.0, (step + 1) / WARM_UP)
    return warm * 0.5 * (1 + math.cos(math.pi * min(1.0, step / steps)))


def save(which: str, model: Any, tokenizer: Any, out: Path, *, seed: int, steps: int) -> Path:
    """Write the folder. Weights are stored as float16 and load as float32 (``config.dtype``)."""
    import torch
    import transformers

    weights = {name: value.to(torch.float16) for name, value in model.state_dict().items()}
    transformers.utils.logging.disable_progress_bar()  # of shards, of which there is one
    model.save_pretrained(out, state_dict=weights)
    make_processor(which, tokenizer).save_pretrained(out)
    card = {
        "model": PREFIX + which,
        "held_out": [PREFIX + name for name in HELD_OUT[which]],
        "seed": seed,
        "steps": steps,
    }
    (out / CARD).write_text(json.dumps(card, indent=2) + "\n")
    return out
