"""Learning and forgetting as functions of the accuracy matrix.

Every function takes :class:`Scores` and returns one number per matrix: its arrays may have any
leading axes (bootstrap replicates), and the result has exactly those axes.

Signs. As in the paper of narrow tuning (Zhu et al. 2025, arXiv 2510.08564) the *changes* TL, TF,
TO, HF and BWT are negative when the model got worse. The measures called ``forgetting_*`` are
positive when the model got worse, as their papers and libraries have them.

A cell that was not measured is NaN. A mean is over the tasks that were measured and NaN if there
is none; a total is NaN if a task of it was not measured. Nothing unmeasured ever counts as 0,
except where a named library's convention says so (``forgetting_mammoth``).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Scores:
    """Scores in percent; row k of a matrix is the model after stage k, row 0 the base model."""

    targets: Array
    """[..., K+1, T]: A[k][j], score on target j after stage k."""
    held_out: Array
    """[..., K+1, B]: H[k][b], score on held-out b after stage k."""
    learned: tuple[int, ...]
    """[T]: the stage (1-based) in which each target was trained."""

    @property
    def stages(self) -> int:
        """K, the number of the last stage."""
        return int(self.targets.shape[-2]) - 1

    @property
    def earlier(self) -> NDArray[np.bool_]:
        """[T]: targets that were trained before the last stage."""
        return np.array([k < self.stages for k in self.learned], dtype=bool)


def mean(values: Array) -> Array:
    """Mean over the last axis of what was measured; NaN where nothing was."""
    count = (~np.isnan(values)).sum(axis=-1)
    total = np.nansum(values, axis=-1)
    return np.asarray(np.where(count > 0, total / np.maximum(count, 1), np.nan), dtype=float)


def total(values: Array) -> Array:
    """Sum over the last axis; NaN if a term was not measured or there is no term."""
    if values.shape[-1] == 0:
        return np.full(values.shape[:-1], np.nan)
    return np.asarray(values.sum(axis=-1), dtype=float)


def own_stage(scores: Scores, before: int = 0) -> Array:
    """[..., T]: A[k_j - before][j], each target when its own stage k_j ends (or earlier)."""
    columns = []
    for j, stage in enumerate(scores.learned):
        row = stage - before
        known = 0 <= row <= scores.stages
        column = (
            scores.targets[..., row, j] if known else np.full(scores.targets.shape[:-2], np.nan)
        )
        columns.append(column)
    if not columns:
        return np.empty((*scores.targets.shape[:-2], 0))
    return np.stack(columns, axis=-1)


def learning(scores: Scores) -> Array:
    """[..., T]: A[k_j][j] - A[0][j], what each target gained in its own stage."""
    return own_stage(scores) - scores.targets[..., 0, :]


def change_since_learned(scores: Scores) -> Array:
    """[..., T]: A[K][j] - A[k_j][j]; the target of the last stage contributes 0."""
    return scores.targets[..., -1, :] - own_stage(scores)


def overall(scores: Scores) -> Array:
    """[..., T]: A[K][j] - A[0][j], for the targets that have been trained."""
    change = scores.targets[..., -1, :] - scores.targets[..., 0, :]
    return np.where(np.isnan(own_stage(scores)), np.nan, change)


def _complete(scores: Scores, values: Array) -> Array:
    """Keep the targets whose three cells are all measured, so that TO = TL + TF in every case."""
    return np.where(np.isnan(learning(scores) + change_since_learned(scores)), np.nan, values)


def held_out_change(scores: Scores) -> Array:
    """[..., K+1, B]: H[k][b] - H[0][b]."""
    return scores.held_out - scores.held_out[..., :1, :]


def held_out_curve(scores: Scores) -> Array:
    """[..., K+1]: HF_k = mean_b(H[k][b] - H[0][b]), over the held-outs measured at 0 and k."""
    return mean(held_out_change(scores))


def recovery(scores: Scores) -> Array:
    """R = max_{k >= m} HF_k - HF_m, m the stage 1..K with the lowest HF; 0 if nothing came back.

    NaN with fewer than two measured stages: there is nowhere to recover.
    """
    curve = held_out_curve(scores)[..., 1:]
    measured = ~np.isnan(curve)
    if curve.shape[-1] == 0:
        return np.full(curve.shape[:-1], np.nan)
    lowest = np.where(measured, curve, np.inf).argmin(axis=-1)[..., None]
    later = np.arange(curve.shape[-1]) >= lowest
    top = np.fmax.reduce(np.where(later, curve, np.nan), axis=-1)
    rise = top - np.take_along_axis(curve, lowest, axis=-1)[..., 0]
    return np.where(measured.sum(axis=-1) >= 2, rise, np.nan)


def worst_drop(scores: Scores) -> Array:
    """min_b(H[K][b] - H[0][b]): the change of the held-out that lost most."""
    change = held_out_change(scores)[..., -1, :]
    if change.shape[-1] == 0:
        return np.full(change.shape[:-1], np.nan)
    return np.asarray(np.fmin.reduce(change, axis=-1), dtype=float)


def average_accuracy(scores: Scores) -> Array:
    """ACC = mean_j R[K][j] (Lopez-Paz & Ranzato 2017, eq. 2), over the targets trained so far."""
    trained = np.array([k <= scores.stages for k in scores.learned], dtype=bool)
    return mean(scores.targets[..., -1, :][..., trained])


def backward_transfer(scores: Scores) -> Array:
    """BWT = mean_{j<T}(R[T][j] - R[j][j]) (Lopez-Paz & Ranzato 2017, eq. 3); NaN if T = 1."""
    return mean(change_since_learned(scores)[..., scores.earlier])


def forward_transfer(scores: Scores) -> Array:
    """FWT = mean_{j>=2}(R[j-1][j] - b[j]) (Lopez-Paz & Ranzato 2017, eq. 4); NaN if T = 1.

    b is row 0. In the paper that is a freshly initialised network; here it is the base model.
    """
    later = np.array([k >= 2 for k in scores.learned], dtype=bool)
    gain = own_stage(scores, before=1) - scores.targets[..., 0, :]
    return mean(gain[..., later])


def _best(scores: Scores, *, since_learned: bool) -> Array:
    """[..., T]: the best score on each target over the stages 1..K-1."""
    rows = scores.targets[..., 1:-1, :]
    if rows.shape[-2] == 0:
        return np.full((*rows.shape[:-2], rows.shape[-1]), np.nan)
    if since_learned:
        stage = np.arange(1, scores.stages)[:, None]
        rows = np.where(stage >= np.array(scores.learned), rows, np.nan)
    return np.asarray(np.fmax.reduce(rows, axis=-2), dtype=float)


def forgetting_chaudhry(scores: Scores) -> Array:
    """mean_{j<K}(max_{l in 1..K-1} R[l][j] - R[K][j]) (Chaudhry et al. 2018, eqs. 3 and 4).

    As published: the maximum is over all earlier stages, also those before j was trained; it
    excludes the untrained model (l = 0) and the last stage, so a late gain is negative.
    """
    drop = _best(scores, since_learned=False) - scores.targets[..., -1, :]
    return mean(drop[..., scores.earlier])


def forgetting_since_learned(scores: Scores) -> Array:
    """As :func:`forgetting_chaudhry` with l in j..K-1: a good zero-shot score is not knowledge."""
    drop = _best(scores, since_learned=True) - scores.targets[..., -1, :]
    return mean(drop[..., scores.earlier])


def forgetting_avalanche(scores: Scores) -> Array:
    """mean_{j<K}(R[j][j] - R[K][j]): when first learned minus last, no maximum (Avalanche 0.6)."""
    return -backward_transfer(scores)


def forgetting_mammoth(scores: Scores) -> Array:
    """mean_{j<K}(max_{l in 1..K} R[l][j] - R[K][j]), as Mammoth computes it (2026-05).

    The maximum includes the last stage (never negative) and zero-shot rows, and a cell that was
    not measured counts as 0. A missing last row stays NaN.
    """
    rows = scores.targets[..., 1:, :]
    if rows.shape[-2] == 0:
        return np.full(rows.shape[:-2], np.nan)
    drop = np.where(np.isnan(rows), 0.0, rows).max(axis=-2) - rows[..., -1, :]
    return mean(drop[..., scores.earlier])


@dataclass(frozen=True)
class Measure:
    """One number about a matrix: what it is called, what it reads and where it comes from."""

    name: str
    of: Literal["targets", "held_out"]
    compute: Callable[[Scores], Array]
    convention: str
    """Whose definition this is, for the output."""
    summary: str


_ZHU = "Zhu et al. 2025"
_GEM = "Lopez-Paz & Ranzato 2017"
_CHAUDHRY = "Chaudhry et al. 2018"

MEASURES: dict[str, Measure] = {
    m.name: m
    for m in (
        Measure(
            "target_learning", "targets",
            lambda s: mean(_complete(s, learning(s))), _ZHU,
            "mean gain on a target in its own stage (TL)",
        ),
        Measure(
            "target_forgetting", "targets",
            lambda s: mean(_complete(s, change_since_learned(s))), _ZHU,
            "mean change of a target since its own stage (TF; negative is loss)",
        ),
        Measure(
            "target_overall", "targets",
            lambda s: mean(_complete(s, overall(s))), _ZHU,
            "mean change of a target from the base to the end (TO = TL + TF)",
        ),
        Measure(
            "held_out_forgetting", "held_out",
            lambda s: held_out_curve(s)[..., -1], _ZHU,
            "mean change of a held-out task from the base to the end (HF; negative is loss)",
        ),
        Measure(
            "target_learning_total", "targets",
            lambda s: total(learning(s)), _ZHU, "TL summed over targets, as figure 1's bars",
        ),
        Measure(
            "target_forgetting_total", "targets",
            lambda s: total(change_since_learned(s)), _ZHU, "TF summed over targets",
        ),
        Measure(
            "target_overall_total", "targets",
            lambda s: total(overall(s)), _ZHU, "TO summed over targets",
        ),
        Measure(
            "held_out_forgetting_total", "held_out",
            lambda s: total(held_out_change(s)[..., -1, :]), _ZHU,
            "HF summed over held-out tasks, as figure 1's bars",
        ),
        Measure(
            "recovery", "held_out", recovery, "Holdfast",
            "rise of the mean held-out change after its lowest stage (R)",
        ),
        Measure(
            "worst_held_out_drop", "held_out", worst_drop, "Holdfast",
            "change of the held-out task that lost most",
        ),
        Measure(
            "average_accuracy", "targets", average_accuracy, _GEM,
            "mean score on the targets at the end (ACC)",
        ),
        Measure(
            "backward_transfer", "targets", backward_transfer, _GEM,
            "mean change of the earlier targets since their own stage (BWT; negative is loss)",
        ),
        Measure(
            "forward_transfer", "targets", forward_transfer, _GEM,
            "mean gain on a target before its own stage (FWT), over the base model",
        ),
        Measure(
            "forgetting_chaudhry2018", "targets", forgetting_chaudhry, _CHAUDHRY,
            "best of all earlier stages minus last, earlier targets (positive is loss)",
        ),
        Measure(
            "forgetting_chaudhry2018_since_learned", "targets", forgetting_since_learned,
            f"{_CHAUDHRY}, maximum from the target's own stage on",
            "best since learned minus last, earlier targets (positive is loss)",
        ),
        Measure(
            "forgetting_avalanche", "targets", forgetting_avalanche, "Avalanche 0.6",
            "first learned minus last, earlier targets (positive is loss)",
        ),
        Measure(
            "forgetting_mammoth", "targets", forgetting_mammoth, "Mammoth 2026-05",
            "best of all stages with the last minus last, unmeasured as 0 (never negative)",
        ),
    )
}  # fmt: skip
"""All measures by name, in the order in which they are printed."""
