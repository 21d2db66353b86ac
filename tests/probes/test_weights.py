from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from probe_models import PAIRS, noisy, text_pair
from task_models import make_llama
from test_divergence import family
from test_layers import moe

from holdfast.errors import ModelError, UsageError
from holdfast.models import save_delta
from holdfast.models.source import fingerprint
from holdfast.probes import weights
from holdfast.probes._spectrum import intruder_dimensions, spectrum


def table(result: Any, measure: str) -> dict[tuple[str, int | None, str], float]:
    return {(r.tower, r.block, r.part): r.value for r in result.find(measure)}


@pytest.mark.parametrize("kind", list(PAIRS))
def test_one_changed_weight_shows_in_its_role_and_the_totals_only(kind: str):
    base, *_ = PAIRS[kind]()
    tuned = copy.deepcopy(base)
    inner = getattr(tuned.model, "language_model", tuned.model)
    weight = inner.layers[1].mlp.up_proj.weight
    before = weight.detach().clone()
    with torch.no_grad():
        weight[:3] += 0.5
    found = table(weights(base, tuned), "relative_change")
    assert {k for k, v in found.items() if v} == {
        ("language", 1, "mlp.up"), ("language", None, "mlp.up"), ("language", None, ""),
        ("", None, ""),
    }  # fmt: skip
    moved = float((weight.detach() - before).norm())
    assert found["language", 1, "mlp.up"] == pytest.approx(moved / float(before.norm()))
    whole = math.sqrt(sum(float(p.detach().square().sum()) for p in base.parameters()))
    assert found["", None, ""] == pytest.approx(moved / whole, rel=1e-5)
    shares = table(weights(base, tuned, spectral=False), "changed")
    assert shares["language", 1, "mlp.up"] == pytest.approx(3 / len(before))
    count = sum(p.numel() for p in base.parameters())
    assert shares["", None, ""] == pytest.approx(3 * before.shape[1] / count)


def test_fused_rows_are_their_own_roles():
    base = family("gpt2", 312)
    tuned = copy.deepcopy(base)
    width = base.config.n_embd
    with torch.no_grad():
        tuned.transformer.h[0].attn.c_attn.weight[:, width : 2 * width] += 1.0
    found = table(weights(base, tuned), "relative_change")
    assert {k[2] for k, v in found.items() if v and k[1] == 0} == {"attn.k"}


def test_low_rank_changes_by_hand():
    torch.manual_seed(0)
    q0, _ = torch.linalg.qr(torch.randn(12, 12))
    q1, _ = torch.linalg.qr(torch.randn(8, 8))
    values = torch.linspace(5, 1, 8)
    base = q0[:, :8] @ torch.diag(values) @ q1.T
    # a large new direction, orthogonal to the base's columns: one intruder
    tuned = base + 9.0 * torch.outer(q0[:, 9], torch.ones(8) / math.sqrt(8))
    found = spectrum(base, tuned)
    assert found.intruders == 1
    assert found.spectral_change == pytest.approx(9 / 5, rel=1e-5)
    assert found.stable_rank == pytest.approx(1, rel=1e-4)
    # growth of a direction that was there: none
    grown = base + 4.0 * torch.outer(q0[:, 0], q1[:, 0])
    again = spectrum(base, grown)
    assert again.intruders == 0
    assert again.singular_value_change == pytest.approx(4 / float(values.norm()), rel=1e-4)
    same = spectrum(base, base)
    assert (same.spectral_change, same.singular_value_change, same.intruders) == (0, 0, 0)


def test_intruders_by_a_slow_loop():
    torch.manual_seed(0)
    base, tuned = (torch.linalg.svd(torch.randn(9, 5))[0][:, :5] for _ in range(2))
    for similar in (0.3, 0.5, 0.7, 1.0):
        slow = 0
        for j in range(4):
            cosines = [abs(float(base[:, i] @ tuned[:, j])) for i in range(5)]
            slow += all(c < similar for c in cosines)
        assert intruder_dimensions(base, tuned, top=4, similar=similar) == slow


@pytest.mark.parametrize("make", ["llama", "llava", "tied", "moe", "gpt2"])
def test_folders_read_tensor_by_tensor_give_what_modules_give(make: str, tmp_path: Path):
    if make in PAIRS:
        base = PAIRS[make]()[0]
    elif make == "tied":
        base = make_llama(300, tie_word_embeddings=True)
    else:
        base = moe(300) if make == "moe" else family("gpt2", 300)
    tuned = noisy(base)
    base.save_pretrained(tmp_path / "base", max_shard_size="20KB")
    tuned.save_pretrained(tmp_path / "tuned", max_shard_size="50KB")
    assert len(list((tmp_path / "base").glob("*.safetensors"))) > 2
    memory = weights(base, tuned)
    streamed = weights(tmp_path / "base", str(tmp_path / "tuned"))
    assert streamed.facts["unmatched_tensors"] == 0
    for measure in ("relative_change", "changed", "singular_value_change"):
        one, two = table(memory, measure), table(streamed, measure)
        if make == "moe":  # experts lie apart in the file and packed in the module
            two = {k: v for k, v in two.items() if "mlp" not in k[2]}
            one = {k: v for k, v in one.items() if k in two}
        if make != "moe" or measure != "singular_value_change":
            assert one == pytest.approx(two, rel=1e-4)
    mixed = table(weights(base, tmp_path / "tuned"), "relative_change")
    assert mixed == pytest.approx(table(memory, "relative_change"), rel=1e-5)


def test_a_delta_is_read_over_its_base(tmp_path: Path):
    base, tokenizer, _ = text_pair()
    home = tmp_path / "base"
    base.save_pretrained(home)
    tokenizer.save_pretrained(home)
    tuned = copy.deepcopy(base)
    with torch.no_grad():
        tuned.model.layers[0].self_attn.v_proj.weight.mul_(1.1)
    save_delta(
        tmp_path / "delta", tuned, ["model.layers.0.self_attn.v_proj.weight"],
        base=str(home), base_folder=home, base_hash=fingerprint(home),
    )  # fmt: skip
    found = table(weights(str(home), tmp_path / "delta"), "relative_change")
    assert {k for k, v in found.items() if v and k[1] is not None} == {("language", 0, "attn.v")}
    assert found["language", 0, "attn.v"] == pytest.approx(0.1, rel=1e-4)
    tuned.save_pretrained(home)
    with pytest.raises(ModelError, match="not the ones that it was tuned from"):
        weights(tuned, tmp_path / "delta")


def test_other_models_are_refused(tmp_path: Path):
    base, *_ = text_pair()
    with pytest.raises(ModelError, match="shape"):
        weights(base, make_llama(100))
    with pytest.raises(ModelError, match="no tensor in common"):
        weights(base, torch.nn.Linear(2, 2))
    with pytest.raises(UsageError, match="top=0"):
        weights(base, base, top=0)
