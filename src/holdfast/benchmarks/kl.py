"""Whether what was forgotten goes with how far the outputs moved on the new tasks.

Shenfeld et al. 2025 ("RL's Razor", arXiv 2509.04259) find that forgetting follows the forward KL
divergence of the tuned model from the base, measured on the new task.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from holdfast.benchmarks.collect import Finished
from holdfast.progress import Progress

PROMPTS = 24
"""Of each skill."""
MEASURE = "forward_kl"


def of_drift(
    finished: Sequence[Finished], skills: Sequence[str], *, progress: Progress | None = None
) -> list[str]:
    """Sentences: the rank correlation over the runs, for each skill's prompts.

    Every run's model is loaded once and reads 24 test prompts of each skill, with their answers.
    """
    from pathlib import Path

    from holdfast.data import read
    from holdfast.probes import PROBES, relate
    from holdfast.probes._over_runs import measured, probe_runs
    from holdfast.probes._relate import FEWEST

    runs = [Path(f.member.config.out) for f in finished]
    forgetting = measured(runs)
    if len(forgetting) < FEWEST:
        return [f"{len(forgetting)} runs are too few for a correlation; it takes {FEWEST}."]
    prompts = {skill: list(read(skill, limit=PROMPTS, split="test")) for skill in skills}
    results = probe_runs(runs, {PROBES["divergence"].value: {}}, prompts, progress=progress)
    found = {r.data: r for r in relate(results, forgetting) if r.measure == MEASURE}
    lines = [
        "KL(base || tuned) on the prompts of a skill that was taught, against the points lost on "
        "the held-out tasks, over all runs (Spearman's coefficient, 95% over runs; runs of one "
        "recipe are not independent):"
    ]
    for skill in skills:
        r = found.get(skill)
        if r is not None and not math.isnan(r.spearman.value):
            lines.append(f"{skill}: {r.spearman:+.2f}, {r.n} runs.")
    return lines
