"""SCoLe: a stage as a long stream of small tasks whose classes come again."""

from __future__ import annotations

from holdfast.errors import ConfigError
from holdfast.methods._registry import Count, NotNegative, Share, published
from holdfast.pieces.recurring import GroupMasked, Recurring, Scenario, Stream
from holdfast.plan import Plan


@published(
    "scole",
    summary="a recurring stream: hundreds of small tasks of a few classes each",
    paper="Lesort et al. 2022, arXiv 2207.04543",
)
def scole(
    classes: str,
    at_once: Count = 2,
    tasks: Count = 500,
    scenario: Scenario = "random",
    skew: NotNegative = 0.0,
    combinations: Share = 1.0,
    change: Share = 0.0,
    repeats: Count = 1,
    mask: bool = False,
    stream: int = 0,
) -> Plan:
    """Task n reads all examples of k classes, drawn with probabilities p; then comes task n + 1.

    Lesort et al., "Challenging common assumptions about catastrophic forgetting", 2022 (SCoLe:
    scaling continual learning). Each task forgets what it lacks; over hundreds of them plain
    training accumulates all classes. The classes are the stage's own data and its sources, so
    they may be whole skills. Watch all of them with ``evaluate.every`` and read the curve with
    :func:`holdfast.measures.recurring.accumulation`. One optimizer goes through the stream. It
    chooses no weights: ``full | scole:classes=colour+shape+count``.

    Not here: the paper's replay by frequency, and dividing the probability of a class that was
    just drawn.

    Args:
        classes: the stage's sources that are classes beside its own data, joined by ``+``.
        at_once: k.
        tasks: in an epoch.
        scenario: ``random``; ``forgetting``: half of the classes no longer come in the second
            half; ``incremental``: each half of the classes in its own half of the stream;
            ``cyclic``: all combinations in turn.
        skew: 0 draws all classes alike; the larger, the rarer some become.
        combinations: share of all combinations of k classes that may occur.
        change: in a cyclic stream, with which a class gives way to a random one.
        repeats: epochs of each task.
        mask: the loss compares an answer with the words of the step's answers only.
        stream: seed of the tasks, apart from the run's.
    """
    names = tuple(part.strip() for part in classes.split("+"))
    if not all(names) or len(set(names)) < len(names):
        raise ConfigError(
            f"'scole' was given classes={classes!r}; write the names of the stage's sources, each "
            "once, joined by '+': colour+shape."
        )
    drawn = Stream(
        classes=1 + len(names), at_once=at_once, tasks=tasks, scenario=scenario, skew=skew,
        combinations=combinations, change=change, seed=stream,
    )  # fmt: skip
    feed = Recurring(stream=drawn, others=names, repeats=repeats)
    return Plan(name="scole", feed=feed, learn=(GroupMasked(),) if mask else ())
