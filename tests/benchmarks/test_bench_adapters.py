"""Adapters beside full tuning: the grid, the loss on old answers, the page."""

import json
import math

import pytest
import torch

from holdfast.benchmarks import adapters
from holdfast.benchmarks.adapters import bench_adapters, cross_entropy, members
from holdfast.data import Encoder, read
from holdfast.errors import UnknownName
from holdfast.methods import plan
from holdfast.models.loading import load_all
from holdfast.tasks import load_task


def test_every_run_has_its_own_folder_and_plan(tmp_path):
    grid = members(tmp_path, list(adapters.RECIPES), 3)
    assert len({m.config.out for m in grid}) == len(grid) == 3 * 3 * 4
    for m in grid:
        plan(list(m.config.methods))
    with pytest.raises(UnknownName, match="lora on mlp"):
        members(tmp_path, ["lora on all"], 1)


def test_cross_entropy_is_that_of_a_slow_loop(monkeypatch):
    monkeypatch.setattr(adapters, "TEXTS", 2)
    monkeypatch.setattr(adapters, "BATCH", 3)
    loaded = load_all("lab:lm")
    encoder = Encoder(loaded.processor)
    logs = []
    abilities = [t.name for t in load_task("lab:held-out", model="lab:lm", limit=1)]
    for record in (r for name in abilities for r in read(name, split="test", limit=2)):
        ids, labels = (encoder(record)[k] for k in ("input_ids", "labels"))
        with torch.no_grad():
            logits = loaded.model(ids[None]).logits[0].double()
        for position in range(len(ids) - 1):
            if labels[position + 1] == -100:
                continue
            p = logits[position].softmax(0)[ids[position + 1]]
            logs.append(-math.log(float(p)))
    assert cross_entropy("lab:lm") == pytest.approx(sum(logs) / len(logs), abs=1e-6)


def test_a_small_grid_ends_with_its_page(tmp_path, monkeypatch):
    monkeypatch.setattr(adapters, "STEPS", 2)
    monkeypatch.setattr(adapters, "QUESTIONS", 4)
    monkeypatch.setattr(adapters, "TEXTS", 4)
    monkeypatch.setattr(adapters, "RATES", {"full": (1e-3,)})
    page = bench_adapters(tmp_path / "runs", docs=tmp_path / "docs", recipes=["full"], seeds=1)
    said = json.loads((tmp_path / "docs" / "comparison.json").read_text())["sections"]
    table = said["In the form of PEFT's comparison"][1]
    assert [row[:2] for row in table["rows"]] == [["full", "0.001"]]
    assert "LoRA r10 on the MLP" in page.read_text()
