"""Folders of data files, and LLaVA's lists of files with sampling strategies."""

from __future__ import annotations

import math
import os
import random
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from holdfast.data.dataset import DataSet
from holdfast.data.files import SUFFIXES
from holdfast.data.locate import inside
from holdfast.data.problems import Problems, shown
from holdfast.data.records import Record
from holdfast.data.sources import Options, read_file
from holdfast.errors import DataError, UsageError
from holdfast.safeyaml import load_yaml
from holdfast.trust import trusted

SPLITS = ("train", "validation", "valid", "val", "dev", "test", "eval")
_SAVED = ("dataset_dict.json", "state.json")
_NOT_DATA = {"dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json"}


def read_folder(path: Path, options: Options) -> DataSet:
    """All data files of a folder, or what ``datasets`` saved there.

    Where file names carry a split (``train-00000.parquet``, ``test.jsonl``), the files of one
    split are read: the one that is asked for, else ``train``.

    Raises:
        DataError: there is no data in it, or not of that split, or anything in it is wrong.
    """
    if any(os.path.isfile(path / name) for name in _SAVED):
        from holdfast.data.hub import read_saved

        return read_saved(path, options)
    files = _data_files(path)
    if not files and os.path.isdir(path / "data"):
        files = _data_files(path / "data")
    if not files:
        raise DataError(
            f"the folder {shown(str(path))} holds no data files ({', '.join(SUFFIXES)}), and "
            "datasets' save_to_disk did not write it"
        )
    chosen, notice = _of_split(files, path, options.split)
    _refuse_links(chosen, path)
    return _joined([(f, None) for f in chosen], path, options, notices=[notice] if notice else [])


def read_mixture(path: Path, options: Options) -> DataSet:
    """A YAML list ``datasets: [{json_path, sampling_strategy}]``, as LLaVA-NeXT trains from.

    ``sampling_strategy`` is ``all``, ``first:N``, ``end:N`` or ``random:N``, where N is a
    number of records or a percentage (``first:10%``, rounded up). Relative paths start from
    the YAML file's folder; images lie in each file's own folder, or in ``image_root``.

    Raises:
        DataError: the list is malformed, or anything in its files is wrong.
    """
    if not os.path.isfile(path):
        raise DataError(f"there is no data file {shown(str(path), 4096)}")
    try:
        content = load_yaml(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise DataError(f"{shown(str(path))} cannot be read: {error.strerror or error}") from None
    except ValueError as error:
        raise DataError(f"{shown(str(path))} is not valid YAML: {shown(str(error), 200)}") from None
    entries = content.get("datasets") if isinstance(content, Mapping) else content
    problems = Problems(str(path))
    wanted = "a list 'datasets' of {json_path, sampling_strategy}"
    if not isinstance(entries, list) or not entries:
        problems.add("datasets", shown(entries), wanted)
        entries = []
    files = [f for i, e in enumerate(entries) if (f := _entry(e, i, path.parent, problems))]
    problems.raise_if_any()
    return _joined(files, path, options)


def _data_files(folder: Path) -> list[Path]:
    try:
        return sorted(f for f in folder.iterdir() if _is_data(f))
    except OSError as error:
        raise DataError(f"{shown(str(folder))} cannot be read: {error.strerror}") from None


def _refuse_links(files: list[Path], folder: Path) -> None:
    """A folder that somebody sent may hold links to anything on this machine."""
    real = os.path.realpath(folder)
    away = [f for f in files if not inside(os.path.realpath(f), real)]
    if away and not trusted().outside:
        raise DataError(
            f"{shown(str(folder))}: {shown(away[0].name)} is a link that leads out of the folder, "
            f"to {shown(os.path.realpath(away[0]))}; give that file itself, or allow such links "
            "with --allow-outside (trust.outside=true)"
        )


def _entry(
    entry: Any, number: int, base: Path, problems: Problems
) -> tuple[Path, tuple[str, str] | None] | None:
    at = f"datasets[{number}]"
    if not isinstance(entry, Mapping) or not isinstance(entry.get("json_path"), str):
        problems.add(at, shown(entry), "an object with json_path")
        return None
    strategy = entry.get("sampling_strategy", "all")
    if strategy == "all":
        return base / entry["json_path"], None
    match = (
        re.fullmatch(r"(first|end|random):([0-9]{1,12}%?)", strategy)
        if _is_text(strategy)
        else None
    )
    if match is None:
        problems.add(
            f"{at}.sampling_strategy", shown(strategy), "all, first:N, end:N or random:N (or N%)"
        )
        return None
    return base / entry["json_path"], (match[1], match[2])


def _joined(
    files: list[tuple[Path, tuple[str, str] | None]],
    path: Path,
    options: Options,
    *,
    notices: list[str] | None = None,
) -> DataSet:
    """The records of several files one after another; the problems of all of them at once."""
    problems = Problems(str(path))
    records: list[Record] = []
    said, formats = list(notices or []), []
    for number, (file, strategy) in enumerate(files):
        room = None if options.limit is None else options.limit - len(records)
        if room is not None and room <= 0:
            break
        inner = Options(room if strategy is None else None, None, options.root, options.format)
        try:
            found = read_file(file, inner)
        except DataError as error:
            problems.count += max(1, len(error.problems))
            problems.found += [f"{file}: {line}" for line in error.problems] or [str(error)]
            continue
        records += _sampled(found, strategy, number)
        said += found.notices
        formats.append(found.format)
    problems.raise_if_any()
    kinds = " + ".join(dict.fromkeys(formats))
    return DataSet(
        records[: options.limit], source=str(path), name=path.stem, format=kinds, notices=said
    )


def _sampled(found: DataSet, strategy: tuple[str, str] | None, number: int) -> list[Record]:
    if strategy is None:
        return list(found)
    kind, amount = strategy
    if amount.endswith("%"):
        count = math.ceil(int(amount[:-1]) * len(found) / 100)
    else:
        count = int(amount)
    count = min(count, len(found))
    if kind == "first":
        return list(found[:count])
    if kind == "end":
        return list(found[len(found) - count :])
    return random.Random(number).sample(list(found), count)


def _of_split(files: list[Path], folder: Path, split: str | None) -> tuple[list[Path], str]:
    named: dict[str, list[Path]] = {}
    for file in files:
        named.setdefault(_split_of(file), []).append(file)
    known = sorted(k for k in named if k)
    if split is None:
        if len(named) <= 1:
            return files, ""
        split = "train" if "train" in known else ""
        if not split:
            raise UsageError(
                f"{shown(str(folder))} holds the splits {', '.join(known)}; choose one with split="
            )
        return named["train"], f"{folder}: only the files of the split train were read"
    if split not in named:
        raise DataError(
            f"{shown(str(folder))} has no files of the split {shown(split)}; "
            f"there is: {', '.join(known) or 'no split in the file names'}"
        )
    return named[split], ""


def _split_of(file: Path) -> str:
    words = re.split(r"[^a-z0-9]+", file.stem.lower())
    return next((s for s in SPLITS if s in words), "")


def _is_data(file: Path) -> bool:
    return (
        file.suffix.lower() in SUFFIXES
        and not file.name.startswith(".")
        and file.name not in _NOT_DATA
        and os.path.isfile(file)
    )


def _is_text(value: object) -> bool:
    return isinstance(value, str)
