"""Advice by situation, with and without weights."""

import json
import shutil
from pathlib import Path

import budget_world as world
import pytest

import holdfast
from holdfast.budget import search as searching
from holdfast.budget.advise import byte_count, second_count
from holdfast.budget.candidates import CANDIDATES, Situation, recipes
from holdfast.budget.committed import FILE, from_comparison, inside
from holdfast.budget.prepare import shape
from holdfast.cli import main
from holdfast.errors import UsageError
from holdfast.methods import METHODS

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    folder = tmp_path_factory.mktemp("advise")
    model, files = world.make_world(folder)
    bare = folder / "bare"
    bare.mkdir()
    shutil.copy(Path(model) / "config.json", bare)
    return folder, model, files, str(bare)


def test_committed_figures_are_those_of_the_committed_page():
    page = json.loads((ROOT / "docs/results/plane/comparison.json").read_text())
    assert json.loads(FILE.read_text()) == from_comparison(page)
    assert inside("gate-up", 1.0).lost <= 1.0
    assert inside("nobody's", 1.0) is None


def test_a_configuration_alone_is_enough(here):
    found = holdfast.advise(here[3])
    assert found.recommended is not None
    assert found.recommended.measured == "committed"
    assert "no weights" in found.notes[0]
    by_name = {o.recipe: o for o in found.options}
    total = shape(here[1])[1].count
    assert by_name["full"].trained == total
    assert by_name["full"].memory == 16 * total
    assert by_name["full"].flops == pytest.approx(1.0)
    gate_up = by_name["gate-up"]
    assert gate_up.memory == 16 * gate_up.trained + 2 * (total - gate_up.trained)
    assert found.recommended.lost == min(
        o.lost for o in found.options if o.lost is not None and o.lost <= 1.0
    ) or found.recommended.learned == max(
        o.learned for o in found.options if o.lost is not None and o.lost <= 1.0
    )


def test_a_situation_rules_recipes_out_with_the_reason(here):
    adapters = holdfast.advise(here[3], adapters_only=True)
    assert adapters.recommended.recipe == "lora"
    assert all("only adapters" in o.reason for o in adapters.options if o.recipe != "lora")
    found = holdfast.advise(here[3], memory=byte_count("0.0003GB"))
    full = next(o for o in found.options if o.recipe == "full")
    small = min(found.options, key=lambda o: o.memory)
    assert "GB without activations" in full.reason or full.memory <= 3e5
    nothing = holdfast.advise(here[3], memory=1.0)
    assert nothing.recommended is None
    assert nothing.command == ""
    assert small.recipe in nothing.why


def test_methods_that_read_old_data_want_it(here):
    found = shape(here[1])[1]

    def reason(**more):
        situation = Situation(here[1], **more)
        return recipes(situation, found, offer_adapters=True, methods=())

    assert [r.name for r in reason() if r.name in CANDIDATES] == [
        n for n in CANDIDATES if n in METHODS
    ]
    with pytest.raises(UsageError, match="there is none"):
        recipes(Situation(here[1]), found, ["gate-up", "gere"])
    with pytest.raises(UsageError, match="there is none"):
        recipes(Situation("lab:lm", replays=False), found, ["gate-up", "gere"])
    (given,) = recipes(Situation(here[1], old_data="old.jsonl"), found, ["gate-up", "gere"])
    assert not given.reason
    (own,) = recipes(Situation("lab:lm"), found, ["gate-up", "gere"])
    assert not own.reason


def test_with_weights_and_data_it_is_calibrated(here, monkeypatch):
    folder, model, files, _ = here
    monkeypatch.setattr(searching, "run_grid", world.in_this_process)
    monkeypatch.setattr("holdfast.budget.candidates.CANDIDATES", {"full": 1.0})
    monkeypatch.setattr("holdfast.budget.candidates.ADAPTERS", {})
    found = holdfast.advise(
        model, {"data": files["taught"], "test": files["taught"]}, files["known"],
        budget=2.0, steps=2, batch_size=8, learning_rate=0.3, time=0.001, examples=120,
        out=folder / "out",
    )  # fmt: skip
    (option,) = found.options
    assert option.measured == "calibration"
    assert option.learning_rate == 0.3
    assert option.learned is not None
    assert found.seconds > 0.001
    assert any("more than the 0 s given" in note for note in found.notes)
    assert any("cannot show a loss of 2%" in note for note in found.notes)
    assert found.command.startswith(f"holdfast tune {model} --data {files['taught']} --keep")
    assert "--method full --budget 2%" in found.command
    assert not (folder / "out" / "model").exists()


def test_the_command_line(here, capsys):
    assert main(["advise", here[3], "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["recommended"]["recipe"] in said["command"]
    assert main(["advise", here[3], "--memory", "1MB", "--adapters-only"]) == 0
    assert "only adapters are wanted" in capsys.readouterr().out.replace("\n", " ")
    assert main(["advise", here[3], "--memory", "24"]) == 2
    assert "such as 24GB" in capsys.readouterr().err
    assert main(["advise", here[3], "--no-old-data", "--old-data", "x"]) == 2
    assert main(["advise", here[3], "--memory", "0.000001MB"]) == 10


def test_amounts():
    assert byte_count("24GB") == 24e9
    assert byte_count(" 2 gib") == 2 * 2**30
    assert second_count("2h") == 7200
    assert second_count("90s") == 90
    assert second_count("30min") == 1800
    for text in ("2", "-1h", "inf h", "h"):
        with pytest.raises(UsageError, match="such as 2h"):
            second_count(text)
