"""Builds a model's architecture without its weights, from a configuration alone."""

from __future__ import annotations

import functools
import importlib
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from holdfast.anatomy.selector import printable
from holdfast.errors import ModelError
from holdfast.network import settle
from holdfast.trust import trusted

if TYPE_CHECKING:
    from torch import nn

_AUTO = (
    "AutoModelForImageTextToText",
    "AutoModelForCausalLM",
    "AutoModelForImageClassification",
    "AutoModel",
)
"""In this order; a model that reads images is more than the language model inside it."""

MOST_REPEATED = 4096
"""Blocks of a tower, or experts of a block."""


def load_meta(model: str | Path) -> nn.Module:
    """The architecture of ``model`` on the meta device: no weights are read or made.

    Args:
        model: a folder (a ``config.json`` in it is enough), a hub id, or a ``lab:`` name.

    Raises :class:`holdfast.errors.ModelError` if there is no configuration there, or one that
    needs code from the hub, which is run only where :mod:`holdfast.trust` allows it.
    """
    return build(load_config(model))


def load_config(model: str | Path) -> Any:
    """The configuration of a folder, hub id or ``lab:`` name. Raises ``ModelError``."""
    from transformers import AutoConfig

    name = str(model)
    source = _lab(name) if name.startswith("lab:") else name
    folder = Path(source)
    if os.path.isdir(folder) and not (folder / "config.json").is_file():
        raise ModelError(f"the folder '{printable(name)}' has no config.json.")
    if os.path.isfile(folder):
        raise ModelError(f"'{printable(name)}' is a file; give the folder with its config.json.")
    settle()
    try:
        return AutoConfig.from_pretrained(source, trust_remote_code=trusted().remote_code)
    except Exception as error:  # a damaged file fails in as many ways as it has keys
        raise ModelError(_why(name, folder, error)) from error


def build(config: Any) -> nn.Module:
    """The architecture that ``config`` describes, on the meta device. Raises ``ModelError``."""
    import torch
    import transformers

    _refuse_absurd(config.to_dict())
    with torch.device("meta"):
        for auto in _classes(config):
            try:
                model: nn.Module = auto(config)
            except Exception as error:  # the same for a size that no layer can have
                raise ModelError(
                    f"the configuration of type '{getattr(config, 'model_type', '?')}' does not "
                    f"describe a model that transformers {transformers.__version__} can build: "
                    f"{printable(str(error))[:300]}"
                ) from error
            return model
    raise ModelError(
        f"transformers {transformers.__version__} has no model for a configuration of type "
        f"'{getattr(config, 'model_type', type(config).__name__)}'."
    )


def _classes(config: Any) -> list[Any]:
    """Makers of a model from ``config``, best first: the class it names, then the auto classes."""
    import transformers

    found = []
    for name in getattr(config, "architectures", None) or ():
        named: Any = getattr(transformers, str(name), None)
        if hasattr(named, "_from_config") and named.config_class is type(config):
            found.append(named._from_config)
    for name in _AUTO:
        auto = getattr(transformers, name)
        if type(config) in auto._model_mapping:
            found.append(auto.from_config)
        elif trusted().remote_code and name in (getattr(config, "auto_map", None) or {}):
            found.append(functools.partial(auto.from_config, trust_remote_code=True))
    return found


_REPEATED = re.compile(
    r"(num|n)_(\w+_)?(layers?|blocks?|experts)|depths?|\w+_layers", re.IGNORECASE
)


def _refuse_absurd(config: Mapping[str, Any], where: str = "") -> None:
    """Sizes of layers cost nothing on the meta device; how many there are costs memory and time.

    Raises :class:`ModelError`.
    """
    for key, value in config.items():
        if isinstance(value, Mapping):
            _refuse_absurd(value, f"{where}{key}.")
        elif type(value) is int and value > MOST_REPEATED and _REPEATED.fullmatch(str(key)):
            raise ModelError(
                f"the configuration says {where}{key}={value:,}; no model has more than "
                f"{MOST_REPEATED:,} of them, so this is not built."
            )


def _lab(name: str) -> str:
    return str(importlib.import_module("holdfast.lab").path(name))


def _why(name: str, folder: Path, error: Exception) -> str:
    shown = printable(name)
    if "trust_remote_code" in str(error):
        return (
            f"the model '{shown}' needs Python of its own, which is refused: code from a model "
            "folder can do whatever you can do, and is never run unasked. "
            "If you have read it and trust it, allow it with "
            "--allow-remote-code (trust.remote_code=true)."
        )
    if os.path.isdir(folder):
        return (
            f"the config.json in '{shown}' cannot be used (code from the hub is never run): "
            f"{printable(str(error))[:300]}"
        )
    return (
        f"there is no folder '{shown}', and no configuration of a hub model of this name could "
        f"be read: {printable(str(error))[:300]}"
    )
