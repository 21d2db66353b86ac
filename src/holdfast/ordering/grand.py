"""GraNd: the norm of an example's gradient."""

from __future__ import annotations

from collections.abc import Sequence

from holdfast.ordering._registry import Work, scorer
from holdfast.ordering.chunks import by_chunks
from holdfast.ordering.losses import scoped
from holdfast.ordering.per_example import PerExample


@scorer(
    "grand",
    summary="norm of each example's gradient",
    paper="Paul et al. 2021, arXiv 2107.07075",
)
def grand(work: Work) -> list[float]:
    """||grad l_n(theta)||_2 of an example's mean loss, over the weights in scope.

    Paul, Ganguli and Dziugaite, "Deep Learning on a Data Diet", 2021, definition 2.1, at the
    model's own weights (the paper averages over initialisations, after a few epochs). One
    ordinary forward and backward pass a batch; no example's gradient is formed.
    """
    read = PerExample(work.model, scoped(work))

    def norms(indices: Sequence[int]) -> list[list[float]]:
        found = read(work.batch(work.examples, indices))
        return [[v] for v in found.squares.sqrt().tolist()]

    return [value for (value,) in by_chunks(work, "norms.jsonl", norms, "GraNd")]
