"""A method of another package: found by its entry point, checked by the battery, combined."""

import os
import subprocess
import sys

METHOD = '''
"""A cost for being sure, for the projections of queries and values."""
from dataclasses import dataclass, field

from holdfast.methods import published
from holdfast.plan import Plan


@dataclass(kw_only=True)
class Calm:
    weight: float
    name: str = "calm"
    fits: bool = field(default=False, init=False)
    reference: None = field(default=None, init=False)

    def positions(self, batch):
        from holdfast.pieces.positions import answer

        return answer(batch)

    def __call__(self, outputs):
        p = outputs.logits.float().log_softmax(-1)
        return (p.exp() * p).sum(-1)


@published("calm", summary="queries and values, unsure", paper="none: a test")
def calm(weight: float = 0.1) -> Plan:
    """L = CE - weight * entropy of the prediction."""
    return Plan(name="calm", train="language.attn.q+v", learn=(Calm(weight=weight),))
'''
CHECK = """
import torch
torch.set_num_threads(1)
from holdfast.methods import plan
from holdfast.testing import check_entry, check_plan, check_training
from holdfast.cli import main
check_entry("calm")
check_plan("calm", weight=0.2)
assert check_training(plan(["calm:weight=0.2", "lwf", "wise-ft"]))
main(["list", "methods", "--json"])
"""


def test_a_method_of_another_package(tmp_path):
    assert len(METHOD.strip().splitlines()) < 30
    (tmp_path / "calm.py").write_text(METHOD)
    facts = tmp_path / "calm_method-0.1.dist-info"
    facts.mkdir()
    (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: calm-method\nVersion: 0.1\n")
    (facts / "entry_points.txt").write_text("[holdfast.methods]\ncalm = calm\n")
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-c", CHECK], capture_output=True, text=True, check=False,
        env={**os.environ, "PYTHONPATH": path},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert '"calm"' in done.stdout
