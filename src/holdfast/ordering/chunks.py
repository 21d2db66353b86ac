"""Numbers for every example, chunk after chunk, so that a killed process goes on with the next."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from holdfast.errors import RunError
from holdfast.ordering._registry import Work
from holdfast.runs.files import Lines

CHUNK = 256
"""Examples whose numbers are written together. They are batched by length within a chunk, so
that a number does not depend on where a process was killed."""

Row = list[float]
"""The numbers of one example."""


def by_chunks(
    work: Work,
    file: str,
    compute: Callable[[Sequence[int]], Sequence[Row]],
    label: str,
) -> list[Row]:
    """``compute`` of batches of indices, for all examples.

    Args:
        file: in the work's folder; whole chunks that are there are not computed again.
        compute: for a batch of indices of ``work.examples``, each one's numbers.
        label: of the bar.

    Raises:
        RunError: a file cannot be written, is damaged, or a number is not finite.
    """
    lines = Lines(work.folder / file)
    total = len(work.examples)
    rows = _known(lines, total)
    with work.progress.bar(label) as advance:
        for start in range(len(rows), total, CHUNK):
            indices = range(start, min(start + CHUNK, total))
            found: dict[int, Row] = {}
            for batch in batches(work, indices):
                found |= dict(zip(batch, map(list, compute(batch)), strict=True))
                advance(start + len(found), total)
            _finite(work, found)
            values = [found[i] for i in indices]
            lines.append({"start": start, "rows": values})
            rows += values
    return rows


def batches(work: Work, indices: Sequence[int]) -> Iterator[list[int]]:
    """``indices`` in batches of like lengths."""
    order = sorted(indices, key=lambda i: (len(work.examples[i]["input_ids"]), i))
    for start in range(0, len(order), work.batch_size):
        yield order[start : start + work.batch_size]


def _known(lines: Lines, total: int) -> list[Row]:
    rows: list[Row] = []
    lines.path.parent.mkdir(parents=True, exist_ok=True)
    for line in lines.read():
        if line.get("start") != len(rows) or len(rows) + len(line.get("rows", ())) > total:
            raise RunError(f"{lines.path} is not of this data; delete {lines.path.parent}.")
        rows += line["rows"]
    return rows


def _finite(work: Work, found: dict[int, Row]) -> None:
    odd = [i for i, row in found.items() if not all(abs(v) < float("inf") for v in row)]
    if odd:
        raise RunError(
            f"the score of record {name_of(work.examples, min(odd))} is not a finite number: "
            "leave the record out, or give a smaller learning rate where the scorer trains."
        )


def name_of(examples: Sequence[object], index: int) -> str:
    """What the user calls an example."""
    records = getattr(examples, "records", None)
    return str(index) if records is None else repr(records[index].id)[:80]
