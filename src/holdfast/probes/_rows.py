"""What a probe gives back: typed rows, each a number with its interval."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

import numpy as np

from holdfast.errors import UsageError
from holdfast.measures.formulas import Array
from holdfast.measures.interval import (
    Estimate,
    bootstrap_change,
    bootstrap_mean,
    count_units,
    percentile,
    resample,
    unit_name,
)

Side = Literal["base", "tuned", "change", "pair"]


@dataclass(frozen=True)
class ProbeRow:
    """One number that a probe measured."""

    probe: str
    measure: str
    side: Side
    """Of the base, of the tuned model, tuned minus base, or of both together (a divergence)."""
    estimate: Estimate
    unit: str
    neutral: float | None = None
    """The value for a model compared with itself; None for a reading of one model."""
    data: str = ""
    """The prompts' name."""
    token_class: str = ""
    tower: str = ""
    block: int | None = None
    part: str = ""
    """The unit (``attn``, ``mlp.down``), for probes of weights and layers."""
    note: str = ""

    @property
    def value(self) -> float:
        return self.estimate.value

    def to_json(self) -> dict[str, Any]:
        """One flat mapping: a line of a data frame. What was not measured is None."""
        plain = asdict(self)
        del plain["estimate"]
        return {**plain, **self.estimate.to_json()}


@dataclass(frozen=True)
class ProbeResult:
    """What one probe says about one pair of models on one set of prompts."""

    probe: str
    rows: tuple[ProbeRow, ...]
    facts: Mapping[str, Any] = field(default_factory=dict)
    """What the numbers were made from: positions, tokens of a class, where answers come from."""

    def find(self, measure: str, side: Side | None = None, **where: object) -> list[ProbeRow]:
        """Rows of a measure; ``where`` are further fields (``token_class="numbers"``)."""
        return [
            r
            for r in self.rows
            if r.measure == measure
            and (side is None or r.side == side)
            and all(getattr(r, key) == value for key, value in where.items())
        ]

    def __getitem__(self, key: tuple[str, Side] | str) -> Estimate:
        """The one estimate of ``measure`` or ``(measure, side)``.

        Raises :class:`UsageError` if there is none or there are several; use :meth:`find` then.
        """
        measure, side = (key, None) if isinstance(key, str) else key
        found = self.find(measure, side)
        if len(found) != 1:
            known = sorted({f"({r.measure}, {r.side})" for r in self.rows})
            raise UsageError(
                f"the probe '{self.probe}' gave {len(found)} rows of {key}; choose one with "
                f"find(measure, side, ...). There is: {', '.join(known)}"
            )
        return found[0].estimate

    def named(self, data: str) -> ProbeResult:
        """The same result with the prompts' name in every row."""
        return replace(self, rows=tuple(replace(r, data=data) for r in self.rows))

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "probe": self.probe,
            "facts": dict(self.facts),
            "rows": [r.to_json() for r in self.rows],
        }


def frame(results: Sequence[ProbeResult]) -> list[dict[str, Any]]:
    """The rows of several results as flat records: ``pandas.DataFrame(frame(results))``."""
    return [row.to_json() for result in results for row in result.rows]


def compared(
    like: ProbeRow, base: Array, tuned: Array, clusters: Sequence[str]
) -> tuple[ProbeRow, ProbeRow, ProbeRow]:
    """The rows of base, tuned and change, from one number per example ([n] each, NaN: none).

    Args:
        like: a row with everything but side, estimate and neutral.
    """
    return (
        replace(like, side="base", estimate=bootstrap_mean(base, clusters)),
        replace(like, side="tuned", estimate=bootstrap_mean(tuned, clusters)),
        replace(like, side="change", estimate=bootstrap_change(base, tuned, clusters), neutral=0.0),
    )


def per_token(sums: Array, counts: Array, clusters: Sequence[str]) -> Estimate:
    """Mean over all tokens: sum of ``sums`` / sum of ``counts`` ([n] each, one per example).

    The interval resamples examples (or clusters), not tokens, which are not independent.
    """
    columns = np.stack([sums, counts], axis=1)
    drawn = resample(columns, clusters, rng=np.random.default_rng(0))
    total = float(counts.sum())
    value = float(sums.sum()) / total if total else float("nan")
    replicates = drawn[:, 0] / np.where(drawn[:, 1] > 0, drawn[:, 1], np.nan)
    method = f"percentile bootstrap over {unit_name(clusters)}, per token"
    used = [c for c, n in zip(clusters, counts, strict=True) if n]
    units = count_units(len(used), used)
    return percentile(value, replicates, n=units, method=method)
