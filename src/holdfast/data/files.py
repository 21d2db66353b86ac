"""Rows of data files, one at a time, each with the place where it stands.

Reading is strict: invalid UTF-8, duplicate keys, NaN, broken JSON and gigantic lines are
problems with a line number. They are collected, and reading goes on behind them.
"""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

from holdfast.data.problems import Problems, shown
from holdfast.errors import DataError, need

Row = tuple[str, dict[str, Any]]
"""A place in the file, such as ``line 12``, and the fields that stand there."""

MAX_LINE = 64 * 1024 * 1024
"""Bytes. No honest record is longer; a file without line breaks would fill the memory."""
MAX_JSON = 2 * 1024 * 1024 * 1024
"""Bytes of a .json file, which is held whole; larger data belongs into JSON Lines."""

MAX_DEPTH = 200
"""Lists and objects inside one another; the same on every Python, whose own bounds differ."""
MAX_GROUP = 8 * 1024 * 1024 * 1024
"""Bytes of a Parquet file's row group when unpacked; a small file can hold terabytes."""

SUFFIXES = (".jsonl", ".ndjson", ".json", ".csv", ".parquet")


def file_rows(path: Path, problems: Problems) -> Iterator[Row]:
    """The rows of one data file, by its suffix.

    Raises:
        DataError: the file is missing, or of a kind that cannot be read.
    """
    readers = {".json": _json, ".csv": _csv, ".parquet": _parquet}
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise DataError(f"{shown(str(path))} is not a data file; those are {', '.join(SUFFIXES)}")
    try:
        yield from readers.get(suffix, _jsonl)(path, problems)
    except OSError as error:
        raise DataError(f"{shown(str(path))} cannot be read: {error.strerror or error}") from error


def parse_json(text: str) -> Any:
    """Strict JSON.

    Raises:
        ValueError: broken JSON, duplicate keys, NaN or Infinity, lone surrogates, or nesting
            that no record has.
    """
    try:
        value = _DECODER.decode(text)
    except RecursionError:
        raise ValueError(_DEEP) from None
    if text.count("[") + text.count("{") > MAX_DEPTH:
        _not_deep(value)
    if "\\u" in text:
        _no_surrogates(value)
    return value


def _jsonl(path: Path, problems: Problems) -> Iterator[Row]:
    with path.open("rb") as file:
        yield from _json_lines(file, problems)


def _json_lines(file: BinaryIO, problems: Problems) -> Iterator[Row]:
    number = 0
    while line := file.readline(MAX_LINE + 1):
        number += 1
        place = f"line {number}"
        if len(line) > MAX_LINE:
            problems.add(place, f"the line is longer than {MAX_LINE:,} bytes", "one record a line")
            while line and not line.endswith(b"\n"):
                line = file.readline(MAX_LINE)
            continue
        text = _decoded(line, place, problems, first=number == 1)
        if text is None or not text.strip():
            continue
        try:
            value = parse_json(text)
        except ValueError as error:
            problems.add(place, f"{_json_reason(error)} in {shown(text.strip())}", "valid JSON")
            continue
        if isinstance(value, dict):
            yield place, value
        else:
            problems.add(place, f"{_kind(value)} {shown(value)}", "a JSON object, {...}")


def _json(path: Path, problems: Problems) -> Iterator[Row]:
    """A list of objects, an object that holds one list of objects, or JSON Lines after all."""
    with path.open("rb") as file:
        if path.stat().st_size > MAX_JSON:
            raise DataError(
                f"{shown(str(path))} has more than {MAX_JSON:,} bytes and a .json file is held "
                "whole in memory; write it as JSON Lines (.jsonl), one object a line"
            )
        head = file.read(4096).removeprefix(b"\xef\xbb\xbf").lstrip()
        file.seek(0)
        if head.startswith(b"{") and _is_lines(file):
            file.seek(0)
            yield from _json_lines(file, problems)
            return
        file.seek(0)
        text = _decoded(file.read(), "the file", problems, first=True)
    if text is not None and text.strip():
        yield from _json_values(text, problems)


def _is_lines(file: BinaryIO) -> bool:
    """Whether the first line is a JSON object of its own and not the last."""
    try:
        parse_json(file.readline(MAX_LINE).removeprefix(b"\xef\xbb\xbf").decode())
    except ValueError:
        return False
    return bool(file.read(64).strip())


def _json_values(text: str, problems: Problems) -> Iterator[Row]:
    try:
        value = parse_json(text)
    except ValueError as error:
        line = error.lineno if isinstance(error, json.JSONDecodeError) else None
        problems.add(f"line {line}" if line else "the file", _json_reason(error), "valid JSON")
        return
    name = ""
    if isinstance(value, dict):
        lists = [k for k, v in value.items() if isinstance(v, list) and _are_objects(v)]
        if (len(value) > 1 and len(lists) != 1) or "messages" in value or "conversations" in value:
            lists = []
        value, name = (value[lists[0]], f"{shown(lists[0])}, ") if lists else ([value], "")
    if not isinstance(value, list):
        problems.add("the file", f"{_kind(value)} {shown(value)}", "a list of objects")
        return
    for number, row in enumerate(value, 1):
        if isinstance(row, dict):
            yield f"{name}item {number}", row
        else:
            problems.add(f"{name}item {number}", f"{_kind(row)} {shown(row)}", "an object, {...}")


def _are_objects(values: list[Any]) -> bool:
    return bool(values) and all(isinstance(v, dict) for v in values)


def _csv(path: Path, problems: Problems) -> Iterator[Row]:
    limit = csv.field_size_limit(MAX_LINE)
    try:
        with path.open("rb") as file:
            rows = csv.reader(_csv_lines(file, problems), strict=True)
            header = next(rows, None)
            if header is None:
                return
            repeated = sorted({h for h in header if header.count(h) > 1})
            if repeated:
                problems.add("line 1", f"duplicate columns {shown(repeated)}", "distinct names")
                return
            for cells in rows:
                place = f"line {rows.line_num}"
                if len(cells) == len(header):
                    yield place, {h: _cell(c) for h, c in zip(header, cells, strict=True)}
                elif cells:
                    problems.add(place, f"{len(cells)} cells", f"{len(header)}, as in the header")
    except csv.Error as error:
        problems.add("the file", f"broken CSV ({error})", "quoted cells closed, one row a record")
    finally:
        csv.field_size_limit(limit)


def _csv_lines(file: BinaryIO, problems: Problems) -> Iterator[str]:
    number = 0
    while line := file.readline(MAX_LINE + 1):
        number += 1
        if len(line) > MAX_LINE:
            problems.add(f"line {number}", f"more than {MAX_LINE:,} bytes", "one record a line")
            return
        yield _decoded(line, f"line {number}", problems, first=number == 1) or ""


def _cell(text: str) -> Any:
    """Lists and objects inside a cell are JSON; an empty cell is no value."""
    if text.startswith(("[", "{")):
        try:
            return parse_json(text)
        except ValueError:
            return text
    return text or None


def _parquet(path: Path, problems: Problems) -> Iterator[Row]:
    pyarrow = need("pyarrow", "data")
    parquet = need("pyarrow.parquet", "data")
    number = 0
    try:
        with parquet.ParquetFile(path) as file:
            names = file.schema_arrow.names
            if len(set(names)) != len(names):
                problems.add("the schema", "duplicate columns", "distinct names")
                return
            meta = file.metadata
            sizes = [meta.row_group(i).total_byte_size for i in range(meta.num_row_groups)]
            if any(not 0 <= size <= MAX_GROUP for size in sizes):
                problems.add(
                    "the file", f"a row group of {max(sizes):,} bytes", f"at most {MAX_GROUP:,}"
                )
                return
            for batch in file.iter_batches(batch_size=256):
                for row in batch.to_pylist():
                    number += 1
                    yield f"row {number}", row
    except (pyarrow.ArrowException, OSError, ValueError, OverflowError) as error:
        problems.add(
            f"row {number + 1}", f"unreadable ({shown(str(error))})", "a whole Parquet file"
        )


def _decoded(line: bytes, place: str, problems: Problems, *, first: bool) -> str | None:
    if first:
        line = line.removeprefix(b"\xef\xbb\xbf")
    try:
        return line.decode("utf-8")
    except UnicodeDecodeError as error:
        around = line[max(0, error.start - 20) : error.start + 20]
        before = line.count(b"\n", 0, error.start)
        if before:  # a whole file: say which of its lines
            place = f"line {before + 1}"
        begin = line.rfind(b"\n", 0, error.start) + 1
        found = f"byte {error.start - begin + 1} is not UTF-8, around {shown(around)}"
        problems.add(place, found, "UTF-8 text")
        return None


def _pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    out = dict(pairs)
    if len(out) != len(pairs):
        names = [k for k, _ in pairs]
        twice = sorted({k for k in names if names.count(k) > 1})
        raise ValueError(f"duplicate keys {shown(twice)}")
    return out


def _constant(name: str) -> NoReturn:
    raise ValueError(f"{name}, which is not a JSON number (write null)")


def _float(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise ValueError(f"the number {shown(text)}, which no float holds")
    return value


_DEEP = f"it is nested too deeply (over {MAX_DEPTH} levels)"


def _not_deep(value: Any) -> None:
    level = [value]
    for _ in range(MAX_DEPTH + 1):
        level = [
            inner
            for outer in level
            if isinstance(outer, dict | list)
            for inner in (outer.values() if isinstance(outer, dict) else outer)
        ]
        if not level:
            return
    raise ValueError(_DEEP)


def _no_surrogates(value: Any) -> None:
    """Text with half a surrogate pair cannot be written or tokenized."""
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError:
            raise ValueError("half a surrogate pair, which is not text") from None
    elif isinstance(value, list):
        for item in value:
            _no_surrogates(item)
    elif isinstance(value, dict):
        for key, item in value.items():
            _no_surrogates(key)
            _no_surrogates(item)


def _json_reason(error: ValueError) -> str:
    if isinstance(error, json.JSONDecodeError):
        return f"broken JSON ({error.msg} at column {error.colno})"
    return shown(str(error), 160).strip("'\"")


def _kind(value: object) -> str:
    names = {dict: "an object", list: "a list", str: "a string", bool: "a truth value"}
    names |= {int: "a number", float: "a number", type(None): "null"}
    return names.get(type(value), type(value).__name__)


_DECODER = json.JSONDecoder(object_pairs_hook=_pairs, parse_constant=_constant, parse_float=_float)
