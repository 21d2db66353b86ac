"""Pages that are computed: which methods combine, and what was reproduced.

python docs/generated.py           # writes them
python docs/generated.py --check   # exit code 1 if one of them is not what would be written
"""

from __future__ import annotations

import ast
import functools
import itertools
import json
import sys
import tomllib
from collections import defaultdict
from pathlib import Path
from typing import Any

from holdfast.errors import PlanConflict
from holdfast.methods import METHODS, method

DOCS = Path(__file__).parent
ROOT = DOCS.parent
NEEDED: dict[str, dict[str, object]] = {
    "last-n": {"n": 2},
    "first-n": {"n": 2},
    "bottom-freeze": {"n": 2},
    "scole": {"classes": "colour"},
    "train": {"select": "language.attn"},
}
"""Settings of methods that have no default for them."""
REASONS = {
    "a plan has one choice of weights": "both choose weights",
    "both set the order of the data": "both set the order of the data",
    "a plan has one adapter": "both put modules into the model",
    "freezes the model and trains the modules": "one trains weights, the other modules of its own",
    "holds the model's own weights": "one holds weights that the other freezes",
    "each replace the loss": "both replace the loss on the new data",
    "leaves its modules in the model": "one leaves its modules in, the other changes weights after",
    "has the model write its own": "one compares views of an answer, the other has it written anew",
}
"""What a refusal says, and in how few words."""


def pairs() -> str:
    """The page of which methods combine."""
    names = [entry.name for entry in METHODS]
    plans = {name: method(name, **NEEDED.get(name, {})) for name in names}
    refused: dict[str, dict[str, list[str]]] = {name: defaultdict(list) for name in names}
    examples: dict[str, str] = {}
    count = 0
    for a, b in itertools.combinations(names, 2):
        try:
            plans[a] | plans[b]
        except PlanConflict as error:
            reason = next((v for k, v in REASONS.items() if k in str(error)), str(error))
            examples.setdefault(reason, str(error))
            refused[a][reason].append(b)
            refused[b][reason].append(a)
        else:
            count += 1
    whole = len(names) * (len(names) - 1) // 2
    lines = [
        "# Which methods combine",
        f"Of the {whole:,} pairs of {len(names)} methods, {count:,} make one plan "
        "(`--method a --method b`); the others are refused before anything loads, with the "
        "reason. The test suite tries every pair. Settings can change what combines: "
        "`lora:stages=merge` leaves no modules behind.",
        "## Why a pair is refused",
        "| reason | for example |\n|:--|:--|\n"
        + "\n".join(f"| {reason} | {_cell(text)} |" for reason, text in examples.items()),
        "## What each method does not combine with",
        "| method | refused |\n|:--|:--|\n"
        + "\n".join(f"| `{name}` | {_said(refused[name])} |" for name in names),
    ]
    return "\n\n".join(lines) + "\n"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _said(refused: dict[str, list[str]]) -> str:
    parts = [f"{reason}: {', '.join(others)}" for reason, others in refused.items()]
    return "; ".join(parts) or "combines with all"


def reproduced() -> str:
    """The page of what was reproduced of each paper.

    Raises ValueError for a paper that no method names, a method whose paper is not listed, a
    test that does not exist, or a figure that is not in its file.
    """
    told = tomllib.loads((DOCS / "reproduced.toml").read_text(encoding="utf-8"))
    listed = told["paper"]
    entries = {entry.name: entry for entry in METHODS}
    named = {name for paper in listed for name in paper.get("methods", ())}
    if missing := sorted(entries.keys() - named):
        raise ValueError(f"docs/reproduced.toml says nothing of: {', '.join(missing)}")
    if unknown := sorted(named - entries.keys()):
        raise ValueError(f"docs/reproduced.toml names methods that do not exist: {unknown}")
    lines = [
        "# What we reproduced",
        told["about"].strip(),
        f"{len(listed)} papers. Every test that is named here exists and runs in the suite; every "
        "figure is read from the file of results that is named beside it when this page is made.",
    ]
    for paper in listed:
        lines.append(_paper(paper))
    return "\n\n".join(lines) + "\n"


def _paper(paper: dict[str, Any]) -> str:
    parts = [f"## {paper['title']}", paper["source"]]
    if paper.get("methods"):
        parts.append("Here: " + ", ".join(f"`{name}`" for name in paper["methods"]) + ".")
    if paper.get("claim"):
        parts.append(f"**It claims.** {paper['claim'].strip()}")
    if paper.get("checks"):
        parts.append(
            "**Checked.**\n\n"
            + "\n".join(
                f"- {c['what']} ({c['how']}): `{_test(c['test'])}`" for c in paper["checks"]
            )
        )
    for figure in paper.get("figures", ()):
        parts.append(f"**Seen.** {figure['said'].format(**_figures(figure))} ({figure['file']})")
    parts.append(f"**Did not hold, or was not tried.** {paper['open'].strip()}")
    return "\n\n".join(parts)


def _test(place: str) -> str:
    file, _, name = place.partition("::")
    if name not in _functions(file):
        raise ValueError(f"docs/reproduced.toml names a test that does not exist: {place}")
    return place


@functools.cache
def _functions(file: str) -> frozenset[str]:
    path = ROOT / file
    if not path.is_file():
        return frozenset()
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return frozenset(n.name for n in ast.walk(tree) if isinstance(n, ast.FunctionDef))


def _figures(figure: dict[str, Any]) -> dict[str, str]:
    """Numbers of a file of results: each by the setting and the measure that it is."""
    result = json.loads((ROOT / figure["file"]).read_text(encoding="utf-8"))
    settings = {(s["recipe"], s["lr"]): s for s in result.get("settings", result.get("rows", []))}
    found = {}
    for name, (recipe, rate, measure) in figure["numbers"].items():
        estimate = settings[recipe, rate][measure]
        found[name] = f"{estimate['value']:+.1f}"
        if estimate.get("low") is not None:
            found[name] += f" [{estimate['low']:.1f}, {estimate['high']:.1f}]"
    return found


PAGES = {"methods/pairs.md": pairs, "reproduced.md": reproduced}


def main(arguments: list[str]) -> int:
    stale = []
    for name, make in PAGES.items():
        page, text = DOCS / name, make()
        if not page.exists() or page.read_text(encoding="utf-8") != text:
            stale.append(name)
            if "--check" not in arguments:
                page.write_text(text, encoding="utf-8")
                print(f"written: docs/{name}")
    if "--check" in arguments and stale:
        print(f"not up to date: {', '.join(stale)}; run: python docs/generated.py")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
