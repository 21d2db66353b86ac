"""GeRe through the engine: against a loop written out by hand, cut or not, over stages."""

import sys
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from holdfast.config import Train
from holdfast.engine.stage import train_stage
from holdfast.errors import ConfigError
from holdfast.methods import gate_up, gere, method, plan, wise_ft
from holdfast.pieces.pooled import Interpolated

sys.path.insert(0, str(Path(__file__).parent.parent / "engine"))
from engine_tools import collate, examples, llama, values

NEW_ROWS, TEXTS = examples(12), examples(5, seed=9)
for row in TEXTS:
    row["labels"] = row["input_ids"].clone()
RATE = 3e-2


def stage(made, model, folder, *, base=None, seed=1, note=None, steps=4, **settings):
    given = {"learning_rate": RATE, "steps": steps, "batch_size": 6, "cache": "off", **settings}
    return train_stage(
        made, model, NEW_ROWS, collate, Train(**given), folder=folder, seed=seed,
        base_weights=base or {}, advance=lambda done, total: None, note=note or (lambda row: None),
        sources={"general": TEXTS},
    )  # fmt: skip


def _states(model, rows):
    batch = collate(rows)
    out = model.model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])
    return out.last_hidden_state, batch


def _next_ce(model, hidden, batch):
    logits = model.lm_head(hidden)[:, :-1].flatten(0, 1)
    return F.cross_entropy(logits, batch["labels"][:, 1:].flatten(), ignore_index=-100)


def by_hand(model, base, weight, seed=1, steps=4, width=1.0):
    """``gate_up() | gere(interpolate=2, ...) | wise_ft(0.5)``, term by term and row by row."""
    trained = {n: p for n, p in model.named_parameters() if "gate_proj" in n or "up_proj" in n}
    start = {n: p.detach().clone() for n, p in trained.items()}
    with torch.no_grad():
        kept = [_states(base, [row])[0][0] for row in TEXTS]
    flat = torch.cat(kept)
    mean, deviation = flat.mean(0), flat.std(0, correction=0)
    low, high = mean - width * deviation, mean + width * deviation
    optimizer = torch.optim.AdamW(trained.values(), lr=RATE, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, _cosine(steps))
    feed = Interpolated("general", 2)
    margins = []
    for step in range(steps):
        drawn = feed({"new": len(NEW_ROWS), "general": len(TEXTS)}, step, 6, seed)
        old = [i for source, i in drawn if source == "general"]
        ce = _next_ce(model, *_states(model, [NEW_ROWS[i] for s, i in drawn if s == "new"]))
        hidden, batch = _states(model, [TEXTS[i] for i in old])
        loss = (ce + _next_ce(model, hidden, batch)) / 2
        total, count = 0.0, 0
        for z, i in zip(hidden, old, strict=True):
            h, z = kept[i], z[: len(kept[i])]
            inside = (z - high).relu() + (low - z).relu()
            m = torch.where(h <= low, (z - low).relu(), inside)
            m = torch.where(h >= high, (high - z).relu(), m)
            m = torch.where(m > 1e-4 * deviation, m, 0.0)
            total, count = total + m.sum(), count + int((m > 0).sum())
        tm = total / max(count, 1)
        margins.append(float(tm.detach()))
        w = (loss / (tm + 1e-8)).detach() if weight == "dy" else weight
        optimizer.zero_grad()
        (loss + w * tm).backward()
        torch.nn.utils.clip_grad_norm_(trained.values(), 1.0)
        optimizer.step()
        schedule.step()
    with torch.no_grad():
        for n, p in trained.items():
            p.copy_(0.5 * start[n] + 0.5 * p)
    return margins


def _cosine(steps):
    import math

    from transformers.optimization import _get_cosine_schedule_with_warmup_lr_lambda as lr

    return lambda step: lr(
        step, num_warmup_steps=math.ceil(0.03 * steps), num_training_steps=steps, num_cycles=0.5
    )


@pytest.mark.parametrize("weight", [2.0, "dy"])
@pytest.mark.parametrize("passes", [{}, {"micro_batch_size": 2}])
def test_the_composition_is_the_loop_written_out(weight, passes, tmp_path):
    model, hand = llama(), llama()
    made = gate_up() | gere(interpolate=2, weight=weight) | wise_ft(0.5)
    losses = []
    stage(made, model, tmp_path, note=losses.append, **passes)
    margins = by_hand(hand, llama(), weight)
    assert margins[0] == 0  # the first step is the base itself
    assert max(margins) > 0
    told = [row["loss/states"] for row in losses if "loss/states" in row]
    assert told == pytest.approx(margins, abs=2e-5)
    wanted = values(hand)
    for name, value in values(model).items():
        torch.testing.assert_close(value, wanted[name], atol=3e-5, rtol=1e-4)


def test_targets_and_thresholds_stay_those_of_the_base(tmp_path):
    """A second stage begins far from the base: its first step already violates the margin."""
    model, first = llama(), llama()
    base = values(first)
    made = gate_up() | gere(interpolate=2, weight=1.0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "gate_proj" in name or "up_proj" in name:
                parameter.add_(torch.randn_like(parameter), alpha=0.3)
    rows = []
    changed = {n: v for n, v in base.items() if "gate_proj" in n or "up_proj" in n}
    stage(made, model, tmp_path, base=changed, note=rows.append, steps=1)
    assert rows[0]["loss/states"] > 0.01


def test_what_was_computed_once_is_the_same(tmp_path):
    plain, kept = llama(), llama()
    made = gate_up() | gere(interpolate=2, weight=2.0)
    stage(made, plain, tmp_path / "a", steps=6)
    stage(made, kept, tmp_path / "b", steps=6, cache="auto")
    for name, value in values(kept).items():
        torch.testing.assert_close(value, values(plain)[name], atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("keep", ["l1", "l2", "logits", "labels"])
def test_the_baselines_train(keep, tmp_path):
    model = llama()
    rows = []
    stage(gate_up() | gere(keep=keep), model, tmp_path, note=rows.append)
    extra = {"l1": "states", "l2": "states", "logits": "general-logits"}.get(keep)
    if extra:
        assert rows[0][f"loss/{extra}"] == pytest.approx(0, abs=1e-5)
        assert rows[-1][f"loss/{extra}"] > 0
    assert "loss/general-text" in rows[0]


def test_names_and_refusals():
    assert plan("gate-up | gere:weight=dy,interpolate=4 | wise-ft").name.startswith(
        "gate-up | gere"
    )
    assert method("gere:weight=100").learn[-1].weight == 100
    with pytest.raises(ConfigError, match="dy"):
        gere(keep="l1", weight="dy")
