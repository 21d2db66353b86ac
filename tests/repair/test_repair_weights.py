"""The weights between two models: to the bit at the ends, in float32 between, from files alone."""

from contextlib import ExitStack

import pytest
import torch
from repair_world import HARM, make_model, make_pair, save, tune
from safetensors.torch import load_file

import holdfast
from holdfast.anatomy import anatomy
from holdfast.changes.repair import Blend, interpolate
from holdfast.changes.repair.blend import part_key
from holdfast.changes.repair.ends import open_ends, same_bits
from holdfast.changes.repair.groups import blocks, cells, roles
from holdfast.changes.repair.half import reset
from holdfast.changes.repair.live import go_live
from holdfast.errors import ModelError, UsageError


def weights(model):
    return {n: p.detach().clone() for n, p in model.named_parameters()}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_the_ends_are_the_models_to_the_bit(dtype):
    torch.manual_seed(0)
    base, tuned = (torch.randn(5, 7).to(dtype) for _ in "ab")
    base[0, 0], tuned[0, 1] = -0.0, -0.0
    for share, end in ((0.0, base), (1.0, tuned)):
        assert same_bits(Blend(rest=share).value(base, tuned, (), dtype), end)
    between = Blend(rest=0.3).value(base, tuned, (), dtype)
    exact = (0.7 * base.double() + 0.3 * tuned.double()).to(dtype)
    step = torch.finfo(dtype).eps * exact.double().abs()
    assert ((between.double() - exact.double()).abs() <= step + 1e-7).all()
    assert not same_bits(base, base.clone().index_fill_(0, torch.tensor([0]), 0.0))


@pytest.mark.parametrize("tied", [False, True])
def test_what_is_streamed_is_what_a_model_in_memory_becomes(tmp_path, tied):
    base, tuned = make_pair(tmp_path, tied=tied, full=True)
    shares = {"model.layers.0.mlp.up_proj.weight": 1.0, "model.layers.2.mlp.up_proj.weight": 0.25}
    blend = Blend(0.6, shares)
    interpolate(str(base), str(tuned), tmp_path / "delta", blend=blend)
    interpolate(str(base), str(tuned), tmp_path / "full", blend=blend, full=True)
    with ExitStack() as stack:
        live = go_live(open_ends(str(base), str(tuned), stack), str(base), str(tuned))
        assert live.become(blend) == 6
        assert live.become(blend) == 0
        expected = weights(live.model)
    for place in ("delta", "full"):
        found = weights(holdfast.load(tmp_path / place)[0])
        assert found.keys() == expected.keys()
        assert all(same_bits(found[n], expected[n]) for n in found)


@pytest.mark.parametrize("share", [0.0, 1.0])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_full_folder_at_an_end_is_that_end(tmp_path, share, dtype):
    base, tuned = make_pair(tmp_path, dtype, full=True)
    interpolate(str(base), str(tuned), tmp_path / "out", blend=share, full=True)
    wanted = load_file((tuned if share else base) / "model.safetensors")
    found = load_file(tmp_path / "out" / "model.safetensors")
    assert found.keys() == wanted.keys()
    assert all(found[n].dtype == dtype and same_bits(found[n], wanted[n]) for n in found)


def test_shards_stay_shards(tmp_path):
    base = save(make_model(), tmp_path / "base", shards="30KB")
    model = make_model()
    changed = tune(model)
    tuned = save(model, tmp_path / "tuned")
    interpolate(str(base), str(tuned), tmp_path / "out", blend=1.0, full=True)
    assert len(list((tmp_path / "out").glob("*.safetensors"))) > 1
    found = weights(holdfast.load(tmp_path / "out")[0])
    assert all(same_bits(found[n], p) for n, p in model.named_parameters())
    with ExitStack() as stack:
        assert sorted(open_ends(str(base), str(tuned), stack).changed) == changed


def test_models_that_share_no_path_are_refused(tmp_path):
    base, tuned = make_pair(tmp_path)
    tied = save(make_model(tied=True), tmp_path / "tied")
    with ExitStack() as stack:
        with pytest.raises(UsageError, match="nothing to repair"):
            open_ends(str(base), str(base), stack)
        with pytest.raises(ModelError, match=r"lm_head\.weight"):
            open_ends(str(tied), str(base), stack)
    with pytest.raises(UsageError, match="share"):
        interpolate(str(base), str(tuned), tmp_path / "out", blend=1.5)


def test_groups_are_called_what_selectors_call_them():
    found = anatomy(make_model())
    for group in (*roles(found.parts), *blocks(found.parts), *cells(found.parts)):
        assert {part_key(p) for p in found.select(group.selector).parts} == group.keys
    assert f"language[{HARM}].mlp" in {g.selector for g in cells(found.parts)}


def test_half_of_the_matrices_of_each_category_go_back():
    parts = anatomy(make_model()).parts
    back = reset(parts, 3)
    assert back == reset(parts, 3)
    assert back != reset(parts, 4)
    counts = {
        (p.block, kind): sum(
            part_key(q) in back for q in parts if q.block == p.block and q.plays(kind)
        )
        for p in parts
        for kind in ("attn", "mlp", "norm")
        if p.block is not None
    }
    assert all(counts[b, "attn"] == 2 and counts[b, "norm"] == 1 for b in range(3))
    assert sorted(counts[b, "mlp"] for b in range(3)) == [1, 1, 2]
    assert not any("embed" in key or "lm_head" in key for key in back)
