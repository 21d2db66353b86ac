"""What a run measures goes to the trackers that it names, as one curve."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import ClassVar

import pytest
from transformers import TrainerCallback
from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK

from holdfast.config import resolve
from holdfast.engine import trackers
from holdfast.engine.tune import tune
from holdfast.errors import MissingExtra, UnknownName

sys.path.insert(0, str(Path(__file__).parents[1] / "e2e"))
from tiny_world import make_world


class Fake(TrainerCallback):
    """Keeps what it is told."""

    told: ClassVar[list[tuple[int, dict[str, float]]]] = []
    events: ClassVar[list[str]] = []
    names: ClassVar[list[str]] = []

    def on_train_begin(self, args, state, control, **kwargs):
        self.events.append("begin")
        self.names.append(args.run_name)
        assert kwargs["model"].config.model_type == "llama"

    def on_train_end(self, args, state, control, **kwargs):
        self.events.append("end")

    def on_log(self, args, state, control, logs=None, **kwargs):
        assert state.is_world_process_zero
        self.told.append((state.global_step, dict(logs)))


@pytest.fixture
def fake(monkeypatch):
    for kept in (Fake.told, Fake.events, Fake.names):
        kept.clear()
    monkeypatch.setitem(INTEGRATION_TO_CALLBACK, "fake", Fake)
    monkeypatch.setattr(trackers, "get_available_reporting_integrations", lambda: ["fake"])
    return Fake


def run(folder, **train):
    values = make_world(folder)
    values["train"] |= train
    values |= {"out": str(folder / "run"), "evaluate": {"every": 4, "sample": 4}}
    return tune(resolve(values))


def steps_with(key: str) -> list[int]:
    return [step for step, logs in Fake.told if key in logs]


def test_losses_scores_and_measures_of_all_stages_are_one_curve(fake, tmp_path) -> None:
    done = run(tmp_path, report_to=["fake"])
    assert fake.events == ["begin", "end"]
    assert fake.names == ["run"]
    assert steps_with("loss") == list(range(1, 17))
    after = [(step, logs) for step, logs in fake.told if "stage" in logs]
    assert [(step, logs["stage"]) for step, logs in after] == [(0, 0), (8, 1), (16, 2)]
    for (_, logs), stage in zip(after, (0, 1, 2), strict=True):
        scores = {f"score/{r['task']}": r["score"] for r in done.scores(stage)}
        assert scores == {k: v for k, v in logs.items() if k != "stage"}
        assert len(scores) == 3
    (held_out,) = done.tasks("held-out")
    sampled = [s for s, x in fake.told if f"score/{held_out}" in x and "stage" not in x]
    assert sampled == [0, 4, 8, 8, 12, 16]
    last, measures = fake.told[-1]
    assert last == 16
    assert {"measure/target_learning", "measure/held_out_forgetting"} <= set(measures)


def test_nothing_is_reported_unless_it_is_named(fake, tmp_path) -> None:
    run(tmp_path)
    assert (fake.told, fake.events) == ([], [])


def test_a_run_that_is_finished_reports_nothing_again(fake, tmp_path) -> None:
    run(tmp_path, report_to=["fake"])
    fake.told.clear()
    run(tmp_path, report_to=["fake"])
    assert fake.told == []


def test_a_tracker_that_is_not_there_is_said_before_anything_runs(tmp_path) -> None:
    with pytest.raises(UnknownName, match="nosuch"):
        trackers.check_trackers(["nosuch"])
    with pytest.raises(MissingExtra, match="pip install mlflow"):
        trackers.check_trackers(["mlflow"])


def test_tensorboard_has_them(tmp_path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run(tmp_path, report_to=["tensorboard"])
    (file,) = (tmp_path / "run").rglob("events.out.tfevents.*")
    read = EventAccumulator(str(file))
    read.Reload()
    assert [e.step for e in read.Scalars("train/loss")] == list(range(1, 17))
    assert [e.step for e in read.Scalars("train/stage")] == [0, 8, 16]
