"""Learning from answers that the model writes itself: by reward, by selection, by a teacher."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from holdfast.methods._registry import Count, NotNegative, Positive, Share, published
from holdfast.pieces.expert_iteration import ExpertIteration, KeepBest
from holdfast.pieces.learnable import Learnable
from holdfast.pieces.moving_teacher import MovingTeacher
from holdfast.pieces.policy_gradient import PolicyGradient
from holdfast.pieces.self_taught import RightAnswers, TaughtAnswers
from holdfast.plan import Plan, Reference

_RATE = 1e-6


@published(
    "grpo",
    summary="reinforcement: answers better than the others to their question become likelier",
    paper="Shao et al. 2024, arXiv 2402.03300; Lai et al. 2025, arXiv 2507.05386",
)
def grpo(
    samples: Count = 5,
    beta: NotNegative = 0.01,
    clip: Positive = 0.2,
    temperature: Positive = 1.0,
    max_new_tokens: Count = 32,
    scorer: str = "exact",
    refresh: Count = 1,
) -> Plan:
    """Group relative policy optimisation, on rewards from a scorer.

        A_i = (r_i - mean_j r_j) / (std_j r_j + 1e-6)            over a question's answers
        L = mean_t [ - min(r_t A, clip(r_t) A) + beta * k3_t ]   over the tokens of the step

    Shao et al. 2024, DeepSeekMath, equation 3; the values are EasyR1's, which Lai et al. 2025
    compare fine-tuning by reinforcement with. ``train.batch_size`` counts questions, each of which
    is answered ``samples`` times. It chooses no weights: ``gate-up | grpo``.

    Departure: the mean is over tokens, as in EasyR1, where Shao et al. average over each answer
    first. The reward has no part for a format.

    Args:
        samples: answers to each question; a group of one has nothing to compare with.
        beta: weight of the divergence from the model as the stage began; 0 leaves it out.
        clip: how far the ratio to the model that wrote counts.
        temperature: of sampling.
        max_new_tokens: of an answer.
        scorer: gives the reward, 0 to 1; ``holdfast list scorers``.
        refresh: optimizer steps for which answers are used.
    """
    term = PolicyGradient(
        name="grpo", samples=_several(samples, "grpo"), beta=beta, clip=clip, scorer=scorer,
        temperature=temperature, max_new_tokens=max_new_tokens, refresh=refresh,
    )  # fmt: skip
    return Plan(name="grpo", learn=(term,), learning_rate=_RATE)


@published(
    "rloo",
    summary="reinforcement: the baseline of an answer is the mean of the question's others",
    paper="Ahmadian et al. 2024, arXiv 2402.14740",
)
def rloo(
    samples: Count = 5,
    beta: NotNegative = 0.01,
    clip: Positive = 0.2,
    temperature: Positive = 1.0,
    max_new_tokens: Count = 32,
    scorer: str = "exact",
    refresh: Count = 1,
) -> Plan:
    """REINFORCE leave-one-out.

        A_i = r_i - mean_{j != i} r_j
        L = mean_i [ - A_i sum_t log p(y_t) ] + beta * k3

    Ahmadian et al. 2024, Back to Basics, equation 7. Departure: the divergence is a term of the
    loss, as in EasyR1, where the paper takes it off the reward.

    Args:
        samples: answers to each question, at least 2.
        beta: weight of the divergence from the model as the stage began.
        clip: how far the ratio to the model that wrote counts, where answers are used again.
        temperature: of sampling.
        max_new_tokens: of an answer.
        scorer: gives the reward.
        refresh: optimizer steps for which answers are used.
    """
    term = PolicyGradient(
        name="rloo", samples=_several(samples, "rloo"), baseline="others", whole=True, beta=beta,
        clip=clip, scorer=scorer, temperature=temperature, max_new_tokens=max_new_tokens,
        refresh=refresh,
    )  # fmt: skip
    return Plan(name="rloo", learn=(term,), learning_rate=_RATE)


@published(
    "remax",
    summary="reinforcement: one answer, whose baseline is the greedy one",
    paper="Li et al. 2023, arXiv 2310.10505",
)
def remax(
    samples: Count = 1,
    beta: NotNegative = 0.01,
    clip: Positive = 0.2,
    temperature: Positive = 1.0,
    max_new_tokens: Count = 32,
    scorer: str = "exact",
    refresh: Count = 1,
) -> Plan:
    """REINFORCE with the reward of the greedy answer as baseline.

        A = r(y) - r(greedy)
        L = mean_y [ - A sum_t log p(y_t) ] + beta * k3

    Li et al. 2023, ReMax, algorithm 1. The greedy answer is written and never learned from. An
    answer costs two, and no second answer to learn from is held. Departure as in ``rloo``.

    Args:
        samples: answers to each question.
        beta: weight of the divergence from the model as the stage began.
        clip: how far the ratio to the model that wrote counts, where answers are used again.
        temperature: of sampling.
        max_new_tokens: of an answer.
        scorer: gives the reward.
        refresh: optimizer steps for which answers are used.
    """
    term = PolicyGradient(
        name="remax", samples=samples, baseline="greedy", whole=True, beta=beta, clip=clip,
        scorer=scorer, temperature=temperature, max_new_tokens=max_new_tokens, refresh=refresh,
    )  # fmt: skip
    return Plan(name="remax", learn=(term,), learning_rate=_RATE)


@published(
    "rif",
    summary="leave out examples that the current model never, or always, answers right",
    paper="Lai et al. 2025, arXiv 2507.05386",
)
def rif(
    samples: Count = 8,
    above: Share = 0.0,
    below: Share | None = None,
    least: Share = 1.0,
    temperature: Positive = 1.0,
    max_new_tokens: Count = 32,
    scorer: str = "exact",
) -> Plan:
    """Rollout-based instance filtering: ``grpo | rif`` is RIF-RFT.

        kept = {x : above < share of right answers < below}

    Lai et al. 2025. As each stage begins, its model answers every example ``samples`` times, and
    a kept example stands in for each one that is left out. It sets the order of the data.

    Args:
        samples: answers to each example.
        above: keep examples of which a larger share is right; 0 leaves out those never right.
        below: and a smaller one; 1 also leaves out those always right. None: no bound.
        least: the scorer's value from which an answer is right.
        temperature: of sampling.
        max_new_tokens: of an answer.
        scorer: what is right.
    """
    feed = Learnable(
        samples=samples, above=above, below=below, least=least, temperature=temperature,
        max_new_tokens=max_new_tokens, scorer=scorer,
    )  # fmt: skip
    return Plan(name="rif", feed=feed)


@published(
    "self-sft",
    summary="fine-tuning on right answers of the model's own, written anew every so often",
    paper="Chen et al. 2025, arXiv 2510.18874",
)
def self_sft(
    samples: Count = 4,
    refresh: Count | None = None,
    least: Share = 1.0,
    temperature: Positive = 1.0,
    max_new_tokens: Count = 32,
    scorer: str = "exact",
) -> Plan:
    """Iterative fine-tuning on samples that pass a check (rejection sampling).

        L = mean_t - log p(y_t),    y a right answer of the model as of the last refresh

    Chen et al. 2025, Retaining by Doing, where answers sampled once from the model before
    training forget about as much as others' answers, and answers sampled anew each epoch hardly.
    A question to which no answer is right is left out until the next refresh. The learning rate
    is the released code's for a model of 8 billion weights; for one of a billion it is 1e-4.

    Args:
        samples: answers to each question, of which one right one is learned.
        refresh: optimizer steps for which answers are used; none: an epoch (in a trainer of your
            own, a step). As many as the stage has: sampled once.
        least: the scorer's value from which an answer is right.
        temperature: of sampling.
        max_new_tokens: of an answer.
        scorer: what is right.
    """
    term = RightAnswers(
        name="self-sft", samples=samples, refresh=refresh, least=least, temperature=temperature,
        max_new_tokens=max_new_tokens, scorer=scorer,
    )  # fmt: skip
    return Plan(name="self-sft", learn=(term,), learning_rate=5e-5)


@published(
    "on-policy-distill",
    summary="the model's own answers, corrected by itself with the example before its eyes",
    paper="SDFT, arXiv 2601.19897",
)
def on_policy_distill(
    teacher: Reference = "stage",
    decay: Share = 0.99,
    direction: Literal["reverse", "forward"] = "reverse",
    samples: Count = 1,
    temperature: Positive = 1.0,
    max_new_tokens: Count = 32,
    refresh: Count = 1,
    skip: Annotated[int, Field(ge=0)] = 0,
    average: Literal["tokens", "answers"] = "tokens",
) -> Plan:
    """Self-distillation on the model's own answers, from a teacher that moves slowly or not.

        y ~ p(. | x),   L = mean_t KL( p(. | x, y_<t) || p_teacher(. | d, x, y_<t) )

    "Self-Distillation Enables Continual Learning", 2026: the teacher is the same model with the
    demonstration d in its context. Departures: the demonstration is an earlier turn of the
    conversation, question and answer, so that no wording of ours comes in; the teacher is the
    model as the stage began unless it is told to move, since "Denser is not Better" (2026, arXiv
    2607.01763) finds that fast moving averages drift. A model that cannot learn from its context
    learns nothing. The released trainer computes the forward divergence without an answer's first
    three tokens (``direction=forward,skip=3,average=answers``), its teacher follows by a hundredth
    of the way after each step (``teacher=ema``), and its learning rate is 2e-5.

    Args:
        teacher: the model as the stage began, or as the run did; or ``ema``, the moving average
            of its weights since the stage began, as in the released trainer.
        decay: of the moving average at each optimizer step.
        direction: ``reverse``, as above, or ``forward``, from the teacher to the model.
        samples: answers to each question.
        temperature: of sampling.
        max_new_tokens: of an answer.
        refresh: optimizer steps for which answers are used.
        skip: the first tokens of an answer that are not learned from.
        average: over the ``tokens`` of a step, or over its ``answers``, of each of their tokens.
    """
    term = TaughtAnswers(
        name="on-policy-distill", consults=teacher, direction=direction, samples=samples,
        temperature=temperature, max_new_tokens=max_new_tokens, refresh=refresh, skip=skip,
        average=average,
    )  # fmt: skip
    moving = (MovingTeacher(decay=decay),) if teacher == "ema" else ()
    return Plan(name="on-policy-distill", learn=(term,), update=moving, learning_rate=2e-5)


@published(
    "auto-cei",
    summary="answer within ability and refuse beyond it: expert iteration with a curriculum",
    paper="Zhao et al. 2025, arXiv 2410.07627",
)
def auto_cei(
    caution: Share = 0.2,
    samples: Count = 16,
    refusal: str = "Sorry, I am not sure that this is right.",
    mark: str = "\n",
    aside: Share = 0.1,
    temperature: Positive = 1.0,
    max_new_tokens: Count = 128,
    scorer: str = "exact",
) -> Plan:
    """Automatic curriculum expert iteration.

        R = 1 if right, -1 if wrong, 2 / (1 + exp(-c2 (d - c1))) - 1 for a refusal after d steps
        f = (1 - caution) * precision + caution * (1 - share of refusals)

    Zhao et al. 2025. An epoch is an iteration, on answers written as it begins; c1 climbs in f,
    and the weights with the best f stay. It sets the order of the data, and wants 5 epochs or
    more. Departures: how steps are counted and what a refusal says are settings; a wrong answer's
    last line is what gives way to a refusal; the weights go on from one c1 to the next.

    Args:
        caution: lambda; 0 asks for precision alone, 1 for no refusal.
        samples: answers to each question, 512 tokens long in the paper.
        refusal: what stands in the place of a wrong answer's last line.
        mark: ends a step of reasoning.
        aside: share of the questions that f is measured on and nothing is learned from.
        temperature: of sampling.
        max_new_tokens: of an answer.
        scorer: what is right.
    """
    feed = ExpertIteration(
        caution=caution, samples=samples, refusal=refusal, mark=mark, aside=aside,
        temperature=temperature, max_new_tokens=max_new_tokens, scorer=scorer,
    )  # fmt: skip
    return Plan(name="auto-cei", feed=feed, update=(KeepBest(feed),), learning_rate=3e-4)


def _several(samples: int, method: str) -> int:
    from holdfast.errors import ConfigError

    if samples < 2:
        raise ConfigError(
            f"'{method}' compares a question's answers with each other, and was given "
            f"samples={samples}; give 2 or more."
        )
    return samples
