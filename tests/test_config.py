"""What a run is told: every fault is named, and what is saved repeats the run."""

import pytest
import yaml

from holdfast.config import override, read_yaml, resolve
from holdfast.errors import ConfigError

GOOD = {
    "model": "lab:vlm",
    "data": ["a.jsonl", {"data": "b", "name": "bee"}],
    "methods": "mlp",
    "out": "r",
}


def test_the_saved_form_is_the_run():
    config = resolve({**GOOD, "train": {"learning_rate": "1e-4"}})
    assert config.train.learning_rate == 1e-4
    assert [s.label for s in config.data] == ["a", "bee"]
    assert resolve(yaml.safe_load(config.dump())) == config


@pytest.mark.parametrize(
    ("change", "fragments"),
    [
        ({"modle": "x"}, ["no setting 'modle'", "did you mean 'model'"]),
        ({"train": {"epoch": 2}}, ["'train.epoch'", "did you mean 'epochs'"]),
        ({"train": {"learning_rate": "fast"}}, ["train.learning_rate", "'fast'"]),
        ({"train": {"learning_rate": float("inf")}}, ["finite"]),
        ({"train": {"steps": 0, "warmup": 2}}, ["train.steps", "train.warmup"]),
        ({"train": {"batch_size": 8, "micro_batch_size": 3}}, ["not a multiple"]),
        ({"data": ["x/a.json", "y/a.json"]}, ["two stages are called 'a'"]),
        ({"data": [{"file": "x"}]}, ["no setting 'data.0.file'"]),
        ({"data": []}, ["data"]),
        ({"methods": []}, ["methods"]),
        ({"seed": "one"}, ["seed"]),
    ],
)
def test_faults_are_named(change, fragments):
    with pytest.raises(ConfigError) as error:
        resolve({**GOOD, **change})
    for fragment in fragments:
        assert fragment in str(error.value)


def test_what_is_missing_is_listed_at_once():
    with pytest.raises(ConfigError, match="'model' is missing; 'data' is missing"):
        resolve({"out": "r"})


@pytest.mark.parametrize(
    ("text", "fragment"),
    [
        ("a: 1\nb: [1,\n", "line 3"),
        ("a: 1\na: 2\n", "line 2: key 'a' stands twice"),
        ("train: {x: 1, x: 2}\n", "key 'x' stands twice"),
        ("- a\n", "holds a list"),
        ("!!python/object/apply:os.system ['true']\n", "line 1"),
        ("1: 2\n", "is not text"),
        ("\x07", "not YAML"),
        ("a: &a [*a, *a]\n<<: [1]\n", "line 2"),
    ],
)
def test_bad_yaml_is_a_sentence(tmp_path, text, fragment):
    file = tmp_path / "run.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError) as error:
        read_yaml(file)
    assert fragment in str(error.value)


def test_unreadable_files(tmp_path):
    with pytest.raises(ConfigError, match="No such file"):
        read_yaml(tmp_path / "none.yaml")
    (tmp_path / "latin.yaml").write_bytes(b"a: \xe9\n")
    with pytest.raises(ConfigError, match="not UTF-8"):
        read_yaml(tmp_path / "latin.yaml")
    (tmp_path / "empty.yaml").write_text("")
    assert read_yaml(tmp_path / "empty.yaml") == {}


def test_overrides():
    values: dict = {"train": {"steps": 1}}
    override(values, "train.learning_rate=1e-3")
    override(values, "evaluate.limit=20")
    override(values, "tasks=[a, b]")
    override(values, "model=org/name=1")
    assert values == {
        "train": {"steps": 1, "learning_rate": "1e-3"},
        "evaluate": {"limit": 20},
        "tasks": ["a", "b"],
        "model": "org/name=1",
    }
    for bad in ("steps", "=3", "train.steps.more=1"):
        with pytest.raises(ConfigError):
            override(values, bad)
