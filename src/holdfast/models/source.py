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

WEIGHTS = ("model.safetensors", "model.safetensors.index.json")
DELTA = "delta.json"


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
    folder = Path(name).expanduser()
    if folder.is_dir():
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
    if folder.exists():
        raise ModelError(f"{folder} is a file; name the folder that holds the model.")
    looks_like_path = name.startswith((".", "/", "~")) or name.count("/") != 1
    if looks_like_path:
        from holdfast import lab

        raise ModelError(f"there is no model '{name}'{nearest(name, sorted(lab.models()))}")
    return Source(name, _cached(name))


def _cached(hub_id: str) -> Path | None:
    """The folder of a hub model that is already on this machine."""
    from huggingface_hub import try_to_load_from_cache

    file = try_to_load_from_cache(hub_id, "config.json")
    return Path(file).parent if isinstance(file, str) else None


def fetch(source: Source) -> Path:
    """The folder with a source's files, downloaded if need be (safetensors only)."""
    if source.folder is not None and (source.folder / DELTA).exists():
        return source.folder
    if source.folder is not None and any((source.folder / w).exists() for w in WEIGHTS):
        return source.folder
    if source.folder is not None and not _is_hub_snapshot(source.folder):
        raise _no_weights(source.folder)
    from huggingface_hub import snapshot_download

    try:
        place = snapshot_download(
            source.name,
            allow_patterns=["*.json", "*.safetensors", "*.jinja", "*.model", "*.txt"],
        )
    except Exception as error:  # the hub client raises a dozen unrelated types
        raise ModelError(
            f"'{source.name}' is not on this machine and could not be downloaded "
            f"({type(error).__name__}: {str(error).splitlines()[0][:160]}). Check the name and the "
            "connection, or give a folder."
        ) from None
    folder = Path(place)
    if not any((folder / w).exists() for w in WEIGHTS):
        raise _no_weights(folder)
    return folder


def _is_hub_snapshot(folder: Path) -> bool:
    return folder.parent.name == "snapshots"


def _no_weights(folder: Path) -> ModelError:
    others = sorted(
        p.name for p in folder.glob("*") if p.suffix in (".bin", ".pt", ".pth", ".ckpt")
    )
    if others:
        return ModelError(
            f"{folder} has no model.safetensors, only {', '.join(others)}. Pickle files can run "
            "code when they are read, so Holdfast does not read them: convert them with "
            "save_pretrained(safe_serialization=True) in a place that you trust."
        )
    return ModelError(
        f"{folder} has a configuration but no weights (no model.safetensors); put them there, or "
        f"use 'holdfast anatomy {folder}', which needs none."
    )


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files of a model folder, in order."""
    index = folder / "model.safetensors.index.json"
    if index.exists():
        try:
            names = sorted(
                set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
            )
        except (ValueError, KeyError, AttributeError):
            raise ModelError(f"{index} is damaged; download the model again.") from None
        missing = [n for n in names if not (folder / n).exists()]
        if missing:
            raise ModelError(f"{folder} lacks {', '.join(missing[:3])}, named in {index.name}.")
        return [folder / n for n in names]
    return [folder / "model.safetensors"]


def tensors(file: Path) -> Iterator[tuple[str, dict[str, Any], memoryview]]:
    """Name, header entry and raw bytes of every tensor of a safetensors file, without torch."""
    import mmap

    with file.open("rb") as handle, mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ) as data:
        try:
            size = int.from_bytes(data[:8], "little")
            header = json.loads(data[8 : 8 + size])
            with memoryview(data) as view:
                for name, entry in sorted(header.items()):
                    if name == "__metadata__":
                        continue
                    start, stop = entry["data_offsets"]
                    if 8 + size + stop > len(data):
                        raise ValueError("shorter than its header says")
                    with view[8 + size + start : 8 + size + stop] as part:
                        yield name, entry, part
        except (ValueError, KeyError, TypeError) as error:
            raise ModelError(f"{file} is damaged ({error}); download or copy it again.") from None


def fingerprint(folder: Path) -> str:
    """SHA-256 over names, dtypes, shapes and bytes of all tensors: the same however sharded."""
    lines = []
    for file in weight_files(folder):
        if file.stat().st_size < 8:
            raise ModelError(f"{file} is damaged (empty); download or copy it again.")
        for name, entry, data in tensors(file):
            digest = hashlib.sha256(data).hexdigest()
            lines.append(f"{name} {entry['dtype']} {entry['shape']} {digest}")
    return hashlib.sha256("\n".join(sorted(lines)).encode()).hexdigest()


def offline() -> bool:
    """Whether the user has told the Hugging Face libraries to stay off the network."""
    return os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "TRUE", "YES", "ON")
