"""The accuracy matrix against other libraries' own functions, identities and edge cases."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from holdfast.errors import UnknownName, UsageError
from holdfast.measures.formulas import MEASURES, Scores
from holdfast.measures.matrix import AccuracyMatrix

NAN = math.nan

# Each case: R (rows 1..T, columns 1..T), the base row, and what the libraries' own code returned
# for it. Avalanche: StreamForgetting, StreamBWT, StreamForwardTransfer and functional.forgetting
# of commit eb075be (0.6.0a, 2025-03-11). Mammoth: utils/metrics.py of commit e75a491
# (2026-05-20), with the base row as its `random_results`; `lower`: given only the lower triangle,
# as it sees it when future tasks are not evaluated.
GOLDEN = {
    "notes": (
        [[90, 12, 10], [70, 80, 15], [95, 60, 85]],
        [10, 10, 10],
        {"avalanche": 7.5, "mammoth": 10.0, "lower": 10.0, "bwt": -7.5, "fwt": 3.5},
    ),
    "dip_and_return": (
        [[92.5, 20, 30, 5], [40, 81.25, 22.5, 6.25], [77.5, 50, 66, 2.5], [88, 79.5, 31, 90]],
        [4, 5, 20, 0],
        {
            "avalanche": 13.75,
            "mammoth": 13.75,
            "lower": 13.75,
            "bwt": -13.75,
            "fwt": 6.666666666666667,
        },
    ),
    "gains": (
        [[30, 61], [55, 40]],
        [12, 48],
        {"avalanche": -25.0, "mammoth": 0.0, "lower": 0.0, "bwt": 25.0, "fwt": 13.0},
    ),
    "zero_shot_best": (
        [[20, 95, 50], [35, 60, 70], [30, 58, 65]],
        [15, 90, 40],
        {"avalanche": -4.0, "mammoth": 21.0, "lower": 3.5, "bwt": 4.0, "fwt": 17.5},
    ),
    "random": (
        [
            [62.51, 89.72, 77.57, 22.52, 30.02],
            [87.36, 0.53, 82.12, 79.71, 46.79],
            [30.3, 27.84, 25.49, 44.51, 50.45],
            [55.35, 99.55, 79.27, 62.22, 98.9],
            [21.53, 16.02, 61.25, 4.39, 3.57],
        ],
        [51.49, 46.62, 91.72, 62.92, 51.41],
        {
            "avalanche": 11.889999999999997,
            "mammoth": 61.3875,
            "lower": 56.302499999999995,
            "bwt": -11.889999999999997,
            "fwt": 15.645000000000003,
        },
    ),
}


def build(rows, base=None, held_out=None):
    """A matrix with targets t1.. and held-outs h1.., row 0 from ``base`` (or not measured)."""
    rows = np.asarray(rows, dtype=float)
    first = np.full(rows.shape[1], NAN) if base is None else base
    grid = np.vstack([first, rows])
    names = [f"t{j + 1}" for j in range(rows.shape[1])]
    cells = [(k, names[j], grid[k, j]) for k in range(len(grid)) for j in range(len(names))]
    others = []
    if held_out is not None:
        held_out = np.asarray(held_out, dtype=float)
        others = [f"h{b + 1}" for b in range(held_out.shape[1])]
        cells += [
            (k, h, held_out[k, b]) for k in range(len(held_out)) for b, h in enumerate(others)
        ]
    return AccuracyMatrix.from_rows(cells, names, others)


@pytest.mark.parametrize("name", GOLDEN)
def test_against_avalanche_and_mammoth(name):
    rows, base, expected = GOLDEN[name]
    found = build(rows, base).measures()
    assert found["forgetting_avalanche"] == pytest.approx(expected["avalanche"], abs=1e-9)
    assert found["forgetting_mammoth"] == pytest.approx(expected["mammoth"], abs=1e-9)
    assert found["backward_transfer"] == pytest.approx(expected["bwt"], abs=1e-9)
    assert found["forward_transfer"] == pytest.approx(expected["fwt"], abs=1e-9)


@pytest.mark.parametrize("name", GOLDEN)
def test_future_tasks_that_were_not_evaluated(name):
    rows, base, expected = GOLDEN[name]
    lower = np.where(np.tril(np.ones_like(rows, dtype=bool)), rows, NAN)
    found, full = build(lower, base).measures(), build(rows, base).measures()
    assert found["forgetting_mammoth"] == pytest.approx(expected["lower"], abs=1e-9)
    assert found["forgetting_avalanche"] == pytest.approx(expected["avalanche"], abs=1e-9)
    assert math.isnan(found["forward_transfer"])
    for same in ("target_learning", "target_overall", "average_accuracy", "backward_transfer"):
        assert found[same] == full[same]
    assert (
        found["forgetting_chaudhry2018_since_learned"]
        == full["forgetting_chaudhry2018_since_learned"]
    )


@pytest.mark.parametrize("name", GOLDEN)
def test_an_array_and_rows_are_the_same_matrix(name):
    rows, base, expected = GOLDEN[name]
    held = [[90.0, k] for k in range(len(rows) + 1)]
    found = AccuracyMatrix.from_array(np.array(rows, dtype=float), np.array(base), held).measures()
    assert found == build(rows, base, held).measures()
    ragged = [row[: i + 1] for i, row in enumerate(rows)]
    lower = AccuracyMatrix.from_array(ragged)
    assert lower.measure("forgetting_mammoth") == pytest.approx(expected["lower"], abs=1e-9)
    assert math.isnan(lower.target_learning)


def test_an_array_of_a_wrong_shape():
    with pytest.raises(UsageError, match="2 rows of up to 3"):
        AccuracyMatrix.from_array([[1, 2, 3], [1, 2, 3]])
    with pytest.raises(UsageError, match="0 rows"):
        AccuracyMatrix.from_array([])


def test_chaudhry_as_a_slow_loop():
    for rows, base, _ in GOLDEN.values():
        r, last = np.asarray(rows, dtype=float), len(rows)
        published = [max(r[: last - 1, j]) - r[-1, j] for j in range(last - 1)]
        since = [max(r[j : last - 1, j]) - r[-1, j] for j in range(last - 1)]
        found = build(rows, base).measures()
        assert found["forgetting_chaudhry2018"] == pytest.approx(np.mean(published))
        assert found["forgetting_chaudhry2018_since_learned"] == pytest.approx(np.mean(since))


def test_the_base_model_and_the_last_stage_are_not_in_chaudhrys_maximum():
    found = build([[40, 0], [60, 70]], base=[99, 0]).measures()
    assert found["forgetting_chaudhry2018"] == pytest.approx(-20)
    assert found["forgetting_mammoth"] == pytest.approx(0)


def test_one_target_has_nothing_to_transfer_or_forget():
    found = build([[80]], base=[20]).measures()
    assert found["target_learning"] == 60
    assert found["target_forgetting"] == 0
    assert found["target_overall"] == 60
    for name in ("backward_transfer", "forward_transfer", "recovery"):
        assert math.isnan(found[name]), name
    assert all(math.isnan(v) for n, v in found.items() if n.startswith("forgetting_"))


def test_figure_one_has_a_total_and_a_mean():
    held = [[90, 80, 70], [80, 80, 70], [84, 81, 67]]
    matrix = build([[60, 0], [50, 40]], base=[10, 0], held_out=held)
    found = matrix.measures()
    assert matrix.held_out_curve() == pytest.approx([0, -10 / 3, -8 / 3])
    assert found["held_out_forgetting"] == pytest.approx(-8 / 3)
    assert found["held_out_forgetting_total"] == pytest.approx(-8)
    assert found["target_learning_total"] == pytest.approx(90)
    assert found["target_forgetting_total"] == pytest.approx(-10)
    assert found["recovery"] == pytest.approx(2 / 3)
    assert (matrix.worst_held_out(), found["worst_held_out_drop"]) == ("h1", -6)
    assert matrix.held_out_change(1) == {"h1": -10, "h2": 0, "h3": 0}


def test_a_dip_at_the_end_has_not_recovered():
    found = build([[50, 0], [50, 50]], [0, 0], held_out=[[90], [80], [70]]).measures()
    assert found["recovery"] == 0


def test_what_was_not_measured_is_left_out_and_never_zero():
    held = [[90, 80], [70, NAN], [60, 76]]
    matrix = build([[60, 0], [NAN, 40]], base=[10, 0], held_out=held)
    found = matrix.measures()
    assert matrix.held_out_curve() == pytest.approx([0, -20, -17])
    assert found["target_learning"] == 40  # t1 has no final score: TL, TF and TO are all of t2
    assert found["target_overall"] == found["target_learning"] + found["target_forgetting"]
    assert found["target_learning_total"] == 90
    assert math.isnan(found["target_overall_total"])
    assert math.isnan(found["backward_transfer"])
    assert math.isnan(matrix.score(2, "t1"))
    nothing = AccuracyMatrix.from_rows([(1, "t1", 50.0)], ["t1"], ["h1"]).measures()
    measured = {n for n, v in nothing.items() if not math.isnan(v)}
    assert measured == {"average_accuracy", "target_forgetting_total"}


def test_a_run_that_is_not_finished_yet():
    matrix = AccuracyMatrix.from_rows(
        [(0, "a", 10), (0, "b", 20), (1, "a", 60), (1, "b", 25)], ["a", "b", "c"]
    )
    found = matrix.measures()
    assert found["target_learning"] == 50
    assert found["average_accuracy"] == 60
    assert matrix.learning()["a"] == 50
    assert math.isnan(matrix.learning()["b"])


def test_two_targets_of_one_stage():
    rows = [(0, "a", 0), (0, "b", 0), (1, "a", 50), (1, "b", 30), (2, "a", 40), (2, "b", 40)]
    matrix = AccuracyMatrix.from_rows(rows, ["a", "b"], learned_at={"a": 1, "b": 1})
    assert matrix.target_learning == 40
    assert matrix.target_forgetting == 0
    assert matrix.measure("forgetting_avalanche") == 0
    assert matrix.measure("forgetting_chaudhry2018") == 0


def test_a_row_that_is_measured_again_replaces_the_first():
    matrix = AccuracyMatrix.from_rows([(0, "a", 1), (1, "a", 2), (1, "a", 3)], ["a"])
    assert matrix.score(1, "a") == 3


@pytest.mark.parametrize(
    ("targets", "held_out", "rows", "message"),
    [
        (["a", "a"], [], [(0, "a", 1)], "named twice"),
        (["a"], ["a"], [(0, "a", 1)], "named twice"),
        (["a"], ["b"], [(0, "c", 1)], r"\(c\).*\(a\).*\(b\)"),
        (["a"], [], [(-1, "a", 1)], "stage 0 is the base"),
    ],
)
def test_what_makes_no_matrix(targets, held_out, rows, message):
    with pytest.raises(UsageError, match=message):
        AccuracyMatrix.from_rows(rows, targets, held_out)


def test_an_unknown_measure_or_task_names_the_nearest():
    matrix = build([[1]], [0])
    with pytest.raises(UnknownName, match="did you mean 'target_learning'"):
        matrix.measure("target_lerning")
    with pytest.raises(UnknownName, match="There is: t1"):
        matrix.score(0, "t2")


def scores(stages, columns):
    return hnp.arrays(float, (stages + 1, columns), elements=st.floats(0, 100, width=32))


@settings(max_examples=60, deadline=None)
@given(data=st.data(), k=st.integers(1, 5), b=st.integers(1, 6))
def test_identities(data, k, b):
    grid, held = data.draw(scores(k, k)), data.draw(scores(k, b))
    matrix = build(grid[1:], grid[0], held)
    found = matrix.measures()
    assert matrix.target_overall == pytest.approx(
        matrix.target_learning + matrix.target_forgetting, abs=1e-9
    )
    assert found["held_out_forgetting_total"] == pytest.approx(b * found["held_out_forgetting"])
    order = data.draw(st.permutations(range(b)))
    turned = build(grid[1:], grid[0], held[:, order])
    assert turned.held_out_curve() == pytest.approx(matrix.held_out_curve(), abs=1e-9)
    if k > 1:
        assert found["forgetting_mammoth"] >= found["forgetting_chaudhry2018"] - 1e-9
        since = found["forgetting_chaudhry2018_since_learned"]
        assert found["forgetting_chaudhry2018"] >= since - 1e-9
        assert since >= -found["backward_transfer"] - 1e-9
        assert found["target_forgetting"] == pytest.approx(
            found["backward_transfer"] * (k - 1) / k, abs=1e-9
        )
        assert found["recovery"] >= 0


@settings(max_examples=20, deadline=None)
@given(data=st.data(), k=st.integers(2, 5), b=st.integers(1, 6))
def test_a_model_that_equals_its_base_has_changed_nothing(data, k, b):
    row, held = data.draw(scores(0, k))[0], data.draw(scores(0, b))[0]
    matrix = build(np.tile(row, (k, 1)), row, np.tile(held, (k + 1, 1)))
    found = matrix.measures()
    assert found.pop("average_accuracy") == pytest.approx(row.mean())
    assert all(v == pytest.approx(0, abs=1e-9) for v in found.values()), found


def test_leading_axes_are_many_matrices_at_once():
    rng = np.random.default_rng(0)
    targets, held = rng.uniform(0, 100, (7, 4, 3)), rng.uniform(0, 100, (7, 4, 5))
    targets[2, 1, 0] = held[3, 2, 2] = NAN
    together = Scores(targets, held, (1, 2, 3))
    for m in MEASURES.values():
        alone = [m.compute(Scores(t, h, (1, 2, 3))) for t, h in zip(targets, held, strict=True)]
        np.testing.assert_array_equal(m.compute(together), np.array(alone), err_msg=m.name)
