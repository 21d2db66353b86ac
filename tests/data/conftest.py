"""Images made on the spot."""

from __future__ import annotations

import io

import pytest
from PIL import Image


@pytest.fixture
def picture():
    """Encoded bytes of a small image; ``picture(w, h)``."""

    def make(width: int = 30, height: int = 20, kind: str = "PNG", colour=(200, 30, 30)) -> bytes:
        buffer = io.BytesIO()
        Image.new("RGB", (width, height), colour).save(buffer, format=kind)
        return buffer.getvalue()

    return make
