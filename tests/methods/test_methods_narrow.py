"""What the narrow recipes promise, and the baselines' identities, trained through the engine."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as t
from torch import Tensor, nn

from holdfast.anatomy import anatomy, load_meta, select
from holdfast.engine import with_plan
from holdfast.errors import SelectorError
from holdfast.methods import METHODS, method, plan
from holdfast.plan import Plan
from holdfast.testing import Tiny, tiny_llama, tiny_llava

torch.set_num_threads(1)


def _fit(made: Plan, tiny: Tiny, folder: Path, steps: int = 3, **more: Any) -> Any:
    arguments = t.TrainingArguments(
        output_dir=str(folder), max_steps=steps, per_device_train_batch_size=2,
        learning_rate=1e-2, save_strategy="no", report_to="none", disable_tqdm=True, use_cpu=True,
        remove_unused_columns=False, **({"logging_steps": 1, "weight_decay": 0.1} | more),
    )  # fmt: skip
    kind = with_plan(t.Trainer, made)
    trainer = kind(model=tiny.model, args=arguments, train_dataset=tiny.rows())
    trainer.pop_callback(t.PrinterCallback)
    trainer.train()
    return trainer


def _losses(trainer: Any) -> list[float]:
    return [row["loss"] for row in trainer.state.log_history if "loss" in row]


def _values(model: nn.Module) -> dict[str, Tensor]:
    return {n: p.detach().clone() for n, p in model.named_parameters()}


def _low_rank(weight: Tensor, rank: int) -> Tensor:
    u, s, v = torch.linalg.svd(weight.double())
    return (u[:, :rank] * s[:rank] @ v[:rank]).to(weight.dtype)


def _outside(delta: Tensor, columns: Tensor) -> float:
    """Share of ``delta`` [N, d] that is not in the column space of ``columns`` [d, r]."""
    u, s, _ = torch.linalg.svd(columns.double(), full_matrices=False)
    basis = u[:, s > 1e-6 * s[0]]
    rest = delta.double() - delta.double() @ basis @ basis.T
    return float(rest.norm() / delta.double().norm())


@pytest.mark.parametrize(
    ("text", "path", "inside"),
    [
        ("gate-up", "mlp", True),
        ("mlp", "mlp", False),
        ("qkv", "self_attn", True),
        ("sa-proj", "self_attn", False),
    ],
)
def test_a_frozen_last_layer_keeps_the_change_in_its_column_space(
    text: str, path: str, inside: bool, tmp_path: Path
) -> None:
    tiny = tiny_llama()
    module = tiny.model.get_submodule(f"model.layers.1.{path}")
    last = module.down_proj if path == "mlp" else module.o_proj
    with torch.no_grad():
        last.weight.copy_(_low_rank(last.weight, 3))
    columns = last.weight.detach().clone()
    hidden = torch.randn(1, 20, 16)
    call: Callable[[], Tensor] = lambda: module(hidden)  # noqa: E731
    if path == "self_attn":
        where = (torch.ones(1, 20, 4), torch.zeros(1, 20, 4))
        call = lambda: module(hidden, position_embeddings=where, attention_mask=None)[0]  # noqa: E731
    with torch.no_grad():
        before = call()
    _fit(method(text), tiny, tmp_path)
    with torch.no_grad():
        delta = (call() - before)[0]
    assert delta.norm() > 1e-3
    assert torch.equal(last.weight, columns) is inside
    if inside:
        assert _outside(delta, columns) < 1e-4
        assert int(torch.linalg.matrix_rank(delta.double(), rtol=1e-4)) <= 3
    else:
        assert _outside(delta, columns) > 1e-2


QWEN2_7B = {
    "model_type": "qwen2", "hidden_size": 3584, "num_hidden_layers": 28, "num_attention_heads": 28,
    "num_key_value_heads": 4, "intermediate_size": 18944, "vocab_size": 152064,
    "tie_word_embeddings": False,
}  # fmt: skip
LLAMA3_8B = {
    "model_type": "llama", "hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32,
    "num_key_value_heads": 8, "intermediate_size": 14336, "vocab_size": 128256,
    "tie_word_embeddings": False,
}  # fmt: skip
COUNTS = [
    ("sa-proj", 822_212_608, 1_342_177_280),
    ("qkv", 462_551_040, 805_306_368),
    ("gate-up", 3_802_136_576, 3_758_096_384),
    ("mlp", 5_703_204_864, 5_637_144_576),
    ("full-llm", 7_615_616_512, 8_030_261_248),
]


@pytest.mark.parametrize(("name", "qwen", "llama"), COUNTS)
def test_the_methods_have_the_published_counts(
    name: str, qwen: int, llama: int, tmp_path: Path
) -> None:
    import json

    for config, count in ((QWEN2_7B, qwen), (LLAMA3_8B, llama)):
        (tmp_path / "config.json").write_text(json.dumps(config))
        assert anatomy(load_meta(tmp_path)).select(method(name).train or "").count == count


def test_every_recipe_is_a_selector_and_none_reaches_the_vision_tower_by_name() -> None:
    model = tiny_llava().model
    needed: dict[str, dict[str, object]] = {"scole": {"classes": "colour"}}
    for entry in METHODS:
        if entry.name in ("full", "vision", "train"):
            continue
        counted = {"n": 1} if entry.name.endswith(("-n", "bottom-freeze")) else {}
        made = method(entry.name, **needed.get(entry.name, counted))
        if isinstance(made.train, str):
            assert not any("vision_tower" in n for n in select(model, made.train).parameters)


def test_the_vision_tower_learns_at_its_own_rate(tmp_path: Path) -> None:
    trainer = _fit(method("full"), tiny_llava(), tmp_path, lr_scheduler_type="constant")
    names = {id(p): n for n, p in trainer.model.named_parameters()}
    rates = {names[id(p)]: g["lr"] for g in trainer.optimizer.param_groups for p in g["params"]}
    assert {r for n, r in rates.items() if "vision_tower" in n} == {0.4 * 1e-2}
    assert {r for n, r in rates.items() if "vision_tower" not in n} == {1e-2}
    even = _fit(
        method("full:vision_lr_scale=1"), tiny_llava(), tmp_path, lr_scheduler_type="constant"
    )
    assert {g["lr"] for g in even.optimizer.param_groups} == {1e-2}


def test_full_works_without_a_vision_tower(tmp_path: Path) -> None:
    trainer = _fit(method("full"), tiny_llama(), tmp_path)
    assert len(trainer.bound.trainable) == len(list(tiny_llama().model.named_parameters()))


@pytest.mark.parametrize("name", ["vision", "projector"])
def test_a_tower_that_is_not_there_is_an_error_that_lists_what_is(
    name: str, tmp_path: Path
) -> None:
    with pytest.raises(SelectorError, match=r"language \(2 blocks\)"):
        _fit(method(name), tiny_llama(), tmp_path)


def test_lwf_with_weight_zero_is_plain_fine_tuning_step_for_step(tmp_path: Path) -> None:
    plain, off = tiny_llava(), tiny_llava()
    first = _fit(method("mlp"), plain, tmp_path)
    second = _fit(plan("mlp | lwf:weight=0"), off, tmp_path)
    assert _losses(first) == _losses(second)
    for name, value in _values(plain.model).items():
        assert torch.equal(value, off.model.get_parameter(name)), name


@pytest.mark.parametrize("positions", ["answer", "all", "llava_lmmcl_compat"])
def test_lwf_starts_at_zero_and_holds_the_outputs_back(positions: str, tmp_path: Path) -> None:
    tiny = tiny_llama()
    term = method(f"lwf:positions={positions}").learn[0]
    assert int(term.positions(tiny.batch).sum()) > 0  # type: ignore[union-attr]
    drift = {}
    for weight in (0.01, 100.0):
        tiny = tiny_llama()
        start = _logits(tiny)
        made = plan(f"mlp | lwf:weight={weight},positions={positions}")
        trainer = _fit(made, tiny, tmp_path, steps=6, lr_scheduler_type="constant")
        first = next(r for r in trainer.state.log_history if "loss/distill" in r)
        assert abs(first["loss/distill"]) < 1e-6  # student and teacher are one model at step 0
        drift[weight] = float((_logits(tiny) - start).norm())
    assert drift[100.0] < 0.8 * drift[0.01]


def test_the_teacher_is_the_start_of_the_stage_or_of_the_run(tmp_path: Path) -> None:
    from holdfast.engine.bound import bind

    tiny = tiny_llama()
    base = _values(tiny.model)
    _fit(method("mlp"), tiny, tmp_path)
    stage = _values(tiny.model)
    for teacher, expected in (("stage", stage), ("base", base)):
        bound = bind(plan(f"mlp | lwf:teacher={teacher}"), tiny.model, base=base)
        weights = bound.references[teacher].weights
        assert all(torch.equal(weights[n], expected[n]) for n in bound.trainable)


@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0])
def test_wise_ft_averages_what_plain_training_gives(alpha: float, tmp_path: Path) -> None:
    plain, averaged = tiny_llama(), tiny_llama()
    start = _values(plain.model)
    _fit(method("mlp"), plain, tmp_path)
    _fit(plan(f"mlp | wise-ft:alpha={alpha}"), averaged, tmp_path)
    for name, tuned in _values(plain.model).items():
        value = averaged.model.get_parameter(name)
        if alpha == 1:
            assert torch.equal(value, start[name]), name
        elif alpha == 0:
            assert torch.equal(value, tuned), name
        else:
            torch.testing.assert_close(value, alpha * start[name] + (1 - alpha) * tuned)


def test_wise_ft_on_lora_averages_the_merged_weights(tmp_path: Path) -> None:
    merged, averaged = tiny_llama(), tiny_llama()
    start = _values(merged.model)
    torch.manual_seed(3)
    done = _fit(method("lora:rank=4,scope=sa-proj"), merged, tmp_path).bound.detach()
    torch.manual_seed(3)
    half = _fit(plan("lora:rank=4,scope=sa-proj | wise-ft:alpha=0.5"), averaged, tmp_path).model
    for name, tuned in _values(done).items():
        expected = (start[name] + tuned) / 2
        torch.testing.assert_close(half.get_parameter(name), expected, atol=1e-6, rtol=1e-5)


def _logits(tiny: Tiny) -> Tensor:
    with torch.no_grad():
        logits: Tensor = tiny.model.eval()(
            **{k: v for k, v in tiny.batch.items() if k != "labels"}
        ).logits
    return logits
