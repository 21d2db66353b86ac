"""Fixed hostile cases: each is refused with a sentence that says why and what allows it."""

from __future__ import annotations

import json
import os
import shutil
import socket

import pytest
from fuzz_tools import is_clean
from PIL import Image

from holdfast import lab, network
from holdfast.cli import main
from holdfast.config import resolve
from holdfast.data import read
from holdfast.data.images import check_image
from holdfast.data.records import ImageRef
from holdfast.errors import ConfigError, DataError, ModelError
from holdfast.models.loading import load_all
from holdfast.models.source import fetch
from holdfast.models.source import resolve as find
from holdfast.redact import redacted, without_environment
from holdfast.report.text import markdown
from holdfast.runs.files import Lines, write_json, write_text
from holdfast.trust import Trust, trusting

GOOD = {"question": "Q", "answer": "A"}
TOKEN = "hf_AbCdEfGhIjKlMnOpQrStUvWxYz0123456789"


def write(path, *rows):
    path.write_text("\n".join(json.dumps(r) for r in rows), encoding="utf-8")
    return path


@pytest.fixture
def folders(tmp_path):
    inside, outside = tmp_path / "data", tmp_path / "else"
    inside.mkdir()
    outside.mkdir()
    Image.new("RGB", (4, 4)).save(outside / "a.png")
    Image.new("RGB", (4, 4)).save(inside / "b.png")
    return inside, outside


def test_paths_out_of_the_folder_need_to_be_allowed(folders):
    inside, _ = folders
    data = write(inside / "d.jsonl", {**GOOD, "image": "../else/a.png"})
    with pytest.raises(DataError, match="--allow-outside"):
        read(data)
    with trusting(Trust(outside=True)):
        assert len(read(data)) == 1
    with pytest.raises(DataError, match="outside the data folder"):
        read(data)
    assert len(read(write(inside / "e.jsonl", {**GOOD, "image": str(inside / "b.png")}))) == 1


def test_links_of_a_data_folder_that_lead_out(folders):
    inside, outside = folders
    write(outside / "secret.jsonl", GOOD)
    os.symlink(outside / "secret.jsonl", inside / "train.jsonl")
    with pytest.raises(DataError, match="leads out of the folder"):
        read(inside)
    with trusting(Trust(outside=True)):
        assert len(read(inside)) == 1
    assert len(read(inside / "train.jsonl")) == 1  # named by the user


def test_a_snapshot_of_the_hubs_cache_is_a_folder_of_links(tmp_path):
    snapshot, blobs = tmp_path / "repo" / "snapshots" / "1", tmp_path / "repo" / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    Image.new("RGB", (4, 4)).save(blobs / "x.png")
    (blobs / "x.png").rename(blobs / "abc")
    os.symlink("../../blobs/abc", snapshot / "a.png")
    write(blobs / "def", {**GOOD, "image": "a.png"})
    os.symlink("../../blobs/def", snapshot / "train.jsonl")
    assert len(read(snapshot)) == 1


def test_the_size_of_images_can_be_set(tmp_path):
    Image.new("1", (300, 200)).save(tmp_path / "a.png")
    image = ImageRef(path=str(tmp_path / "a.png"))
    assert check_image(image) == (300, 200)
    with trusting(Trust(max_pixels=59_999)), pytest.raises(DataError, match=r"trust\.max_pixels"):
        check_image(image)


def test_formats_that_start_programs_are_not_read(tmp_path):
    eps = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n%%EOF\n"
    with pytest.raises(DataError, match="not an image"):
        check_image(ImageRef(data=eps))


def test_nan_is_no_answer():
    for value in (float("nan"), float("inf")):
        with pytest.raises(DataError, match="finite"):
            read([{"question": "Q", "answer": value}])


def test_half_a_surrogate_pair_is_no_text(tmp_path):
    for row in (
        {"question": "\ud800", "answer": "A"},
        {"text": "a\ud800"},
        {**GOOD, "image": "\ud800.png"},
        {"messages": [{"role": "assistant", "content": [{"type": "text", "text": "\ud800"}]}]},
    ):
        with pytest.raises(DataError, match="1 problem"):
            read([row])


def test_a_name_of_a_tensor_that_has_nothing_behind_it(tmp_path):
    from holdfast.models.source import fingerprint

    header = json.dumps({"__metadat__": {"format": "pt"}}).encode()
    file = tmp_path / "model.safetensors"
    file.write_bytes(len(header).to_bytes(8, "little") + header)
    with pytest.raises(ModelError, match="damaged"):
        fingerprint(tmp_path)
    file.unlink()
    index = {"weight_map": {"a": "x" * 5000}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ModelError, match="lacks"):
        fingerprint(tmp_path)


@pytest.fixture
def model(tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(lab.path("lab:lm"), folder)
    return folder


def edit(file, **changes):
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def test_pickles_need_to_be_allowed(model):
    import torch
    from safetensors.torch import load_file

    weights = load_file(model / "model.safetensors")
    (model / "model.safetensors").unlink()
    torch.save(weights, model / "pytorch_model.bin")
    with pytest.raises(ModelError, match=r"can run code.*--allow-pickle"):
        fetch(find(str(model)))
    with trusting(Trust(pickle=True)):
        loaded = load_all(str(model), device="cpu")
    name = next(iter(weights))
    assert torch.equal(loaded.model.state_dict()[name], weights[name])


EVIL = """
from transformers import LlamaConfig, LlamaForCausalLM
open({mark!r}, "w").write("code was run")
class OwnConfig(LlamaConfig):
    model_type = "own-model"
class OwnModel(LlamaForCausalLM):
    config_class = OwnConfig
"""


def test_code_of_a_model_needs_to_be_allowed(model, tmp_path, monkeypatch, capsys):
    mark = tmp_path / "mark"
    (model / "own.py").write_text(EVIL.format(mark=str(mark)))
    wanted = {"AutoConfig": "own.OwnConfig", "AutoModelForCausalLM": "own.OwnModel"}
    edit(model / "config.json", auto_map=wanted, model_type="own-model")
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("it asked"))
    with pytest.raises(ModelError, match=r"whatever you can do.*--allow-remote-code"):
        load_all(str(model), device="cpu")
    for command in (["anatomy", str(model)], ["evaluate", str(model), "-t", "lab:copy"]):
        assert main(command) == 4
        assert "--allow-remote-code" in " ".join(capsys.readouterr().err.split())
    assert not mark.exists()


def test_code_that_is_not_needed_is_not_run(model, tmp_path):
    from holdfast.models.code import code_note

    mark = tmp_path / "mark"
    (model / "own.py").write_text(EVIL.format(mark=str(mark)))
    edit(model / "config.json", auto_map={"AutoModelForCausalLM": "own.OwnModel"})
    load_all(str(model), device="cpu")
    assert not mark.exists()
    assert "is not run" in code_note(model)


def test_absurd_sizes_are_not_built(model):
    from holdfast.anatomy import load_meta

    edit(model / "config.json", num_hidden_layers=10**9)
    with pytest.raises(ModelError, match="no model has more"):
        load_meta(model)


@pytest.fixture
def secrets(monkeypatch):
    planted = {
        "HF_TOKEN": TOKEN,
        "WANDB_API_KEY": "0123456789abcdef0123456789abcdef01234567",
        "AWS_SECRET_ACCESS_KEY": "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY",
        "PGPASSWORD": 'pa"ss\\wörd',
    }
    for name, value in planted.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "false-ish")
    return list(planted.values())


def test_secrets_do_not_reach_files(secrets, tmp_path):
    text = " ".join(secrets)
    write_text(tmp_path / "report.md", text)
    write_json(tmp_path / "a.json", {"x": [text, {secrets[0]: secrets[1]}], "url": "s3://k:v@b/c"})
    Lines(tmp_path / "m.jsonl").append({"kind": "score", "x": text})
    for file in tmp_path.iterdir():
        held = file.read_text()
        assert not [s for s in secrets if s in held or json.dumps(s)[1:-1] in held], file
        assert "***" in held
    assert "k:v" not in (tmp_path / "a.json").read_text()
    assert json.loads((tmp_path / "a.json").read_text())["url"] == "s3://***@b/c"
    assert without_environment("false-ish") == "false-ish"


@pytest.mark.parametrize(
    ("text", "gone"),
    [
        ("https://user:pa55word@host/m", "pa55word"),
        ("https://tok3n-only@host/m", "tok3n-only"),
        (f"--set x={TOKEN}", TOKEN),
        ("https://h/x?token=abc123&y=1", "abc123"),
        ("hub_token=abc123", "abc123"),
        ("Authorization: Bearer abcdefghijklmnop", "abcdefghijklmnop"),
        ("key AKIAIOSFODNN7EXAMPLE", "AKIAIOSFODNN7EXAMPLE"),
        ("ghp_abcdefghijklmnopqrstuvwxyz0123", "ghp_"),
    ],
)
def test_what_looks_like_a_secret(text, gone):
    assert gone not in redacted(text)


@pytest.mark.parametrize(
    "text",
    ["max_new_tokens=16", "supervised_tokens: 5", "lab:vlm", "org/name@main", "a@b.c", "/data/x=1"],
)
def test_what_is_no_secret(text):
    assert redacted(text) == text


def test_a_setting_with_a_secret_is_refused(secrets, capsys, tmp_path):
    good = {"model": "lab:lm", "data": "lab:copy", "methods": "mlp", "out": str(tmp_path / "r")}
    for key, value in (("model", "https://u:hunter22@h/m"), ("out", secrets[1]), ("data", TOKEN)):
        with pytest.raises(ConfigError, match=f"'{key}.*holds a secret") as error:
            resolve({**good, key: value})
        assert value not in str(error.value)
        assert "hunter22" not in str(error.value)
    code = main(["tune", "lab:lm", "-d", "lab:copy", "-m", "mlp", "--set", f"modle={TOKEN}"])
    said = capsys.readouterr()
    assert code == 2
    assert TOKEN not in said.err + said.out


def test_offline_means_offline(monkeypatch):
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    for name in network.OFFLINE:
        monkeypatch.setenv(name, "0")
    assert network.offline() is None
    for name in network.OFFLINE:
        with monkeypatch.context() as patched:
            patched.setenv(name, "1")
            patched.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
            patched.setattr("huggingface_hub.constants.HF_HUB_DISABLE_TELEMETRY", False)
            network.settle()
            from huggingface_hub import constants

            assert network.offline()
            assert all(os.environ[n] == "1" for n in network.OFFLINE)
            assert constants.HF_HUB_OFFLINE
            assert constants.HF_HUB_DISABLE_TELEMETRY
        for name in network.OFFLINE:
            monkeypatch.setenv(name, "0")


def test_no_socket_is_opened(monkeypatch, tmp_path, capsys):
    """The verbs on a model and data of this machine, with every way out of it blocked."""
    tried = []

    def refuse(*args, **kwargs):
        tried.append(args)
        raise OSError("no network in this test")

    for name in ("connect", "connect_ex", "sendto"):
        monkeypatch.setattr(socket.socket, name, refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    out = str(tmp_path / "r")
    small = ["--steps", "1", "--set", "train.batch_size=2", "--set", "evaluate.limit=2"]
    assert main(["tune", "lab:lm", "-d", "lab:copy", "-m", "mlp", "-o", out, "-q", *small]) == 0
    assert main(["evaluate", out, "-t", "lab:copy", "--limit", "2", "-q"]) == 0
    assert main(["anatomy", out, "--json"]) == 0
    assert main(["evaluate", "org/none", "-t", "lab:copy"]) == 4
    assert "HF_HUB_OFFLINE" in capsys.readouterr().err
    assert not tried


def test_what_the_console_shows_cannot_steer_it(capsys):
    from rich.table import Table

    from holdfast.cli._console import SafeConsole, TerminalProgress, print_json

    nasty = "\x1b[2J\x1b]0;x\x07\u202e\x9b31m\x08\r"
    console = SafeConsole(force_terminal=True, width=200, color_system=None, legacy_windows=False)
    console.print(nasty, markup=False)
    table = Table(title=nasty)
    table.add_column(nasty)
    table.add_row(nasty)
    console.print(table)
    said = capsys.readouterr().out
    assert is_clean(said)
    assert "\\x1b" in said
    progress = TerminalProgress(SafeConsole(force_terminal=True, width=200, stderr=True))
    with progress.bar(nasty) as advance:
        advance(1, 2)
    progress.say(nasty)
    drawn = capsys.readouterr().err
    assert "\x1b[2J" not in drawn
    assert "\x1b]" not in drawn
    assert "\u202e" not in drawn
    print_json({"x": nasty})
    text = capsys.readouterr().out
    assert is_clean(text)
    assert json.loads(text) == {"x": nasty}


def test_pages_hold_text_and_no_markup():
    nasty = "<script>alert(1)</script> [a](javascript:x) ![i](http://e/x.png) | `b` **c** \x1b[1m"
    text = markdown(nasty)
    assert "<" not in text.replace("&lt;", "")
    assert "](" not in text.replace("\\](", "")
    assert "\x1b" not in text
