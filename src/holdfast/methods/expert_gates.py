"""Expert gates: an expert for each task, and an autoencoder that knows the task's inputs."""

from __future__ import annotations

from typing import cast

from holdfast.methods._registry import Count, Finite, NotNegative, Positive, published
from holdfast.pieces.expert_gates import ExpertGates, TaughtByRelated
from holdfast.pieces.lora import LINEAR_OF_LANGUAGE
from holdfast.plan import Plan, TokenTerm


@published(
    "expert-gates",
    summary="an expert for each stage; autoencoders say which of them an input is for",
    paper="Aljundi et al. 2017, arXiv 1611.06194",
)
def expert_gates(
    rank: Count = 16,
    alpha: Positive | None = None,
    scope: str = LINEAR_OF_LANGUAGE,
    code: Count = 100,
    steps: Count = 400,
    threshold: Finite = 0.85,
    weight: NotNegative = 1.0,
    temperature: Positive = 2.0,
    examples: Count = 512,
) -> Plan:
    """Stage k adds expert k, which begins as the most related earlier one; er_a: an error of a.

        gate:         argmin_a er_a(x),   p_a = exp(-er_a / 2) / sum_b exp(-er_b / 2)
        relatedness:  Rel(k, a) = 1 - (Er_a - Er_k) / Er_k     on held-out inputs of task k
        loss:         CE + weight T^2 KL(teacher || student)   if max_a Rel(k, a) > threshold
                      CE                                       otherwise

    Aljundi, Chakravarty and Tuytelaars, "Expert Gate", 2017. er_a is how badly the autoencoder
    of task a, one hidden layer of ReLU units between sigmoids, makes an input again from a code
    smaller than it. The teacher is the most related expert on the new data (learning without
    forgetting). In training every input goes to the stage's own expert.

    Departures: an expert is a low-rank update of one frozen model and not a model of its own.
    The gate reads the model's last hidden state at the end of the prompt where the paper reads
    AlexNet's convolutions, and standardises it by the first stage's statistics where the paper
    has ImageNet's. The released gate's threshold, code and temperature are defaults. It looks
    at a stage's data before the stage begins.

    Args:
        rank: of an expert.
        alpha: the scale is alpha / rank; 2 * rank unless given.
        scope: a selector. Default: all linear layers of the language model except the head.
        code: units of an autoencoder's hidden layer; at most half of the model's width.
        steps: of an autoencoder's training.
        threshold: of relatedness; above 1 nothing is ever distilled.
        weight: of the distillation, where it applies; 0 turns it off.
        temperature: T of the distillation.
        examples: inputs of a stage that its autoencoder is trained on, at most.
    """
    gates = ExpertGates(
        rank=rank,
        alpha=2.0 * rank if alpha is None else alpha,
        scope=scope,
        code=code,
        steps=steps,
        threshold=threshold,
        examples=examples,
    )
    term = TaughtByRelated(gates=gates, weight=weight, temperature=temperature)
    # its reference is known once a stage's data were looked at, and cannot be set
    learn = (cast(TokenTerm, term),) if weight else ()
    return Plan(name="expert-gates", adapt=gates, learn=learn, learning_rate=5e-5)
