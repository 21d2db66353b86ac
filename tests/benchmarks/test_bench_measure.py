"""The benchmarks' own instruments: what they count, how they take time, what they refuse."""

import sys
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

sys.path.insert(0, str(Path(__file__).parents[2]))

from benchmarks._measure import (
    Timing,
    flops,
    optimizer_bytes,
    saved_bytes,
    take_turns,
)
from benchmarks._models import TINY, reference_model, token_rows
from benchmarks._page import page
from benchmarks._rows import Check, Goal, Row, Section, Unequal
from benchmarks._sides import freeze_but, ours, trainer
from benchmarks._steps import first_step

N, D, K = 8, 16, 4
FLOAT = 4


def test_flops_of_a_linear_layer_are_three_products():
    layer, given = nn.Linear(D, K), torch.randn(N, D, requires_grad=True)
    assert flops(lambda: layer(given).sum().backward()) == 3 * 2 * N * D * K


def test_products_in_place_count():
    total, a, b = torch.zeros(N, K), torch.randn(N, D), torch.randn(D, K)
    assert flops(lambda: total.addmm_(a, b)) == 2 * N * D * K


def test_fused_attention_counts_as_six_products():
    q, k, v = (torch.randn(2, 3, N, D, requires_grad=True) for _ in range(3))

    def work():
        torch.nn.functional.scaled_dot_product_attention(q, k, v).sum().backward()

    assert flops(work) == 6 * 2 * (2 * 3) * N * N * D


def test_saved_bytes_of_a_linear_layer():
    """Its input is kept for the weight's gradient alone, the weight for the input's."""
    layer = nn.Linear(D, K, bias=False)
    given = torch.randn(N, D)
    work = lambda: layer(given).sum().backward()  # noqa: E731
    assert saved_bytes(work, layer).activations == N * D * FLOAT
    layer.requires_grad_(False)
    given.requires_grad_()
    kept = saved_bytes(work, layer)
    assert (kept.activations, kept.everything) == (0, D * K * FLOAT)


def test_a_tensor_that_two_nodes_keep_counts_once():
    x = torch.randn(N, requires_grad=True)
    y = x.exp()  # keeps its output
    assert saved_bytes(lambda: (x.exp().sin()).sum().backward(), nn.Identity()).activations == (
        N * FLOAT
    )
    assert y.requires_grad


def test_checkpointing_keeps_less():
    layers = nn.Sequential(*(nn.Sequential(nn.Linear(D, D), nn.Tanh()) for _ in range(6)))
    given = torch.randn(N, D, requires_grad=True)

    def lean():
        x = given
        for layer in layers:
            x = checkpoint(layer, x, use_reentrant=False)
        x.sum().backward()

    whole = saved_bytes(lambda: layers(given).sum().backward(), layers).activations
    assert saved_bytes(lean, layers).activations < whole


def test_optimizer_bytes():
    layer = nn.Linear(D, K)
    optimizer = torch.optim.AdamW(layer.parameters())
    layer(torch.randn(N, D)).sum().backward()
    optimizer.step()
    assert optimizer_bytes(optimizer) == 8 * (D * K + K)


def test_turns_are_abba_and_the_ratio_is_of_medians():
    order, now = [], [0.0]

    def side(name, seconds):
        def work():
            order.append(name)
            now[0] += seconds

        return work

    timing = take_turns({"a": side("a", 1.0), "b": side("b", 4.0)}, repeats=6, clock=lambda: now[0])
    assert "".join(order) == "ab" + "abba" * 3
    assert timing.ratio("a", "b") == (0.25, 0.25, 0.25)


def test_an_unsteady_side_is_timed_again_and_then_not_believed():
    now, calls = [0.0], [0]

    def work():
        calls[0] += 1
        now[0] += 10.0 if calls[0] % 6 == 0 else 1.0

    timing = take_turns({"a": work}, repeats=6, clock=lambda: now[0])
    assert calls[0] == 1 + 2 * 6
    row = Row.timed("x", "y", timing, "a", "a", goal=Goal(2))
    assert row.verdict.startswith("discarded")


def test_the_interval_holds_the_ratio():
    timing = Timing({"a": (1.0, 1.2, 0.9, 1.1, 1.0, 1.3), "b": (2.0, 2.2, 2.1, 1.9, 2.0, 2.4)})
    ratio, low, high = timing.ratio("a", "b")
    assert low < ratio < high


@pytest.mark.parametrize(
    ("goal", "ratio", "verdict"),
    [
        (Goal(0.8), 0.8, "met"),
        (Goal(0.8), 0.88, "missed by 10%"),
        (Goal(4, "least"), 4.1, "met"),
        (Goal(4, "least"), 3.0, "missed by 25%"),
        (Goal(0.01, "within"), 1.009, "met"),
        (Goal(0.01, "within"), 0.97, "missed by 3%"),
    ],
)
def test_verdicts(goal, ratio, verdict):
    assert Row("w", "b", "time", ratio, 1.0, "s", ratio, goal=goal).verdict == verdict


def test_unequal_sides_stop_everything():
    with pytest.raises(Unequal, match="gradients: off by"):
        Check.close("gradients", [torch.ones(3)], [torch.tensor([1.0, 1.0, 1.1])], 1e-3)
    with pytest.raises(Unequal):
        Check.close("loss", float("nan"), 1.0, 1e-3)
    with pytest.raises(Unequal):
        Check.same("answers", [1, 2], [1, 3])


def test_a_page_says_what_its_sections_found():
    row = Row("step", "Trainer", "time", 0.5, 1.0, "s", 0.5, (0.4, 0.6), 0.55, Goal(0.4))
    section = Section("One step", "A setting.", [Check("loss", 0.0, 1e-4)], [row], ["A remark."])
    again = Section.from_json(section.to_json())
    assert again == section
    text = page([again], 3.0)
    assert "0 of 1 goals are met" in text
    assert "0.400 to 0.600" in text
    assert "missed by 25%" in text
    assert "- A remark." in text


def test_a_trainer_steps_when_it_is_told():
    """Ours and transformers' own loop, one step at a time: equal gradients, counted FLOPs."""
    rows = token_rows(TINY.rows, TINY)
    sides = {
        "ours": ours(reference_model(TINY), rows, ["sa-proj"], batch=TINY.rows),
        "Trainer": trainer(freeze_but(reference_model(TINY), "sa-proj"), rows, batch=TINY.rows),
    }
    found = {name: first_step(side) for name, side in sides.items()}
    names = sorted(found["Trainer"])
    Check.close("gradients", *([found[s][n] for n in names] for s in sides), tolerance=1e-5)
    kept = {n: s.steps.saved(s.model).activations for n, s in sides.items()}
    counted = {n: s.steps.flops() for n, s in sides.items()}
    assert kept["ours"] < kept["Trainer"]
    assert counted["ours"] < counted["Trainer"]  # the last position has no label
    for side in sides.values():
        side.steps.close()
        assert not side.steps._thread.is_alive()
    assert sides["ours"].losses[0] == pytest.approx(sides["Trainer"].losses[0], rel=1e-3)
