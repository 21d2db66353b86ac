from __future__ import annotations

from typing import Any

import pytest
from task_models import make_llama, make_llava, make_llava_processor, make_tokenizer


@pytest.fixture(scope="session")
def tokenizer() -> Any:
    return make_tokenizer(chat=True)


@pytest.fixture(scope="session")
def plain_tokenizer() -> Any:
    return make_tokenizer(chat=False)


@pytest.fixture
def llama(tokenizer: Any) -> Any:
    return make_llama(len(tokenizer))


@pytest.fixture(scope="session")
def llava_processor(tokenizer: Any) -> Any:
    return make_llava_processor(tokenizer)


@pytest.fixture
def llava(tokenizer: Any) -> Any:
    return make_llava(tokenizer)
