"""Python that a model's folder brings along, and why it is not run unasked."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from holdfast.errors import ModelError
from holdfast.text import safe_text
from holdfast.trust import trusted

_FILES = (
    "config.json",
    "tokenizer_config.json",
    "processor_config.json",
    "preprocessor_config.json",
    "video_preprocessor_config.json",
)


def own_code(folder: Path) -> list[str]:
    """The Python classes that a folder's files ask for (``auto_map``): ``config.json: x.Y``."""
    found = []
    for name in _FILES:
        file = folder / name
        try:
            value = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else None
        except (OSError, ValueError, RecursionError):
            continue  # whoever reads the file for its contents says what is wrong with it
        wanted = value.get("auto_map") if isinstance(value, dict) else None
        found += [f"{name}: {safe_text(c)[:80]}" for c in _classes(wanted)]
    return found


def _classes(wanted: Any) -> list[str]:
    if isinstance(wanted, str):
        return [wanted]
    values = wanted.values() if isinstance(wanted, dict) else wanted or ()
    return list(dict.fromkeys(c for v in values for c in _classes(v)))


def refused_code(folder: Path) -> ModelError:
    """The error for a folder that cannot be used without its own code."""
    return ModelError(
        f"{folder} needs Python of its own ({', '.join(own_code(folder)[:3])}), which is refused: "
        "code from a model folder can do whatever you can do, on this machine and in your name. "
        "If you have read it and trust it, allow it with --allow-remote-code "
        "(trust.remote_code=true)."
    )


def code_note(folder: Path) -> str:
    """A sentence for a folder that brings code which is not needed and not run; '' for others."""
    found = own_code(folder)
    if not found or trusted().remote_code:
        return ""
    return (
        f"{folder.name} brings Python of its own ({', '.join(found[:3])}); it is not run: "
        "transformers has classes for this model"
    )
