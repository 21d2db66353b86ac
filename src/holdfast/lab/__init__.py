"""A small world with small models, reached by names such as ``lab:vlm`` and ``lab:count``.

Everything is drawn by seeded generators, works without a network, and has a train and a
test split that share no content. See :func:`models`, :func:`datasets` and :func:`suite`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from holdfast.errors import ModelError, UnknownName, UsageError

if TYPE_CHECKING:
    from holdfast.data.records import Record
    from holdfast.lab.ability import Split
    from holdfast.tasks.base import Task

__all__ = ["datasets", "is_lab", "models", "path", "records", "show", "suite", "suites", "task"]

TRAIN_SIZE, TEST_SIZE = 6000, 200
"""How many records a split has unless told; small worlds of text hold fewer."""

HOME = Path(__file__).parent / "weights"
"""Where the models lie that ship with the package."""
LEARNING_RATE = 1e-3
"""A rate at which models of this size learn a skill in a few hundred steps."""
_MODELS = {
    "lab:vlm": "a LLaVA of 1.4 million parameters that looks at 48x48 pictures",
    "lab:lm": "a Llama of 1 million parameters that reads",
}
_SUITES = {
    "lab:held-out": "the abilities that the model was pre-trained on",
    "lab:targets": "the skills that the model has not seen, in the order of a sequence",
}


def is_lab(name: str) -> bool:
    """Whether ``name`` asks for something of the lab's (it may still not exist)."""
    return name.startswith("lab:")


def models() -> dict[str, str]:
    """The models that ship with the package: name and one line."""
    return dict(_MODELS)


def path(name: str) -> Path:
    """The folder of model ``name`` ('lab:vlm'), which transformers loads by itself.

    Raises:
        UnknownName: there is no such model.
        ModelError: its weights are not installed.
    """
    if name not in _MODELS:
        raise UnknownName("lab model", name, _MODELS)
    folder = HOME / name.removeprefix("lab:")
    if not (folder / "model.safetensors").is_file():
        raise ModelError(
            f"the weights of '{name}' are missing from {folder}; run: holdfast lab build"
        )
    return folder


def datasets() -> dict[str, str]:
    """The data sets, each of which is a task too: name and one line."""
    from holdfast.lab.catalogue import PREFIX, ability, names

    return {PREFIX + name: ability(name).summary for name in names()}


def records(name: str, split: Split = "train", n: int | None = None, seed: int = 0) -> list[Record]:
    """Distinct conversations of ``name`` ('lab:count'), the same for the same arguments.

    ``n``: at most so many; by default 6,000 to train on and 200 to test on. No picture and
    no question (for abilities that only read) of one split occurs in the other, whatever
    the seeds. ``lab:general`` and ``lab:general-vlm`` are mixed sets of what the models were
    pre-trained on (:mod:`holdfast.lab.general`).

    Raises:
        UnknownName: there is no such data set or split.
        UsageError: ``n`` is below 1.
        MissingExtra: ``lab:digits`` without scikit-learn.
    """
    from holdfast.lab.ability import draw_records
    from holdfast.lab.catalogue import ability
    from holdfast.lab.general import SETS, general

    if split not in ("train", "test"):
        raise UnknownName("split", split, ("train", "test"))
    full = name if is_lab(name) else f"lab:{name}"
    if full in SETS:
        return general(full, split, n, seed)
    if n is None:
        n = TRAIN_SIZE if split == "train" else TEST_SIZE
    if n < 1:
        raise UsageError(f"{name} was asked for {n} records; ask for at least 1.")
    return list(draw_records(ability(name), split, n, seed))


def task(name: str, n: int | None = None, seed: int = 0) -> Task:
    """The test split of ``name`` as a task. Raises as :func:`records` does."""
    from holdfast.lab.catalogue import PREFIX, ability
    from holdfast.tasks.base import Example, Task

    found = ability(name)
    examples = tuple(
        Example(record.id, record.prompt(), (record.answer(),))
        for record in records(name, "test", n, seed)
    )
    return Task(
        name=PREFIX + found.name,
        examples=examples,
        scorer=found.scorer,
        max_new_tokens=found.max_new_tokens,
        summary=found.summary,
    )


def suites() -> dict[str, str]:
    """The suites: name and one line."""
    return dict(_SUITES)


def suite(name: str, model: str | Path) -> list[str]:
    """The tasks of suite ``name`` for ``model``: a lab model's name, or a folder of one.

    A model tuned from the lab's is asked about by its base's name.

    Raises:
        UnknownName: there is no such suite or lab model.
        UsageError: ``model`` is not one of the lab's.
    """
    from holdfast.lab.catalogue import HELD_OUT, PREFIX, TARGETS

    if name not in _SUITES:
        raise UnknownName("lab suite", name, _SUITES)
    table = HELD_OUT if name == "lab:held-out" else TARGETS
    return [PREFIX + ability for ability in table[_which(model, name)]]


def _which(model: str | Path, name: str) -> str:
    """'vlm' or 'lm': which of the lab's models ``model`` is."""
    card = Path(model) / "lab.json"
    known = str(model)
    if card.is_file():
        known = str(json.loads(card.read_text()).get("model", ""))
    if known in _MODELS:
        return known.removeprefix("lab:")
    if is_lab(known):
        raise UnknownName("lab model", known, _MODELS)
    raise UsageError(
        f"{name} means what a lab model was pre-trained on, and '{model}' is not one of "
        f"{', '.join(_MODELS)} and has no lab.json; name the tasks instead, "
        "e.g. lab:colour,lab:sums."
    )


def show(name: str, out: Path, n: int = 24, seed: int = 0) -> Path:
    """Write a PNG with ``n`` training examples of ``name``: picture, question, answer.

    Raises as :func:`records` does.
    """
    from holdfast.lab.sheet import contact_sheet

    return contact_sheet(records(name, "train", n, seed), out)
