"""CoIN and CoIN-ASD as a sequence of stages.

The release has one folder per task with ``train_ori.json``, ``train_x{10,20,40,60,80}.json``
(so many percent in other answer styles) and ``test.json``, LLaVA-style rows; the images are
those of the original data sets. (Chen et al. 2024, arXiv 2403.08350; Chen et al. 2025, arXiv
2505.02486, data set jinpeng0528/CoIN-ASD.)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

from holdfast.errors import DataError, UnknownName

Variant = Literal["ori", "x10", "x20", "x40", "x60", "x80"]

SCORED: Mapping[str, str] = {
    "ScienceQA": "science_qa",
    "TextVQA": "textvqa_m4c",
    "ImageNet": "imagenet_coin",
    "GQA": "gqa_coin",
    "VizWiz": "vqa_coin",
    "Grounding": "grounding_iou",
    "VQAv2": "vqa_coin",
    "OCRVQA": "ocrvqa_coin",
}
"""Each task's scorer, in the benchmark's order."""

TASKS = tuple(SCORED)


def coin_stages(
    folder: str | Path,
    *,
    variant: Variant = "ori",
    tasks: Sequence[str] = TASKS,
    image_root: str | Path | None = None,
) -> list[dict[str, str]]:
    """The stages for ``holdfast.tune(model, coin_stages(FOLDER), ...)``.

    Args:
        folder: of the release.
        variant: which training files; tests are always in the original style.
        tasks: which, in which order.
        image_root: the folder that image paths start from; ``folder`` unless given.

    Raises:
        UnknownName: a task that CoIN does not have.
        DataError: a folder or a file is not there; the message lists what is.
    """
    root = Path(folder)
    there = {p.name.lower(): p for p in root.iterdir() if p.is_dir()} if root.is_dir() else {}
    stages = []
    for name in tasks:
        if name not in SCORED:
            raise UnknownName("CoIN task", name, TASKS)
        own = there.get(name.lower())
        if own is None:
            known = ", ".join(sorted(p.name for p in there.values())) or "no folder"
            raise DataError(f"{root} has no folder {name}; it has: {known}")
        images = str(image_root or root)
        options = f"scorer={SCORED[name]},image_root={images}"
        test = f"{_file(own, 'test.json')}:{options}"
        data = str(_file(own, f"train_{variant}.json"))
        stages.append({"name": name, "data": data, "test": test, "image_root": images})
    return stages


def _file(folder: Path, name: str) -> Path:
    path = folder / name
    if not path.is_file():
        known = ", ".join(sorted(p.name for p in folder.glob("*.json"))) or "no .json file"
        raise DataError(f"{folder} has no {name}; it has: {known}")
    return path
