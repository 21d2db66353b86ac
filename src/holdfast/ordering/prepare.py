"""A data set into an ordered data set: score, select, order, write."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from holdfast.data import DataSet, Record, read
from holdfast.data.orders import Keep, Order, arrange, read_order
from holdfast.errors import RunError, UsageError
from holdfast.methods._text import parse
from holdfast.ordering._registry import RANKERS, Scorer, Work
from holdfast.ordering.rows import check_place, rows_of, write_rows
from holdfast.progress import Progress
from holdfast.runs.files import read_json, write_json
from holdfast.runs.lock import Lock

if TYPE_CHECKING:
    from holdfast.models.loading import Loaded

SETTINGS = "settings.json"


@dataclass(frozen=True)
class Ordered:
    """What was written."""

    out: Path
    order: list[int]
    """The places in the data set of the rows that were written, in their order."""
    scores: list[float]
    """Of every record of the data set, written or not."""
    provenance: Path


@dataclass(frozen=True, kw_only=True)
class _Wish:
    """What was asked for, checked."""

    data: DataSet
    target: DataSet | None
    name: str
    scorer: Scorer
    settings: dict[str, Any]
    order: Order
    select: float
    keep: Keep
    column: str
    seed: int
    out: Path
    scope: str
    max_length: int | None
    batch_size: int


def order(
    data: Any,
    *,
    model: str,
    out: str | Path,
    score: str = "lqs",
    order: str = "fold:3",
    select: float = 1.0,
    keep: Keep | None = None,
    target: Any = None,
    column: str | None = None,
    scope: str = "language",
    seed: int = 0,
    batch_size: int = 8,
    max_length: int | None = None,
    image_root: str | Path | None = None,
    limit: int | None = None,
    progress: Progress | None = None,
) -> Ordered:
    """Write a data set in an order that follows from a score of each record.

    The rows are written as they stand in a data file, with the score as one more column; from
    other sources as chats or texts. A folder ``OUT.scores`` beside keeps the scores, so that the
    same call goes on where it was killed, and another order or selection needs no model.

    Args:
        data: anything that :func:`holdfast.data.read` reads.
        model: what scores; small is enough (the paper's proxy has 160 million weights).
        out: a .jsonl file.
        score: a scorer with settings, such as ``lqs:steps=50``.
        order: ``as-is``, ``shuffled``, ``ascending``, ``descending``, ``fold:L``, ``zigzag:L``.
        select: the share that is kept.
        keep: which end of the scores is kept; None: the scorer's own.
        target: data that the model is to be good at, for ``lqs``.
        column: the name of the score's column; None: the scorer's.
        scope: a selector: the weights whose gradients count.
        batch_size: examples in a forward pass.
        max_length: tokens; longer text is cut.
        image_root: the folder that image paths start from.
        limit: read at most so many records.

    Raises:
        UsageError: a name, a setting, or a column that the rows have already.
        DataError: the data cannot be read.
        ModelError: the model cannot be loaded.
        RunError: a file cannot be written, or a score is not a number.
    """
    root = Path(image_root) if image_root is not None else None
    name, given = parse(score)
    scorer = RANKERS[name].value
    if scorer.needs_target and target is None:
        raise UsageError(
            f"the scorer '{name}' measures what serves a target set: give one with --target DATA, "
            "or choose a scorer that needs none (holdfast order --help)."
        )
    place = Path(out)
    if place.suffix != ".jsonl":
        raise UsageError(f"--out {str(out)!r}: ordered data is written as JSON Lines (.jsonl).")
    wish = _Wish(
        data=read(data, limit=limit, image_root=root),
        target=read(target) if target is not None and scorer.needs_target else None,
        name=name,
        scorer=scorer,
        settings=scorer.settings(name, given),
        order=read_order(order),
        select=select,
        keep=keep or scorer.keep,
        column=column or name,
        seed=seed,
        out=place,
        scope=scope,
        max_length=max_length,
        batch_size=batch_size,
    )
    arrange([0.0], wish.order, select=select)  # refuses a share before anything is computed
    _check_out(wish)
    check_place(wish.data, place, root)
    return _prepare(wish, model, progress or Progress())


def _check_out(wish: _Wish) -> None:
    if not len(wish.data):
        raise UsageError(f"{wish.data.source} has no records to order.")
    if wish.out.exists() and wish.out.resolve() == Path(wish.data.source).resolve():
        raise UsageError(f"--out {wish.out} is the data itself; choose another file.")
    clash = next((r for r in wish.data if wish.column in r.meta), None)
    if clash is not None:
        raise UsageError(
            f"the rows have a column '{wish.column}' already (record {clash.id!r}); name the "
            "score's column with --column."
        )


def _prepare(wish: _Wish, model: str, progress: Progress) -> Ordered:
    folder = wish.out.with_suffix(".scores")
    lock = Lock(folder)
    lock.take()
    try:
        facts, scores = _scores(wish, model, folder, progress)
        chosen = arrange(scores, wish.order, select=wish.select, keep=wish.keep, seed=wish.seed)
        write_rows(wish.out, rows_of(wish.data), chosen, {wish.column: scores})
        provenance = wish.out.with_suffix(".provenance.json")
        write_json(provenance, _provenance(wish, facts, scores, chosen))
        return Ordered(wish.out, chosen, scores, provenance)
    finally:
        lock.drop(remove=True)


def _scores(
    wish: _Wish, model: str, folder: Path, progress: Progress
) -> tuple[dict[str, Any], list[float]]:
    """The scores, computed or as an earlier call left them; and what they were made from."""
    from holdfast.models.loading import load_all
    from holdfast.models.source import fetch, fingerprint, resolve

    source = fetch(resolve(model))
    facts = {
        "model": model,
        "model_hash": fingerprint(source),
        "scorer": wish.name,
        "settings": wish.settings,
        "scope": wish.scope,
        "seed": wish.seed,
        "max_length": wish.max_length,
        "batch_size": wish.batch_size,
        "data": wish.data.source,
        "records": len(wish.data),
        "data_hash": _digest(wish.data),
        "target": wish.target.source if wish.target is not None else None,
        "target_hash": _digest(wish.target) if wish.target is not None else None,
    }
    done = folder / "scores.json"
    if _same(folder, facts):
        if done.exists():
            progress.say(f"the scores in {folder} are of this model, data and settings: kept")
            return facts, list(read_json(done)["scores"])
        progress.say(f"going on with the scores in {folder}")
    else:
        _clear(folder)
        write_json(folder / SETTINGS, facts)
    loaded = load_all(model, dtype=_dtype(wish))
    scores = wish.scorer.run(_work(wish, loaded, folder, progress), **wish.settings)
    write_json(done, {"scores": scores})
    return facts, scores


def _same(folder: Path, facts: dict[str, Any]) -> bool:
    try:
        return bool(read_json(folder / SETTINGS) == json.loads(json.dumps(facts)))
    except RunError:
        return False


def _clear(folder: Path) -> None:
    """Take away what an earlier call with other settings left; never anything else."""
    for entry in folder.glob("*"):
        if entry.name.startswith("."):
            continue
        if not (folder / SETTINGS).exists():
            raise UsageError(f"{folder} holds {entry.name!r}, which is not ours; move it away.")
        break
    shutil.rmtree(folder / "work", ignore_errors=True)
    for name in ("scores.json", SETTINGS):
        (folder / name).unlink(missing_ok=True)


def _dtype(wish: _Wish) -> Any:
    import torch

    return torch.float32 if wish.scorer.precise else None


def _work(wish: _Wish, loaded: Loaded, folder: Path, progress: Progress) -> Work:
    from holdfast.anatomy import anatomy
    from holdfast.data import Encoder
    from holdfast.data.counting import EncodedSet

    encoder = Encoder(loaded.processor, max_length=wish.max_length or _longest(loaded.model))
    examples = EncodedSet(wish.data, encoder)
    target: Sequence[Record] = wish.target if wish.target is not None else ()
    selection = anatomy(loaded.model).select(wish.scope)
    loaded.model.requires_grad_(False)
    return Work(
        model=loaded.model,
        examples=examples,
        collate=examples.collate,
        folder=folder / "work",
        target=EncodedSet(target, encoder),
        batch_size=wish.batch_size,
        seed=wish.seed,
        scope=tuple(selection.parameters),
        progress=progress,
    )


def _longest(model: Any) -> int | None:
    config = model.config.get_text_config()
    longest = getattr(config, "max_position_embeddings", None)
    return int(longest) if longest else None


def _digest(data: DataSet) -> str:
    """A hash of everything that the records say."""
    digest = hashlib.sha256()
    for record in data:
        said = (record.id, record.raw, [(m.role, m.train, m.parts) for m in record.messages])
        digest.update(repr(said).encode("utf-8", "backslashreplace"))
        for image in record.images:
            digest.update(image.data or repr(image.path).encode())
    return digest.hexdigest()


def _provenance(
    wish: _Wish, facts: dict[str, Any], scores: Sequence[float], chosen: Sequence[int]
) -> dict[str, Any]:
    import numpy as np

    from holdfast.engine.provenance import PACKAGES, _version

    quantiles = np.quantile(np.asarray(scores), [0, 0.25, 0.5, 0.75, 1]).tolist()
    return {
        **facts,
        "column": wish.column,
        "order": str(wish.order),
        "select": wish.select,
        "keep": wish.keep,
        "written": len(chosen),
        "scores": dict(zip(("min", "q25", "median", "q75", "max"), quantiles, strict=True)),
        "versions": {name: _version(name) for name in PACKAGES},
    }
