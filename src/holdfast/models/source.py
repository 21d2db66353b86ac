"""Where a model comes from: a lab name, a folder, a hub id, or something that Holdfast saved."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from holdfast.errors import ModelError, nearest
from holdfast.network import offline, settle
from holdfast.redact import redacted
from holdfast.trust import trusted

WEIGHTS = ("model.safetensors", "model.safetensors.index.json")
PICKLED = ("pytorch_model.bin", "pytorch_model.bin.index.json")
DELTA = "delta.json"
LARGEST_HEADER = 100_000_000
"""Bytes of a safetensors header, the format's own bound."""


@dataclass(frozen=True)
class Source:
    """A model's place. ``folder`` is None for a hub id that has not been looked up yet."""

    name: str
    folder: Path | None

    @property
    def location(self) -> str:
        """What ``from_pretrained`` takes."""
        return str(self.folder) if self.folder is not None else self.name


def resolve(name: str) -> Source:
    """Find a model by name, before anything is loaded.

    Raises :class:`ModelError` for a folder without a configuration, and for a name that is
    neither a folder nor shaped like a hub id.
    """
    if name.startswith("lab:"):
        from holdfast import lab

        return Source(name, lab.path(name))
    folder = Path(os.path.expanduser(name))
    if os.path.isdir(folder):
        if (folder / "model" / DELTA).exists():
            return Source(name, folder / "model")
        if (folder / DELTA).exists() or (folder / "config.json").exists():
            return Source(name, folder)
        if (folder / "run.yaml").exists():
            raise ModelError(f"the run in {folder} has no model yet: it is not finished.")
        raise ModelError(
            f"{folder} is not a model: it has neither config.json nor {DELTA}. "
            f"It holds: {', '.join(sorted(p.name for p in folder.iterdir())[:8]) or 'nothing'}."
        )
    if os.path.exists(folder):
        raise ModelError(f"{folder} is a file; name the folder that holds the model.")
    looks_like_path = name.startswith((".", "/", "~")) or name.count("/") != 1
    if looks_like_path:
        from holdfast import lab

        raise ModelError(f"there is no model '{name}'{nearest(name, sorted(lab.models()))}")
    return Source(name, _cached(name))


def _cached(hub_id: str) -> Path | None:
    """The folder of a hub model that is already on this machine."""
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        file = try_to_load_from_cache(hub_id, "config.json")
    except HFValidationError:
        raise ModelError(
            f"there is no folder '{hub_id}', and it cannot be a name on the hub: those are made of "
            "letters, digits, '-', '_' and '.'."
        ) from None
    return Path(file).parent if isinstance(file, str) else None


def fetch(source: Source) -> Path:
    """The folder with a source's files, downloaded if need be (safetensors only)."""
    if source.folder is not None and (source.folder / DELTA).exists():
        return source.folder
    if source.folder is not None and has_weights(source.folder):
        return source.folder
    if source.folder is not None and not _is_hub_snapshot(source.folder):
        raise _no_weights(source.folder)
    from huggingface_hub import snapshot_download

    settle()
    wanted = ["*.json", "*.safetensors", "*.jinja", "*.model", "*.txt"]
    wanted += ["*.py"] if trusted().remote_code else []
    wanted += ["*.bin"] if trusted().pickle else []
    try:
        place = snapshot_download(
            source.name, allow_patterns=wanted, local_files_only=offline() is not None
        )
    except Exception as error:  # the hub client raises a dozen unrelated types
        raise ModelError(_unavailable(source.name, error)) from None
    folder = Path(place)
    if not has_weights(folder):
        raise _no_weights(folder)
    return folder


def _unavailable(name: str, error: Exception) -> str:
    """Why a hub id has no files here, as a sentence."""
    here = f"there is no folder '{name}', and no model of that name is on this machine"
    if variable := offline():
        return (
            f"{here}. It was not looked for on the hub, because {variable} is set: check the name, "
            f"give a folder, or unset {variable}."
        )
    known = {
        "RepositoryNotFoundError": "The hub has none either, or it is private: check the name.",
        "GatedRepoError": "The hub gives it only to those who asked for it on the model's page.",
        "LocalEntryNotFoundError": "The hub could not be reached: check the connection.",
    }
    first = (redacted(str(error)).splitlines() or [""])[0][:160]
    other = f"It could not be downloaded ({type(error).__name__}: {first})."
    return f"{here}. {known.get(type(error).__name__, other)} A folder can be given instead."


def has_weights(folder: Path) -> bool:
    """Whether there are weights that may be read: safetensors, or what is trusted besides."""
    names = (*WEIGHTS, *PICKLED) if trusted().pickle else WEIGHTS
    return any((folder / name).exists() for name in names)


def _is_hub_snapshot(folder: Path) -> bool:
    return folder.parent.name == "snapshots"


def _no_weights(folder: Path) -> ModelError:
    others = sorted(
        p.name for p in folder.glob("*") if p.suffix in (".bin", ".pt", ".pth", ".ckpt")
    )
    if others:
        return ModelError(
            f"{folder} has no model.safetensors, only {', '.join(others)}. Pickle files can run "
            "code when they are read, so Holdfast does not read them. Convert them to safetensors "
            "with save_pretrained in a place that you can lose, or, if you trust whoever made "
            "them, allow it with --allow-pickle (trust.pickle=true)."
        )
    return ModelError(
        f"{folder} has a configuration but no weights (no model.safetensors); put them there, or "
        f"use 'holdfast anatomy {folder}', which needs none."
    )


def weight_files(folder: Path) -> list[Path]:
    """The files with a model folder's weights, in order; safetensors before anything else.

    Raises :class:`ModelError` for an index that is damaged, or that names files that are not
    there or not in the folder.
    """
    names = (*WEIGHTS, *(PICKLED if trusted().pickle else ()))
    for single, index in zip(names[::2], names[1::2], strict=True):
        if (folder / index).exists():
            return [folder / name for name in _indexed(folder, folder / index)]
        if (folder / single).exists():
            return [folder / single]
    return [folder / WEIGHTS[0]]


def _indexed(folder: Path, index: Path) -> list[str]:
    try:
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
        foreign = [n for n in names if n != Path(n).name or n in ("", ".", "..")]
    except (ValueError, LookupError, AttributeError, TypeError, RecursionError):
        raise ModelError(f"{index} is damaged; download the model again.") from None
    if foreign:
        raise ModelError(f"{index} names files outside its folder ({foreign[0]!r:.80}): refused.")
    missing = [n for n in names if not os.path.exists(folder / n)]
    if missing:
        raise ModelError(f"{folder} lacks {', '.join(missing[:3]):.300}, named in {index.name}.")
    return names


def tensors(file: Path) -> Iterator[tuple[str, dict[str, Any], memoryview]]:
    """Name, header entry and raw bytes of every tensor of a safetensors file, without torch.

    Raises :class:`ModelError` if the header is not one, or promises what the file lacks.
    """
    import mmap

    with file.open("rb") as handle, mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ) as data:
        try:
            size = int.from_bytes(data[:8], "little")
            if size > min(LARGEST_HEADER, len(data) - 8):
                raise ValueError("shorter than its header says")
            header = json.loads(data[8 : 8 + size])
            header.pop("__metadata__", None)
            places = {n: _place(e, len(data) - 8 - size) for n, e in sorted(header.items())}
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
            raise ModelError(f"{file} is damaged ({error}); download or copy it again.") from None
        with memoryview(data) as view:
            for name, (start, stop) in places.items():
                with view[8 + size + start : 8 + size + stop] as part:
                    yield name, header[name], part


def _place(entry: Any, room: int) -> tuple[int, int]:
    """Where a tensor's bytes lie behind the header."""
    (start, stop), shape = entry["data_offsets"], entry["shape"]
    if not (isinstance(entry["dtype"], str) and all(type(n) is int and n >= 0 for n in shape)):
        raise ValueError("a tensor without dtype and shape")
    if not 0 <= start <= stop <= room:
        raise ValueError("shorter than its header says")
    return start, stop


def fingerprint(folder: Path) -> str:
    """SHA-256 over names, dtypes, shapes and bytes of all tensors: the same however sharded."""
    lines = []
    for file in weight_files(folder):
        if file.stat().st_size < 8:
            raise ModelError(f"{file} is damaged (empty); download or copy it again.")
        if file.suffix != ".safetensors":
            lines.append(f"{file.name} {_file_hash(file)}")
            continue
        for name, entry, data in tensors(file):
            digest = hashlib.sha256(data).hexdigest()
            lines.append(f"{name} {entry['dtype']} {entry['shape']} {digest}")
    return hashlib.sha256("\n".join(sorted(lines)).encode()).hexdigest()


def _file_hash(file: Path) -> str:
    with file.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()
