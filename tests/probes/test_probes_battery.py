"""One battery for every registered probe."""

from __future__ import annotations

import copy
import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from probe_models import PAIRS, noisy

from holdfast.probes import PROBES, ProbeResult, frame

NAMES = [entry.name for entry in PROBES]
MIRROR = {"forward_kl": "reverse_kl", "reverse_kl": "forward_kl"}
EXTRA: dict[str, dict[str, Any]] = {"token-bias": {"classes": ("numbers", "yes-no")}}


def cases() -> list[Any]:
    return [
        pytest.param(name, kind, id=f"{name}-{kind}")
        for name in NAMES
        for kind in PAIRS
        if kind == "llava" or not PROBES[name].value.images
    ]


def run(name: str, base: Any, tuned: Any, processor: Any, prompts: Any, **more: Any) -> ProbeResult:
    probe = PROBES[name].value
    settings = EXTRA.get(name, {}) | {"max_new_tokens": 4} | more
    known = probe.settings
    return probe(
        base, tuned, processor, prompts, **{k: v for k, v in settings.items() if k in known}
    )


def values(result: ProbeResult) -> dict[tuple[Any, ...], float]:
    return {
        (r.measure, r.side, r.token_class, r.tower, r.block, r.part): r.value for r in result.rows
    }


def our_hooks(model: Any) -> list[Any]:
    found = [
        h for m in model.modules() for hooks in (m._forward_hooks, m._forward_pre_hooks)
        for h in hooks.values()
    ]  # fmt: skip
    return [h for h in found if str(getattr(h, "__module__", "")).startswith("holdfast")]


@pytest.mark.parametrize("name", NAMES)
def test_entry_says_what_it_is(name: str) -> None:
    entry = PROBES[name]
    assert entry.summary
    assert entry.paper
    assert entry.value.__doc__
    assert entry.value.name == name


@pytest.mark.parametrize(("name", "kind"), cases())
def test_a_model_against_itself_is_neutral(name: str, kind: str) -> None:
    base, processor, prompts = PAIRS[kind]()
    result = run(name, base, copy.deepcopy(base), processor, prompts)
    judged = [r for r in result.rows if r.neutral is not None]
    assert judged
    for row in judged:
        assert row.value == row.neutral, row
        assert math.isnan(row.estimate.low) or row.estimate.low == row.estimate.high == row.neutral
    assert {r.side for r in judged} <= {"change", "pair"}


@pytest.mark.parametrize(("name", "kind"), cases())
def test_a_planted_change_is_seen_in_both_directions(name: str, kind: str) -> None:
    base, processor, prompts = PAIRS[kind]()
    tuned = noisy(base)
    there, back = (run(name, a, b, processor, prompts) for a, b in ((base, tuned), (tuned, base)))
    assert any(r.neutral is not None and r.value != r.neutral for r in there.rows)
    found, other = values(there), values(back)
    for key, value in found.items():
        measure, side = key[:2]
        if measure in MIRROR:
            assert value == pytest.approx(other[MIRROR[measure], *key[1:]], rel=1e-5), key
        elif side == "change" and not measure.startswith("forced"):  # forced on the base's reply
            assert value == pytest.approx(-other[key], rel=1e-5, abs=1e-7), key
        elif measure in ("js", "top1_agreement"):
            assert value == pytest.approx(other[key], rel=1e-5), key


@pytest.mark.parametrize(("name", "kind"), cases())
def test_nothing_of_the_models_is_changed(name: str, kind: str) -> None:
    base, processor, prompts = PAIRS[kind]()
    tuned = noisy(base)
    tuned.train()
    next(iter(tuned.children())).eval()
    modes = [m.training for m in tuned.modules()]
    before = {k: v.clone() for k, v in (base.state_dict() | tuned.state_dict()).items()}
    state = torch.get_rng_state()
    run(name, base, tuned, processor, prompts)
    assert torch.equal(torch.get_rng_state(), state)
    assert [m.training for m in tuned.modules()] == modes
    for key, value in (base.state_dict() | tuned.state_dict()).items():
        assert torch.equal(value, before[key]), key
    assert not [h for model in (base, tuned) for h in our_hooks(model)]
    assert all(p.grad is None for p in tuned.parameters())


@pytest.mark.parametrize(("name", "kind"), cases())
def test_batch_size_does_not_change_the_values(name: str, kind: str) -> None:
    if "batch_size" not in PROBES[name].value.settings:
        pytest.skip("it reads no batches")
    base, processor, prompts = PAIRS[kind]()
    tuned = noisy(base)
    one, all_ = (run(name, base, tuned, processor, prompts, batch_size=n) for n in (1, 3))
    assert values(one) == pytest.approx(values(all_), rel=1e-4, abs=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_rows_are_flat_records(name: str) -> None:
    base, processor, prompts = PAIRS["llava"]()
    result = run(name, base, base, processor, prompts).named("here")
    rows = frame([result])
    assert len(rows) == len(result.rows)
    assert all(not isinstance(v, dict | list) for row in rows for v in row.values())
    assert {row["data"] for row in rows} == {"here"}


@pytest.mark.parametrize("name", [n for n in NAMES if PROBES[n].value.prepare])
def test_a_probe_in_training_keeps_what_it_needs_of_the_base(name: str) -> None:
    """The base is read, then trained: the numbers are those of the base as it was."""
    base, processor, prompts = PAIRS["llava"]()
    tuned = noisy(base)
    wanted = values(run(name, base, tuned, processor, prompts))
    probe = PROBES[name].value
    assert probe.prepare is not None
    live = copy.deepcopy(base)
    settings = EXTRA.get(name, {}) | {"max_new_tokens": 4}
    known = {k: v for k, v in settings.items() if k in probe.settings}
    measure = probe.prepare(live, processor, prompts, own_head=True, **known)
    live.load_state_dict(tuned.state_dict())
    assert values(measure(live)) == pytest.approx(wanted, rel=1e-5, abs=1e-7)
    assert replace(measure(live)).probe == name
