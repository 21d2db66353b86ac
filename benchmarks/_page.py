"""The committed page: every ratio with its goal, its prediction and both absolute numbers."""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from benchmarks._rows import Row, Section

PACKAGES = ("torch", "transformers", "accelerate", "trl", "peft", "lm_eval", "datasets", "numpy")

PROTOCOL = """\
What Holdfast's exact savings are worth, beside what a competent user runs today: \
transformers' `Trainer` and TRL's `SFTTrainer` at their defaults and tuned, PEFT's LoRA, lm-eval's \
`hf`. This page is written by one command, and by nothing else:

```bash
make bench
```

How it measures. Both sides run in one process on the same weights and the same tokens a step. \
First both must give the same numbers; a pair that differs by more than the tolerance stops the \
benchmark. Then FLOPs (`FlopCounterMode`) and the bytes that autograd keeps (saved-tensor hooks) \
are counted, which is exact. Time comes last: processor time on one thread, sides in turns (ABBA), \
after a first turn that does not count {repeats} or more timed ones, the ratio of medians with a \
95% bootstrap interval over rounds. A pair whose slowest turn took more than {unsteady:g} \
medians is timed again, then discarded. `predicted` is the ratio that a formula gives without \
measuring anything (for training, \
`holdfast.anatomy`'s count of forward, input-gradient and weight-gradient products)."""


def page(sections: Sequence[Section], minutes: float | None = None, jobs: int = 1) -> str:
    """Markdown of all sections, which took ``minutes``, ``jobs`` of them at a time."""
    from benchmarks._measure import REPEATS, UNSTEADY

    parts = ["# Speed and memory", PROTOCOL.format(repeats=REPEATS, unsteady=UNSTEADY)]
    parts += ["## In short", _summary(sections)]
    for section in sections:
        parts += [f"## {section.title}", section.setting]
        if section.checks:
            parts.append(_checks(section))
        if section.rows:
            parts.append(_table(section.rows))
        parts += [f"- {r}" for r in section.remarks] and [
            "\n".join(f"- {r}" for r in section.remarks)
        ]
    parts += ["## Machine", machine(minutes, jobs), "## On a GPU", _gpu()]
    return "\n\n".join(parts) + "\n"


def _gpu() -> str:
    if (Path(__file__).parent.parent / "docs" / "results" / "speed-gpu.md").exists():
        return "See [the table of a GPU](speed-gpu.md)."
    return (
        "`python -m benchmarks --gpu` runs random-weight Qwen2.5-VL-3B and 7B and Llama-3-8B "
        "shapes beside TRL's trainer, at equal settings and each at its best that fits. **It has "
        "not run on a GPU yet**: its path is tested with tiny shapes of the same families on a "
        "processor, and nothing on this page says how fast Holdfast is on one."
    )


def _summary(sections: Sequence[Section]) -> str:
    rows = [r for s in sections for r in s.rows if r.goal is not None]
    met = sum(r.verdict == "met" for r in rows)
    head = (
        f"{met} of {len(rows)} goals are met; they are ratios to the best baseline on equal work."
    )
    lines = ["| | against | measured | goal | |", "|---|---|---:|---:|---|"]
    lines += [
        f"| {r.what}, {r.quantity} | {r.baseline} | {_ratio(r)} | {r.goal} | {r.verdict} |"
        for r in rows
    ]
    return head + "\n\n" + "\n".join(lines)


def _checks(section: Section) -> str:
    lines = ["Equal first:", ""]
    lines += [
        f"- {c.what}: off by {c.error:.1g} (allowed {c.tolerance:.1g})" for c in section.checks
    ]
    return "\n".join(lines)


def _table(rows: Sequence[Row]) -> str:
    head = ["what", "against", "", "ours", "theirs", "ratio", "95%", "predicted", "goal", "verdict"]
    lines = ["| " + " | ".join(head) + " |", "|---|---|---|---:|---:|---:|---|---:|---:|---|"]
    for r in rows:
        interval = f"{r.interval[0]:.3f} to {r.interval[1]:.3f}" if r.interval else "exact"
        cells = [
            r.what, r.baseline, r.quantity, _number(r.ours, r.unit), _number(r.theirs, r.unit),
            _ratio(r), interval, "" if r.predicted is None else f"{r.predicted:.3f}",
            str(r.goal or ""), r.verdict + (f"; {r.note}" if r.note else ""),
        ]  # fmt: skip
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _ratio(row: Row) -> str:
    return f"{row.ratio:.3f}" if row.steady else "unsteady"


_LARGE = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


def _number(value: float, unit: str) -> str:
    if unit == "s":
        return f"{value:.3f} s" if value >= 0.1 else f"{value * 1000:.2f} ms"
    for size, prefix in _LARGE:
        if abs(value) >= size and unit in ("FLOP", "B"):
            return f"{value / size:.4g} {prefix}{unit}"
    return f"{value:.4g} {unit}".rstrip()


def machine(minutes: float | None, jobs: int) -> str:
    import torch

    facts = [
        f"processor: {_processor()}, {os.cpu_count()} cores, one thread computing; "
        f"{_memory()} GB of memory; no GPU",
        f"CPU capability of torch: {torch.backends.cpu.get_cpu_capability()}",
        "Python " + platform.python_version() + "; " + ", ".join(_versions()),
        f"commit: {_commit()}; {datetime.now(UTC):%Y-%m-%d}",
    ]
    if minutes is not None:
        beside = "one after another" if jobs == 1 else f"{jobs} sections at a time after the first"
        facts.append(f"`make bench` took {minutes:.1f} minutes, {beside}")
    return "\n".join(f"- {f}" for f in facts)


def _versions() -> list[str]:
    found = []
    for name in PACKAGES:
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            continue
    return found


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    facts: dict[str, Any] = dict(
        (part.strip() for part in line.split(":", 1)) for line in lines if ":" in line
    )
    flags = str(facts.get("flags", "")).split()
    units = [f for f in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if f in flags]
    name = facts.get("model name", platform.machine())
    return (
        f"{name} (family {facts.get('cpu family')}, model {facts.get('model')}; {', '.join(units)})"
    )


def _memory() -> int:
    return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30)


def _commit() -> str:
    try:
        told = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--exclude=*"],
            capture_output=True, text=True, check=True, cwd=Path(__file__).parent,
        )  # fmt: skip
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return told.stdout.strip()
