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
from holdfast.trust import trusted

if TYPE_CHECKING:
    from PIL.Image import Image

FORMATS = (
    *("AVIF", "BMP", "DIB", "GIF", "ICO", "JPEG", "JPEG2000", "MPO"),
    *("PNG", "PPM", "TGA", "TIFF", "WEBP"),
)
"""What is decoded. PIL's list is longer: it has formats that start another program (EPS)."""


def load_image(image: ImageRef) -> Image:
    """Decode an image to RGB, turned the way its EXIF orientation says.

    Raises:
        DataError: the file is missing, is not an image, is cut short or is too large.
    """
    from PIL import ImageOps

    with _reading(image), _opened(image) as opened:
        turned = ImageOps.exif_transpose(opened)
        return turned.convert("RGB")


def check_image(image: ImageRef, *, decode: bool = True) -> tuple[int, int]:
    """The (width, height) of an image that can be read.

    The size in the header is checked before anything is decoded. ``decode=False`` stops after
    PIL's ``verify``, which reads the structure of the file and finds most damage.

    Raises:
        DataError: as :func:`load_image`.
    """
    with _reading(image):
        with _opened(image) as opened:
            size = opened.size
            opened.verify()
        if decode:
            with _opened(image) as opened:
                opened.load()
    return size


def named(image: ImageRef) -> str:
    """How an image is called in a message."""
    return shown(image.path) if image.path is not None else f"<{len(image.data or b'')} bytes>"


def _source(image: ImageRef) -> Path | io.BytesIO:
    if image.path is not None:
        return Path(image.path)
    return io.BytesIO(image.data or b"")


def _opened(image: ImageRef) -> Image:
    """The image with its header read and its size checked, nothing decoded."""
    from PIL import Image

    Image.init()
    most = trusted().max_pixels
    if Image.MAX_IMAGE_PIXELS is not None and most > Image.MAX_IMAGE_PIXELS:
        Image.MAX_IMAGE_PIXELS = most  # PIL has a limit of its own, which the user has raised
    if image.path is not None and not Path(image.path).is_file() and Path(image.path).exists():
        raise DataError("it is a folder" if Path(image.path).is_dir() else "it is not a file")
    opened = Image.open(_source(image), formats=[f for f in FORMATS if f in Image.OPEN])
    width, height = opened.size
    if width < 1 or height < 1 or width * height > most:
        opened.close()
        raise DataError(_too_large(f"{width} x {height}"))
    return opened


def _too_large(size: str) -> str:
    return (
        f"it is {size} pixels; at most {trusted().max_pixels:,} in all are read: scale it down, "
        "or raise trust.max_pixels"
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
        return _too_large("far more")
    if isinstance(error, UnidentifiedImageError):
        empty = image.path is not None and os.path.getsize(image.path) == 0
        return "the file is empty" if empty or image.data == b"" else "it is not an image PIL reads"
    return (
        f"it cannot be decoded, it may be cut short ({type(error).__name__}: "
        f"{shown(str(error), 160)})"
    )
