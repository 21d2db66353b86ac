"""The options that allow what is refused by default; see :mod:`holdfast.trust`."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Annotated

import typer

AllowCode = Annotated[
    bool,
    typer.Option("--allow-remote-code", help="Run the Python that the model's folder brings."),
]
AllowPickle = Annotated[
    bool,
    typer.Option("--allow-pickle", help="Read weights from pickle files, which can run code."),
]
AllowOutside = Annotated[
    bool,
    typer.Option("--allow-outside", help="Follow image paths and links out of the data's folder."),
]


def trust_of(code: bool, pickle: bool, outside: bool) -> AbstractContextManager[None]:
    """Within, what the three options allow is allowed."""
    from holdfast.trust import Trust, trusting

    return trusting(Trust(remote_code=code, pickle=pickle, outside=outside))
