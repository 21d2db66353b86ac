"""The published recipes, as selectors.

Source: Zhu et al., "How to Teach Large Multimodal Models New Skills", arXiv 2510.08564
(2025), and the flags of the code that they released. Where the released scripts depart from
the paper (``sa_proj_qkv`` passes the flag for q, k, v *and o*) the paper is followed.
"""

from __future__ import annotations

import re

RECIPES: dict[str, tuple[str, str]] = {
    "full": ("all", "every weight"),
    "full-llm": ("language", "the whole language tower with embeddings, norms and head"),
    "sa-proj": ("language.attn.q+k+v+o", "attention projections with their biases"),
    "qkv": ("language.attn.q+k+v", "attention projections without the output projection"),
    "vo": ("language.attn.v+o", "value and output projections"),
    "mlp": ("language.mlp.gate+up+down", "the MLP's matrices"),
    "gate-up": ("language.mlp.gate+up", "the MLP without its last layer, which stays frozen"),
    "down": ("language.mlp.down", "the MLP's last layer"),
    "vision-sa": ("vision.attn.q+k+v+o", "attention projections of the vision tower"),
    "vision-qkv": ("vision.attn.q+k+v", "the same without the output projection"),
    "vision-fc1": ("vision.mlp.gate+up", "the vision MLP without its last layer"),
}
"""Name to selector and summary. ``vision`` and ``projector`` are towers and need no row."""

_ALWAYS = "language.embed + language.head + (language.norm - language[:].norm)"

_NUMBERED: tuple[tuple[str, str, str], ...] = (
    (r"last-(\d{1,6})", "language[-{n}:]", "the last n blocks"),
    (r"first-(\d{1,6})", "language[:{n}]", "the first n blocks"),
    (
        r"last-(\d{1,6})-lmmcl",
        f"language[-{{n}}:] + {_ALWAYS}",
        "the last n blocks, and embeddings, final norm and head as the released code has it",
    ),
    (
        r"freeze-last-(\d{1,6})-lmmcl",
        f"language[:-{{n}}] + {_ALWAYS}",
        "all but the last n blocks, and embeddings, final norm and head",
    ),
)

RECIPE_NAMES: tuple[str, ...] = (
    *RECIPES,
    "vision",
    "projector",
    *(re.sub(r"\(.*?\)", "N", pattern) for pattern, _, _ in _NUMBERED),
)
"""For listings; N stands for a number."""


def recipe(name: str) -> str | None:
    """The selector that a recipe stands for, or None if no recipe has this name."""
    if name in RECIPES:
        return RECIPES[name][0]
    for pattern, text, _ in _NUMBERED:
        found = re.fullmatch(pattern, name)
        if found and int(found[1]) > 0:
            return text.format(n=int(found[1]))
    return None
