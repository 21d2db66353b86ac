"""The battery: what every registered method must do, whatever it does besides."""

from __future__ import annotations

import functools
import inspect
import pickle
import re
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from holdfast.anatomy import anatomy
from holdfast.carried import Calibrated
from holdfast.errors import ConfigError, PlanConflict, SelectorError, UnknownName
from holdfast.methods import METHODS, method, plan, sa_proj
from holdfast.plan import Plan
from holdfast.testing.models import Tiny, tiny_llama, tiny_llava

_STEPS = 3


def check_method(name: str, **settings: object) -> None:
    """Run every check on the registered method ``name``.

    Args:
        name: as in :data:`holdfast.methods.METHODS`.
        settings: for those that have no default.

    Raises:
        AssertionError: a check failed; the message says which and how.
        HoldfastError: the method refuses its own defaults or both of the tiny models.
    """
    check_entry(name)
    check_plan(name, **settings)
    trained = [check_training(method(name, **settings), make) for make in (tiny_llama, tiny_llava)]
    assert any(trained), f"'{name}' fits neither a language model nor a multimodal one"


def check_entry(name: str) -> None:
    """The entry says what the method is, where it comes from, and what can be set."""
    entry = METHODS[name]
    text = inspect.getdoc(entry.value) or ""
    assert entry.summary, f"'{name}' has no summary"
    assert entry.paper, f"'{name}' does not say which paper it comes from"
    year = r"\b(19|20)\d\d\b"  # a method of nobody's paper ("none: an example") has none to cite
    cited = not re.search(year, entry.paper) or re.search(year, text)
    assert cited, f"the docstring of '{name}' cites no source"
    for parameter in inspect.signature(entry.value).parameters.values():
        assert parameter.annotation is not parameter.empty, f"{name}: {parameter.name} has no type"
        assert re.search(rf"\b{parameter.name}\b", text), f"{name}: {parameter.name} has no text"
    _refuses(UnknownName, lambda: method(name, no_such_setting=1), f"'{name}' takes any setting")
    for key in inspect.signature(entry.value).parameters:
        wrong = functools.partial(method, name, **{key: object()})
        _refuses(ConfigError, wrong, f"'{name}' takes any {key}")


def check_plan(name: str, **settings: object) -> None:
    """The plan fills a slot, survives pickling and its own name, and composes or refuses."""
    made = method(name, **settings)
    slots = (made.train, made.adapt, made.feed, *made.learn, *made.update, *made.settle)
    assert any(slot is not None for slot in slots), f"the plan of '{name}' changes nothing"
    assert made.name.startswith(name), f"the plan of '{name}' is called '{made.name}'"
    assert repr(pickle.loads(pickle.dumps(made))) == repr(made), f"'{name}' does not pickle"
    assert repr(plan([made.name])) == repr(made), f"'{made.name}' is read back as another plan"
    problem = _problem(PlanConflict, lambda: made | made)
    assert problem is None or name in problem, f"the conflict does not name '{name}': {problem}"


def check_training(made: Plan, make: Callable[[], Tiny] = tiny_llama) -> bool:
    """Train a few steps with weight decay, through the engine, and look at every weight.

    A plan that chooses no weights is joined with ``sa-proj``. Returns False if it selects
    nothing in this model (``vision`` in a language model), having checked that it says so.
    """
    made = made if made.train is not None or made.adapt is not None else sa_proj() | made
    tiny = make()
    before = _values(tiny.model)
    logits = _logits(tiny.model, tiny.batch)
    reached = _reached(make())
    with tempfile.TemporaryDirectory() as folder:
        problem = _problem(SelectorError, lambda: made.selection(anatomy(tiny.model)))
        if problem is not None:
            assert "There is" in problem, f"the error does not list what exists: {problem}"
            return False
        # neither edits nor an order of data, which are not a plain trainer's to follow
        trainer = _trainer(replace(made, settle=(), feed=None), tiny, folder)
        model, bound = trainer.bound.model, trainer.bound
        _same(_logits(model, tiny.batch), logits, f"'{made.name}' changes the model by attaching")
        _check_gradients(trainer, tiny, _tags(made))
        start = _values(model)
        trainer.train()
        _check_moved(made, model, start, set(bound.trainable), reached, bound.original)
        _check_optimizer(trainer, model, set(bound.trainable))
        trained = _logits(model, tiny.batch)
        assert not torch.equal(trained, logits), f"'{made.name}' trains and nothing changes"
        done = bound.detach(Path(folder) / "adapter")
        _same(_logits(done, tiny.batch), trained, f"'{made.name}' changes the model by detaching")
    _check_edits(made, before)
    return True


def _trainer(made: Plan, tiny: Tiny, folder: str) -> Any:
    from transformers import PrinterCallback, Trainer, TrainingArguments

    from holdfast.engine import with_plan

    arguments = TrainingArguments(
        output_dir=folder,
        max_steps=_STEPS,
        per_device_train_batch_size=2,
        learning_rate=1e-2,
        weight_decay=0.1,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        use_cpu=True,
        remove_unused_columns=False,
    )
    tags = _tags(made)
    rows = [row | {k: v[i] for k, v in tags.items()} for i, row in enumerate(tiny.rows())]
    adapter: Any = made.adapt
    if isinstance(adapter, Calibrated):
        adapter.calibrate([tiny.batch])
    trainer = with_plan(Trainer, made)(model=tiny.model, args=arguments, train_dataset=rows)
    trainer.pop_callback(PrinterCallback)
    return trainer


def _tags(made: Plan) -> dict[str, Tensor]:
    """What the engine's own feed adds to a batch, for terms that read one source of data."""
    if not any(getattr(term, "source", None) for term in made.learn):
        return {}
    return {"source": torch.zeros(2, dtype=torch.long), "example": torch.arange(2)}


def _check_gradients(trainer: Any, tiny: Tiny, tags: Mapping[str, Tensor]) -> None:
    model = trainer.bound.model
    model.train()
    trainer.compute_loss(model, {**tiny.batch, **tags}).backward()
    trainable = set(trainer.bound.trainable)
    for name, parameter in model.named_parameters():
        assert name in trainable or parameter.grad is None, f"frozen '{name}' gets a gradient"
    model.zero_grad()


def _check_moved(
    made: Plan,
    model: nn.Module,
    start: Mapping[str, Tensor],
    trainable: set[str],
    reached: set[str],
    original: Mapping[str, str],
) -> None:
    assert trainable, f"'{made.name}' trains nothing"
    for name, value in _values(model).items():
        moved = not torch.equal(value, start[name])
        if name not in trainable:
            assert not moved, f"'{made.name}' moved the frozen weight '{name}'"
        elif original.get(name, name) in reached or name not in original:
            assert moved, f"'{made.name}' left the trainable weight '{name}' as it was"


def _check_optimizer(trainer: Any, model: nn.Module, trainable: set[str]) -> None:
    names = {id(p): n for n, p in model.named_parameters()}
    inner = getattr(trainer.optimizer, "optimizer", trainer.optimizer)
    for parameter in inner.state:
        assert names[id(parameter)] in trainable, f"optimizer state for '{names[id(parameter)]}'"


def _check_edits(made: Plan, weights: Mapping[str, Tensor]) -> None:
    """An edit of weights that did not move leaves them, and changes none of its inputs."""
    for edit in made.settle:
        copies = {name: value.clone() for name, value in weights.items()}
        for name, value in edit(copies, copies, copies).items():
            _same(value, weights[name], f"the edit '{edit.name}' of equal weights changes '{name}'")
            assert value.dtype == weights[name].dtype
        for name, value in copies.items():
            assert torch.equal(value, weights[name]), f"the edit '{edit.name}' writes to its input"


def _reached(tiny: Tiny) -> set[str]:
    """Weights that the loss depends on (LLaVA never reads the last layers of its tower)."""
    tiny.model(**tiny.batch).loss.backward()
    return {
        n for n, p in tiny.model.named_parameters() if p.grad is not None and bool(p.grad.any())
    }


def _values(model: nn.Module) -> dict[str, Tensor]:
    return {n: p.detach().clone() for n, p in model.named_parameters()}


@torch.no_grad()
def _logits(model: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
    was = model.training
    model.eval()
    logits: Tensor = model(**{k: v for k, v in batch.items() if k != "labels"}).logits
    model.train(was)
    return logits


def _same(a: Tensor, b: Tensor, otherwise: str) -> None:
    torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5, msg=lambda m: f"{otherwise}: {m}")


def _refuses(error: type[Exception], call: Callable[[], object], otherwise: str) -> None:
    assert _problem(error, call) is not None, otherwise


def _problem(error: type[Exception], call: Callable[[], object]) -> str | None:
    """What ``call`` has to say when it raises ``error``, or None if it does not."""
    try:
        call()
    except error as raised:
        return str(raised)
    return None
