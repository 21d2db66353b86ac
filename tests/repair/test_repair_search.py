"""Harm that was planted in one block is found, named and taken back."""

import json

import pytest
import torch
from repair_world import HARM, SKILL, make_pair, make_tasks

import holdfast
from holdfast.changes.repair.questions import Questions, split
from holdfast.changes.repair.result import examples_needed
from holdfast.cli import main
from holdfast.errors import RunError, UsageError
from holdfast.tasks import evaluate, load_task


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("repair")
    base, tuned = make_pair(folder)
    return folder, str(base), str(tuned), *make_tasks(folder)


@pytest.fixture(scope="module")
def found(world):
    folder, base, tuned, learned, held_out = world
    return holdfast.repair(
        base, tuned, learned, held_out, budget=8.0, method=["path", "rollback"], grid=[0.5, 0.8],
        evaluations=12, out=folder / "out",
    )  # fmt: skip


def test_roll_back_names_the_block_and_recovers(found, world):
    worst = found.parts[0]
    assert (worst.selector, worst.harm, worst.skill) == (f"language[{HARM}]", 100.0, 0.0)
    skill = next(p for p in found.parts if p.selector == f"language[{SKILL}]")
    assert (skill.harm, skill.skill) == (0.0, 100.0)
    assert found.ranks[f"language[{HARM}].mlp"] > 1 > found.ranks[f"language[{SKILL}].mlp"]
    assert found.chosen is not None
    assert found.chosen.method == "rollback"
    assert found.chosen.learned.value == 100
    assert found.chosen.lost.value == 0
    assert found.chosen.test_learned.value == 100
    assert found.chosen.test_lost.value == 0


def test_what_was_saved_is_what_was_chosen(found, world):
    folder, _, _, *tasks = world
    model, processor = holdfast.load(folder / "out")
    asked = [t for name in tasks for t in load_task(name)]
    assert [r.score for r in evaluate(model, processor, asked)] == [100.0, 100.0]
    kept = json.loads((folder / "out" / "repair.json").read_text())
    assert kept["chosen"]["name"] == found.chosen.name
    assert len(kept["candidates"]) == len(found.frame())
    page = (folder / "out" / "repair.md").read_text()
    assert "did not see" in page
    html = (folder / "out" / "repair.html").read_text(encoding="utf-8")
    assert found.chosen.name in html
    assert "holdfast repair" in html
    assert "What nothing beats" in html
    assert (folder / "out" / "front.png").exists()


def test_nothing_on_the_front_is_dominated(found):
    front = found.front
    assert {c.name for c in front} >= {found.chosen.name}
    for one in front:
        for other in found.candidates:
            better = other.learned.value >= one.learned.value
            better &= other.lost.value <= one.lost.value
            equal = (other.learned.value, other.lost.value) == (one.learned.value, one.lost.value)
            assert equal or not better, (one.name, other.name)


def test_a_search_goes_on_without_asking_again(found, world, monkeypatch):
    folder, base, tuned, learned, held_out = world
    monkeypatch.setattr(Questions, "ask", lambda *a, **k: pytest.fail("asked again"))
    again = holdfast.repair(
        base, tuned, learned, held_out, budget=8.0, method=["path", "rollback"], grid=[0.5, 0.8],
        evaluations=12, out=folder / "out",
    )  # fmt: skip
    assert again.rows() == found.rows()
    with pytest.raises(RunError, match="another search"):
        holdfast.repair(base, tuned, learned, held_out, seed=1, out=folder / "out")


def test_a_budget_that_nobody_meets(world, capsys):
    _, base, tuned, learned, held_out = world
    code = main(
        ["repair", base, tuned, "-l", learned, "-t", held_out, "--budget", "0.5%", "-m", "half",
         "--json"]
    )  # fmt: skip
    said = json.loads(capsys.readouterr().out)
    assert code == 10
    assert said["chosen"] is None
    assert said["needed"] == examples_needed(0.5, 1, 6.9)
    assert "Nothing that was tried is inside" in said["verdict"]
    assert said["nearest"]["name"] == "tuned"


def test_the_number_that_is_needed_is_enough():
    for budget, tasks in ((1.0, 1), (0.5, 4)):
        n = examples_needed(budget, tasks, 50.0)
        upper = [100 * 3.841459 / (k + 3.841459) / tasks**0.5 for k in (n, n - 1)]
        assert upper[0] <= budget < upper[1]
    assert examples_needed(0.0, 1, 50.0) == 0
    assert examples_needed(1.0, 1, 0.9) is None


def test_halves_are_disjoint_seeded_and_keep_clusters_whole(world):
    examples = load_task(world[4])[0].examples
    one, two = split(examples, 0, "t")
    ids = [{e.id for e in half} for half in (one, two)]
    assert not ids[0] & ids[1]
    assert len(ids[0] | ids[1]) == len(examples)
    assert not {e.cluster for e in one if e.cluster} & {e.cluster for e in two if e.cluster}
    assert split(examples, 0, "t") == (one, two)
    assert split(examples, 1, "t") != (one, two)
    with pytest.raises(UsageError, match="two are needed"):
        split(examples[:1], 0, "t")


def test_one_point_is_written_without_a_question(world, tmp_path, capsys):
    _, base, tuned, *_ = world
    out = str(tmp_path / "half")
    assert main(["repair", base, tuned, "--at", "0.5", "--out", out, "-q"]) == 0
    half = dict(holdfast.load(out)[0].named_parameters())
    one, two = (dict(holdfast.load(m)[0].named_parameters()) for m in (base, tuned))
    for name, value in half.items():
        torch.testing.assert_close(value, (one[name] + two[name]) / 2)
    assert main(["repair", base, tuned, "--at", "0.5", "-t", "x"]) == 2
