"""Looking around is instant: no torch, no transformers, before a verb needs them."""

import subprocess
import sys

import pytest

HEAVY = (
    "heavy = {'torch', 'transformers', 'numpy', 'PIL'} & set(sys.modules)\nassert not heavy, heavy"
)


def python(code):
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_import_is_light():
    python(f"import sys, holdfast\nfrom holdfast import errors, plan, registry, config\n{HEAVY}")


@pytest.mark.parametrize("arguments", [["--help"], ["tune", "--help"], ["anatomy", "--help"]])
def test_help_is_light(arguments):
    out = python(
        f"import sys\nfrom holdfast.cli import main\nassert main({arguments}) == 0\n{HEAVY}"
    )
    assert "Usage" in out


@pytest.mark.parametrize(
    ("kind", "paper"), [("methods", "arXiv 2510.08564"), ("merges", "arXiv 2306.01708")]
)
def test_listing_what_has_settings_needs_no_torch(kind, paper):
    out = python(
        f"import sys\nfrom holdfast.cli import main\nmain(['list', '{kind}', '--json'])\n"
        "assert 'torch' not in sys.modules and 'transformers' not in sys.modules"
    )
    assert paper in out


def test_plans_can_be_made_without_torch():
    python(
        "import sys\nfrom holdfast.methods import plan\nplan(['gate-up', 'lwf', 'wise-ft'])\n"
        "assert 'torch' not in sys.modules"
    )
