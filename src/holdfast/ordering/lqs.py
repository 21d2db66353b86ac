"""LQS: how learnable an example is, and how much learning it serves the target."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from holdfast.errors import UsageError
from holdfast.ordering._registry import Work, scorer
from holdfast.ordering.chunks import Row, by_chunks
from holdfast.ordering.learnability import SMALLEST, Rate, Steps
from holdfast.ordering.per_example import PerExample
from holdfast.ordering.proxy import Proxy, State, visits
from holdfast.runs.files import writing


@scorer(
    "lqs",
    summary="learnability times quality for a target set, by the adjoint of a short training",
    paper="Dai et al. 2025, arXiv 2506.21545",
    needs_target=True,
    precise=True,
)
def lqs(
    work: Work,
    steps: Steps = 100,
    rate: Rate = 0.008,
    batch: Steps = 16,
    interval: Steps = 10,
    official: bool = False,
    together: Steps = 1,
) -> list[float]:
    """gamma_n = sum_t lambda_{t+1}^T grad l_n(theta_t) / ||grad l_n(theta_{t+1})||.

    Dai et al., "Data Efficacy for Language Model Training", 2025, equations 6 to 9. The proxy is
    the model itself under T = ``steps`` steps of plain SGD on the data; J is the mean loss of the
    target set, and the adjoint runs backwards,

        lambda_T = grad J(theta_T)
        lambda_t = lambda_{t+1} + grad J(theta_t) - eta H_t(theta_t) lambda_{t+1},

    so that eta * sum_t lambda_{t+1}^T grad l_n(theta_t) is minus the derivative of
    sum_{t=1..T} J(theta_t) by a weight gamma_n of example n in every step's loss. H_t is the
    Hessian of the step's own loss, as the derivative of the training that was run.

    Inner products and norms come from one backward pass a batch by hooks. The sum runs over every
    ``interval``-th state (10 as in the released code, with the norm at the state visited before,
    ``interval`` steps later; 1 is the paper's sum).

    Memory: the weights, lambda, and two (Hessian) or three (its second pass) gradients, so 6
    numbers a weight, and one batch's activations. On the disk sqrt(T) states, and as many on the
    CPU.

    Args:
        rate: eta.
        batch: examples of a step.
        official: the released code's choice of states: those below T whose number ``interval``
            divides; the last of them counts too, with 1 in place of a later norm. Here states are
            counted from T, which gives the first norms and no product. The code also multiplies
            by eta, which changes no rank.
        together: with ``official``, the examples that the released code scores at once (8 in its
            configuration). Above 1 it divides every example's product by every norm of its batch
            and keeps the first N of the N * ``together`` quotients, so that most scores belong to
            other examples (:func:`paired`). At 1 it is the paper's score.
    """
    if together > 1 and not official:
        raise UsageError(f"'lqs' was given together={together}; it needs official=true.")
    if not len(work.target):
        raise UsageError("the scorer 'lqs' measures what serves a target set; give --target DATA.")
    proxy = Proxy(work, steps, rate, batch)
    looked = set(range(0, steps, interval) if official else visits(steps, interval))
    proxy.run()
    read = PerExample(work.model, proxy.names)
    found: dict[int, list[Row]] = {}
    for t, adjoint in _backwards(work, proxy, looked):

        def products(indices: Sequence[int], adjoint: State | None = adjoint) -> list[Row]:
            one = read(work.batch(work.examples, indices), adjoint)
            norms = one.squares.sqrt().tolist()
            return [[d, n] for d, n in zip(one.dots.tolist(), norms, strict=True)]

        by_chunks(work, _rows(t), products, f"gradients at step {t}")
    for t in looked:
        found[t] = by_chunks(work, _rows(t), _all_there, "")
    proxy.forget()
    _file(work).unlink(missing_ok=True)
    seen = [found[t] for t in sorted(looked, reverse=True)]
    return combined(seen, official=official, together=together)


def _rows(t: int) -> str:
    return f"step-{t:06d}.jsonl"


def _all_there(indices: Sequence[int]) -> list[Row]:
    raise AssertionError(f"examples {list(indices)[:3]} were not looked at")


def combined(
    seen: Sequence[Sequence[Row]], *, official: bool = False, together: int = 1
) -> list[float]:
    """Scores from the [product, norm] of every example at the visited states, the last first."""
    total = [0.0] * len(seen[0])
    later: Sequence[Row] = [[0.0, 1.0]] * len(total)
    for place, rows in enumerate(seen):
        for n in range(len(rows)) if place or official else ():
            product, norm = paired(n, len(rows), together)
            total[n] += rows[product][0] / max(later[norm][1], SMALLEST)
        later = rows
    return total


def paired(n: int, count: int, together: int) -> tuple[int, int]:
    """Whose product and whose norm the released code makes the score of example ``n`` of.

    Its map over a batch of B examples does not take the norms apart, so that a batch gives B * B
    quotients, row by row; of all batches' quotients the first ``count`` are the scores.
    """
    size = min(together, count)
    batch, rest = divmod(n, size * size)
    return batch * size + rest // size, batch * size + rest % size


def _backwards(work: Work, proxy: Proxy, looked: set[int]) -> Iterator[tuple[int, State | None]]:
    """Yields each looked-at t from the last, with the model at theta_t, and lambda_{t+1}.

    At t = T there is no lambda_{t+1} yet. lambda is written before each visit, so that a killed
    process goes on with the visit that it was at.
    """
    t, adjoint = _recalled(work, proxy)
    for stop in sorted((s for s in looked if s <= t), reverse=True):
        with work.progress.bar(f"the adjoint, back to step {stop}") as advance:
            for s in range(t, stop, -1):
                proxy.at(s)
                adjoint = before(proxy, s, adjoint)
                advance(t - s + 1, t - stop)
        if adjoint is not None:
            _keep(work, stop, adjoint)
        proxy.at(stop)
        t = stop
        yield stop, adjoint


def before(proxy: Proxy, t: int, adjoint: State | None) -> State:
    """lambda_t from lambda_{t+1} (None at t = T), with the model at theta_t."""
    work = proxy.work
    target = proxy.gradient(work.target, range(len(work.target)))
    if adjoint is None:
        return target
    bent = proxy.curvature(t, adjoint)
    with torch.no_grad():
        for name in target:
            target[name] += adjoint[name] - proxy.rate * bent[name]
    return target


def _file(work: Work) -> Path:
    return work.folder / "adjoint.safetensors"


def _keep(work: Work, t: int, adjoint: State) -> None:
    held = {f"lambda.{name}": value.cpu() for name, value in adjoint.items()}
    with writing(_file(work)) as temporary:
        save_file({**held, "step": torch.tensor(t)}, temporary)


def _recalled(work: Work, proxy: Proxy) -> tuple[int, State | None]:
    """Where a killed process was; else T."""
    if not _file(work).exists():
        return proxy.steps, None
    held = load_file(_file(work))
    device = next(work.model.parameters()).device
    return int(held.pop("step")), {
        name.removeprefix("lambda."): value.to(device) for name, value in held.items()
    }
