"""The margin on states: its numbers, its gradients, its thresholds; feeds that add a source."""

import pytest
import torch

from holdfast.errors import ConfigError
from holdfast.pieces.pooled import Interpolated, Pooled
from holdfast.pieces.states import StateDistance, StateMargin, bands, margin
from holdfast.plan import NEW, Outputs

ONE = torch.ones(1)


@pytest.mark.parametrize(
    ("kept", "now", "expected"),
    [
        (0, 1.5, 0.5),
        (0, -1.25, 0.25),
        (2, 0.2, 0.8),
        (-3, -5, 0),
        (-1, 0, 1),
        (0, 0.9, 0),
        (1, 3, 0),
    ],
)
def test_one_dimension(kept, now, expected):
    found = margin(torch.tensor([[float(now)]]), torch.tensor([[float(kept)]]), -ONE, ONE)
    assert found.item() == pytest.approx(expected)


def test_thresholds_are_those_of_all_states_at_once():
    torch.manual_seed(0)
    states = torch.randn(500, 7, dtype=torch.float64) * 3 + 1000
    low, high = bands([states[:1], states[1:1], states[1:200], states[200:]])
    deviation = states.std(0, correction=0)
    torch.testing.assert_close(low, (states.mean(0) - deviation).float())
    torch.testing.assert_close(high, (states.mean(0) + deviation).float())
    outside = ((states <= low).double().mean(), (states >= high).double().mean())
    assert all(0.12 < float(share) < 0.20 for share in outside)  # 16 / 68 / 16 of a Gaussian
    with pytest.raises(ValueError, match="no states"):
        bands([])


def _outputs(now, kept):
    empty = torch.empty(len(now), 1)
    return Outputs(
        empty, torch.zeros(len(now)), torch.zeros(len(now)), hidden=now, reference_hidden=kept
    )


def test_the_mean_and_its_gradient_are_over_violating_entries_only():
    torch.manual_seed(1)
    kept, now = torch.randn(40, 5), torch.randn(40, 5, requires_grad=True)
    term = StateMargin()
    term.survey([kept])
    outputs = _outputs(now, kept)
    values, sizes = term(outputs), term.sizes(outputs)
    low, high = bands([kept])
    total, count = 0.0, 0
    for z_row, h_row in zip(now.tolist(), kept.tolist(), strict=True):  # the published cases
        for z, h, lo, hi in zip(z_row, h_row, low.tolist(), high.tolist(), strict=True):
            if h <= lo:
                m = max(0.0, z - lo)
            elif h >= hi:
                m = max(0.0, hi - z)
            else:
                m = max(0.0, z - hi) + max(0.0, lo - z)
            total, count = total + m, count + (m > 0)
    assert int(sizes.sum()) == count < now.numel() / 2
    assert float(values.sum().detach()) == pytest.approx(total, rel=1e-5)
    (values.sum() / sizes.sum()).backward()
    moved = now.grad[now.grad != 0]
    assert len(moved) == count
    torch.testing.assert_close(moved.abs(), torch.full_like(moved, 1 / count))


def test_thresholds_and_margin_are_what_the_released_trainer_returns():
    """Qznan/GeRe at 34d74f5 on two texts of four and two tokens."""
    n = torch.arange(24.0).reshape(2, 4, 3)
    kept, now = (0.37 * n * n).sin(), (0.37 * n * n).sin() + 0.4 * (0.61 * n).cos()
    now[0, 0] = kept[0, 0]
    now[0, 1, 0] = 0.7426277399  # 1e-5 above its threshold
    tokens = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]]).bool()
    low, high = bands([kept[0], kept[1, :2]])
    torch.testing.assert_close(low, torch.tensor([-0.53211319, -0.63411969, -0.52206266]))
    torch.testing.assert_close(high, torch.tensor([0.74261773, 0.25457048, 0.76896858]))
    outputs = _outputs(now[tokens], kept[tokens])
    for slack, count, mean in ((0.0, 6, 0.1699157506), (1e-4, 5, 6 / 5 * 0.1699157506)):
        term = StateMargin(slack=slack)
        term.survey([kept[tokens]])
        assert int(term.sizes(outputs).sum()) == count
        assert float(term(outputs).sum()) / count == pytest.approx(mean, rel=1e-4)


def test_states_that_did_not_move_cost_nothing():
    kept = torch.randn(30, 4)
    term = StateMargin()
    term.survey([kept])
    near = _outputs(kept + 1e-6, kept)
    assert float(term(near).sum()) == 0
    assert int(term.sizes(near).sum()) == 0


def test_balanced_with_the_cross_entropy():
    term = StateMargin(balance=("a", "b"))
    means = {"a": torch.tensor(2.0), "b": torch.tensor(4.0), "states": torch.tensor(0.3)}
    assert float(term.weigh(means) * means["states"]) == pytest.approx(3.0)
    means.pop("b")
    assert float(term.weigh(means) * means["states"]) == pytest.approx(2.0)
    assert StateMargin(weight=7.0).weigh(means) == 7.0


@pytest.mark.parametrize("power", [1, 2])
def test_distances(power):
    now, kept = torch.randn(6, 3), torch.randn(6, 3)
    plain = (torch.nn.functional.l1_loss, torch.nn.functional.mse_loss)[power - 1]
    torch.testing.assert_close(
        StateDistance(power=power)(_outputs(now, kept)).mean(), plain(now, kept)
    )


def test_feeds():
    sizes = {NEW: 10, "general": 4}
    pooled = Pooled("general")
    read = [d for s in range(7) for d in pooled(sizes, s, 2, 5)]
    assert sorted(read) == sorted(
        [("general", i) for i in range(4)] + [(NEW, i) for i in range(10)]
    )
    assert pooled.steps(sizes, 2, 2) == 14
    fixed = Interpolated("general", 3)
    steps = [fixed(sizes, s, 5, 5) for s in range(4)]
    assert all(sum(source == "general" for source, _ in step) == 3 for step in steps)
    texts = [i for step in steps for source, i in step if source == "general"]
    assert all(sorted(texts[k : k + 4]) == [0, 1, 2, 3] for k in (0, 4, 8))
    assert fixed.steps(sizes, 5, 1) == 5
    with pytest.raises(ConfigError, match="a larger"):
        fixed(sizes, 0, 3, 0)
