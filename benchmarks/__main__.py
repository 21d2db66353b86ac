"""Run the benchmarks, each in a process of its own, and write the page.

python -m benchmarks                       # all of them, and docs/results/speed.md
python -m benchmarks --only head --only padding --out /tmp/speed.md
python -m benchmarks --gpu                 # large random-weight models on a CUDA device
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from benchmarks._page import page
from benchmarks._rows import Section

ROOT = Path(__file__).parent.parent
SECTIONS = ("training", "multimodal", "reference", "head", "padding", "evaluation", "continual")
"""In the order of the page. One file each, with ``run(quick) -> list[Section]``."""
ALONE = ("training",)
"""What runs with nothing beside it: its goals are nearest to what was measured."""
JOBS = 2
"""How many of the others run at a time, each on one core."""
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
OFFLINE = ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "TRANSFORMERS_OFFLINE")
QUIET = {
    "TOKENIZERS_PARALLELISM": "false",
    "PYTHONWARNINGS": "ignore",
    "TRANSFORMERS_VERBOSITY": "error",
    "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
}


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--only", action="append", choices=SECTIONS, help="this one; repeatable")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "results" / "speed.md")
    parser.add_argument("--quick", action="store_true", help="tiny shapes: tests the path only")
    jobs = min(JOBS, os.cpu_count() or 1)
    parser.add_argument("--jobs", type=int, default=jobs, help=f"sections at a time ({jobs})")
    parser.add_argument("--gpu", action="store_true", help="large models, on CUDA")
    parser.add_argument("--section", help=argparse.SUPPRESS)
    told = parser.parse_args(arguments)
    if told.gpu:
        from benchmarks import gpu

        return gpu.main(ROOT / "docs" / "results" / "speed-gpu.md", quick=told.quick)
    if told.section:
        _one(told.section, told.quick, told.out)
        return 0
    names = [n for n in SECTIONS if n in (told.only or SECTIONS)]
    return _all(names, told.quick, told.out, max(1, told.jobs))


def _one(name: str, quick: bool, out: Path) -> None:
    from transformers.utils import logging

    logging.disable_progress_bar()
    sections = importlib.import_module(f"benchmarks.{name}").run(quick=quick)
    out.write_text(json.dumps([s.to_json() for s in sections]))


def _all(names: list[str], quick: bool, out: Path, jobs: int) -> int:
    """The page of those sections, or which of them failed and an exit code."""
    began = time.perf_counter()
    folder = ROOT / "build" / "benchmarks"
    folder.mkdir(parents=True, exist_ok=True)
    found = {name: _section(name, quick, folder) for name in names if name in ALONE}
    rest = [name for name in names if name not in ALONE]
    with ThreadPoolExecutor(jobs) as pool:
        found |= zip(rest, pool.map(lambda name: _section(name, quick, folder), rest), strict=True)
    failed = [name for name in names if found[name] is None]
    if failed:
        print(f"failed: {', '.join(failed)}; the page was not written", file=sys.stderr)
        return 1
    out.parent.mkdir(parents=True, exist_ok=True)
    sections = [section for name in names for section in found[name] or ()]
    out.write_text(page(sections, (time.perf_counter() - began) / 60, jobs))
    print(f"wrote {out}")
    return 0


def _section(name: str, quick: bool, folder: Path) -> list[Section] | None:
    """What the section of that name found; None if it failed."""
    started = time.perf_counter()
    result = folder / f"{name}.json"
    result.unlink(missing_ok=True)
    if _apart(name, quick, result) != 0:
        print(f"{name} failed", file=sys.stderr, flush=True)
        return None
    sections = [Section.from_json(v) for v in json.loads(result.read_text())]
    rows = [row for section in sections for row in section.rows if row.goal is not None]
    lines = [f"  {r.what}, {r.quantity}: {r.ratio:.3f} ({r.goal}) {r.verdict}" for r in rows]
    print("\n".join([f"{name}: {time.perf_counter() - started:.0f} s", *lines]), flush=True)
    return sections


def _apart(name: str, quick: bool, result: Path) -> int:
    """A section in a process of its own, so that no section warms another's caches."""
    command = [sys.executable, "-m", "benchmarks", "--section", name, "--out", str(result)]
    environment = os.environ | dict.fromkeys(THREADS, "1") | dict.fromkeys(OFFLINE, "1")
    environment |= QUIET
    return subprocess.call(command + (["--quick"] if quick else []), cwd=ROOT, env=environment)


if __name__ == "__main__":
    sys.exit(main())
