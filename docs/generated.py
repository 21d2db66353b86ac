"""Pages that are computed: which methods combine, and what was reproduced.

python docs/generated.py           # writes them
python docs/generated.py --check   # exit code 1 if one of them is not what would be written
"""

from __future__ import annotations

import ast
import functools
import itertools
import json
import re
import sys
import tomllib
from collections import defaultdict
from pathlib import Path
from typing import Any

from holdfast.errors import PlanConflict
from holdfast.measures import MEASURES
from holdfast.methods import METHODS, method
from holdfast.ordering import RANKERS
from holdfast.probes import PROBES

DOCS = Path(__file__).parent
ROOT = DOCS.parent
SOURCE = DOCS / "reproduced.toml"
KINDS = {"methods": "", "probes": "probes: ", "orders": "scores: ", "measures": "measures: "}
"""What Holdfast registers, and what the page calls it."""
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

    Raises ValueError for a method, probe, scorer of examples or measure that no paper names, one
    whose paper is another, a paper that no test and no run shows, a test that does not exist, or
    a figure that is not in its file.
    """
    told = tomllib.loads(SOURCE.read_text(encoding="utf-8"))
    listed, own = told["paper"], told["own"]
    for kind, papers in _registered().items():
        _covered(kind, papers, listed, own)
    count = sum(len(paper["checks"]) for paper in listed if "checks" in paper)
    lines = [
        "# What we reproduced",
        told["about"].strip(),
        f"{len(listed)} papers and libraries, {count} checks. Every test that is named here "
        "exists in the suite; every figure is read from the file of results that is named beside "
        "it when this page is made. The page is not written while something that Holdfast "
        "registers is missing.",
    ]
    part = ""
    for paper in listed:
        if paper["part"] != part:
            part = paper["part"]
            lines.append(f"## {part}")
        lines.append(_paper(paper))
    lines.append("## Without a paper")
    names = [name for kind in KINDS for name in own.get(kind, ())]
    lines.append(", ".join(f"`{name}`" for name in names) + f": {own['why'].strip()}")
    return "\n\n".join(lines) + "\n"


def _registered() -> dict[str, dict[str, str]]:
    """All that Holdfast registers, by kind, with the papers that it names."""
    return {
        "methods": {entry.name: entry.paper for entry in METHODS},
        "probes": {entry.name: entry.paper for entry in PROBES},
        "orders": {entry.name: entry.paper for entry in RANKERS},
        "measures": {name: measure.convention for name, measure in MEASURES.items()},
    }


def _covered(
    kind: str, papers: dict[str, str], listed: list[dict[str, Any]], own: dict[str, Any]
) -> None:
    sources: dict[str, str] = {name: "" for name in own.get(kind, ())}
    for paper in listed:
        for name in paper.get(kind, ()):
            sources[name] = sources.get(name, "") + paper["source"]
    if missing := sorted(papers.keys() - sources.keys()):
        raise ValueError(f"docs/reproduced.toml says nothing of these {kind}: {', '.join(missing)}")
    if unknown := sorted(sources.keys() - papers.keys()):
        raise ValueError(f"docs/reproduced.toml names {kind} that do not exist: {unknown}")
    for name, told in papers.items():
        for number in re.findall(r"\d{4}\.\d{5}", told):
            if number not in sources[name]:
                raise ValueError(f"no paper that names {name} is arXiv {number}, as it says itself")


def _paper(paper: dict[str, Any]) -> str:
    if not (paper.get("checks") or paper.get("figures")):
        raise ValueError(f"neither a test nor a run shows anything of: {paper['title']}")
    parts = [f"### {paper['title']}", paper["source"] + "."]
    here = [f"{label}{_named(paper[kind])}" for kind, label in KINDS.items() if kind in paper]
    if here:
        parts[-1] += " Here: " + "; ".join(here) + "."
    parts.append(f"**It claims.** {paper['claim'].strip()}")
    if paper.get("checks"):
        rows = [f"- {c['what']} ({c['how']}): {_test(c['test'])}" for c in paper["checks"]]
        parts.append("**Checked.**\n\n" + "\n".join(rows))
    for figure in paper.get("figures", ()):
        said = [figure["said"].format(**_figures(figure)), *_quoted(figure)]
        parts.append(f"**Seen.** {' '.join(said)} ({_link(figure)})")
    parts.append(f"**Did not hold, or was not tried.** {paper['open'].strip()}")
    return "\n\n".join(parts)


def _named(names: list[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def _test(place: str) -> str:
    file, _, name = place.partition("::")
    found = _tests(file)
    if name not in found:
        raise ValueError(f"docs/reproduced.toml names a test that does not exist: {place}")
    return f"`{place}`" + (f", {found[name]}" if found[name] else "")


@functools.cache
def _tests(file: str) -> dict[str, str]:
    """The tests of a file, and when they do not run in every run of the suite."""
    path = ROOT / file
    if not path.is_file():
        return {}
    tree = ast.parse(path.read_text(encoding="utf-8"))
    found = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
            slow = any("mark.slow" in ast.unparse(mark) for mark in node.decorator_list)
            wants = re.findall(r"importorskip\('([^'.]+)", ast.unparse(node))
            said = ["in the slow suite"] * slow + [f"where {name} is installed" for name in wants]
            found[node.name] = ", ".join(said)
    return found


def _figures(figure: dict[str, Any]) -> dict[str, str]:
    """Numbers of a file of results: each by the setting and the measure that it is."""
    result = json.loads((ROOT / figure["file"]).read_text(encoding="utf-8"))
    settings = {(s["recipe"], s["lr"]): s for s in result.get("settings", result.get("rows", []))}
    found = {}
    for name, (recipe, rate, measure) in figure.get("numbers", {}).items():
        if (recipe, rate) not in settings or measure not in settings[recipe, rate]:
            raise ValueError(f"{figure['file']} has no {measure} of {recipe} at {rate}")
        estimate = settings[recipe, rate][measure]
        found[name] = f"{estimate['value']:+.1f}"
        if estimate.get("low") is not None:
            found[name] += f" \\[{estimate['low']:.1f}, {estimate['high']:.1f}\\]"
    return found


def _quoted(figure: dict[str, Any]) -> list[str]:
    """The sentences of a section of the results' page, which were computed with it."""
    if "section" not in figure:
        return []
    sections = json.loads((ROOT / figure["file"]).read_text(encoding="utf-8"))["sections"]
    if figure["section"] not in sections:
        raise ValueError(f"{figure['file']} has no section '{figure['section']}'")
    said = []
    for block in sections[figure["section"]]:
        if isinstance(block, str):
            said.append(block)
        else:
            said += _rows(block, figure.get("recipes"))
    return [line.replace("|", "\\|").replace("[", "\\[") for line in said]


def _rows(table: dict[str, Any], recipes: list[str] | None) -> list[str]:
    """A table as sentences, of those recipes alone."""
    head = table["header"][1:]
    return [
        f"{row[0]}: {', '.join(f'{h} {cell}' for h, cell in zip(head, row[1:], strict=True))}."
        for row in table["rows"]
        if recipes is None or row[0] in recipes
    ]


def _link(figure: dict[str, Any]) -> str:
    """To the page beside the figures, as seen from docs/reproduced.md."""
    page = (ROOT / figure["file"]).with_suffix(".md")
    if not page.is_file():
        return f"`{figure['file']}`"
    return f"[{page.parent.name}]({page.relative_to(DOCS).as_posix()})"


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
