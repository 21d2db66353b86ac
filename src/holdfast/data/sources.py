"""Where records come from: files, folders, lists of files, the lab, the hub, Python values."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from holdfast.data.dataset import DataSet, records_of
from holdfast.data.files import SUFFIXES, file_rows
from holdfast.data.locate import Locator
from holdfast.data.problems import Problems, shown
from holdfast.data.records import Record
from holdfast.errors import DataError, UsageError


@dataclass(frozen=True)
class Options:
    """What :func:`holdfast.data.read` was told besides the source."""

    limit: int | None = None
    split: str | None = None
    root: Path | None = None
    format: str | None = None


def open_source(
    source: Any, *, limit: int | None, split: str | None, root: Path | None, format: str | None
) -> DataSet:
    """Read ``source``, whatever it is; see :func:`holdfast.data.read`."""
    options = Options(limit, split, root, format)
    if isinstance(source, DataSet):
        return source if limit is None else source[:limit]
    if isinstance(source, str) and source.startswith("lab:"):
        return _lab(source, options)
    if isinstance(source, str | os.PathLike):
        return _path(os.fspath(source), options)
    if isinstance(source, Mapping) or not isinstance(source, Iterable):
        raise UsageError(
            f"{type(source).__name__} is not a data set; give a path, a hub id, lab:NAME, a list "
            "of dicts or a datasets.Dataset"
        )
    if hasattr(source, "features") and hasattr(source, "column_names"):
        from holdfast.data.hub import undecoded

        return python_rows(undecoded(source), options, source="<datasets.Dataset>", name="dataset")
    return python_rows(source, options)


def _path(source: str, options: Options) -> DataSet:
    path = Path(source)
    if not source or "\0" in source:
        raise DataError(f"{shown(source)} is not a path")
    if os.path.isdir(path):
        from holdfast.data.folders import read_folder

        return read_folder(path, options)
    if path.suffix.lower() in (".yaml", ".yml"):
        from holdfast.data.folders import read_mixture

        return read_mixture(path, options)
    if os.path.isfile(path) or path.suffix.lower() in SUFFIXES:
        return read_file(path, options)
    from holdfast.data.hub import looks_like_hub_id, read_hub

    if looks_like_hub_id(source):
        return read_hub(source, options)
    raise DataError(
        f"there is no data at {shown(source)}: it is no file, no folder, and not written like a "
        f"hub id (name or owner/name). Data files are {', '.join(SUFFIXES)}, .yaml"
    )


def read_file(path: Path, options: Options) -> DataSet:
    """One data file.

    Raises:
        DataError: with every problem of the file.
    """
    if not os.path.isfile(path):
        raise DataError(f"there is no data file {shown(str(path), 4096)}")
    problems = Problems(str(path))
    records, format, notices = records_of(
        file_rows(path, problems),
        problems,
        prefix=path.name,
        locate=Locator(path.parent, options.root),
        format=options.format,
        limit=options.limit,
    )
    problems.raise_if_any()
    return DataSet(records, source=str(path), name=path.stem, format=format, notices=notices)


def python_rows(
    rows: Iterable[Any],
    options: Options,
    *,
    source: str = "<rows>",
    name: str = "rows",
    base: Path | None = Path(),
) -> DataSet:
    """Rows that are Python values: dicts, or records already.

    Their image paths start from the working directory and stay inside it, unless ``image_root``
    says otherwise; rows of a hub data set have no folder, so they have no paths.
    """
    problems = Problems(source)
    values = list(itertools.islice(iter(rows), options.limit))
    if values and all(isinstance(v, Record) for v in values):
        return DataSet(values, source=source, name=name, format="records")
    numbered = []
    for number, row in enumerate(values, 1):
        if isinstance(row, Mapping):
            numbered.append((f"row {number}", dict(row)))
        else:
            problems.add(f"row {number}", f"{type(row).__name__} {shown(row)}", "a dict")
    records, format, notices = records_of(
        iter(numbered),
        problems,
        prefix=name,
        locate=Locator(base, options.root),
        format=options.format,
    )
    problems.raise_if_any()
    return DataSet(records, source=source, name=name, format=format, notices=notices)


def _lab(source: str, options: Options) -> DataSet:
    from holdfast import lab

    name = source.removeprefix("lab:")
    if options.split not in (None, "train", "test"):
        raise UsageError(f"{source} has the splits train and test, not {options.split!r}")
    split: Literal["train", "test"] = "test" if options.split == "test" else "train"
    records = lab.records(name, split=split, n=options.limit)
    return DataSet(records, source=source, name=name, format="lab")
