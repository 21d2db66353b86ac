"""The output of a model's frozen lower part, taken out once and put in ever after.

The model's own forward still runs and makes masks, positions and whatever follows the head; only
the modules below the line are passed over. So nothing here knows a family.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from holdfast.cache.keys import code, digest, tensors
from holdfast.engine.keeping import model_inputs
from holdfast.engine.line import Line, NoReuse, changing, find_line
from holdfast.engine.rowkeys import spans

PIXELS = ("pixel_values", "pixel_values_images")
"""Inputs that only the vision tower reads."""


class Stop(BaseException):
    """Ends a forward pass that has shown what was wanted. No library catches a BaseException."""


def hidden_of(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Tensor:
    """The hidden states among a block's arguments."""
    value = args[0] if args else kwargs["hidden_states"]
    assert isinstance(value, Tensor)
    return value


def _bare(value: Any) -> Tensor:
    found = value[0] if isinstance(value, tuple) else value
    assert isinstance(found, Tensor)
    return found


@contextmanager
def watching(line: Line, see: Callable[[Tensor], None]) -> Iterator[None]:
    """Within, ``see`` is called with the [B, T, D] hidden states at the line."""
    if line.index < len(line.blocks):

        def before(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            see(hidden_of(args, kwargs))

        handle = line.blocks[line.index].register_forward_pre_hook(before, with_kwargs=True)
    else:

        def after(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            see(_bare(output))

        handle = line.blocks[-1].register_forward_hook(after)
    try:
        yield
    finally:
        handle.remove()


@torch.no_grad()
def states_at(line: Line, inputs: Mapping[str, Any], call: Callable[..., Any]) -> Tensor:
    """[B, T, D] hidden states at the line; nothing above it is computed."""
    seen: list[Tensor] = []

    def stop(hidden: Tensor) -> None:
        seen.append(hidden)
        raise Stop

    try:
        with watching(line, stop):
            call(**inputs, use_cache=False)
    except Stop:
        pass
    return seen[0]


@contextmanager
def passing(line: Line, states: Tensor) -> Iterator[None]:
    """Within, the blocks below the line do nothing and ``states`` [B, T, D] stand at it."""
    with ExitStack() as undo:
        last = len(line.blocks) - 1
        for index, block in enumerate(line.blocks[: line.index]):
            given = states if index == last else None
            undo.enter_context(replaced(block, _pass(line, index, given)))
        if line.index <= last:
            undo.enter_context(_given(line.blocks[line.index], states))
        yield


def without_pixels(inputs: Mapping[str, Any]) -> dict[str, Any]:
    """The inputs of a forward pass in which no image is looked at."""
    return {k: v for k, v in inputs.items() if k not in PIXELS}


def _pass(line: Line, index: int, states: Tensor | None = None) -> Callable[..., Any]:
    count = line.returns.get(index, 0)

    def forward(*args: Any, **kwargs: Any) -> Any:
        out = hidden_of(args, kwargs) if states is None else states
        return (out, *[None] * (count - 1)) if count else out

    return forward


@contextmanager
def noting_returns(line: Line) -> Iterator[None]:
    """Within, a forward pass shows what kind of value each block returns."""

    def note(index: int) -> Callable[..., None]:
        def after(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            line.returns[index] = len(output) if isinstance(output, tuple) else 0

        return after

    handles = [b.register_forward_hook(note(i)) for i, b in enumerate(line.blocks)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def replaced(module: nn.Module, forward: Callable[..., Any]) -> Iterator[None]:
    """Within, calling ``module`` calls ``forward``; a forward that a wrapper set is put back."""
    own = vars(module).get("forward")
    object.__setattr__(module, "forward", forward)
    try:
        yield
    finally:
        if own is None:
            object.__delattr__(module, "forward")
        else:
            object.__setattr__(module, "forward", own)


@contextmanager
def _given(block: nn.Module, states: Tensor) -> Iterator[None]:
    def before(
        module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        if args:
            return (states, *args[1:]), kwargs
        return args, {**kwargs, "hidden_states": states}

    handle = block.register_forward_pre_hook(before, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


class Prefix:
    """The hidden states at the freeze line: a :class:`holdfast.engine.keeping.Kind`.

    Args:
        model: inside its wrappers, with ``requires_grad`` set as it will train.
        setting: what else the values depend on: device and precision.

    Raises:
        NoReuse: a weight below every block trains, or something below the line drops at random.
        ModelError: the family is not in the table.
    """

    def __init__(self, model: nn.Module, setting: str) -> None:
        self.model, self.line = model, find_line(model)
        reason = changing(self.line.below())
        if reason is not None:
            raise NoReuse(
                f"dropout or the like is active below the first block that trains: {reason}"
            )
        weights = tensors(self.line.weights())
        self.scope = digest(code(model), weights, f"{setting} line {self.line.index}")

    @property
    def needs_images(self) -> bool:
        """Whether only the embeddings, which cost nothing, lie below the line of a text."""
        return self.line.index == 0

    def saves(self, inputs: Mapping[str, Any]) -> bool:
        return not self.needs_images or inputs.get("pixel_values") is not None

    def marks(self, batch: Mapping[str, Any]) -> list[bytes]:
        return [b""] * len(batch["input_ids"])

    def compute(self, batch: Mapping[str, Any]) -> list[Tensor]:
        """Each row's [T, D] states, without padding."""
        inputs = model_inputs(batch)
        return self.cut([states_at(self.line, inputs, self.model)], inputs)

    def cut(self, crossed: Sequence[Tensor], inputs: Mapping[str, Any]) -> list[Tensor]:
        """Each row's states, from what was at the line in a pass over ``inputs``."""
        rows = zip(crossed[0], spans(inputs), strict=True)
        return [row[start:stop].detach() for row, (start, stop) in rows]

    def watching(self, see: Callable[[Tensor], None]) -> AbstractContextManager[None]:
        """Within, ``see`` is called with the [B, T, D] states at the line."""
        return watching(self.line, see)

    def learning(self, inputs: Mapping[str, Any]) -> AbstractContextManager[None]:
        """Within, a plain pass shows what the blocks return."""
        return noting_returns(self.line)

    def passing(
        self, rows: Sequence[Tensor], inputs: Mapping[str, Any], packed: bool
    ) -> AbstractContextManager[None]:
        """Within, a pass over ``inputs``, packed or padded, begins at the line."""
        ids = inputs["input_ids"]
        if packed:
            return passing(self.line, torch.cat(list(rows)).unsqueeze(0).to(ids.device))
        starts = [start for start, _ in spans(inputs)]
        return passing(self.line, pad(rows, ids.shape[1], starts).to(ids.device))


def pad(rows: Sequence[Tensor], length: int, starts: Sequence[int] | None = None) -> Tensor:
    """[B, T, D] from rows [t_i, D], each from its start on; 0 where there is none."""
    out = rows[0].new_zeros((len(rows), length, *rows[0].shape[1:]))
    for i, row in enumerate(rows):
        begin = starts[i] if starts is not None else 0
        out[i, begin : begin + len(row)] = row
    return out
