"""CoIN's scorers against the forms in the official scripts, and its data as stages."""

import itertools
import json

import pytest

from holdfast.errors import DataError
from holdfast.tasks.coin import box, iou
from holdfast.tasks.coin_data import TASKS, coin_stages
from holdfast.tasks.resolve import load_task
from holdfast.tasks.scorers import SCORERS


def value(name, reply, *references):
    return SCORERS[name].value(reply, references).value


def parsed(name, reply, *references):
    return SCORERS[name].value(reply, references).parsed


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        ("B", 1),
        ("B. the moon", 1),
        ("The answer is B.", 1),
        ("B.", 0),
        ("b", 0),
        ("It is B", 0),
        ("", 0),
    ],
)
def test_science_qa_reads_three_forms(reply, expected):
    assert value("science_qa", reply, "B") == expected
    assert (parsed("science_qa", reply, "B") is None) == (expected == 0)


def test_soft_accuracy_is_the_mean_over_nine_of_ten_annotators():
    for right in range(11):
        given = ["stop"] * right + [f"other {i}" for i in range(10 - right)]
        subsets = [
            min(1.0, sum(given[i] == "stop" for i in chosen) / 3)
            for chosen in itertools.combinations(range(10), 9)
        ]
        assert value("textvqa_m4c", "The STOP.", *given) == pytest.approx(sum(subsets) / 10)
    assert value("textvqa_m4c", "two", *["2"] * 10) == 1
    assert value("textvqa_m4c", "1,000", *["1000"] * 10) == 1
    assert value("textvqa_m4c", "3.5", *["35"] * 10) == 0
    assert value("textvqa_m4c", "", *[""] * 10) == 0


def test_an_empty_prediction_is_no_label():
    assert value("imagenet_coin", "", "tench") == 0
    assert parsed("imagenet_coin", " ", "tench") is None
    assert value("imagenet_coin_compat", "", "tench") == 1  # the official flaw
    for name in ("imagenet_coin", "imagenet_coin_compat"):
        assert value(name, "a tench.", "tench") == value(name, "shark", "great white shark") == 1
        assert value(name, "trout", "tench") == 0
    assert value("imagenet_coin", "a Tench.", "tench") == 1


RETURNED = [  # what SEFE's scripts at 2f61efe return: scorer of ours, reply, reference, score
    ("science_qa_coin_compat", "The answer is B because", "B", 1),
    ("science_qa_coin_compat", "The answer is Bob.", "B", 1),
    ("science_qa_coin_compat", "The answer is B", "B", 0),
    ("science_qa_coin_compat", "The answer is A. The answer is B.", "B", 0),
    ("science_qa", "B. cat", "B", 1),
    ("gqa_coin", "White Cat..", "white cat", 1),
    ("gqa_coin", "yes", "no", 0),
    ("vqa_coin", "White Cat.", "white cat", 0),
    ("ocrvqa_coin", "Unanswerable cat", "Unanswerable cat", 0),
    ("ocrvqa_coin", "unanswerable", "unanswerable", 1),
    ("imagenet_coin_compat", "Tench", "tench", 0),
    ("imagenet_coin_compat", "", "tench", 1),
    ("grounding_coin_compat", "[0.44, 0.41, 0.69, 0.70].", "[0.39, 0.41, 0.72, 0.65]", 1),
    ("grounding_coin_compat", "[0.26, 0.07], [0.88, 0.38]", "[0.45, 0.08, 0.80, 0.32]", 1),
    ("grounding_coin_compat", "the box is [0.5, 0.5, 0.8, 0.9]", "[0.5, 0.5, 0.8, 0.9]", 0),
    ("grounding_coin_compat", "[9.0, 0, 9.5, 1]", "[9.0, 0, 9.5, 1]", 0),
]


@pytest.mark.parametrize(("name", "reply", "truth", "returned"), RETURNED)
def test_scorers_return_what_the_released_scripts_return(name, reply, truth, returned):
    assert value(name, reply, truth) == returned


def test_soft_accuracy_is_what_the_released_script_returns():
    given = ["a", "A", "the", "stop", "Stop!", "don't", "dont", "7-up", "7 up", "1,000"]
    returned = {"a": 0.9, "STOP": 0.6, "dont": 0.6, "7 up": 0.6, "1000": 0.3, "go": 0.0}
    for reply, score in returned.items():
        assert value("textvqa_m4c", reply, *given) == pytest.approx(score), reply
    assert parsed("textvqa_m4c", "a", *given) == "a"  # an article alone was read


def test_unanswerable_is_wrong():
    assert value("ocrvqa_coin", "Unanswerable", "unanswerable") == 0
    assert value("ocrvqa_coin", "John SMITH", "John Smith") == 1
    assert value("vqa_coin", " Yes ", "yes") == 1
    assert value("vqa_coin", "yes it is", "yes") == 0


def test_boxes_keep_their_first_and_last_digit():
    reply, truth = "[0.10, 0.20, 0.50, 0.60]", "[0.1,0.2,0.5,0.6]"
    assert box(reply) == (0.1, 0.2, 0.5, 0.6)
    assert box("The box is (10, 20, 50, 61.5).") == (10, 20, 50, 61.5)
    assert box("0.1, 0.2, 0.5, 0.6") == (0.1, 0.2, 0.5, 0.6)
    assert box("[0.1, 0.2, 0.5]") is box("none") is box("[5, 0, 1, 1]") is None
    assert value("grounding_iou", reply, truth) == 1
    assert value("grounding_iou", "12.0 is no box", truth) == 0
    # '[9.0, ...]' loses its 9 in the official parser, and the box becomes another one
    assert value("grounding_iou", "[9.0, 0, 9.5, 1]", "[9.0, 0, 9.5, 1]") == 1
    assert value("grounding_coin_compat", "[9.0, 0, 9.5, 1]", "[9.0, 0, 9.5, 1]") == 0


def test_iou_is_that_of_counted_cells():
    for a, b in itertools.product([(0, 0, 4, 3), (1, 1, 6, 2), (2, 0, 3, 5)], repeat=2):
        cells = [{(x, y) for x in range(c[0], c[2]) for y in range(c[1], c[3])} for c in (a, b)]
        assert iou(a, b) == pytest.approx(len(cells[0] & cells[1]) / len(cells[0] | cells[1]))
    assert iou((0, 0, 0, 0), (0, 0, 0, 0)) == 0


def _release(root, names=TASKS):
    for name in names:
        folder = root / name
        folder.mkdir()
        for split, asked in (("train_ori", "q"), ("train_x20", "styled"), ("test", "q")):
            rows = [
                {
                    "id": f"{name}-{split}-{i}",
                    "conversations": [
                        {"from": "human", "value": f"{asked} {i}?"},
                        {"from": "gpt", "value": "[0, 0, 1, 1]" if name == "Grounding" else "B"},
                    ],
                }
                for i in range(3)
            ]
            (folder / f"{split}.json").write_text(json.dumps(rows))


def test_the_release_is_a_sequence_of_stages(tmp_path):
    _release(tmp_path)
    stages = coin_stages(tmp_path, variant="x20")
    assert [s["name"] for s in stages] == list(TASKS)
    for stage in stages:
        assert stage["data"].endswith("train_x20.json")
        (task,) = load_task(stage["test"])
        assert len(task.examples) == 3
    assert "scorer=grounding_iou" in stages[5]["test"]
    two = coin_stages(tmp_path, tasks=["VQAv2", "GQA"])
    assert [s["name"] for s in two] == ["VQAv2", "GQA"]


def test_what_is_missing_is_named(tmp_path):
    _release(tmp_path, ["GQA"])
    with pytest.raises(DataError, match=r"TextVQA.*GQA"):
        coin_stages(tmp_path, tasks=["GQA", "TextVQA"])
    with pytest.raises(DataError, match=r"train_x40\.json.*train_ori\.json, train_x20\.json"):
        coin_stages(tmp_path, variant="x40", tasks=["GQA"])
