"""A whole search on a model of a few thousand weights: found, not found, killed, refused."""

import json
from pathlib import Path

import budget_world as world
import pytest
import torch

import holdfast
from holdfast.budget import search as searching
from holdfast.budget.candidates import Recipe
from holdfast.budget.prepare import TooFewExamples
from holdfast.budget.trials import Point, halving
from holdfast.changes.repair.blend import TUNED
from holdfast.changes.repair.candidates import Candidate
from holdfast.changes.repair.questions import Questions
from holdfast.cli import main
from holdfast.errors import ConfigError, RunError, UsageError
from holdfast.measures.interval import Estimate
from holdfast.methods import METHODS

SHORT = ":max_new_tokens=2"


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    folder = tmp_path_factory.mktemp("budget")
    model, files = world.make_world(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(searching, "run_grid", world.in_this_process)
        yield folder, model, files


def go(here, out, skill="taught", keep="known", **more):
    folder, model, files = here
    told = {
        "budget": 2.0, "method": world.HEAD, "steps": 2, "learning_rate": 0.5, "batch_size": 8,
        "examples": 360,
    }  # fmt: skip
    return holdfast.within(
        model, {"data": files[skill], "test": files[skill] + SHORT}, files[keep] + SHORT,
        out=folder / out, **{**told, **more},
    )  # fmt: skip


@pytest.fixture(scope="module")
def found(here):
    return go(here, "found")


def test_the_model_that_comes_back_learned_and_kept_the_budget(here, found):
    assert found.chosen is not None, found.verdict
    assert found.chosen.learned.value > 50
    assert found.chosen.lost.high <= 2.0
    assert found.chosen.lost.n == 270
    model, processor = holdfast.load(found.result)
    asked = torch.tensor([[world.ID[x]] for x in (*world.KNOWN, *world.TAUGHT)])
    said = model(asked).logits[:, -1].argmax(-1).tolist()
    assert said[:6] == [world.ID[x] for x in world.KNOWN.values()]
    assert sum(a == world.ID[b] for a, b in zip(said[6:], "789", strict=True)) >= 2
    assert processor.decode([world.ID["a"]]) == "a"


def test_what_was_tried_is_written_down(here, found):
    folder = here[0] / "found"
    kept = json.loads((folder / "report.json").read_text())
    assert kept["found"]
    assert kept["chosen"]["unseen"]["lost"]["high"] <= 2.0
    assert len(kept["tried"]) == len(found.tried) == len(found.rows())
    page = (folder / "report.md").read_text()
    assert "chosen" in page
    assert "at most" in (folder / "report.html").read_text()
    assert sum(row["chosen"] for row in found.rows()) == 1
    for trial in {t.trial for t in found.tried}:
        assert (folder / "trials" / trial / "finished.json").exists()


def test_the_search_never_sees_what_confirms(here, monkeypatch):
    order = []
    ask = Questions.ask

    def noted(self, model, processor, half, **more):
        order.append(half)
        return ask(self, model, processor, half, **more)

    monkeypatch.setattr(Questions, "ask", noted)
    found = go(here, "order")
    first = order.index("test")
    assert set(order[:first]) == {"select"}
    assert set(order[first:]) == {"test"}
    assert order.count("test") == 1 + len(found.sequence)  # the base once, then each


def test_a_killed_search_goes_on_and_asks_nothing_twice(here, monkeypatch):
    whole = go(here, "order")
    asks, measured = [], searching.measure

    def dies(setting, trial, known):
        measured(setting, trial, known)
        raise KeyboardInterrupt

    ask = Questions.ask

    def noted(self, model, processor, half, **more):
        asks.append(half)
        return ask(self, model, processor, half, **more)

    monkeypatch.setattr(Questions, "ask", noted)
    monkeypatch.setattr(searching, "measure", dies)
    with pytest.raises(KeyboardInterrupt):
        go(here, "killed")
    monkeypatch.setattr(searching, "measure", measured)
    again = go(here, "killed")
    assert [c.to_json() for c in again.sequence] == [c.to_json() for c in whole.sequence]
    kept = (here[0] / "killed" / "points").glob("*/candidates.jsonl")
    rows = [json.loads(line) for file in kept for line in file.read_text().splitlines()]
    assert len(asks) == sum(row.get("seconds", 0) > 0 for row in rows)


def test_nothing_inside_leaves_the_base_and_says_what_the_nearest_costs(here):
    found = go(here, "none", skill="turned")
    assert found.chosen is None
    assert found.result == here[1]
    assert not (here[0] / "none" / "model").exists()
    assert "left as it was" in found.verdict
    assert found.nearest is not None
    assert f"at most {found.nearest.lost.high:.2f}" in found.verdict
    assert found.nearest.lost.value > 10


def test_too_few_examples_are_named_before_anything_trains(here):
    with pytest.raises(
        TooFewExamples, match=r"cannot be confirmed even if no answer changes.*1\.33"
    ):
        go(here, "few", budget=1.0)
    assert not (here[0] / "few").exists()
    with pytest.raises(TooFewExamples, match="no number of examples"):
        go(here, "few", budget=0.0)


def test_another_search_or_foreign_files_in_the_folder_are_refused(here, found):
    with pytest.raises(RunError, match=r"holds another search .other budget"):
        go(here, "found", budget=3.0)
    (here[0] / "mine").mkdir()
    (here[0] / "mine" / "thesis.txt").write_text("x")
    with pytest.raises(RunError, match=r"thesis\.txt"):
        go(here, "mine")


def test_what_cannot_be_asked_for(here):
    with pytest.raises(UsageError, match=r"what should .* keep"):
        holdfast.within(here[1], here[2]["taught"], budget=1.0, out=here[0] / "no")
    with pytest.raises(UsageError, match="stay in the model"):
        go(here, "no", method="lora:stages=keep")
    with pytest.raises(UsageError, match="it reads data of what the model knows"):
        go(here, "no", method=[world.HEAD, "gere"])
    with pytest.raises(ConfigError):
        go(here, "no", stepps=3)
    with pytest.raises(UsageError, match="between 0 and 100"):
        go(here, "no", budget=-1.0)


def test_the_command_line_and_its_exit_codes(here, monkeypatch, capsys):
    folder, model, files = here
    monkeypatch.chdir(folder)
    line = ["tune", model, "--data", files["taught"], "--test", files["taught"], "--keep",
            files["known"], "--method", world.HEAD, "--steps", "2", "--lr", "0.5", "--set",
            "train.batch_size=8", "--examples", "360", "--out", "shell", "-q"]  # fmt: skip
    assert main([*line, "--budget", "1%"]) == 11
    assert "About 482 examples" in capsys.readouterr().err.replace("\n", " ")
    assert main([*line, "--budget", "2%", "--dry-run", "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert plan["trials"] == [1]
    assert plan["seconds"] > 0
    assert not Path("shell").exists()
    code = main([*line, "--budget", "2%", "--json"])
    assert code == (0 if json.loads(capsys.readouterr().out)["found"] else 10)
    assert main([*line[:-3], "--tasks", files["known"]]) == 2
    assert "named with --keep" in capsys.readouterr().err


def trials_of(losses, lengths):
    """What halving runs, where a rate learns ten times itself and loses what ``losses`` says."""
    recipe = Recipe(("r",), METHODS["gate-up"].value(), (1.0, 2.0, 3.0, 4.0))
    ran = []

    def run(trials):
        ran.append([(t.learning_rate, t.steps) for t in trials])
        return {t: [point(t)] for t in trials}

    def point(trial):
        learned, lost = Estimate(10 * trial.learning_rate), Estimate(losses(trial.learning_rate))
        return Point(trial, Candidate("tuned", "ends", TUNED, learned, lost, True, 1.0))

    return ran, halving([recipe], lengths, 1.0, run)


def test_halving_keeps_the_better_half_and_every_point():
    ran, pool = trials_of(lambda rate: 5.0 if rate == 4 else 0.5, (10, 20, 40))
    assert ran == [
        [(1.0, 10), (2.0, 10), (3.0, 10), (4.0, 10)],
        [(3.0, 20), (2.0, 20)],
        [(3.0, 40)],
    ]
    assert len(pool) == 7


def test_rates_that_do_no_harm_are_raised():
    ran, _ = trials_of(lambda rate: 5.0 if rate > 20 else 0.5, (10, 20))
    assert [r for r, _ in ran[1]] == [20.0]
    assert [r for r, _ in ran[2]] == [80.0]
    assert [r for r, _ in ran[3]] == [20.0, 4.0]
