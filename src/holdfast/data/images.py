"""Images of a data set: checked before training, decoded when they are needed."""

from __future__ import annotations

import io
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from holdfast.data.problems import shown
from holdfast.data.records import ImageRef
from holdfast.errors import DataError

if TYPE_CHECKING:
    from PIL.Image import Image

MAX_PIXELS = 100_000_000
"""Larger images are refused: decoded they take 300 MB and more. 100 megapixels, as a camera's."""


def load_image(image: ImageRef) -> Image:
    """Decode an image to RGB, turned the way its EXIF orientation says.

    Raises:
        DataError: the file is missing, is not an image, is cut short or is too large.
    """
    from PIL import Image, ImageOps

    with _reading(image), Image.open(_source(image)) as opened:
        _check_size(opened)
        turned = ImageOps.exif_transpose(opened)
        return turned.convert("RGB")


def check_image(image: ImageRef, *, decode: bool = True) -> tuple[int, int]:
    """The (width, height) of an image that can be read.

    The size in the header is checked before anything is decoded. ``decode=False`` stops after
    PIL's ``verify``, which reads the structure of the file and finds most damage.

    Raises:
        DataError: as :func:`load_image`.
    """
    from PIL import Image

    with _reading(image):
        with Image.open(_source(image)) as opened:
            _check_size(opened)
            size = opened.size
            opened.verify()
        if decode:
            with Image.open(_source(image)) as opened:
                opened.load()
    return size


def named(image: ImageRef) -> str:
    """How an image is called in a message."""
    return shown(image.path) if image.path is not None else f"<{len(image.data or b'')} bytes>"


def _source(image: ImageRef) -> Path | io.BytesIO:
    if image.path is not None:
        return Path(image.path)
    return io.BytesIO(image.data or b"")


def _check_size(opened: Image) -> None:
    width, height = opened.size
    if width < 1 or height < 1 or width * height > MAX_PIXELS:
        raise DataError(
            f"it is {width} x {height} pixels; at most {MAX_PIXELS:,} in all can be read: "
            "scale it down"
        )


@contextmanager
def _reading(image: ImageRef) -> Iterator[None]:
    """Turns whatever a decoder raises on a bad file into one sentence that names the file."""
    with warnings.catch_warnings():
        # PIL warns of large images; our own limit is checked on the header instead.
        warnings.simplefilter("ignore")
        try:
            yield
        except Exception as error:
            raise DataError(f"image {named(image)}: {_reason(image, error)}") from error


def _reason(image: ImageRef, error: Exception) -> str:
    from PIL import Image, UnidentifiedImageError

    if isinstance(error, DataError):
        return str(error)
    if isinstance(error, FileNotFoundError):
        return "there is no such file"
    if isinstance(error, IsADirectoryError):
        return "it is a folder"
    if isinstance(error, PermissionError):
        return "it may not be read (permissions)"
    if isinstance(error, Image.DecompressionBombError):
        return f"it is larger than {MAX_PIXELS:,} pixels: scale it down"
    if isinstance(error, UnidentifiedImageError):
        empty = image.path is not None and os.path.getsize(image.path) == 0
        return "the file is empty" if empty or image.data == b"" else "it is not an image PIL reads"
    return f"it cannot be decoded, it may be cut short ({type(error).__name__}: {error})"
