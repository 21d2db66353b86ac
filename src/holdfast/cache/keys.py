"""Keys: hashes of everything that a computed tensor depends on."""

from __future__ import annotations

import hashlib
import inspect
import json
from collections.abc import Iterable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

_VOLATILE = ("_name_or_path", "transformers_version", "use_cache", "architectures", "torch_dtype")


def digest(*parts: bytes | str) -> str:
    """A 128-bit hash of a sequence of parts, as hexadecimal digits."""
    hasher = hashlib.blake2b(digest_size=16)
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        hasher.update(len(data).to_bytes(8, "little"))
        hasher.update(data)
    return hasher.hexdigest()


def tensors(named: Iterable[tuple[str, Tensor]]) -> str:
    """A hash of names, dtypes, shapes and contents."""
    hasher = hashlib.blake2b(digest_size=16)
    for name, value in named:
        value = value.detach()
        hasher.update(f"{name}|{value.dtype}|{tuple(value.shape)}|".encode())
        hasher.update(_bytes(value))
    return hasher.hexdigest()


def content(example: Mapping[str, Any], *, without: Iterable[str] = ("labels",)) -> str:
    """A hash of one example's features."""
    left_out = set(without)
    chosen = sorted(k for k in example if k not in left_out)
    return tensors((k, torch.as_tensor(example[k])) for k in chosen)


def code(model: nn.Module) -> str:
    """A hash of what computes: the model's class and its source, configuration, attention."""
    import transformers

    config = getattr(model, "config", None)
    return digest(
        f"{type(model).__module__}.{type(model).__qualname__}",
        _source(inspect.getfile(type(model))),
        transformers.__version__,
        torch.__version__,
        _settings(config),
        ",".join(sorted(_attention(config))),
    )


def _settings(config: Any) -> str:
    said = config.to_dict() if config is not None else {}
    return json.dumps(_plain(said), sort_keys=True, default=str)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items() if k not in _VOLATILE}
    return value


def _attention(config: Any) -> Iterable[str]:
    """The attention implementation of a configuration and of those inside it."""
    if config is None:
        return
    yield str(getattr(config, "_attn_implementation", None))
    for name in getattr(config, "sub_configs", ()):
        for inner in _attention(getattr(config, name, None)):
            yield f"{name}:{inner}"


@lru_cache(maxsize=32)
def _source(file: str) -> str:
    return hashlib.blake2b(Path(file).read_bytes()).hexdigest()


def _bytes(value: Tensor) -> Any:
    flat = value.cpu().contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy() if flat.numel() else b""
