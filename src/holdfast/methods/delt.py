"""Data in the order in which it stands: what trains on the result of ``holdfast order``."""

from __future__ import annotations

from holdfast.data.orders import read_order
from holdfast.methods._registry import published
from holdfast.pieces.order_feeds import InOrder
from holdfast.plan import Plan


@published(
    "delt",
    summary="read the data in its own order, as 'holdfast order' wrote it",
    paper="Dai et al. 2025, arXiv 2506.21545",
)
def delt(order: str = "as-is") -> Plan:
    """No shuffling: step s reads examples s * batch to (s + 1) * batch of the stage's data.

    Dai et al., "Data Efficacy for Language Model Training", 2025: the third part of scoring,
    selection, ordering. Scores and the order are made beforehand (``holdfast order``). It chooses
    no weights: ``full | delt``.

    Args:
        order: laid over data that stands sorted, such as ``fold:3``.
    """
    return Plan(name="delt", feed=InOrder(read_order(order)))
