"""The ways to merge, by name: a function of settings that returns one. No torch.

A third party's module is found by the entry-point group ``holdfast.merges``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace

from holdfast.errors import UsageError
from holdfast.methods._registry import (
    Count,
    Finite,
    Positive,
    Probability,
    Share,
    checked_settings,
)
from holdfast.methods._text import parse
from holdfast.methods.merging import Density
from holdfast.pieces.merging import Average, Merge, Rescale, Slerp, Soup, TaskVectors, Trim
from holdfast.registry import Registry


@dataclass(frozen=True, kw_only=True)
class Greedy:
    """A soup of the models that do not lower the score (Wortsman et al. 2022, recipe 1)."""

    code_compat: bool = False
    """Of those that raise it, as in the authors' code."""


@dataclass(frozen=True, kw_only=True)
class Cocktail:
    """A soup of all models and the base, weighted by their loss on a few examples."""

    temperature: float
    batch: int = 1


How = Merge | Greedy | Cocktail
MERGES: Registry[Callable[..., How]] = Registry("merge")


def how_to(text: str, weights: Sequence[float] | None = None) -> How:
    """A way to merge, as text: ``soup``, ``ties:density=0.3,trim=tensor``.

    Args:
        weights: one for each model, for a way that takes them.

    Raises:
        UnknownName: no such way or setting; the message has the nearest one.
        ConfigError: a setting has a wrong value.
        UsageError: weights for a way that has none.
    """
    name, settings = parse(text)
    found = MERGES[name].value(**checked_settings(name, MERGES[name].value, settings))
    if weights is None:
        return found
    if "weights" not in {f.name for f in fields(found)}:  # type: ignore[arg-type]
        own = {"slerp": "t is its setting", "greedy-soup": "it chooses them"}
        raise UsageError(f"'{name}' takes no weights: {own.get(name, 'it computes them')}.")
    return replace(found, weights=tuple(weights))  # type: ignore[type-var]


@MERGES.register(
    "soup",
    summary="the average of the models; weights sum to 1",
    paper="Wortsman et al. 2022, arXiv 2203.05482",
)
def soup() -> Soup:
    """theta = sum_i w_i theta_i, the base not among them."""
    return Soup()


@MERGES.register(
    "greedy-soup",
    summary="the average of those models that raise the score on --tasks, the best first",
    paper="Wortsman et al. 2022, arXiv 2203.05482",
)
def greedy_soup(code_compat: bool = False) -> Greedy:
    """Each model, from the best to the worst, is kept if the soup with it scores no lower.

    ``code_compat``: if it scores higher, as in the authors' code.
    """
    return Greedy(code_compat=code_compat)


@MERGES.register(
    "lm-cocktail",
    summary="the average of base and models, weighted by their loss on a few examples (--data)",
    paper="Xiao et al. 2023, arXiv 2311.13534",
)
def lm_cocktail(temperature: Positive = 5.0, batch: Count = 1) -> Cocktail:
    """w = softmax(-loss / temperature), loss the mean over the examples' answers.

    ``batch``: so many examples share one mean over all their answer tokens, and the loss is the
    mean of these; the authors' code has 2.
    """
    return Cocktail(temperature=temperature, batch=batch)


@MERGES.register(
    "task-arithmetic",
    summary="the base plus the weighted sum of what each model changed",
    paper="Ilharco et al. 2023, arXiv 2212.04089",
)
def task_arithmetic(scale: Finite = 1.0) -> TaskVectors:
    """theta = theta_0 + scale * sum_i w_i tau_i."""
    return TaskVectors(scale=scale)


@MERGES.register(
    "ties",
    summary="trim what each model changed, elect a sign for each entry, average those of it",
    paper="Yadav et al. 2023, arXiv 2306.01708",
)
def ties(
    density: Density = 0.2, scale: Finite = 1.0, trim: Trim = "model", average: Average = "weights"
) -> TaskVectors:
    """``trim``: the largest entries of the whole model, or of each tensor as PEFT and mergekit.

    ``average``: what weights other than 1 do, see :func:`holdfast.pieces.merging.disjoint_mean`.
    """
    return TaskVectors(density=density, scale=scale, trim=trim, elect=True, average=average)


@MERGES.register(
    "dare",
    summary="task arithmetic with most entries dropped at random and the rest scaled up",
    paper="Yu et al. 2024, arXiv 2311.03099",
)
def dare(
    drop: Probability = 0.9, scale: Finite = 1.0, rescale: Rescale = "density", seed: int = 0
) -> TaskVectors:
    """``rescale``: by 1 / (1 - drop) as the paper and PEFT, ``l1`` as mergekit, or ``none``."""
    return TaskVectors(drop=drop, scale=scale, rescale=rescale, seed=seed)


@MERGES.register(
    "dare-ties",
    summary="ties with entries dropped at random in place of the smallest",
    paper="Yu et al. 2024, arXiv 2311.03099",
)
def dare_ties(
    drop: Probability = 0.9,
    scale: Finite = 1.0,
    rescale: Rescale = "density",
    seed: int = 0,
    average: Average = "weights",
) -> TaskVectors:
    """As ``dare``, with signs elected; ``average`` as in ``ties``."""
    return TaskVectors(
        drop=drop, scale=scale, rescale=rescale, seed=seed, elect=True, trim="tensor",
        average=average,
    )  # fmt: skip


@MERGES.register(
    "slerp",
    summary="the point on the arc between two models, or between the base and one",
    paper="Shoemake 1985; as in mergekit",
)
def slerp(t: Share = 0.5) -> Slerp:
    """``t``: 0 is the first, 1 the second."""
    return Slerp(t=t)
