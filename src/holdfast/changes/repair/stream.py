"""A blend written tensor by tensor, for models that are larger than memory."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from holdfast.anatomy import load_meta
from holdfast.changes.repair.blend import Blend
from holdfast.changes.repair.ends import Ends, open_ends
from holdfast.errors import ModelError
from holdfast.models.loading import load_config
from holdfast.models.saving import TENSORS, write_facts
from holdfast.models.source import fingerprint, tensors, weight_files
from holdfast.probes._streams import parameter_names, tied_names
from holdfast.progress import Progress
from holdfast.runs.files import writing

_NAMES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
"""How safetensors calls them."""
BESIDE = (".json", ".jinja", ".model", ".txt", ".py")
"""What a model folder holds beside its weights."""


@dataclass(frozen=True)
class Made:
    """A model that is made weight by weight out of others."""

    root: Path
    """The full model that it is over."""
    root_name: str
    moved: frozenset[str]
    """Parameters that may differ from the root's."""
    like: Callable[[str], tuple[torch.dtype, tuple[int, ...]]]
    """The dtype that holds a parameter in all of the models that it is made of, and its shape."""
    value: Callable[[str, torch.dtype], Tensor]
    facts: Mapping[str, Any]
    """What ``delta.json`` says of it."""


@dataclass(frozen=True)
class Entry:
    """One tensor of a file that is to be written."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    read: Callable[[], Tensor]

    @property
    def bytes(self) -> int:
        count = 1
        for size in self.shape:
            count *= size
        return count * self.dtype.itemsize


def interpolate(
    base: str,
    tuned: str,
    out: str | Path,
    *,
    blend: Blend | float = 0.5,
    full: bool = False,
    progress: Progress | None = None,
) -> Path:
    """Write a model between two others without loading either.

    Memory: one tensor of each. Arithmetic in float32; a share of 0 gives the base's values and
    1 the tuned model's, to the bit.

    Args:
        base, tuned: lab names, folders, hub ids or runs.
        out: a new folder, or one in which this is written again.
        blend: the tuned model's share, for all weights or part by part.
        full: a whole model folder in the base's shards and dtypes, instead of a delta that
            needs the base.

    Returns:
        ``out``.

    Raises:
        ModelError: a model cannot be used, or the two have not the same weights.
        UsageError: a share outside of 0 to 1, or models that do not differ.
        RunError: ``out`` cannot be written.

    Example:
        >>> interpolate("lab:vlm", "runs/count", "half", blend=0.5)
        >>> model, processor = holdfast.load("half")
    """
    chosen = blend if isinstance(blend, Blend) else Blend(rest=float(blend))
    place = Path(out)
    with ExitStack() as stack:
        ends = open_ends(base, tuned, stack)
        write(blended(ends, chosen), place, full=full, progress=progress)
    return place


def blended(ends: Ends, blend: Blend) -> Made:
    """A blend of two models, to be written."""
    moved = {n for n in ends.changed if any(blend.of(ends.parts(n)))}

    def value(name: str, dtype: torch.dtype) -> Tensor:
        base, tuned = ends.read(name)
        if name not in ends.changed:
            return base
        return blend.value(base, tuned, ends.parts(name), dtype)

    return Made(
        root=ends.root,
        root_name=ends.root_name,
        moved=frozenset(moved | ends.carried),
        like=lambda name: _like(ends, name),
        value=value,
        facts={"blend": blend.to_json()},
    )


def write(
    made: Made, folder: Path, *, full: bool = False, progress: Progress | None = None
) -> None:
    """Write a model that is made weight by weight, whole or as what differs from its root."""
    if full:
        write_folder(made, folder, progress=progress)
    else:
        write_delta(made, folder, progress=progress)


def write_delta(made: Made, folder: Path, *, progress: Progress | None = None) -> None:
    """What differs from the base (or from what the base is a delta over), as a delta."""
    like = {name: made.like(name) for name in sorted(made.moved)}
    dtype = _saved_dtype(made.root)
    for known, _ in like.values():
        dtype = torch.promote_types(dtype, known)
    entries = {
        n: Entry(dtype, shape, partial(made.value, n, dtype)) for n, (_, shape) in like.items()
    }
    with writing(folder / TENSORS) as temporary:
        write_tensors(temporary, entries, progress=progress)
    write_facts(
        folder,
        base=made.root_name,
        base_folder=made.root,
        base_hash=fingerprint(made.root),
        base_dtype=str(dtype).removeprefix("torch."),
        tensors=len(entries),
        parameters=sum(e.bytes // dtype.itemsize for e in entries.values()),
        facts=made.facts,
    )


def write_folder(made: Made, folder: Path, *, progress: Progress | None = None) -> None:
    """The whole model as an ordinary model folder, in the shards and dtypes of the base's.

    Raises :class:`ModelError` if ``folder`` is the base's, or the base is in a format that cannot
    be written shard by shard.
    """
    if folder.resolve() == made.root.resolve():
        raise ModelError(f"{folder} is the base itself; choose another --out.")
    files = weight_files(made.root)
    if any(f.suffix != ".safetensors" for f in files):
        raise ModelError(f"{made.root} is not in safetensors, so it cannot be written in shards.")
    homes = _homes(made, files)
    for file in files:
        with writing(folder / file.name) as temporary:
            write_tensors(temporary, _of_shard(made, file, homes), progress=progress)
    for file in sorted(made.root.iterdir()):
        if file.is_file() and file.suffix in BESIDE:
            shutil.copyfile(file, folder / file.name)


def write_tensors(
    path: Path, entries: Mapping[str, Entry], *, progress: Progress | None = None
) -> None:
    """A safetensors file of tensors that are made one after the other.

    The format: eight bytes with the header's length, a JSON header with each tensor's dtype,
    shape and place, then the tensors' bytes.
    """
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    start = 0
    for name, entry in entries.items():
        places = [start, start := start + entry.bytes]
        header[name] = {
            "dtype": _NAMES[entry.dtype],
            "shape": list(entry.shape),
            "data_offsets": places,
        }
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as handle, (progress or Progress()).bar("writing") as advance:
        handle.write(len(text).to_bytes(8, "little") + text)
        for i, entry in enumerate(entries.values()):
            value = entry.read().detach().to("cpu", entry.dtype).contiguous()
            assert tuple(value.shape) == entry.shape, (value.shape, entry.shape)
            handle.write(value.reshape(-1).view(torch.uint8).numpy().tobytes())
            advance(i + 1, len(entries))


def _homes(made: Made, files: Sequence[Path]) -> dict[str, str]:
    """The parameter that each tensor of the base's files is, also under a tied weight's names.

    Raises :class:`ModelError` if a parameter that moves is in pieces there.
    """
    meta = load_meta(made.root)
    shapes = {key: tuple(entry["shape"]) for file in files for key, entry, _ in tensors(file)}
    first = {other: name for name, other in tied_names(meta)}
    found = {key: first.get(p, p) for key, p in parameter_names(shapes, meta).items()}
    for name in sorted(made.moved):
        stored = [shapes[key] for key, p in found.items() if p == name]
        if not stored or any(shape != made.like(name)[1] for shape in stored):
            raise ModelError(
                f"'{name}' is in several pieces in {made.root}, so it cannot be written shard by "
                "shard; leave out --full and write a delta."
            )
    return found


def _of_shard(made: Made, file: Path, homes: Mapping[str, str]) -> dict[str, Entry]:
    """The tensors of one of the base's files, with those replaced that moved."""
    dtypes = {said: dtype for dtype, said in _NAMES.items()}
    entries = {}
    for key, header, _ in tensors(file):
        dtype = dtypes.get(header["dtype"])
        if dtype is None:
            raise ModelError(f"'{key}' in {file} is {header['dtype']}, which cannot be written.")
        name = homes[key]
        moves = name in made.moved
        read = partial(made.value, name, dtype) if moves else partial(_from, file, key)
        entries[key] = Entry(dtype, tuple(header["shape"]), read)
    return entries


def _from(file: Path, key: str) -> Tensor:
    from safetensors import safe_open

    with safe_open(file, framework="pt") as handle:
        value: Tensor = handle.get_tensor(key)
        return value


def _like(ends: Ends, name: str) -> tuple[torch.dtype, tuple[int, ...]]:
    """The dtype that holds both values of a parameter, and its shape."""
    base, tuned = ends.read(name)
    return torch.promote_types(base.dtype, tuned.dtype), tuple(base.shape)


def _saved_dtype(folder: Path) -> torch.dtype:
    said = getattr(load_config(folder), "dtype", None)
    return said if isinstance(said, torch.dtype) else torch.float32
