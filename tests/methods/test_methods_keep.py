"""Random words hold the model's answers where training would move them."""

from __future__ import annotations

from dataclasses import replace

import torch

import holdfast
from holdfast import lab
from holdfast.config import resolve
from holdfast.data import Encoder, collate
from holdfast.data.random_words import RANDOM_WORDS, random_words
from holdfast.engine.preflight import preflight
from holdfast.methods import gate_up, keep
from holdfast.methods import random_words as method


def test_keep_is_gate_up_with_random_words():
    both = gate_up() | method(2.0, 0.25)
    assert replace(keep(2.0, 0.25), name=both.name, owners=both.owners) == both


def test_without_weight_it_is_nothing():
    assert method(0.0).learn == ()
    assert method(0.0).feed is method(share=0.0).feed is None


def _logits(model, batch):
    with torch.no_grad():
        logits = model(**{k: v for k, v in batch.items() if k != "labels"}).logits
    places = (batch["labels"] != -100).nonzero()
    return logits[places[:, 0], places[:, 1] - 1].log_softmax(-1)


def test_the_term_holds_answers_to_random_words_that_were_never_asked(tmp_path):
    """Against the same run with a term of no weight, which reads the same examples."""
    base, processor = holdfast.load("lab:lm")
    encoder = Encoder(processor)
    unseen = random_words(lab.records("lab:arithmetic", n=64), encoder.tokenizer, 999)
    batch = dict(collate([encoder.encode(r).features for r in unseen], pad_id=encoder.pad_id))
    before = _logits(base.eval(), batch)
    moved = []
    for weight in ("1e-9", "20"):
        out = tmp_path / weight
        holdfast.tune(
            "lab:lm", "lab:arithmetic", ["mlp", f"random-words:share=0.5,weight={weight}"], out=out,
            steps=24, batch_size=16, learning_rate=1e-3, evaluate={"limit": 2},
        )  # fmt: skip
        after = _logits(holdfast.load(str(out))[0].eval(), batch)
        moved.append(float((before.exp() * (before - after)).sum(-1).mean()))
    assert moved[1] < 0.75 * moved[0], moved


def test_the_plan_says_how_many_random_questions_a_stage_reads(tmp_path):
    config = resolve(
        {
            "model": "lab:lm", "data": ["lab:arithmetic"], "methods": ["keep:share=0.5"],
            "out": str(tmp_path / "run"), "train": {"steps": 2, "batch_size": 8},
        }
    )  # fmt: skip
    (facts,) = preflight(config).stage_facts()
    assert facts["sources"] == {RANDOM_WORDS: 16}
