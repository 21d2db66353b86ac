"""What is known without a calibration: the committed comparison of recipes on the lab's model.

``committed.json`` is made from ``docs/results/plane/comparison.json`` by :func:`from_comparison`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FILE = Path(__file__).with_name("committed.json")


@dataclass(frozen=True)
class Known:
    """A recipe at a learning rate, on the mean over seeds."""

    recipe: str
    learning_rate: float
    learned: float
    """Points."""
    lost: float


def committed() -> tuple[list[Known], str]:
    """The settings of the committed comparison, and what it was."""
    kept = json.loads(FILE.read_text(encoding="utf-8"))
    return [Known(**row) for row in kept["settings"]], str(kept["about"])


def from_comparison(page: Mapping[str, Any]) -> dict[str, Any]:
    """What ``committed.json`` holds of a comparison's page."""
    facts = page["facts"]
    about = f"{facts['model']} learning {facts['skills']}, keeping {facts['held out']}"
    return {
        "about": f"{about}; {page['units']}, in docs/results/plane",
        "settings": [
            {
                "recipe": s["recipe"],
                "learning_rate": s["lr"],
                "learned": round(s["learning"]["value"], 1),
                "lost": round(-s["forgetting"]["value"], 1),
            }
            for s in page["settings"]
        ],
    }


def inside(recipe: str, budget: float) -> Known | None:
    """The setting of a recipe that learned most at a loss inside the budget; else the one that
    lost least; None for a recipe that the comparison lacks."""
    mine = [k for k in committed()[0] if k.recipe == recipe]
    kept = [k for k in mine if k.lost <= budget]
    if kept:
        return max(kept, key=lambda k: k.learned)
    return min(mine, key=lambda k: k.lost, default=None)
