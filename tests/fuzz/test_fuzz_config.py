"""The configuration: what is saved is the run, and whatever else is given is a sentence."""

from __future__ import annotations

import copy
from contextlib import suppress

import pytest
import yaml
from fuzz_tools import HOSTILE, SEEDS, cases, ours, some_value
from hypothesis import strategies as st

from holdfast.config import RunConfig, override, read_yaml, resolve
from holdfast.errors import ConfigError
from holdfast.safeyaml import load_yaml


def plain(rng):
    return rng.choice("abcdXé") + "".join(rng.choice("ab_. /-é09") for _ in range(6)) + "z"


OPTIONAL = {
    "learning_rate": lambda rng: rng.choice([1e-9, 1e-4, 0.37, 10.0]),
    "steps": lambda rng: rng.choice([None, 1, 10**9]),
    "epochs": lambda rng: rng.uniform(0.01, 99),
    "batch_size": lambda rng: rng.randint(1, 4096),
    "weight_decay": lambda rng: rng.random(),
    "schedule": lambda rng: rng.choice(["cosine", "linear", "constant_with_warmup"]),
    "warmup": lambda rng: rng.random(),
    "precision": lambda rng: rng.choice(["auto", "fp32", "bf16"]),
    "max_length": lambda rng: rng.choice([None, 1, 10**6]),
    "gradient_checkpointing": lambda rng: rng.random() < 0.5,
}


def good(rng):
    """A configuration that is right, each optional key now there and now not."""
    values = {
        "model": plain(rng),
        "data": [{"data": plain(rng), "name": f"s{i}"} for i in range(rng.randint(1, 3))],
        "methods": [plain(rng) for _ in range(rng.randint(1, 2))],
        "out": plain(rng),
        "tasks": [plain(rng) for _ in range(rng.randrange(3))],
        "seed": rng.randint(0, 4_000_000),
        "train": {k: draw(rng) for k, draw in OPTIONAL.items() if rng.random() < 0.5},
        "evaluate": {"limit": rng.randint(1, 999)},
        "trust": {"pickle": rng.random() < 0.5},
    }
    left = rng.choice([[], ["tasks"], ["train"], ["seed", "evaluate"], ["trust"]])
    return {k: v for k, v in values.items() if k not in left}


@cases(60, rng=SEEDS)
def test_what_is_dumped_is_what_is_read(rng, tmp_path_factory):
    values = good(rng)
    config = resolve(values)
    for key, value in values.items():
        held = config.model_dump()[key]
        if isinstance(value, dict):
            held = {k: held[k] for k in value}
        elif key == "data":
            held = [{k: s[k] for k in ("data", "name")} for s in held]
        assert held == value, key
    file = tmp_path_factory.mktemp("c") / "run.yaml"
    file.write_text(config.dump(), encoding="utf-8")
    assert resolve(read_yaml(file)) == config
    assert resolve(yaml.safe_load(config.dump())) == config


KEYS = [*RunConfig.model_fields, "train.steps", "train.learning_rate", "modle", "", "data.0"]


@cases(100, rng=SEEDS)
def test_any_values(rng):
    changes = {rng.choice(KEYS): some_value(rng) for _ in range(rng.randint(1, 3))}
    config = ours(resolve, {**good(rng), **changes})
    if config is not None:
        assert resolve(load_yaml(config.dump())) == config


@cases(
    60,
    rng=SEEDS,
    key=st.sampled_from(["train.steps", "train.batch_size", "seed", "evaluate.limit"]),
    number=st.integers(-5, 10**6),
)
def test_an_override_is_the_value_in_the_file(rng, key, number):
    values = good(rng)
    by_override, by_file = copy.deepcopy(values), copy.deepcopy(values)
    override(by_override, f"{key}={number}")
    section, _, field = key.rpartition(".")
    if section:
        by_file[section] = {**values.get(section, {}), field: number}
    else:
        by_file[field] = number
    assert by_override == by_file
    assert ours(resolve, by_override) == ours(resolve, by_file)


ASSIGNED = st.one_of(st.text(max_size=20), HOSTILE, SEEDS.map(lambda rng: str(some_value(rng))))


@cases(100, rng=SEEDS, key=st.sampled_from(KEYS) | st.text(max_size=8), value=ASSIGNED)
def test_any_override(rng, key, value):
    values = good(rng)
    if ours(override, values, f"{key}={value}") is None:
        ours(resolve, values)


@cases(60, text=st.one_of(st.text(max_size=60), HOSTILE, st.binary(max_size=60)))
def test_any_file(text, tmp_path_factory):
    file = tmp_path_factory.mktemp("c") / "run.yaml"
    file.write_bytes(text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass"))
    found = ours(read_yaml, file)
    assert found is None or isinstance(found, dict)


TAGS = ["int", "float", "bool", "null", "binary", "timestamp", "omap", "pairs", "set", "str"]
TAGS += ["seq", "map", "merge", "value", "python/object/apply:os.system", "python/name:os.system"]


@cases(60, tag=st.sampled_from(TAGS), value=ASSIGNED)
def test_any_tag(tag, value):
    with suppress(ValueError):
        load_yaml(f"a: !!{tag} {value}")


@cases(40, number=st.integers(-(10**9), 10**9))
def test_numbers_are_decimal(number):
    assert load_yaml(f"a: {number}") == {"a": number}
    assert load_yaml(f"a: {number}.5") == {"a": float(f"{number}.5")}
    for other in (
        f"0{abs(number)}",
        f"{abs(number)}:30",
        f"0x{abs(number):x}",
        "1_000",
        "2020-01-01",
    ):
        assert load_yaml(f"a: {other}") == {"a": other}


def test_a_few_lines_that_stand_for_billions(tmp_path):
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 12)]
    (tmp_path / "run.yaml").write_text("\n".join(lines))
    with pytest.raises(ConfigError, match="aliases"):
        read_yaml(tmp_path / "run.yaml")
