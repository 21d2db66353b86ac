"""Load a model and its processor, whatever it is: a base, a tuned delta, or a run."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, cast

from holdfast.errors import ModelError
from holdfast.models.code import own_code, refused_code
from holdfast.models.source import DELTA, WEIGHTS, Source, fetch, fingerprint, resolve
from holdfast.trust import trusted

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

Processor: TypeAlias = Any
"""A transformers processor (multimodal) or tokenizer (text)."""

TOKENIZERS = (
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "vocab.json",
    "vocab.txt",
    "spiece.model",
    "sentencepiece.bpe.model",
    "tekken.json",
)
"""Files one of which a tokenizer is read from."""


@dataclass
class Loaded:
    """A model in memory and what it is."""

    model: PreTrainedModel
    processor: Processor
    source: Source
    folder: Path
    """Where the files are."""
    hash: str
    """:func:`holdfast.models.source.fingerprint` of the *base* weights."""
    base: str
    """Name of the base model; for a base, its own."""


def load(
    name: str | Path, *, device: str | torch.device | None = None, dtype: torch.dtype | None = None
) -> tuple[PreTrainedModel, Processor]:
    """A model and its processor (a tokenizer, for a text model), ready to use.

    Args:
        name: a lab name, a folder, a hub id, a run, or a folder with a ``delta.json``.
        device: where to; by default the GPU if there is one.
        dtype: of the base weights; by default float32 on a CPU, and on a GPU the dtype that
            the model was saved in. A tuned model always comes back in the dtypes in which it
            was tuned, so that its logits are the same to the bit.

    Raises:
        ModelError: nothing is there, there are no weights, or the base is not the one that
            the delta was made on.
    """
    loaded = load_all(str(name), device=device, dtype=dtype)
    return loaded.model, loaded.processor


def load_all(
    name: str, *, device: str | torch.device | None = None, dtype: torch.dtype | None = None
) -> Loaded:
    """:func:`load`, with what is known about the model."""
    source = resolve(name)
    folder = fetch(source)
    if (folder / DELTA).exists():
        from holdfast.models.saving import load_delta

        return load_delta(source, folder, device=device)
    device = pick_device(device)
    model = load_model(folder, dtype or default_dtype(folder, device)).to(device)
    model.eval()
    return Loaded(model, load_processor(folder), source, folder, fingerprint(folder), source.name)


def pick_device(device: str | torch.device | None) -> torch.device:
    import torch

    if device is not None:
        return torch.device(device)
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def default_dtype(folder: Path, device: torch.device) -> torch.dtype:
    """float32 on a CPU; on a GPU what the checkpoint's configuration says."""
    import torch

    if device.type == "cpu":
        return torch.float32
    said = getattr(load_config(folder), "dtype", None)
    return said if isinstance(said, torch.dtype) else torch.bfloat16


def load_config(folder: Path) -> Any:
    """The model's configuration. Raises :class:`ModelError` if it cannot be read."""
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(folder, trust_remote_code=trusted().remote_code)
    except Exception as error:  # a damaged file fails in as many ways as it has keys
        if own_code(folder) and not trusted().remote_code:
            raise refused_code(folder) from None
        raise ModelError(
            f"the config.json in {folder} cannot be used: {_first_line(error)}"
        ) from None


def auto_class(config: Any) -> Any:
    """The transformers auto class for a configuration: image-text-to-text before text.

    Raises :class:`ModelError` for one that is neither.
    """
    from transformers import AutoModelForCausalLM, AutoModelForImageTextToText

    brought = getattr(config, "auto_map", None) or {} if trusted().remote_code else {}
    for auto in (AutoModelForImageTextToText, AutoModelForCausalLM):
        if type(config) in auto._model_mapping or auto.__name__ in brought:
            return auto
    raise ModelError(
        f"a '{config.model_type}' model neither writes text nor reads images and writes text; "
        "Holdfast tunes and evaluates models of those two kinds."
    )


def load_model(folder: Path, dtype: torch.dtype) -> PreTrainedModel:
    """The weights of an ordinary model folder, every one of them read.

    Raises :class:`ModelError` if they do not load, and if the files lack some of the model's or
    hold another shape: transformers would fill these in at random.
    """
    config = load_config(folder)
    with _quiet():
        try:
            model, info = auto_class(config).from_pretrained(
                folder,
                dtype=dtype,
                use_safetensors=_safetensors(folder),
                trust_remote_code=trusted().remote_code,
                ignore_mismatched_sizes=True,
                output_loading_info=True,
            )
        except Exception as error:  # safetensors, torch and each architecture have their own
            raise ModelError(f"the model in {folder} does not load: {_first_line(error)}") from None
    absent = sorted(info["missing_keys"])
    absent += sorted(f"{name} (shape {list(there)})" for name, there, _ in info["mismatched_keys"])
    if absent:
        raise ModelError(
            f"the weights in {folder} are not those of the model that its config.json describes: "
            f"{len(absent)} are missing or of another shape ({', '.join(absent[:3])}"
            f"{', ...' if len(absent) > 3 else ''}). Download or copy the folder again."
        )
    return cast("PreTrainedModel", model)


def load_processor(folder: Path) -> Processor:
    """The processor of a multimodal model, or the tokenizer of a text model.

    Raises :class:`ModelError` if there is none, and names a library that it lacks.
    """
    from transformers import AutoProcessor

    if not any((folder / name).exists() for name in TOKENIZERS):
        here = ", ".join(sorted(p.name for p in folder.iterdir())[:8]) or "nothing"
        raise ModelError(
            f"{folder} has no tokenizer, so that text cannot be given to its model: none of "
            f"{', '.join(TOKENIZERS)} is there (but {here}). Copy the tokenizer's files there "
            "from where the model comes from, or write them with tokenizer.save_pretrained."
        )
    with _quiet():
        try:
            return AutoProcessor.from_pretrained(folder, trust_remote_code=trusted().remote_code)
        except ImportError as error:
            raise ModelError(
                f"the processor in {folder} needs a library that is not installed: "
                f"{_first_line(error)} (usually: pip install torchvision)"
            ) from None
        except Exception as error:  # each processor fails on a damaged folder in its own way
            if "trust_remote_code" in str(error) and own_code(folder):
                raise refused_code(folder) from None
            raise ModelError(f"{folder} has no usable processor: {_first_line(error)}") from None


def _safetensors(folder: Path) -> bool:
    """Whether to insist on safetensors; pickles are read only where they alone are there."""
    return not trusted().pickle or any((folder / name).exists() for name in WEIGHTS)


def put(model: PreTrainedModel, values: Mapping[str, torch.Tensor]) -> None:
    """Replace named weights, bit for bit, taking on the values' dtypes.

    Raises :class:`ModelError` for a name that the model lacks or a shape that differs.
    """
    import torch

    parameters = dict(model.named_parameters())
    for name, value in values.items():
        if name not in parameters:
            raise ModelError(f"the model has no weight '{name}'; is this the right base?")
        parameter = parameters[name]
        if parameter.shape != value.shape:
            raise ModelError(
                f"'{name}' has shape {list(value.shape)}, the base's has {list(parameter.shape)}."
            )
        with torch.no_grad():
            if parameter.dtype == value.dtype:
                parameter.copy_(value)
            else:
                parameter.data = value.to(parameter.device)


@contextmanager
def _quiet() -> Any:
    """Without transformers' own bars and advice, which speak of things the user did not do."""
    import transformers

    logging = transformers.utils.logging
    verbosity = logging.get_verbosity()
    bars = logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:240]
