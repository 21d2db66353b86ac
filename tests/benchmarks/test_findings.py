"""Findings are read off the numbers, in both directions."""

import math

from holdfast.benchmarks.findings import of_plane, of_sequence
from holdfast.measures.interval import Estimate
from holdfast.measures.pareto import Point
from holdfast.report.rows import RecipeRow


def sweep(recipe, lost, seeds=3):
    """Learning 20, 40, 60 at three rates; ``lost`` per point of learning."""
    return [
        Point(recipe, rate, seed, learning + seed, -lost * learning - 0.1 * seed)
        for seed in range(seeds)
        for rate, learning in ((1e-4, 20.0), (1e-3, 40.0), (1e-2, 60.0))
    ]


def text(sections):
    return "\n".join(line for lines in sections.values() for line in lines)


def test_a_recipe_that_really_keeps_more_is_said_to():
    said = text(of_plane(sweep("full", 0.5) + sweep("gate-up", 0.1) + sweep("sa-proj", 0.1)))
    assert "both narrow recipes lost less" in said
    assert "gate-up kept +" in said
    assert (
        "The most that each recipe learned in these steps: full +61.0 [58.5, 63.5] at 0.01" in said
    )
    assert "lost less than full tuning" in said


def test_one_that_does_not_is_not():
    same = text(of_plane(sweep("full", 0.3) + sweep("gate-up", 0.3) + sweep("sa-proj", 0.3)))
    assert "against the paper" in same
    assert "cannot be told apart" in same
    worse = text(of_plane(sweep("full", 0.1) + sweep("gate-up", 0.5) + sweep("sa-proj", 0.5)))
    assert "lost more than full tuning" in worse


def test_what_the_rate_does_alone_is_said():
    said = text(of_plane(sweep("full", 0.5)))
    assert "Full tuning at 0.0001 instead of 0.01 learned +21.0" in said


def row(recipe, learned, lost, curve):
    stages = ("lab:species", "lab:count", "lab:medical")
    return RecipeRow(recipe, Estimate(learned), Estimate(-lost), curve=curve, stages=stages)


def test_the_dip_is_found_or_missed():
    rows = [
        row("full", 40, 30, (90.0, 88.0, 60.0, 75.0)),
        row("gate-up", 30, 2, (90.0, 90.0, 89.0, 88.0)),
        row("projector", 3, 1, (90.0, 90.0, 90.0, 89.0)),
    ]
    said = text(of_sequence(rows, {"lab:count": [30.0, 12.0], "lab:read": [1.0, 0.0]}))
    assert "full: the held-out mean changed by -28.0 with counting and by +15.0" in said
    assert "a dip and a recovery, as in the paper" in said
    assert "lab:read was not learned by any recipe in these steps (+0.0 to +1.0)" in said
    assert "lab:count: +12.0 to +30.0 points" in said
    assert "gate-up learned 75% of what full tuning did" in said
    assert "less, as the paper says" in said
    assert "little, as the paper says" in said
    flat = text(of_sequence([row("full", 40, 30, (90.0, 70.0, 60.0, 50.0))], {}))
    assert "not the paper's dip and recovery" in flat
    assert not math.isnan(rows[0].learned.value)
