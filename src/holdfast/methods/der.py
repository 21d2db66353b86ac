"""Dark experience replay: keep the logits that the model had on what it remembers."""

from __future__ import annotations

from holdfast.carried import AGAIN, MEMORY
from holdfast.methods._registry import Count, NotNegative, Positive, published
from holdfast.pieces.distill import CrossEntropy
from holdfast.pieces.rehearse import Policy, Rehearse
from holdfast.pieces.replayed import Distance, Replayed, StoredLogits
from holdfast.plan import NEW, Plan


@published(
    "der",
    summary="dark experience replay, DER++: replay examples with the logits stored for them",
    paper="Buzzega et al. 2020, arXiv 2004.07211",
)
def der(
    alpha: NotNegative = 0.1,
    beta: NotNegative = 0.5,
    capacity: Count | None = 500,
    share: Positive = 1.0,
    distance: Distance = "squared",
    top: Count | None = None,
    policy: Policy = "reservoir",
) -> Plan:
    """L = CE(new) + alpha D(h(x'), z') + beta CE(x'', y''), two independent draws of the memory.

    Buzzega et al., "Dark experience for general continual learning", 2020, equations 6
    (``beta=0``, DER) and 7 (DER++). ``alpha=0, beta=0`` is plain tuning. It chooses no weights.

    Departures: z' are the logits of the model that the example's stage ended with, on all words
    at its answer tokens; the paper stores those that the model had when the example entered the
    memory, while it trained. D is the mean over words, as in the released code; the paper's
    equation is ``distance=sum-squared``. ``distance=probabilities`` with ``beta=0`` is FDR
    (Benjamin et al. 2019), which stores at the end of a task as we do.

    Args:
        alpha: weight of the logits; the code's for split CIFAR-10 is the default.
        beta: weight of the remembered answers.
        capacity: examples that are remembered.
        share: examples of each draw per new one.
        distance: see :class:`holdfast.pieces.replayed.StoredLogits`.
        top: store that many logits per token only. All words of a token take 4 bytes each:
            500 answers of 20 tokens and 150,000 words are 6 GB, with ``top=64`` 8 MB.
        policy: ``reservoir``, ``balanced`` or ``uniform``, as in ``er``.
    """
    if alpha == 0 and beta == 0:
        return Plan(name="der")
    both = alpha > 0 and beta > 0
    feed = Rehearse(capacity=capacity, share=share, policy=policy, draws=2 if both else 1)
    dark = (StoredLogits(weight=alpha, distance=distance, top=top),) if alpha else ()
    answers = (Replayed(weight=beta, source=AGAIN if both else MEMORY),) if beta else ()
    return Plan(name="der", feed=feed, learn=(CrossEntropy(source=NEW), *dark, *answers))
