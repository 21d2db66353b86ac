"""The comparison of methods: its grid, and what it says of runs whose outcome is known."""

from __future__ import annotations

import pytest

from holdfast.benchmarks import preserve
from holdfast.benchmarks.preserve import RECIPES, SITUATIONS, bench_preserve, members
from holdfast.benchmarks.standing import common_level, losses, of_methods, sweeps
from holdfast.errors import UnknownName
from holdfast.measures.pareto import Point
from holdfast.methods import plan


def point(recipe, rate, seed, learned, lost, order="default"):
    return Point(recipe, rate, seed, learned, -lost, seconds=60, trained=5, share=10.0, order=order)


def runs(recipe, slope, seeds=3, wobble=0.0):
    """Sweeps that learn 10, 20 and 30 and lose ``slope`` for each point learned."""
    return [
        point(recipe, rate, seed, learned, slope * learned + wobble * seed)
        for seed in range(seeds)
        for rate, learned in ((1e-4, 10.0), (1e-3, 20.0), (1e-2, 30.0))
    ]


def test_every_recipe_is_a_plan_with_a_sweep():
    for name, recipe in RECIPES.items():
        plan(list(recipe.methods))
        assert len(members(preserve.Path("x"), "vision", [name])) >= 3


def test_every_run_has_its_own_folder():
    grid = members(preserve.Path("x"), "text", list(RECIPES), seeds=2, orders=preserve.ORDERS)
    assert len({m.config.out for m in grid}) == len(grid)
    assert {len(m.config.data) for m in grid} == {5}


@pytest.mark.parametrize(
    "asked", [{"recipes": ["fulll"]}, {"orders": ["up"]}, {"section": "sound"}]
)
def test_what_does_not_exist_is_named(tmp_path, asked):
    with pytest.raises(UnknownName):
        bench_preserve(tmp_path, **asked)


def test_the_loss_at_a_level_is_read_off_each_seeds_own_sweep():
    path = sweeps(runs("keep", 0.5, wobble=1.0))["keep"]
    assert losses(path, 15.0) == {(s, "default"): pytest.approx(7.5 + s) for s in range(3)}
    assert losses(path, 31.0) == {}


def against(points):
    [table] = of_methods(points, {})["Against full tuning, at equal learning"]
    return table.rows


def test_half_is_said_only_where_the_interval_says_so():
    rows = against(runs("full", 2.0) + runs("keep", 0.5, wobble=0.1))
    assert [row[-1] for row in rows] == ["at most half, in the whole interval"] * 3
    assert rows[1][:4] == ("keep", "+20.0", "10.1", "40.0")
    assert rows[1][4].startswith("+29.9 [29.7, 30.1]")
    worse = against(runs("full", 1.0) + runs("hft", 1.5))
    assert {row[-1] for row in worse} == {"more than all of it"}


def test_one_seed_has_no_verdict():
    rows = against(runs("full", 2.0, seeds=1) + runs("keep", 0.5, seeds=1))
    assert rows[0][-1] == "one run has no interval"


def test_seeds_that_disagree_are_named():
    points = runs("full", 2.0) + runs("keep", 0.5)
    swapped = [p for p in points if p.seed != 2]
    swapped += [point("full", p.lr, 2, p.learning, 0.1) for p in points
                if p.recipe == "full" and p.seed == 2]  # fmt: skip
    swapped += [p for p in points if p.recipe == "keep" and p.seed == 2]
    lines = of_methods(swapped, {})["Do seeds and orders agree"]
    assert "0 of 1 pairs" in lines[0]
    assert "full and keep" in lines[1]


def test_each_situation_gets_the_least_loss_that_is_open_to_it():
    points = runs("full", 2.0) + runs("keep", 0.5) + runs("full + er", 0.2)
    assert common_level(points) == 30.0
    line, table = of_methods(points, SITUATIONS)["What to take"]
    assert line == "Of the recipes that were run: full, keep, full + er."
    said = {row[0]: row[1:] for row in table.rows}
    assert said["Nothing of the old data is left"] == ("keep", "15.0 [15.0, 15.0]", "-")
    assert said["Data of the stages before is kept"][0] == "full + er"
    assert "none" in said["Only an adapter may be trained"][0]


def test_what_cannot_be_told_from_the_best_is_named():
    points = runs("full", 2.0) + runs("keep", 0.5, wobble=0.2) + runs("hft", 0.52)
    _, table = of_methods(points, {"All": ["full", "keep", "hft"]})["What to take"]
    assert table.rows[0][1] == "keep"
    assert table.rows[0][3] == "hft"


def test_costs_stand_beside_full_tunings():
    [table, _] = of_methods(runs("full", 2.0) + runs("keep", 0.5), {}, {"keep": 2_000_000})[
        "What it costs"
    ]
    assert table.rows[1] == ("keep", "10%", "2.0 MB", "1 min 0 s", "1.00")
    assert table.rows[0][2] == "-"


def test_a_small_grid_ends_with_its_page(tmp_path, monkeypatch):
    monkeypatch.setattr(preserve, "STEPS", 2)
    monkeypatch.setattr(preserve, "QUESTIONS", 4)
    monkeypatch.setattr(preserve, "SKILLS", {"text": ("lab:arithmetic",)})
    asked = {"section": "text", "recipes": ["gate-up"], "rates": [1e-3], "seeds": 1, "workers": 1}
    page = bench_preserve(tmp_path / "runs", docs=tmp_path / "docs", **asked)
    text = page.read_text()
    assert page.parent == tmp_path / "docs" / "text"
    assert "What to take" in text
    assert "1 runs on lab:lm" in text
    assert bench_preserve(tmp_path / "runs", **asked).exists()  # all is finished already
    more = bench_preserve(tmp_path / "runs", **{**asked, "recipes": ["sa-proj"]})
    assert "gate-up" in more.read_text()  # the page is about what other calls have run, too
