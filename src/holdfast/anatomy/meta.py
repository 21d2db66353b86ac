"""Builds a model's architecture without its weights, from a configuration alone."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from holdfast.anatomy.selector import printable
from holdfast.errors import ModelError

if TYPE_CHECKING:
    from torch import nn

_AUTO = (
    "AutoModelForImageTextToText",
    "AutoModelForCausalLM",
    "AutoModelForImageClassification",
    "AutoModel",
)
"""In this order; a model that reads images is more than the language model inside it."""


def load_meta(model: str | Path) -> nn.Module:
    """The architecture of ``model`` on the meta device: no weights are read or made.

    Args:
        model: a folder (a ``config.json`` in it is enough), a hub id, or a ``lab:`` name.

    Raises :class:`holdfast.errors.ModelError` if there is no configuration there, or one that
    needs code from the hub, which is never run.
    """
    return build(load_config(model))


def load_config(model: str | Path) -> Any:
    """The configuration of a folder, hub id or ``lab:`` name. Raises ``ModelError``."""
    from transformers import AutoConfig

    name = str(model)
    source = _lab(name) if name.startswith("lab:") else name
    folder = Path(source)
    if folder.is_dir() and not (folder / "config.json").is_file():
        raise ModelError(f"the folder '{printable(name)}' has no config.json.")
    if folder.is_file():
        raise ModelError(f"'{printable(name)}' is a file; give the folder with its config.json.")
    try:
        return AutoConfig.from_pretrained(source, trust_remote_code=False)
    except Exception as error:  # a damaged file fails in as many ways as it has keys
        raise ModelError(_why(name, folder, error)) from error


def build(config: Any) -> nn.Module:
    """The architecture that ``config`` describes, on the meta device. Raises ``ModelError``."""
    import torch
    import transformers

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
    return found


def _lab(name: str) -> str:
    return str(importlib.import_module("holdfast.lab").path(name))


def _why(name: str, folder: Path, error: Exception) -> str:
    shown = printable(name)
    if folder.is_dir():
        return (
            f"the config.json in '{shown}' cannot be used (code from the hub is never run): "
            f"{printable(str(error))[:300]}"
        )
    return (
        f"there is no folder '{shown}', and no configuration of a hub model of this name could "
        f"be read: {printable(str(error))[:300]}"
    )
