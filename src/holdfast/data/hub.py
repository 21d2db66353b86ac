"""Data sets of the ``datasets`` library: from the hub, from its cache, or saved to disk."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from holdfast.data.dataset import DataSet
from holdfast.data.problems import shown
from holdfast.data.sources import Options, python_rows
from holdfast.errors import DataError, need
from holdfast.network import offline, settle
from holdfast.redact import redacted


def looks_like_hub_id(source: str) -> bool:
    """``owner/name`` or ``name``, with ``:configuration`` behind it where a set has several."""
    return re.fullmatch(r"[\w.-]+(/[\w.-]+)?(:[\w.-]+)?", source) is not None and not (
        source.startswith((".", "/")) or source.endswith(".")
    )


def read_hub(source: str, options: Options) -> DataSet:
    """A data set of the hub, or of the local cache where offline variables are set.

    Raises:
        DataError: it cannot be had; the message has the reason and what to do.
        MissingExtra: the ``data`` extra is not installed.
    """
    name, _, configuration = source.partition(":")
    datasets = need("datasets", "data")
    settle()
    try:
        found = datasets.load_dataset(name, configuration or None)
    except Exception as error:  # the library raises a dozen kinds, none of them ours
        hint = (
            f"{variable} is set, so nothing is fetched and only its cache was looked at; "
            "unset it, or download the files and give their folder"
            if (variable := offline())
            else "check the name, or download the files and give their folder"
        )
        raise DataError(
            f"there is no file or folder {shown(source)}, and as a hub id it cannot be loaded "
            f"({type(error).__name__}: {shown(redacted(str(error)), 200)}): {hint}"
        ) from error
    return _split(found, source, source, options)


def read_saved(path: Path, options: Options) -> DataSet:
    """A folder that ``datasets``' ``save_to_disk`` wrote.

    Raises:
        DataError: it cannot be read, or has no such split.
        MissingExtra: the ``data`` extra is not installed.
    """
    datasets = need("datasets", "data")
    try:
        found = datasets.load_from_disk(str(path))
    except Exception as error:  # as above
        raise DataError(
            f"{shown(str(path))} looks like a folder of datasets' save_to_disk, but cannot be "
            f"read ({type(error).__name__}: {shown(str(error), 200)})"
        ) from error
    return _split(found, str(path), path.name, options)


def _split(found: Any, source: str, name: str, options: Options) -> DataSet:
    splits = list(found) if isinstance(found, dict) else []
    notice = ""
    if splits:
        wanted = options.split or ("train" if "train" in splits else splits[0])
        if wanted not in splits or (
            options.split is None and len(splits) > 1 and wanted != "train"
        ):
            raise DataError(
                f"{source} has the splits {', '.join(map(str, splits))}; choose one with split="
            )
        if len(splits) > 1 and options.split is None:
            notice = f"{source}: only the split {wanted} was read"
        found = found[wanted]
    rows = python_rows(undecoded(found), options, source=source, name=name, base=None)
    said = (*([notice] if notice else []), *rows.notices)
    return DataSet(list(rows), source=source, name=name, format=rows.format, notices=said)


def undecoded(dataset: Any) -> Any:
    """The data set with its images left as bytes and paths, so that they are not decoded twice."""
    features = getattr(dataset, "features", None)
    if not features:
        return dataset
    from datasets import Image, Sequence

    for column, feature in features.items():
        if isinstance(feature, Image):
            dataset = dataset.cast_column(column, Image(decode=False))
        elif isinstance(getattr(feature, "feature", None), Image):
            dataset = dataset.cast_column(column, Sequence(Image(decode=False)))
    return dataset
