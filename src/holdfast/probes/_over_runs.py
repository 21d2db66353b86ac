"""Probes over the finished runs of a sweep."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from holdfast.data.records import Record
from holdfast.errors import RunError, UsageError
from holdfast.probes._registry import Measure, Probe
from holdfast.probes._rows import ProbeResult
from holdfast.progress import Progress
from holdfast.runs import Run


def forgotten(path: Path) -> float:
    """Points that a finished run lost on its held-out tasks (positive: lost); NaN if none.

    Raises :class:`RunError` for a folder without a finished run.
    """
    from holdfast.report.run import summary_of

    run = Run.read(path)
    if not run.finished:
        raise RunError(f"{path} is not finished, so what it forgot is not known yet.")
    return -summary_of(run).measures["held_out_forgetting"].value


def probe_runs(
    runs: Sequence[Path],
    probes: Mapping[Probe, Mapping[str, Any]],
    prompts: Mapping[str, Sequence[Record]],
    *,
    progress: Progress | None = None,
) -> dict[str, list[ProbeResult]]:
    """Every probe on every run's model against the base that it was tuned from.

    The base is loaded once, and read once by the probes that allow it; the tuned models are
    loaded one after another.

    Args:
        probes: with the settings of each.
        prompts: by name of their data.

    Raises:
        UsageError: the runs were tuned from several bases.
        ModelError: a model does not load, or its base is another one now.
    """
    from holdfast.models.loading import load_all

    bases = {Run.read(path).config.model for path in runs}
    if len(bases) != 1:
        raise UsageError(
            f"the runs were tuned from {', '.join(sorted(bases)) or 'nothing'}; give runs of one "
            "sweep, with one base."
        )
    base = load_all(bases.pop())
    ready: dict[tuple[str, str], Measure] = {}
    for probe, settings in probes.items():
        for name, records in prompts.items() if probe.prepare and not probe.weights else ():
            assert probe.prepare is not None
            ready[probe.name, name] = probe.prepare(base.model, base.processor, records, **settings)
    found: dict[str, list[ProbeResult]] = {}
    with (progress or Progress()).bar("runs") as advance:
        for done, path in enumerate(runs, 1):
            tuned = load_all(str(path)).model
            results = []
            for probe, settings in probes.items():
                if probe.weights:
                    results.append(probe(base.model, tuned, **settings))
                    continue
                for name, records in prompts.items():
                    measure = ready.get((probe.name, name))
                    result = (
                        measure(tuned)
                        if measure is not None
                        else probe(base.model, tuned, base.processor, records, **settings)
                    )
                    results.append(result.named(name))
            found[str(path)] = results
            advance(done, len(runs))
    return found


def measured(runs: Sequence[Path]) -> dict[str, float]:
    """:func:`forgotten` of each run that has held-out tasks."""
    values = {str(path): forgotten(path) for path in runs}
    return {path: value for path, value in values.items() if not math.isnan(value)}


def runs_in(folders: Sequence[Path]) -> list[Path]:
    """The finished runs among some folders, or one level below them, in order.

    A run without a stage of training (a grid's base) is left out.

    Raises :class:`RunError` if there is none.
    """
    found: list[Path] = []
    for folder in folders:
        candidates = [folder] if (folder / "run.yaml").exists() else sorted(folder.glob("*/"))
        found += [
            p for p in candidates
            if (p / "finished.json").exists() and (p / "model" / "delta.json").exists()
        ]  # fmt: skip
    if not found:
        raise RunError(
            f"there is no finished run in {', '.join(str(f) for f in folders)}; name run folders, "
            "or a folder that holds them."
        )
    return list(dict.fromkeys(found))
