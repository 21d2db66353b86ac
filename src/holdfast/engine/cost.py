"""What a run will cost, before it starts: weights that move, FLOPs, memory, time.

Time and memory are measured, not guessed, where the model is small enough: a few steps and a
few questions with random weights of the same shape. For a larger model they come from the
counted FLOPs and the speed of a matrix product on this machine, and say so.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from holdfast.anatomy import load_meta
from holdfast.anatomy.cost import default_load
from holdfast.anatomy.flow import flops
from holdfast.data import collate
from holdfast.engine.bound import Bound, bind
from holdfast.engine.forward import logits_at
from holdfast.engine.stage import train_stage
from holdfast.models.loading import auto_class, load_config, pick_device
from holdfast.pieces.positions import answer
from holdfast.tasks import evaluate

if TYPE_CHECKING:
    from holdfast.engine.preflight import Preflight

SMALL = 60_000_000
"""Parameters up to which a trial with random weights is cheap."""
TRIAL_STEPS, TRIAL_QUESTIONS = 4, 8


def estimate(checked: Preflight) -> dict[str, Any]:
    """Trained weights, FLOPs ratio, bytes and seconds of a run."""
    meta = load_meta(str(checked.folder))
    bound = bind(checked.plan, meta)
    trial = checked.found.count <= SMALL
    seconds, asking, activations = (_try if trial else _reckon)(checked, bound)
    questions = sum(len(t.examples) for t in _tasks(checked)) * (len(checked.skills) + 1)
    return {
        "trained_parameters": bound.count,
        "flops_ratio": flops_ratio(checked, bound),
        "memory_bytes": _states(bound, checked) + activations,
        "seconds": seconds + asking,
        "seconds_asking": asking,
        "questions": questions,
        "estimated_by": "a trial with random weights" if trial else "counted FLOPs",
    }


def flops_ratio(checked: Preflight, bound: Bound) -> float:
    """Training FLOPs over those of full tuning. An adapter's own small products are left out."""
    found, load = checked.found, default_load(checked.found)
    everything = flops(found, frozenset(p.parameter for p in found.parts), load).total
    names = frozenset(bound.touched) & {p.parameter for p in found.parts}
    if not names:
        names = frozenset(p.parameter for p in found.select("language").parts)
    work = flops(found, names, load)
    spared = 2 * work.weight if checked.plan.adapt is not None else 0.0
    return float((work.total - spared) / everything)


def _tasks(checked: Preflight) -> list[Any]:
    return [*(s.task for s in checked.skills), *checked.held_out]


def _states(bound: Bound, checked: Preflight) -> int:
    """Weights, gradients and AdamW's moments, in the dtypes that the run will use."""
    fp32 = checked.train.precision == "fp32" or pick_device(None).type == "cpu"
    frozen = sum(p.numel() for p in bound.model.parameters() if not p.requires_grad)
    kept = sum(len(r.weights) > 0 for r in bound.references.values())
    references = 4 * bound.count * kept
    return 16 * bound.count + (4 if fp32 else 2) * frozen + references


def _try(checked: Preflight, bound: Bound) -> tuple[float, float, int]:
    """Seconds of training and of asking, and bytes of activations, from a short trial."""
    config = load_config(checked.folder)
    model: nn.Module = auto_class(config).from_config(config).float().to(pick_device(None)).eval()
    rows = checked.surveys[0].encoded
    stamps: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        train_stage(
            checked.plan,
            model,
            rows,
            lambda items: collate(items, pad_id=_pad(checked)),
            checked.train.model_copy(update={"steps": TRIAL_STEPS, "save_every": 10**6}),
            folder=Path(folder),
            seed=0,
            base_weights={},
            advance=lambda done, total: stamps.append(time.perf_counter()),
            note=lambda row: None,
            sources=checked.sources[0],
        )
    per_step = (stamps[-1] - stamps[0]) / (len(stamps) - 1)
    model = auto_class(config).from_config(config).float().to(pick_device(None)).eval()
    asking = sum(_asking(model, checked.processor, t) for t in _tasks(checked))
    return (
        per_step * sum(checked.steps()),
        asking * (len(checked.skills) + 1),
        _activations(checked, model, rows),
    )


def _asking(model: nn.Module, processor: Any, task: Any) -> float:
    few = replace(task, examples=task.examples[:TRIAL_QUESTIONS])
    began = time.perf_counter()
    evaluate(model, processor, [few])
    return (time.perf_counter() - began) * len(task.examples) / len(few.examples)


def _activations(checked: Preflight, model: nn.Module, rows: Sequence[Any]) -> int:
    """Bytes that autograd keeps of one micro-batch, weights not counted."""
    bound = bind(checked.plan, model)
    own = {p.untyped_storage().data_ptr() for p in bound.model.parameters()}
    kept: dict[int, int] = {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    size = checked.train.micro_batch_size or checked.train.batch_size
    batch = collate([rows[i % len(rows)] for i in range(size)], pad_id=_pad(checked))
    features = {k: v.to(next(model.parameters()).device) for k, v in batch.items() if k != "labels"}
    bound.model.train()
    with torch.autograd.graph.saved_tensors_hooks(note, lambda t: t):
        logits = logits_at(bound.model, bound.model, features, answer(batch))
    del logits
    return sum(kept.values())


def _pad(checked: Preflight) -> int:
    return int(checked.surveys[0].encoded.encoder.pad_id)


def _reckon(checked: Preflight, bound: Bound) -> tuple[float, float, int]:
    """The same from counted FLOPs and the speed of a matrix product."""
    rate = _speed()
    active = 2.0 * sum(p.count for p in checked.found.parts if p.unit != "embed")
    steps = zip(checked.surveys, checked.steps(), strict=True)
    tokens = sum(s.tokens / s.records * n * checked.train.batch_size for s, n in steps)
    training = 3 * active * tokens * flops_ratio(checked, bound) / rate
    text = checked.surveys[0].tokens / checked.surveys[0].records
    asked = sum((text + t.max_new_tokens) * len(t.examples) for t in _tasks(checked))
    size = checked.train.micro_batch_size or checked.train.batch_size
    config = load_config(checked.folder)
    inner = getattr(config, "text_config", config)
    width, depth = int(inner.hidden_size), int(inner.num_hidden_layers)
    per_token = 2 * width * depth * (34 if not checked.train.gradient_checkpointing else 2)
    return (
        training,
        active * asked * (len(checked.skills) + 1) / rate,
        int(per_token * size * max(s.longest for s in checked.surveys)),
    )


def _speed() -> float:
    """FLOPs per second of a matrix product in the dtype that training will compute in."""
    device = pick_device(None)
    dtype = torch.float32 if device.type == "cpu" else torch.bfloat16
    a = torch.randn(1024, 1024, device=device, dtype=dtype)
    for _ in range(3):
        a @ a
    if device.type == "cuda":
        torch.cuda.synchronize()
    began = time.perf_counter()
    for _ in range(10):
        a @ a
    if device.type == "cuda":
        torch.cuda.synchronize()
    return 10 * 2 * 1024**3 / (time.perf_counter() - began) * 0.5
