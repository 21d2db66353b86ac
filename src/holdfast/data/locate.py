"""Images of a row, found and kept inside their data set's folder."""

from __future__ import annotations

import base64
import binascii
import io
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from holdfast.data.convert import BadField, is_text
from holdfast.data.images import check_image
from holdfast.data.problems import shown
from holdfast.data.records import ImageRef
from holdfast.errors import DataError
from holdfast.trust import trusted


class Locator:
    """Turns the image values of rows into references to images that can be read.

    Args:
        base: the folder that relative paths start from; None where rows have no file.
        root: the folder that images may lie in, given by the user; relative paths then start
            there. By default images lie in ``base``.
    """

    def __init__(self, base: Path | None, root: Path | None = None) -> None:
        self.base = root if root is not None else base
        self._inside = os.path.realpath(self.base) if self.base is not None else None
        self._checked: dict[str, str] = {}

    def __call__(self, value: Any, name: str) -> ImageRef:
        """Raises:
        BadField: no image, one that cannot be read, or one outside the folder.
        """
        image = self._reference(value, name)
        self._check(image, name)
        return image

    def _reference(self, value: Any, name: str) -> ImageRef:
        if isinstance(value, Mapping):
            given = next((value[k] for k in ("bytes", "path", "url") if value.get(k)), None)
            if given is None:
                raise BadField(name, shown(dict(value)), "an image with bytes or a path")
            return self._reference(given, name)
        if isinstance(value, bytes | bytearray | memoryview):
            return ImageRef(data=bytes(value))
        if isinstance(value, str) and value.startswith("data:"):
            return ImageRef(data=_data_url(value, name))
        if isinstance(value, str | os.PathLike):
            return ImageRef(path=self._path(os.fspath(value), name))
        if hasattr(value, "save") and hasattr(value, "convert"):
            return ImageRef(data=_png(value))
        raise BadField(name, f"{type(value).__name__} {shown(value)}", "a path, bytes or an image")

    def _path(self, value: str, name: str) -> str:
        if "://" in value and not value.startswith("file://"):
            raise BadField(name, shown(value), "a file: images are not fetched, download them")
        given = value.removeprefix("file://")
        if "\0" in given or not given or not is_text(given):
            raise BadField(name, shown(value), "the path of an image")
        if self.base is None or self._inside is None:
            raise BadField(name, shown(value), "a path under image_root=FOLDER, which is not given")
        real = os.path.realpath(os.path.join(self.base, given))
        if not (inside(real, self._inside) or trusted().outside):
            raise BadField(
                name,
                f"{shown(value)}, which lies outside the data folder {shown(self._inside)}",
                "an image inside it; image_root=FOLDER names another folder, and --allow-outside "
                "(trust.outside=true) allows every one",
            )
        return real

    def _check(self, image: ImageRef, name: str) -> None:
        """The header of every image, once a file; all of it where the end looks cut off."""
        key = image.path
        if key is None or key not in self._checked:
            reason = ""
            try:
                check_image(image, decode=_looks_cut(image))
            except DataError as error:
                reason = str(error)
            if key is not None:
                self._checked[key] = reason
        else:
            reason = self._checked[key]
        if reason:
            raise BadField(name, reason, "an image that can be read")


def inside(real: str, folder: str) -> bool:
    """Whether a resolved path lies in a resolved folder.

    In the hub's cache a snapshot is a folder of links to the blobs beside it: these are its own.
    """
    places = [folder]
    if "snapshots" in (parts := Path(folder).parts):
        cut = len(parts) - 1 - parts[::-1].index("snapshots")
        places.append(str(Path(*parts[:cut], "blobs")))
    return any(os.path.commonpath([real, place]) == place for place in places)


def _looks_cut(image: ImageRef) -> bool:
    """Whether a JPEG lacks its end marker near its end; PIL's verify does not look for it."""
    if image.data is not None:
        head, tail = image.data[:2], image.data[-64:]
    else:
        try:
            with open(image.path or "", "rb") as file:
                head = file.read(2)
                file.seek(0, os.SEEK_END)
                file.seek(max(0, file.tell() - 64))
                tail = file.read()
        except OSError:
            return False
    return head == b"\xff\xd8" and b"\xff\xd9" not in tail


def _data_url(value: str, name: str) -> bytes:
    header, _, payload = value.partition(",")
    if not header.endswith(";base64"):
        raise BadField(name, shown(value), "a base64 data URL (data:image/png;base64,...)")
    try:
        return base64.b64decode(payload, validate=True)
    except (binascii.Error, ValueError):
        raise BadField(name, shown(value), "valid base64 behind the comma") from None


def _png(image: Any) -> bytes:
    buffer = io.BytesIO()
    picture = image if image.mode in ("1", "L", "LA", "P", "RGB", "RGBA", "I;16") else None
    (picture or image.convert("RGB")).save(buffer, format="PNG")
    return buffer.getvalue()
