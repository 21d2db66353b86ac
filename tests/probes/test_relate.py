from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from probe_models import noisy, text_pair
from scipy import stats

from holdfast.config import resolve
from holdfast.errors import RunError, UsageError
from holdfast.measures.interval import Estimate
from holdfast.models import save_delta
from holdfast.models.source import fingerprint
from holdfast.probes import PROBES, ProbeResult, ProbeRow, probe_runs, relate
from holdfast.probes._over_runs import measured, runs_in
from holdfast.probes._relate import correlation, page, ranks
from holdfast.runs import Run
from holdfast.tasks import Answer, TaskResult


def result(**values: float) -> ProbeResult:
    rows = [ProbeRow("p", name, "pair", Estimate(v), "u", 0.0) for name, v in values.items()]
    return ProbeResult("p", (*rows, ProbeRow("p", "reading", "base", Estimate(1.0), "u")))


def test_coefficients_are_scipys():
    rng = np.random.default_rng(0)
    x, lost = rng.normal(size=12), rng.normal(size=12)
    x[3] = x[7]
    runs = {f"r{i}": [result(a=x[i])] for i in range(12)}
    (found,) = relate(runs, {f"r{i}": lost[i] for i in range(12)})
    assert found.pearson.value == pytest.approx(stats.pearsonr(x, lost)[0])
    assert found.spearman.value == pytest.approx(stats.spearmanr(x, lost)[0])
    assert found.n == found.pearson.n == 12
    assert found.pearson.low < found.pearson.value < found.pearson.high


def test_a_perfect_and_an_unrelated_measure():
    rng = np.random.default_rng(1)
    lost = {f"r{i}": float(i) for i in range(30)}
    runs = {r: [result(same=v**3, opposite=-v, noise=rng.normal(), constant=2.0)]
            for r, v in lost.items()}  # fmt: skip
    found = {r.measure: r for r in relate(runs, lost)}
    assert found["same"].spearman.value == pytest.approx(1)
    assert 0.8 < found["same"].pearson.value < 1
    assert found["opposite"].pearson.value == pytest.approx(-1)
    assert found["noise"].spearman.low < 0 < found["noise"].spearman.high
    assert math.isnan(found["constant"].pearson.value)
    assert math.isnan(found["constant"].pearson.low)
    assert "reading" not in found
    text = page(relate(runs, lost), lost)
    assert "4 numbers were tried" in text
    assert "| p constant | 30 | constant | constant |" in text


def test_the_interval_holds_the_truth():
    """A nominal 95% over 60 sweeps of 25 runs with a known correlation of 0.6."""
    rng = np.random.default_rng(2)
    hits = 0
    for _ in range(60):
        x, noise = rng.normal(size=(2, 25))
        y = 0.6 * x + 0.8 * noise
        runs = {str(i): [result(a=x[i])] for i in range(25)}
        lost = {str(i): float(y[i]) for i in range(25)}
        (found,) = relate(runs, lost, resamples=200)
        hits += found.pearson.low <= 0.6 <= found.pearson.high
    assert 50 <= hits <= 60


def test_runs_without_a_value_are_left_out():
    runs = {f"r{i}": [result(a=float(i), b=float("nan") if i < 2 else 1.0 * i)] for i in range(6)}
    lost = {f"r{i}": float(i) for i in range(6)} | {"r5": float("nan")}
    found = {r.measure: r for r in relate(runs, lost)}
    assert found["a"].n == 5
    assert found["b"].n == 3
    assert math.isnan(found["b"].pearson.value)
    with pytest.raises(UsageError, match=r"3 runs have both.*at least 4"):
        relate({k: runs[k] for k in ("r0", "r1", "r2")}, lost)


def test_ties_share_their_mean_rank_and_constants_have_no_coefficient():
    assert ranks(np.array([[3.0, 1.0, 3.0]])).tolist() == [[2.5, 1.0, 2.5]]
    flat = np.full((1, 5), 0.1)
    assert math.isnan(correlation(flat, np.arange(5.0)[None])[0])


def sweep(folder: Path) -> list[Path]:
    """Four finished runs of a tiny model: the further it moved, the more it lost."""
    base, tokenizer, _ = text_pair()
    home, held = folder / "base", folder / "held.jsonl"
    base.save_pretrained(home)
    tokenizer.save_pretrained(home)
    (folder / "taught.jsonl").touch()
    held.write_text('{"question": "yes or no", "answer": "yes"}\n')
    paths = []
    for k, scale in enumerate((0.01, 0.03, 0.1, 0.3)):
        path = folder / "runs" / f"run{k}"
        config = resolve(
            {
                "model": str(home),
                "data": [str(folder / "taught.jsonl")],
                "methods": "full",
                "tasks": [str(held)],
                "out": str(path),
                "seed": k,
            }
        )
        run = Run.start(config)
        run.begin()
        for stage, right in ((0, 10), (1, 10 - 2 * k)):
            answers = tuple(
                Answer("held", str(i), "yes", ("yes",), float(i < right), "yes") for i in range(10)
            )
            run.record(stage, "held-out", TaskResult("held", answers))
            run.record(stage, "target", TaskResult("taught", answers))
        names = [n for n, _ in base.named_parameters()]
        save_delta(
            run.model, noisy(base, scale), names, base=str(home), base_folder=home,
            base_hash=fingerprint(home),
        )  # fmt: skip
        run.finish()
        run.unlock()
        paths.append(path)
    return paths


def test_over_the_runs_of_a_sweep(tmp_path: Path, capsys: Any):
    runs = sweep(tmp_path)
    assert runs_in([tmp_path / "runs"]) == sorted(runs)
    prompts = text_pair()[2]
    probes = {
        PROBES["divergence"].value: {"lengths": False},
        PROBES["weights"].value: {"spectral": False},
        PROBES["layers"].value: {},
    }
    found = probe_runs(runs, probes, {"held": prompts})
    assert set(found) == {str(p) for p in runs}
    moved = [_kl(found[str(p)]) for p in runs]
    assert moved == sorted(moved)
    assert moved[0] > 0
    lost = measured(runs)
    assert lost == pytest.approx({str(p): 20.0 * k for k, p in enumerate(runs)})
    strongest = {(r.probe, r.measure, r.part): r for r in relate(found, lost)}
    assert strongest["divergence", "forward_kl", ""].spearman.value == pytest.approx(1)
    with pytest.raises(RunError, match="no finished run"):
        runs_in([tmp_path / "base"])

    from holdfast.cli import main

    out = tmp_path / "page"
    code = main(
        ["probe", "--over", str(tmp_path / "runs"), "--probe", "divergence", "--data",
         str(tmp_path / "held.jsonl"), "--out", str(out), "--quiet"]
    )  # fmt: skip
    assert code == 0
    assert "Which probe goes with forgetting" in capsys.readouterr().out
    assert "| divergence forward_kl" in (out / "drift.md").read_text()
    assert (out / "drift.json").exists()
    written = (out / "drift.html").read_text(encoding="utf-8")
    assert "goes with forgetting most closely: Spearman" in written
    assert written.count('<svg class="plot bare"') > 3


def _kl(results: list[ProbeResult]) -> float:
    (value,) = [r["forward_kl"].value for r in results if r.probe == "divergence"]
    return value
