"""Pictures: they are drawn, they repeat to the byte, and their labels do not overlap."""

import itertools
import math

import pytest

from holdfast.errors import MissingExtra, UsageError
from holdfast.measures.interval import Estimate
from holdfast.measures.matrix import AccuracyMatrix
from holdfast.measures.pareto import Point, over_seeds
from holdfast.report.rows import RecipeRow

pytest.importorskip("matplotlib", reason="the extra 'plots'")
from holdfast.report import plots

NAN = math.nan


def recipe(name, learned, forgetting, curve=(95.0, 60.0, 80.0)):
    return RecipeRow(
        name,
        Estimate(learned, learned - 3, learned + 3, 50),
        Estimate(forgetting, forgetting - 2, forgetting + 2, 50),
        learned_total=Estimate(2 * learned),
        forgetting_total=Estimate(8 * forgetting),
        curve=curve,
        stages=("count", "clock"),
    )


ROWS = [
    recipe("full", 70, -31),
    recipe("gate-up", 59, -0.4),
    recipe("projector", 1, 0.6),
    recipe("a $name$ that is much too long to be shown in full $x_{", 20, -5),
    RecipeRow("not held out", Estimate(5, n=1), Estimate(NAN)),
]


def matrix(stages=2):
    rows = [(k, t, 30.0 * k + j) for k in range(stages + 1) for j, t in enumerate("abhi")]
    return AccuracyMatrix.from_rows([r for r in rows if r[:2] != (1, "i")], "ab", "hi")


def points():
    return [
        Point(r, lr, seed, 10 * i + 1e4 * lr + seed, -5 * i - 2e3 * lr * i)
        for i, r in enumerate(["full", "gate-up", "down"], 1)
        for lr in (1e-4, 1e-3)
        for seed in (0, 1)
    ]


PICTURES = {
    "learned_and_lost": lambda: plots.learned_and_lost(ROWS),
    "one_recipe": lambda: plots.learned_and_lost(ROWS[:1]),
    "only_losses": lambda: plots.learned_and_lost([recipe("x", -5, -31)]),
    "nothing_changed": lambda: plots.learned_and_lost(
        [RecipeRow("x", Estimate(0.0, 0.0, 0.0, 9), Estimate(0.0, 0.0, 0.0, 9))]
    ),
    "figure_one": lambda: plots.figure_one(ROWS),
    "plane": lambda: plots.plane(over_seeds(points())),
    "plane_of_one_run": lambda: plots.plane(over_seeds(points()[:1])),
    "changes": lambda: plots.changes(
        [
            ("the colour of an object", Estimate(-70.0, -82.0, -55.0, 40)),
            ("b $x_{", Estimate(2.5, -1.0, 6.0, 40)),
            ("not asked", Estimate(NAN)),
        ]
    ),
    "heat_map": lambda: plots.heat_map(matrix()),
    "heat_map_of_a_base": lambda: plots.heat_map(matrix(0)),
}


@pytest.mark.parametrize("name", PICTURES)
def test_the_same_rows_are_the_same_bytes(name, tmp_path):
    first = plots.save(PICTURES[name](), tmp_path / "1", "p")
    again = plots.save(PICTURES[name](), tmp_path / "2", "p")
    assert [p.name for p in first] == ["p.png", "p.svg"]
    for a, b in zip(first, again, strict=True):
        assert a.read_bytes() == b.read_bytes()
    assert sorted(p.name for p in (tmp_path / "1").iterdir()) == ["p.png", "p.svg"]


@pytest.mark.parametrize("name", PICTURES)
def test_no_two_labels_overlap(name):
    import matplotlib.pyplot as plt
    from matplotlib.text import Text

    figure = PICTURES[name]()
    figure.canvas.draw()
    drawn = [
        t
        for t in figure.findobj(Text)
        if t.get_visible() and t.get_text().strip() and t.get_rotation() in (0, 90)
    ]
    frame = figure.bbox
    boxes = [(t.get_text(), t.get_window_extent()) for t in drawn]
    boxes = [(text, b) for text, b in boxes if b.width > 0 and frame.overlaps(b)]
    assert len(boxes) > 2
    for (one, a), (two, b) in itertools.combinations(boxes, 2):
        inner = a.shrunk(0.9, 0.9).translated(0.05 * a.width, 0.05 * a.height)
        assert not inner.overlaps(b), f"'{one}' lies on '{two}'"
    for text, b in boxes:
        assert b.x0 >= -1, f"'{text}' is cut off"
        assert b.x1 <= frame.x1 + 1, f"'{text}' is cut off"
    plt.close(figure)


def test_a_name_in_any_script_is_drawn_without_a_warning(tmp_path, recwarn):
    plots.save(plots.learned_and_lost([recipe("数える 🦜", 5, -1)]), tmp_path, "p")
    assert not list(recwarn)


def test_nothing_to_draw_is_said():
    with pytest.raises(UsageError, match="not one recipe"):
        plots.learned_and_lost([])
    with pytest.raises(UsageError, match="not one measured setting"):
        plots.plane([])


def test_without_matplotlib_the_extra_is_named(monkeypatch):
    import holdfast.errors

    def absent(name):
        raise ImportError(name)

    monkeypatch.setattr(holdfast.errors.importlib, "import_module", absent)
    with pytest.raises(MissingExtra, match=r"pip install 'holdfast\[plots\]'"):
        plots.heat_map(matrix())


def test_drawing_leaves_the_users_settings_alone():
    import matplotlib

    before = dict(matplotlib.rcParams)
    plots.heat_map(matrix())
    assert dict(matplotlib.rcParams) == before
