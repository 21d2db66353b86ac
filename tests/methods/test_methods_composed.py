"""Compositions against a training loop that is written out, term by term, with nothing of ours."""

from __future__ import annotations

import copy
import itertools
import math

import pytest
import torch
from torch.nn import functional as F
from transformers import PrinterCallback, Trainer, TrainingArguments

import holdfast
from holdfast.testing.models import tiny_llama

torch.set_num_threads(1)
STEPS, RATE, WEIGHT, HEAT, DECAY = 4, 0.3, 0.7, 2.0, 0.5
PARTS = {
    "gate-up": ("gate_proj", "up_proj"),
    "sa-proj": ("q_proj", "k_proj", "v_proj", "o_proj"),
    "train:select=language[1].mlp.down": ("layers.1.mlp.down_proj",),
}
FITS = ("", "eaft", "talr:temperature=0.8")
TERMS = (f"lwf:weight={WEIGHT},temperature={HEAT}", f"l2-sp:weight={DECAY}")


def answers(logits, labels):
    """Logits [N, V] and targets [N] where a supervised token is predicted."""
    wanted = labels[:, 1:] != -100
    return logits[:, :-1][wanted], labels[:, 1:][wanted]


def fit(kind, logits, targets):
    losses = F.cross_entropy(logits, targets, reduction="none")
    if kind == "eaft":
        top = logits.detach().topk(20, dim=-1).values.softmax(-1)
        return (-(top * top.log()).sum(-1) / math.log(20) * losses).mean()
    if kind.startswith("talr"):
        return ((-losses.detach() / 0.8).exp().clamp(min=0.01) * losses).mean()
    return losses.mean()


def by_hand(parts, kind, terms):
    tiny = tiny_llama()
    model, batch = tiny.model, tiny.batch
    inputs = {k: v for k, v in batch.items() if k != "labels"}
    start = copy.deepcopy(model)
    anchors = dict(start.named_parameters())
    trained = {n: p for n, p in model.named_parameters() if any(part in n for part in parts)}
    with torch.no_grad():
        teacher = answers(start(**inputs).logits, batch["labels"])[0]
    for _ in range(STEPS):
        logits, targets = answers(model(**inputs).logits, batch["labels"])
        loss = fit(kind, logits, targets)
        if TERMS[0] in terms:
            p, q = (teacher / HEAT).log_softmax(-1), (logits / HEAT).log_softmax(-1)
            loss = loss + WEIGHT * HEAT**2 * (p.exp() * (p - q)).sum(-1).mean()
        if TERMS[1] in terms:
            apart = sum(((w - anchors[n]) ** 2).sum() for n, w in trained.items())
            loss = loss + DECAY * apart / 2
        gradients = torch.autograd.grad(loss, list(trained.values()))
        with torch.no_grad():
            for weight, gradient in zip(trained.values(), gradients, strict=True):
                weight -= RATE * gradient
    return {n: p.detach() for n, p in model.named_parameters()}


def by_plan(methods, folder):
    tiny = tiny_llama()
    arguments = TrainingArguments(
        output_dir=str(folder), max_steps=STEPS, per_device_train_batch_size=2, optim="sgd",
        learning_rate=RATE, lr_scheduler_type="constant", max_grad_norm=0.0, weight_decay=0.0,
        save_strategy="no", report_to="none", disable_tqdm=True, use_cpu=True,
    )  # fmt: skip
    trainer = holdfast.with_plan(Trainer, methods)(
        model=tiny.model, args=arguments, train_dataset=tiny.rows()
    )
    trainer.pop_callback(PrinterCallback)
    trainer.train()
    return {n: p.detach() for n, p in trainer.bound.model.named_parameters()}


CASES = [
    [part, *(m for m in (kind, *terms) if m)]
    for part in PARTS
    for kind in FITS
    for size in (0, 1, 2)
    for terms in itertools.combinations(TERMS, size)
]


@pytest.mark.parametrize("methods", CASES, ids=" | ".join)
def test_a_plan_is_the_loop_written_out(methods, tmp_path):
    kind = next((m for m in methods if m in FITS), "")
    told = by_hand(PARTS[methods[0]], kind, methods)
    moved = 0
    for name, value in by_plan(methods, tmp_path).items():
        torch.testing.assert_close(value, told[name], atol=2e-5, rtol=1e-4)
        moved += not torch.equal(value, dict(tiny_llama().model.named_parameters())[name])
    assert moved == sum(any(p in n for p in PARTS[methods[0]]) for n in told)


def test_the_order_in_which_methods_are_named_changes_nothing(tmp_path):
    ways = list(itertools.permutations(["gate-up", "eaft", *TERMS]))[::7]
    told = [by_plan(way, tmp_path / str(i)) for i, way in enumerate(ways)]
    for other in told[1:]:
        for name, value in told[0].items():
            torch.testing.assert_close(other[name], value, atol=1e-6, rtol=1e-6)
