"""WiSE-FT along a sequence: average the weights before and after each stage."""

from __future__ import annotations

from holdfast.methods._registry import Share, published
from holdfast.pieces.edits import Anchor, Interpolate
from holdfast.plan import Plan


@published(
    "wise-ft",
    summary="after each stage, average the weights with those of the stage before",
    paper="Wortsman et al. 2022, arXiv 2109.01903; Zhu et al. 2025, arXiv 2510.08564",
)
def wise_ft(alpha: Share = 0.5, anchor: Anchor = "previous") -> Plan:
    """Weight averaging at the end of every stage.

        theta_avg[k] = alpha * anchor + (1 - alpha) * theta_ft[k],   anchor = theta_avg[k-1]

    Wortsman et al., "Robust fine-tuning of zero-shot models", 2022; the sequence form is Zhu
    et al. 2025. The next stage starts from ``theta_avg[k]``. With ``anchor='previous'`` the
    base keeps the coefficient alpha^K after K stages (0.03 for alpha 0.5 and five stages).
    It chooses no weights: the paper's baseline is ``mlp | wise-ft``.

    Departures: the released script sets alpha to 0.1 where its documentation says 0.5 (our
    default); it averages in the checkpoint's dtype over the keys that both sides have, we
    average in float32 and refuse sides whose keys differ.

    Args:
        alpha: share of the anchor, 0 to 1; 0 keeps the tuned weights, 1 the anchor's. Wortsman et
            al. call the tuned weights' share alpha: theirs is 1 - alpha here.
        anchor: ``previous`` (the start of the stage), ``base`` (the start of the run), or
            ``both`` (half of each).
    """
    return Plan(name="wise-ft", settle=(Interpolate(alpha=alpha, anchor=anchor),))
