"""Counts the cases, and says how many there were."""

import os

import pytest
from fuzz_tools import SCALE, TRIED


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    """Names that are drawn must find nothing: an empty folder, no network."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


def pytest_terminal_summary(terminalreporter):
    total = sum(TRIED.values())
    if not total:
        return
    terminalreporter.write_line(f"fuzzing: {total:,} cases of {len(TRIED)} properties")
    if SCALE > 1:
        for name, count in sorted(TRIED.items()):
            terminalreporter.write_line(f"  {count:>7,}  {name}")


def pytest_sessionfinish(session):
    """``make fuzz`` promises a number of cases."""
    wanted = int(os.environ.get("HOLDFAST_FUZZ_CASES", "0"))
    if wanted and session.exitstatus == 0 and sum(TRIED.values()) < wanted:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
