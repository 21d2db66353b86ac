"""Everything a user can get wrong ends with a sentence that says what to do."""

import json

import pytest
from e2e_tools import model_folder, own_data, run, write_rows

from holdfast import lab


@pytest.fixture
def user(tmp_path):
    data, rows = own_data(tmp_path, 12)
    return tmp_path, data, rows


def refused(capsys, code, fragments, *arguments):
    got, out, err = run(capsys, *arguments)
    text = " ".join(err.split())
    assert got == code, err
    assert "Traceback" not in err + out
    for fragment in fragments:
        assert fragment in text, text


def tune(data, *more, model="lab:vlm", method="mlp"):
    return ["tune", model, "-d", data, "-m", method, "--steps", "1", *more]


def test_missing_image(user, capsys):
    tmp_path, data, rows = user
    rows[4]["image"] = "pictures/none.png"
    refused(
        capsys, 3, ["line 5", "none.png"], *tune(write_rows(data, rows), "--out", tmp_path / "r")
    )
    assert not (tmp_path / "r" / "model").exists()


def test_a_broken_line_in_the_middle_of_a_large_file(user, capsys):
    tmp_path, data, rows = user
    lines = [json.dumps(r) for r in rows] * 400
    lines[2345] = lines[2345][:40]
    data.write_text("\n".join(lines))
    refused(capsys, 3, ["line 2346"], *tune(data, "--out", tmp_path / "r"))


def test_two_placeholders_for_one_image(user, capsys):
    tmp_path, data, rows = user
    rows[2]["conversations"][0]["value"] = "<image> <image> What?"
    refused(capsys, 3, ["line 3", "2", "1"], *tune(write_rows(data, rows), "--out", tmp_path / "r"))


def test_an_image_outside_the_folder(user, capsys):
    tmp_path, _, rows = user
    inner = tmp_path / "inner"
    inner.mkdir()
    rows[0]["image"] = "../pictures/0.png"
    refused(
        capsys, 3, ["line 1", "../pictures/0.png"],
        *tune(write_rows(inner / "mine.jsonl", rows[:1]), "--out", tmp_path / "r"),
    )  # fmt: skip


def test_a_selector_with_a_typo(user, capsys):
    tmp_path, data, _ = user
    refused(
        capsys, 2, ["languag", "language"],
        *tune(data, "--out", tmp_path / "r", method="train:select=languag.mlp"),
    )  # fmt: skip
    refused(
        capsys,
        2,
        ["gate"],
        *tune(data, "--out", tmp_path / "r", method="train:select=language.mlp.gat"),
    )


def test_an_adapter_that_does_not_fit_is_refused_before_the_run_begins(user, capsys):
    tmp_path, data, _ = user
    out = ["--out", tmp_path / "r"]
    refused(capsys, 2, ["'visoin'", "'vision'"], *tune(data, *out, method="lora:scope=visoin"))
    refused(capsys, 2, ["no linear layer"], *tune(data, *out, method="lora:scope=language.norm"))
    assert not (tmp_path / "r").exists()


def test_a_damaged_model_is_refused_before_the_run_begins(user, capsys):
    tmp_path, data, _ = user
    folder, out = model_folder(tmp_path), tmp_path / "r"
    weights = folder / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[: len(whole) // 2])
    refused(capsys, 4, ["damaged", "copy it again"], *tune(data, "--out", out, model=folder))
    weights.write_bytes(whole)
    config = json.loads((folder / "config.json").read_text())
    config["text_config"]["intermediate_size"] += 8
    (folder / "config.json").write_text(json.dumps(config))
    refused(capsys, 4, ["of another shape"], *tune(data, "--out", out, model=folder))
    assert not out.exists()


@pytest.mark.parametrize("seed", ["-1", "99999999999"])
def test_a_seed_that_no_generator_takes(user, capsys, seed):
    tmp_path, data, _ = user
    refused(capsys, 2, ["seed", seed], *tune(data, "--out", tmp_path / "r", "--seed", seed))


def test_text_beyond_the_models_positions_is_cut_and_counted(user, capsys):
    tmp_path, _, _ = user
    rows = [{"prompt": "a", "completion": "b " * 3000}, {"prompt": "a", "completion": "b"}]
    data = write_rows(tmp_path / "long.jsonl", rows * 2)
    test = write_rows(tmp_path / "test.jsonl", rows[1:])
    code, _, err = run(
        capsys, *tune(data, "--test", test, "--out", tmp_path / "r", "--dry-run", model="lab:lm")
    )
    assert code == 0, err
    assert "2 records cut at max_length" in err


def test_unknown_names(user, capsys):
    tmp_path, data, _ = user
    out = ["--out", tmp_path / "r"]
    refused(capsys, 2, ["'gateup'", "did you mean 'gate-up'"], *tune(data, *out, method="gateup"))
    refused(capsys, 2, ["rnk", "rank"], *tune(data, *out, method="lora:rnk=2"))
    refused(capsys, 2, ["cuont", "lab:count"], *tune("lab:cuont", *out))
    refused(capsys, 2, ["colur", "lab:colour"], *tune(data, "-t", "lab:colur", *out))
    refused(capsys, 2, ["vml", "lab:vlm"], *tune(data, *out, model="lab:vml"))
    refused(capsys, 2, ["train.epoch"], *tune(data, *out, "--set", "train.epoch=2"))
    refused(capsys, 4, ["there is no model"], *tune(data, *out, model="./nowhere"))
    refused(capsys, 3, ["nofile.jsonl"], *tune(tmp_path / "nofile.jsonl", *out))


def test_conflicting_methods(user, capsys):
    tmp_path, data, _ = user
    refused(
        capsys, 2, ["'mlp' trains", "'sa-proj' trains"],
        *tune(data, "-m", "sa-proj", "--out", tmp_path / "r"),
    )  # fmt: skip


def test_a_model_folder_without_weights(user, capsys):
    tmp_path, data, _ = user
    folder = model_folder(tmp_path)
    (folder / "model.safetensors").unlink()
    refused(
        capsys, 4, ["no weights", "holdfast anatomy"],
        *tune(data, "--out", tmp_path / "r", model=folder),
    )  # fmt: skip


def test_another_runs_folder(user, capsys):
    tmp_path, data, _ = user
    out = ["--out", tmp_path / "r", "--set", "evaluate.limit=1", "--lr", "1e-3"]
    code, _, err = run(capsys, *tune(data, *out))
    assert code == 0, err
    kept = {
        p: p.read_bytes() for p in (tmp_path / "r").rglob("*") if p.is_file() and p.name != ".lock"
    }
    refused(capsys, 5, ["another run", "sa-proj"], *tune(data, *out, method="sa-proj"))
    (tmp_path / "papers").mkdir()
    (tmp_path / "papers" / "thesis.tex").write_text("x")
    refused(capsys, 5, ["holds no run"], *tune(data, "--out", tmp_path / "papers"))
    assert kept == {
        p: p.read_bytes() for p in (tmp_path / "r").rglob("*") if p.is_file() and p.name != ".lock"
    }


def test_a_full_disk(user, capsys, monkeypatch):
    import os

    tmp_path, data, _ = user
    real = os.fsync

    def full(handle):
        if "delta.safetensors" in os.readlink(f"/proc/self/fd/{handle}"):
            raise OSError(28, "No space left on device")
        real(handle)

    out = ["--out", tmp_path / "r", "--set", "evaluate.limit=1", "--lr", "1e-3"]
    monkeypatch.setattr(os, "fsync", full)
    refused(capsys, 5, ["disk is full", "make room", "same command"], *tune(data, *out))
    monkeypatch.setattr(os, "fsync", real)
    code, _, err = run(capsys, *tune(data, *out))
    assert code == 0, err


@pytest.mark.parametrize("place", ["torch.save", "holdfast.report.run.write_report"])
def test_a_full_disk_as_other_libraries_say_it(user, capsys, monkeypatch, place):
    tmp_path, data, _ = user
    said = {
        "torch.save": RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos"),
        "holdfast.report.run.write_report": OSError(28, "No space left on device", "accuracy.png"),
    }

    def full(*args, **kwargs):
        raise said[place]

    out = ["--out", tmp_path / "r", "--set", "evaluate.limit=1", "--lr", "1e-3"]
    with monkeypatch.context() as patched:
        patched.setattr(place, full)
        refused(capsys, 5, ["disk is full", "make room"], *tune(data, *out))
    code, _, err = run(capsys, *tune(data, *out))
    assert code == 0, err


def test_a_task_that_is_both_learned_and_held_out(user, capsys):
    tmp_path, _, _ = user
    refused(
        capsys, 2, ["both learned and held out"],
        *tune("lab:count", "-t", "lab:count", "--out", tmp_path / "r"),
    )  # fmt: skip


def test_hostile_text_is_escaped(user, capsys):
    tmp_path, data, rows = user
    rows[0]["image"] = "\x1b[2Jgone.png"
    code, _, err = run(capsys, *tune(write_rows(data, rows), "--out", tmp_path / "r"))
    assert code == 3
    assert "\x1b[2J" not in err


def test_nothing_to_do_is_said(capsys):
    refused(capsys, 2, ["'model' is missing", "'data' is missing"], "tune", "--method", "mlp")
    refused(capsys, 2, ["no-such-verb"], "no-such-verb")
    assert lab.is_lab("lab:vlm")
