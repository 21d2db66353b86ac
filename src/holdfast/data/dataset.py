"""Data sets: records read from anything that holds them."""

from __future__ import annotations

import itertools
import os
import random
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, overload

from holdfast.data.convert import Draft
from holdfast.data.files import Row
from holdfast.data.formats import SEEN, Format, detect, named_format
from holdfast.data.locate import Locator
from holdfast.data.problems import Problems
from holdfast.data.records import Record
from holdfast.errors import UsageError


class DataSet(Sequence[Record]):
    """Records, with what they were read from.

    Attributes:
        source: what :func:`read` was given, as text.
        name: a short name for tables and files.
        format: the format that the rows were in, to be shown to the user.
        notices: sentences about what was done to the rows on the way.
    """

    def __init__(
        self,
        records: Sequence[Record],
        *,
        source: str,
        name: str,
        format: str,
        notices: Sequence[str] = (),
    ) -> None:
        self._records = list(records)
        self.source, self.name, self.format = source, name, format
        self.notices = tuple(notices)

    def __len__(self) -> int:
        return len(self._records)

    @overload
    def __getitem__(self, index: int) -> Record: ...
    @overload
    def __getitem__(self, index: slice) -> DataSet: ...
    def __getitem__(self, index: int | slice) -> Record | DataSet:
        if isinstance(index, slice):
            return self._with(self._records[index])
        return self._records[index]

    def __iter__(self) -> Iterator[Record]:
        return iter(self._records)

    def __repr__(self) -> str:
        return f"DataSet({self.source!r}, {len(self)} records, format={self.format!r})"

    def sample(self, n: int, *, seed: int = 0) -> DataSet:
        """At most ``n`` records, drawn without replacement, in their own order."""
        chosen = random.Random(seed).sample(range(len(self)), min(n, len(self)))
        return self._with([self._records[i] for i in sorted(chosen)])

    def _with(self, records: Sequence[Record]) -> DataSet:
        return DataSet(
            records, source=self.source, name=self.name, format=self.format, notices=self.notices
        )


def records_of(
    rows: Iterator[Row],
    problems: Problems,
    *,
    prefix: str,
    locate: Locator,
    format: str | None = None,
    limit: int | None = None,
) -> tuple[list[Record], str, list[str]]:
    """Convert rows to records: the records, the format's name, and notices.

    All rows up to ``limit`` are looked at; what is wrong with any of them goes to
    ``problems``, and the caller raises those.

    Raises:
        DataError: no format fits, or two fit equally well.
    """
    seen = list(itertools.islice(rows, SEEN if limit is None else min(SEEN, limit)))
    if not seen:
        if not problems:
            problems.add("the file", "no records", "at least one")
        return [], format or "", []
    kind = named_format(format) if format else detect([r for _, r in seen], problems.source)
    more = rows if limit is None else itertools.islice(rows, max(0, limit - len(seen)))
    builder = _Builder(kind, problems, prefix, locate)
    records = [r for place, row in itertools.chain(seen, more) if (r := builder(place, row))]
    return records, kind.name, builder.notices()


class _Builder:
    """Builds the records of one file and keeps count of what was noticed."""

    def __init__(self, kind: Format, problems: Problems, prefix: str, locate: Locator) -> None:
        self.kind, self.problems, self.prefix, self.locate = kind, problems, prefix, locate
        self._noticed: Counter[str] = Counter()
        self._ids: set[str] = set()

    def __call__(self, place: str, row: Mapping[str, Any]) -> Record | None:
        try:
            draft = Draft(row, self.locate)
            self.kind.convert(draft)
        except RecursionError:
            self.problems.add(place, "a value that is nested too deeply", "a record")
            return None
        record = draft.finish(self._id(place, row), raw=self.kind.raw)
        for problem in draft.problems:
            self.problems.add(f"{place}, {problem.name}", problem.found, problem.expected)
        if draft.notice:
            self._noticed[draft.notice] += 1
        return record

    def notices(self) -> list[str]:
        return [f"{self.problems.source}: {n} records {what}" for what, n in self._noticed.items()]

    def _id(self, place: str, row: Mapping[str, Any]) -> str:
        """The row's own id where it has one that no other row has; else its place."""
        where = f"{self.prefix}:{place.rsplit(' ', 1)[-1]}"
        given = row.get("id")
        short = isinstance(given, int) and given.bit_length() < 1000
        name = str(given) if short or (isinstance(given, str) and given) else where
        if name in self._ids:
            name = f"{name}@{where}"
        self._ids.add(name)
        return name


def read(
    source: str | Path | Iterable[Mapping[str, Any]] | Any,
    *,
    limit: int | None = None,
    split: str | None = None,
    image_root: str | Path | None = None,
    format: str | None = None,
) -> DataSet:
    """Read a data set of any common format.

    Args:
        source: a .jsonl, .json, .csv or .parquet file; a folder of such files, or one written
            by ``datasets``' ``save_to_disk``; a LLaVA list (.yaml) of files with sampling
            strategies; ``lab:NAME``; a hub id; a list of dicts; or a ``datasets.Dataset``.
        limit: read at most this many records, from the start.
        split: which split of a source that has several; ``train`` if it has one.
        image_root: the folder that images lie in, if it is not the data file's own. Paths that
            lead out of the folder are refused.
        format: the format of the rows, where it cannot be told from their fields: messages,
            prompt-completion, text, alpaca, sharegpt, llava, question-answer.

    Raises:
        DataError: the source is missing, or anything in it is wrong; ``problems`` has all of it.
        UsageError: an option that is not possible.
    """
    from holdfast.data.sources import open_source

    if limit is not None and limit < 1:
        raise UsageError(f"limit={limit}: at least one record is needed")
    if format is not None:
        named_format(format)
    root = Path(image_root) if image_root is not None else None
    if root is not None and not os.path.isdir(root):
        raise UsageError(f"image_root={str(root)!r} is not a folder")
    return open_source(source, limit=limit, split=split, root=root, format=format)
