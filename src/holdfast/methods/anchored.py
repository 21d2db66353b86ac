"""Methods that hold weights where they were: L2-SP, EWC, MAS, synaptic intelligence."""

from __future__ import annotations

from typing import Literal

from holdfast.methods._registry import Count, NotNegative, Positive, Share, published
from holdfast.pieces.anchors import NearStart, Quadratic
from holdfast.pieces.path_integral import PathIntegral
from holdfast.pieces.task_free import TaskFree
from holdfast.plan import Plan, Reference


@published(
    "l2-sp",
    summary="pull weights towards where they started",
    paper="Li et al. 2018, arXiv 1802.01483",
)
def l2_sp(weight: NotNegative = 0.1, anchor: Reference = "base") -> Plan:
    """L = CE + weight/2 sum_i (w_i - w0_i)^2 over the weights that train.

    Li, Grandvalet and Davoine, "Explicit inductive bias for transfer learning", 2018, equation
    2. A language model's head is pretrained like the rest, so the paper's second term, for a
    new head, is not there. It is part of the loss: Adam divides its gradient by the same
    running scale as the rest. It chooses no weights, and is refused beside an adapter.

    Args:
        weight: alpha; 0 turns it off.
        anchor: ``base`` (w0 is what the run began with) or ``stage``.
    """
    if weight == 0:
        return Plan(name="l2-sp")
    return Plan(name="l2-sp", learn=(NearStart(weight=weight, reference=anchor),))


@published(
    "ewc",
    summary="hold weights by their Fisher information on earlier stages",
    paper="Kirkpatrick et al. 2017, arXiv 1612.00796; Schwarz et al. 2018, arXiv 1805.06370",
)
def ewc(
    weight: NotNegative = 400.0,
    fisher: Literal["true", "empirical"] = "true",
    online: bool = False,
    decay: Share = 1.0,
    examples: Count | None = 512,
    mammoth_compat: bool = False,
) -> Plan:
    """L = CE + weight/2 sum_t sum_i F_t,i (w_i - w_t,i)^2 over the earlier stages t.

    Kirkpatrick et al., "Overcoming catastrophic forgetting", 2017, equation 3. F is the mean
    over answers of the squared gradient of log p(answer), of each sequence by itself. Online
    (Schwarz et al. 2018, "Progress and compress", equation 9): F = decay F + F_new, one centre.
    Nothing happens in the first stage. Held: two numbers per trained weight, whatever the
    number of stages. It chooses no weights, and is refused beside an adapter.

    Args:
        weight: lambda; the paper's for Atari. It trades learning for keeping, and its scale is
            that of 1 / F: sweep it.
        fisher: ``true`` draws the answers from the model; ``empirical`` takes the data's.
        online: one decaying term instead of one for each stage.
        decay: gamma of the online form.
        examples: sequences per stage that F is read from; ``none``: all.
        mammoth_compat: as the mammoth library's online EWC: squared gradients times p(y|x), and
            no factor 1/2.
    """
    if weight == 0:
        return Plan(name="ewc")
    kind: Literal["fisher", "empirical-fisher", "weighted-fisher"] = "fisher"
    if fisher == "empirical":
        kind = "empirical-fisher"
    if mammoth_compat:
        kind, online = "weighted-fisher", True
    term = Quadratic(
        weight=weight,
        kind=kind,
        combine="latest" if online else "each",
        decay=decay if online else 1.0,
        half=1.0 if mammoth_compat else 0.5,
        examples=examples,
    )
    return Plan(name="ewc", learn=(term,))


@published(
    "mas",
    summary="hold weights by how much the outputs depend on them; no labels are read",
    paper="Aljundi et al. 2018, arXiv 1711.09601",
)
def mas(
    weight: NotNegative = 1.0, examples: Count | None = 512, code_batch: Count | None = None
) -> Plan:
    """L = CE + weight sum_i Omega_i (w_i - w*_i)^2,  Omega_i = mean_k |d ||f(x_k)||^2 / d w_i|.

    Aljundi et al., "Memory aware synapses", 2018, equations 2 and 3; Omega adds up over the
    stages, w* are the weights after the latest. f are the logits at every token that predicts
    another, so text without answers does as well.

    Departures: the released code takes the absolute value of a batch's sum, unless its batches
    are of one example (``code_batch``); here it is always each sequence's. The head counts as a
    weight like others (the code leaves the classifiers of the tasks out); train without it, as
    most recipes do, to leave it out.

    Args:
        weight: lambda.
        examples: sequences per stage that Omega is read from; ``none``: all.
        code_batch: as the released code with batches of so many sequences; its default is 200.
    """
    if weight == 0:
        return Plan(name="mas")
    term = Quadratic(
        weight=weight, kind="outputs", combine="latest", half=1.0, examples=examples, name="mas",
        batch_size=code_batch or 8, batchwise=code_batch is not None,
    )  # fmt: skip
    return Plan(name="mas", learn=(term,))


@published(
    "task-free",
    summary="memory-aware synapses, renewed at the plateaus of the loss; no stages are needed",
    paper="Aljundi et al. 2019, arXiv 1812.03596",
)
def task_free(
    weight: NotNegative = 1.0,
    buffer: Count = 30,
    window: Count = 5,
    mean: Positive = 0.2,
    deviation: Positive = 0.1,
    code_compat: bool = False,
) -> Plan:
    """L = CE + weight sum_i Omega_i (w_i - w*_i)^2, with Omega and w* renewed at plateaus.

    Aljundi, Kelchtermans and Tuytelaars, "Task-free continual learning", 2019. One more forward
    pass per step, and one pass over the hard buffer at each plateau, in one process. It goes on
    over stages as if there were none.

    Departures: the paper also trains on the hard buffer (combine with ``er``); a plateau is
    looked for before a step, not after it, and empties the buffer. Its thresholds are for losses
    of its own tasks: set ``mean`` to what a learned task's loss is here.

    Args:
        weight: lambda; 0 turns it off.
        buffer: examples of the highest loss that Omega is read from.
        window: steps whose losses are looked at, 2 or more.
        mean: a plateau's mean loss is below it.
        deviation: and its standard deviation below this.
        code_compat: as the authors' code: weight / 2; Omega from the norm of the outputs, not
            its square, summed over the buffer; ``deviation`` is a variance; losses of the
            buffer are read anew before each step, and a plateau does not empty it.
    """
    if weight == 0:
        return Plan(name="task-free")
    term = TaskFree(
        weight=weight, buffer=buffer, window=window, mean=mean, deviation=deviation,
        code_compat=code_compat,
    )  # fmt: skip
    return Plan(name="task-free", learn=(term,))


@published(
    "si",
    summary="hold weights by what they did for the loss of earlier stages, gathered on the way",
    paper="Zenke et al. 2017, arXiv 1703.04200",
)
def si(weight: NotNegative = 0.1, damping: Positive = 1e-3, clamp: bool = True) -> Plan:
    """L = CE + weight sum_i Omega_i (w_i - w*_i)^2,  Omega_i = sum_t omega_t,i / (D_t,i^2 + xi).

    Zenke, Poole and Ganguli, "Continual learning through synaptic intelligence", 2017, equations
    4 and 5. omega is the sum over a stage's steps of minus the gradient of the loss times what
    the weight moved, D what it moved in all. The move is the optimizer's own: with AdamW it
    holds momentum, scaling, clipping and decay, while the gradient is neither clipped nor that
    of the penalty. Importances cost no pass over the data, but two numbers per trained weight
    while a stage trains. Nothing happens in the first stage. It chooses no weights, and is
    refused beside an adapter.

    Departure: w* are the settled weights (after ``wise-ft``, say), D and omega are of the
    training alone.

    Args:
        weight: c; 0.1 is the authors' for permuted MNIST and CIFAR.
        damping: xi; the authors have 0.1 for permuted MNIST and 1e-3 for CIFAR. Where moves are
            much smaller than its root, 1 / xi is the scale of Omega.
        clamp: no importance is below 0, as in the authors' code; ``false``: as in the paper.
    """
    if weight == 0:
        return Plan(name="si")
    term = PathIntegral(weight=weight, damping=damping, clamp=clamp)
    return Plan(name="si", learn=(term,), update=(term,))
