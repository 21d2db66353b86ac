"""A user's files: a model folder of their own, images, and JSONL about them."""

import json
import shutil

from PIL import Image, ImageDraw

from holdfast import lab
from holdfast.cli import main

COLOURS = ("red", "green", "blue", "black")


def model_folder(tmp_path):
    """A folder that Holdfast knows nothing about, but that transformers loads."""
    folder = tmp_path / "my-model"
    shutil.copytree(lab.path("lab:vlm"), folder)
    (folder / "lab.json").unlink()
    return folder


def write_rows(path, rows):
    path.write_text("".join(json.dumps(r) + "\n" for r in rows), encoding="utf-8")
    return path


def own_data(tmp_path, n=24):
    """``n`` questions about plain pictures, in a file beside the pictures."""
    (tmp_path / "pictures").mkdir(exist_ok=True)
    rows = []
    for i in range(n):
        colour = COLOURS[i % len(COLOURS)]
        picture = Image.new("RGB", (40 + i, 48), "white")
        ImageDraw.Draw(picture).rectangle((8, 8, 30, 30), fill=colour)
        picture.save(tmp_path / "pictures" / f"{i}.png")
        rows.append(
            {
                "image": f"pictures/{i}.png",
                "conversations": [
                    {"from": "human", "value": "<image>\nWhat colour is it?"},
                    {"from": "gpt", "value": colour},
                ],
            }
        )
    return write_rows(tmp_path / "mine.jsonl", rows), rows


def run(capsys, *arguments):
    """Exit code, standard output and standard error of a command."""
    capsys.readouterr()
    code = main([str(a) for a in arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err
