"""A stage with a further source, from the configuration to the weights."""

import json

import pytest

import holdfast
from holdfast.config import resolve
from holdfast.engine.preflight import preflight
from holdfast.errors import ConfigError, DataError
from holdfast.methods import METHODS, published
from holdfast.models.saving import tensors_of
from holdfast.pieces.feeds import Mixed
from holdfast.plan import Plan


@pytest.fixture(scope="module", autouse=True)
def _method():
    """A third party's method that mixes general texts in."""

    @published("quarter-general", summary="a quarter general texts", paper="none: for a test")
    def quarter() -> Plan:
        return Plan(name="quarter-general", feed=Mixed({"general": 0.25}))

    yield
    METHODS._entries.pop("quarter-general", None)


@pytest.fixture
def files(tmp_path):
    own = [
        {"question": f"What comes after {i}?", "answer": " ".join(["word"] * (1 + 3 * (i % 4)))}
        for i in range(24)
    ]
    texts = [{"text": f"The {w} is on the table."} for w in ("cup", "book", "lamp", "plate")]
    for name, rows in (("own", own), ("general", texts)):
        lines = "".join(json.dumps(r) + "\n" for r in rows)
        (tmp_path / f"{name}.jsonl").write_text(lines)
    return tmp_path


def settings(files, methods=("last-1", "quarter-general"), **sources):
    return {
        "model": "lab:vlm",
        "data": [{"data": str(files / "own.jsonl"), "sources": sources}],
        "methods": list(methods),
        "out": str(files / "run"),
        "train": {"steps": 2, "batch_size": 8, "learning_rate": 1e-3},
        "evaluate": {"limit": 2},
    }


def test_from_the_configuration_to_the_weights(files):
    config = settings(files, general=str(files / "general.jsonl"))
    checked = preflight(resolve(config))
    (stage,) = checked.stage_facts()
    assert stage["sources"] == {"general": 4}
    assert 0 < stage["padding"] < 1
    drawn = [source for step in checked.schedules[0].steps for source, _ in step]
    assert drawn.count("general") == 2 * 2
    run = holdfast.tune(
        config["model"], config["data"], config["methods"], out=config["out"],
        evaluate=config["evaluate"], **config["train"],
    )  # fmt: skip
    assert run.finished
    assert tensors_of(run.model)
    assert run.stage_done(1)["steps"] == 2


def test_sources_and_feeds_that_do_not_meet(files):
    named = preflight(resolve(settings(files)))  # for a lab model, 'general' is the lab's own set
    assert named.stage_facts()[0]["sources"]["general"] > 0
    general = {"general": str(files / "general.jsonl")}
    with pytest.raises(ConfigError, match="'last-n:n=1' does not read it"):
        preflight(resolve(settings(files, methods=("last-1",), **general)))
    with pytest.raises(DataError, match=r"nowhere\.jsonl"):
        preflight(resolve(settings(files, general=str(files / "nowhere.jsonl"))))
    with pytest.raises(ConfigError, match="'new' is the stage's own data"):
        resolve(settings(files, new="x.jsonl"))
