"""Selfless sequential learning: units that are active together cost, so that some stay free."""

from __future__ import annotations

from holdfast.methods._registry import Count, NotNegative, Positive, published
from holdfast.pieces.locality import SCOPE, Discount, Locality
from holdfast.plan import Plan


@published(
    "selfless",
    summary="hidden units inhibit their neighbours, so that capacity is left for later stages",
    paper="Aljundi et al. 2019, arXiv 1806.05421",
)
def selfless(
    weight: NotNegative = 1e-3,
    spread: Positive = 6.0,
    discount: Discount = "product",
    scale: NotNegative = 1.0,
    scope: str = SCOPE,
    examples: Count | None = 512,
) -> Plan:
    """L = CE + weight * R,  R = 1/M sum_m sum_{i != j} exp(-(i-j)^2 / (2 sigma^2)) d_ij h_i h_j.

    Aljundi, Rohrbach and Tuytelaars, "Selfless sequential learning", 2019, equations 3 to 5:
    local neural inhibition, discounted by the importance a of units to earlier stages,
    d_ij = exp(-(a_i + a_j)), so that a unit that earlier stages use is neither suppressed nor
    kept from what it does. sigma = N / spread for N units. The thesis's whole method is
    ``mas:weight=0.1 | selfless``. It chooses no weights, and works in one process.

    Departures: h are the units of the MLPs of a transformer at answer tokens, by their size,
    since few models have ReLU units, which are never negative. Importances are means over
    tokens, where the released code sums; ``scale`` is for that. The code discounts by
    min(exp(-a_i), exp(-a_j)): ``discount=min``.

    Args:
        weight: lambda; 0 turns it off. The demo's is the default, for 64 units.
        spread: N / sigma.
        discount: ``product`` as the paper, ``min`` as the released code.
        scale: of the importances in the discount; 0 discounts nothing.
        scope: a selector of the layers whose inputs are the units.
        examples: sequences of a stage that importances are averaged over; ``none``: all.
    """
    if weight == 0:
        return Plan(name="selfless")
    term = Locality(
        weight=weight,
        spread=spread,
        discount=discount,
        scale=scale,
        scope=scope,
        examples=examples,
    )
    return Plan(name="selfless", learn=(term,))
