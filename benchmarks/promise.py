"""Does the promise of `holdfast tune --budget` hold? Whole searches, judged on fresh questions.

python -m benchmarks.promise                          # 20 searches, about an hour on two cores
python -m benchmarks.promise --seeds 3 --budget 1     # others, in a folder of their own

Each search teaches lab:lm a skill and keeps four abilities of which it is given a few hundred
questions, drawn anew for each seed. Afterwards the model that it returns is asked questions that
the search never had, many more of them. It is run again to go on where it was stopped.
"""

from __future__ import annotations

import argparse
import json
import math
import random
from pathlib import Path
from typing import Any

from scipy.stats import binomtest

import holdfast
from holdfast import lab
from holdfast.tasks import evaluate, load_task

ROOT = Path(__file__).parent.parent
MODEL = "lab:lm"
SKILLS = ("arithmetic", "style", "language", "classify", "facts")
ABILITIES = ("copy", "reverse", "alphabet", "compare", "sums")
KEPT, FRESH, FRESH_SEED = 4, 1000, 10_000
"""Abilities of a search; new questions of each, and the seed that they are drawn with."""


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.promise",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--seeds", type=int, default=20, help="how many searches (20)")
    parser.add_argument("--budget", type=float, default=2.0, help="points (2)")
    parser.add_argument("--examples", type=int, default=200, help="questions of an ability (200)")
    parser.add_argument("--steps", type=int, default=40, help="of the longest trials (40)")
    parser.add_argument("--workers", type=int, help="trials at a time (one for each core)")
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "promise")
    parser.add_argument("--docs", type=Path, help="write the page here too")
    told = parser.parse_args(arguments)
    rows = []
    for seed in range(told.seeds):
        rows.append(_one(seed, told))
        print(_line(rows[-1]), flush=True)
    text = page(rows, told.budget, told.examples, told.steps)
    for place in (told.out, told.docs):
        if place is not None:
            place.mkdir(parents=True, exist_ok=True)
            (place / "promise.md").write_text(text, encoding="utf-8")
            (place / "promise.json").write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    return 0


def _one(seed: int, told: argparse.Namespace) -> dict[str, Any]:
    folder = told.out / f"{told.budget:g}-{told.examples}-{told.steps}" / f"seed{seed}"
    done = folder / "judged.json"
    if not done.exists():
        skill = SKILLS[seed % len(SKILLS)]
        names = random.Random(seed).sample(ABILITIES, KEPT)
        kept = [_questions(folder / "given", n, told.examples, seed) for n in names]
        found = holdfast.within(
            MODEL,
            f"lab:{skill}",
            keep=[str(path) for path in kept],
            budget=told.budget,
            examples=told.examples,
            steps=told.steps,
            seed=seed,
            workers=told.workers,
            out=folder / "search",
        )
        fresh = [_questions(folder / "fresh", n, FRESH, FRESH_SEED + seed) for n in names]
        row = {"seed": seed, "skill": skill, "kept": names, **_judged(found, fresh)}
        done.write_text(json.dumps(row, indent=1) + "\n", encoding="utf-8")
    row = json.loads(done.read_text(encoding="utf-8"))
    return dict(row)


def _questions(folder: Path, ability: str, n: int, seed: int) -> Path:
    """Questions of an ability as a user's own file."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{ability}.jsonl"
    rows = [
        {"question": r.prompt().messages[-1].text, "answer": r.answer()}
        for r in lab.records(ability, "test", n, seed)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def _judged(found: Any, fresh: list[Path]) -> dict[str, Any]:
    """What was promised, and what the model lost on questions that nobody had seen."""
    said: dict[str, Any] = {"found": found.chosen is not None, "verdict": found.verdict}
    if found.chosen is None:
        return said
    tasks = [t for path in fresh for t in load_task(path, model=MODEL)]
    scores = []
    for where in (MODEL, found.result):
        model, processor = holdfast.load(where)
        results = evaluate(model, processor, tasks)
        scores.append([[a.score for a in r.answers] for r in results])
    losses = [
        [100 * (b - a) for b, a in zip(before, after, strict=True)]
        for before, after in zip(*scores, strict=True)
    ]
    means = [sum(x) / len(x) for x in losses]
    spread = [
        sum((v - m) ** 2 for v in x) / (len(x) - 1) / len(x)
        for x, m in zip(losses, means, strict=True)
    ]
    return {
        **said,
        "recipe": found.chosen.tried.name,
        "learned": found.chosen.learned.value,
        "lost": found.chosen.lost.value,
        "at_most": found.chosen.lost.high,
        "fresh": sum(len(x) for x in losses),
        "fresh_lost": sum(means) / len(means),
        "fresh_error": math.sqrt(sum(spread)) / len(means),
    }


def _line(row: dict[str, Any]) -> str:
    begin = f"seed {row['seed']}: {row['skill']}, keeping {', '.join(row['kept'])}: "
    if not row["found"]:
        return begin + "nothing was shown to be inside the budget"
    return begin + (
        f"{row['recipe']} learned {row['learned']:+.1f}, lost {row['lost']:.2f} (at most "
        f"{row['at_most']:.2f}); on fresh questions {row['fresh_lost']:.2f}"
    )


def page(rows: list[dict[str, Any]], budget: float, examples: int, steps: int) -> str:
    """The results as Markdown."""
    found = [r for r in rows if r["found"]]
    broken = [r for r in found if r["fresh_lost"] > budget]
    held = binomtest(len(rows) - len(broken), len(rows)).proportion_ci(method="exact")
    table = [
        "| seed | skill | kept | chosen | learned | lost | at most | on fresh questions |",
        "|--:|:--|:--|:--|--:|--:|--:|--:|",
    ]
    for r in rows:
        begin = f"| {r['seed']} | {r['skill']} | {', '.join(r['kept'])} | "
        if not r["found"]:
            table.append(begin + "none | | | | |")
            continue
        table.append(
            begin + f"{r['recipe']} | {r['learned']:+.1f} | {r['lost']:.2f} | "
            f"{r['at_most']:.2f} | {r['fresh_lost']:.2f} ± {1.96 * r['fresh_error']:.2f} |"
        )
    return f"""# The promise of a budget, tried

{len(rows)} searches as in [Within a budget](../guides/budget.md), each with a seed, a skill and \
kept abilities of its own: {MODEL}, a budget of {budget:g} points, {examples} questions of each \
ability (drawn anew for each seed, given as files), at most {steps} steps. The model that came \
back was then asked up to {FRESH:,} fresh questions of each ability. Regenerate with: \
python -m benchmarks.promise --docs docs/results.

- The promise held in {len(rows) - len(broken)} of {len(rows)} searches \
[{100 * held.low:.0f}%, {100 * held.high:.0f}%]; 95% is what is promised.
- {len(found)} of {len(rows)} searches found a model; they learned \
{_mean(r["learned"] for r in found):+.1f} points on average and lost \
{_mean(r["fresh_lost"] for r in found):.2f}.

{chr(10).join(table)}

*Learned*, *lost* and *at most* are what the search said, on the examples that it had not seen \
when it chose its candidates; *on fresh questions* is the mean loss over the kept abilities, with \
the 95% error of its own sample. A search that finds nothing keeps its promise by leaving the \
model alone.
"""


def _mean(values: Any) -> float:
    known = list(values)
    return sum(known) / len(known) if known else math.nan


if __name__ == "__main__":
    raise SystemExit(main())
