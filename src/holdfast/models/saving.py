"""A tuned model on disk: what changed, and the name and hash of its base.

    delta.json            base, hash, dtypes, structure, one line per changed tensor's origin
    delta.safetensors     the changed tensors, whole, in the dtype in which they were tuned
    adapters/NN/          adapters of stage NN in PEFT's own format, where a method made any

Loading puts the tensors over the base's: the logits are the tuned model's, to the bit.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from holdfast.errors import ModelError, RunError
from holdfast.models.loading import (
    Loaded,
    load_config,
    load_model,
    load_processor,
    pick_device,
    put,
)
from holdfast.models.source import DELTA, Source, fetch, fingerprint, resolve
from holdfast.runs.files import failed_write, read_json, write_json, writing

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

TENSORS = "delta.safetensors"
FORMAT = 1
DTYPES = ("float64", "float32", "float16", "bfloat16")
"""What a model may have been loaded in."""


def save_delta(
    folder: Path,
    model: PreTrainedModel,
    changed: Iterable[str],
    *,
    base: str,
    base_folder: Path,
    base_hash: str,
    structure: Mapping[str, object] | None = None,
    facts: Mapping[str, Any] | None = None,
) -> None:
    """Write what changed. ``delta.json`` is written last: without it the folder is no model."""
    from safetensors.torch import save_file

    parameters = dict(model.named_parameters())
    values = {n: parameters[n].detach().to("cpu").contiguous() for n in sorted(set(changed))}
    dtypes = {str(p.dtype).removeprefix("torch.") for n, p in parameters.items() if n not in values}
    with writing(folder / TENSORS) as temporary:
        try:
            save_file(values, temporary, metadata={"format": "pt"})
        except Exception as error:  # safetensors wraps the system's error in its own type
            raise failed_write(error) or error from None
    write_facts(
        folder,
        base=base,
        base_folder=base_folder,
        base_hash=base_hash,
        base_dtype=min(dtypes, default="float32"),
        tensors=len(values),
        parameters=sum(v.numel() for v in values.values()),
        structure=structure,
        facts=facts,
    )


def write_facts(
    folder: Path,
    *,
    base: str,
    base_folder: Path,
    base_hash: str,
    base_dtype: str,
    tensors: int,
    parameters: int,
    structure: Mapping[str, object] | None = None,
    facts: Mapping[str, Any] | None = None,
) -> None:
    """Write ``delta.json`` beside tensors that are there already."""
    write_json(
        folder / DELTA,
        {
            "format": FORMAT,
            "base": base,
            "base_folder": str(base_folder.resolve()) if not base.startswith("lab:") else None,
            "base_hash": base_hash,
            "base_dtype": base_dtype,
            "structure": dict(structure) if structure else None,
            "tensors": tensors,
            "parameters": parameters,
            **(facts or {}),
        },
    )


def read_delta(folder: Path) -> dict[str, Any]:
    """``delta.json``, checked. Raises :class:`ModelError` if it is not one of ours."""
    try:
        facts = read_json(folder / DELTA)
    except RunError as error:
        raise ModelError(str(error)) from None
    if not _is_ours(facts):
        raise ModelError(f"{folder / DELTA} was not written by this version of Holdfast.")
    return dict(facts)


def _is_ours(facts: Any) -> bool:
    if not isinstance(facts, dict) or facts.get("format") != FORMAT:
        return False
    texts = ("base", "base_hash", "base_dtype")
    structure = facts.get("structure", ...)
    return (
        all(isinstance(facts.get(key), str) for key in texts)
        and facts["base_dtype"] in DTYPES
        and (structure is None or (isinstance(structure, dict) and "kind" in structure))
        and isinstance(facts.get("base_folder"), str | None)
    )


def check_delta(folder: Path) -> None:
    """Raise :class:`ModelError` naming the file if a saved delta is missing, torn or foreign."""
    from safetensors import SafetensorError, safe_open

    read_delta(folder)
    try:
        with safe_open(folder / TENSORS, "pt"):
            return
    except (OSError, SafetensorError) as error:
        raise ModelError(f"{folder / TENSORS} is damaged ({error}).") from None


def tensors_of(folder: Path) -> dict[str, torch.Tensor]:
    """The changed tensors. Raises :class:`ModelError` if the file is missing or torn."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        values: dict[str, torch.Tensor] = load_file(folder / TENSORS)
        return values
    except (OSError, SafetensorError) as error:
        raise ModelError(f"{folder / TENSORS} cannot be read: {error}") from None


def find_base(facts: Mapping[str, Any]) -> tuple[Source, Path]:
    """The base that a delta was made on, by name, else at the place where it was then.

    Raises :class:`ModelError` naming both, if it is at neither.
    """
    name, place = str(facts["base"]), facts.get("base_folder")
    try:
        source = resolve(name)
        return source, fetch(source)
    except (ModelError, ValueError) as error:
        if place and Path(str(place)).is_dir():
            source = Source(name, Path(str(place)))
            return source, fetch(source)
        where = f" nor in {place}, where it was then" if place and str(place) != name else ""
        raise ModelError(
            f"the base that this was tuned from is not found by its name '{name}'{where}; "
            f"put it back there ({error})"
        ) from None


def load_delta(source: Source, folder: Path, *, device: str | torch.device | None = None) -> Loaded:
    """The tuned model in ``folder``. Raises :class:`ModelError` if the base is another one."""
    import torch

    facts = read_delta(folder)
    base, base_folder = find_base(facts)
    found = fingerprint(base_folder)
    if found != facts["base_hash"]:
        raise ModelError(
            f"{folder} holds changes to '{facts['base']}' with hash "
            f"{str(facts['base_hash'])[:12]}, but the weights in {base_folder} have hash "
            f"{found[:12]}: this is another model. Put the original weights back, or tune again."
        )
    model = load_model(base_folder, getattr(torch, str(facts["base_dtype"])))
    if facts["structure"]:
        from holdfast.anatomy import anatomy
        from holdfast.pieces.structures import rebuild

        model = rebuild(model, facts["structure"], anatomy(model))
    put(model, tensors_of(folder))
    model.eval().to(pick_device(device))
    return Loaded(model, load_processor(base_folder), source, folder, found, base.name)


def export(name: str | Path, out: str | Path, *, form: str = "huggingface") -> None:
    """Write a tuned model for others to use.

    Args:
        name: a run or a delta folder.
        out: a new folder.
        form: ``"huggingface"``: a full model folder, every weight, in the base's dtype.
            ``"peft"``: the adapters in PEFT's format.

    Raises:
        ModelError: ``name`` holds no delta, its modules are not the base's own (a mixture
            has no ordinary folder to be saved in), or it has no adapter.
    """
    out = Path(out)
    source = resolve(str(name))
    folder = fetch(source)
    if not (folder / DELTA).exists():
        raise ModelError(f"{name} is an ordinary model folder already; there is nothing to export.")
    if out.is_file() or (out.is_dir() and any(out.iterdir())):
        raise ModelError(f"{out} is a file or is not empty; choose a new folder.")
    facts = read_delta(folder)
    if form == "peft":
        _export_peft(folder, out, facts["structure"])
        return
    if facts["structure"]:
        raise ModelError(
            f"{name} has modules that no Hugging Face architecture has "
            f"({facts['structure']['kind']}); load it with holdfast.load."
        )
    loaded = load_delta(source, folder, device="cpu")
    saved_in = getattr(load_config(find_base(facts)[1]), "dtype", None)
    model = loaded.model.to(saved_in) if saved_in is not None else loaded.model
    model.save_pretrained(out)
    loaded.processor.save_pretrained(out)


def _export_peft(folder: Path, out: Path, structure: Mapping[str, Any] | None) -> None:
    stages = sorted((folder / "adapters").glob("*")) if (folder / "adapters").is_dir() else []
    if not stages:
        raise ModelError(
            f"{folder} has no adapter: the method made none, or edited the merged weights "
            "afterwards (wise-ft). Export the whole model, without --peft."
        )
    if len(stages) == 1 or (structure or {}).get("stages") == "keep":
        shutil.copytree(stages[-1], out, dirs_exist_ok=True)  # one adapter, trained on and on
        return
    from holdfast.pieces.lora_history import concatenate

    concatenate(stages, out)
