"""Losses whose cause is known, because it was planted."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch

from holdfast import lab
from holdfast.changes.compare import Comparison, compare, compare_answers
from holdfast.changes.diagnose import CAUSES, Diagnosis, diagnose_all
from holdfast.data import Encoder, collate
from holdfast.data.records import Record, say
from holdfast.models.loading import Loaded, load_all
from holdfast.probes import number_tokens
from holdfast.tasks import Task, evaluate, load_task

NAMES = ("lab:opposites", "lab:materials")
N = 24


@pytest.fixture(scope="module")
def tasks() -> list[Task]:
    return [t for name in NAMES for t in load_task(name, model="lab:lm", limit=N)]


@pytest.fixture(scope="module")
def base() -> Loaded:
    return load_all("lab:lm")


def compared(base: Loaded, tuned: Loaded, tasks: Sequence[Task]) -> Comparison:
    before = evaluate(base.model, base.processor, tasks)
    return compare_answers(before, evaluate(tuned.model, tuned.processor, tasks))


def taught(answer: Callable[[str, str], str], steps: int) -> Loaded:
    """lab:lm after training on its own questions with other answers."""
    torch.manual_seed(0)
    tuned = load_all("lab:lm")
    encoder = Encoder(tuned.processor)
    features = [
        encoder(Record((*r.messages[:-1], say("assistant", answer(name, r.answer()))), id=r.id))
        for name in NAMES
        for r in lab.records(name)
    ]
    optimizer = torch.optim.AdamW(tuned.model.parameters(), lr=1e-3)
    rng = np.random.default_rng(0)
    tuned.model.train()
    for _ in range(steps):
        rows = [features[int(i)] for i in rng.integers(len(features), size=16)]
        loss = tuned.model(**collate(rows, pad_id=encoder.pad_id)).loss
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
    tuned.model.eval()
    return tuned


def causes(base: Loaded, tuned: Loaded, tasks: Sequence[Task]) -> list[Diagnosis]:
    found = compared(base, tuned, tasks)
    assert all(j.verdict == "worse" for j in found.tasks)
    diagnoses = diagnose_all(base, tuned, tasks, found)
    assert [d.task for d in diagnoses] == list(NAMES)
    for d in diagnoses:
        assert sum(d.share[c].value for c in CAUSES) == pytest.approx(100)
        assert d.superficial.value + d.essential.value == pytest.approx(100)
    return diagnoses


def test_a_pure_offset_on_a_class_of_tokens_is_drift(base: Loaded, tasks: list[Task]) -> None:
    tuned = load_all("lab:lm")
    head: Any = tuned.model.get_output_embeddings()
    biased = torch.nn.Linear(head.in_features, head.out_features, bias=True)
    biased.weight, offset = head.weight, torch.zeros(head.out_features)
    offset[list(number_tokens(tuned.processor).ids)] = 20.0
    biased.bias = torch.nn.Parameter(offset)
    tuned.model.set_output_embeddings(biased)
    for found in causes(base, tuned, tasks):
        assert found.share["drift"].value > 90
        assert found.superficial.value > 90
        assert any("numbers +20" in note for note in found.notes)


def test_answers_in_another_form_are_format(base: Loaded, tasks: list[Task]) -> None:
    for found in causes(base, taught(lambda _, answer: f"it is {answer} ok", 90), tasks):
        assert found.share["format"].value > 90
        assert found.superficial.value > 90


def test_facts_that_were_overwritten_are_knowledge(base: Loaded, tasks: list[Task]) -> None:
    """Every answer becomes another answer of the same task."""
    turned = {}
    for name in NAMES:
        answers = sorted({r.answer() for r in lab.records(name)})
        turned |= {(name, a): answers[(k + 3) % len(answers)] for k, a in enumerate(answers)}
    tuned = taught(lambda name, answer: turned[name, answer], 220)
    before = {n: p.detach().clone() for n, p in tuned.model.named_parameters()}
    for found in causes(base, tuned, tasks):
        assert found.share["knowledge"].value > 75
        assert found.essential.value > 90
    for name, value in tuned.model.named_parameters():
        assert torch.equal(value, before[name]), f"{name} was changed by the diagnosis"


def test_nothing_at_all_is_unchanged() -> None:
    found = compare("lab:lm", "lab:lm", "lab:opposites", limit=N, max_forgetting=1.0)
    assert found.verdict.startswith("Nothing changed")
    assert found.gated is not None
    assert found.gated.gate == "pass"
    assert {row["became"] for row in found.examples()} <= {"kept", "missed"}
