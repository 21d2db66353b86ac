"""Secrets kept out of what is written and shown.

A run's folder is copied, shared and published. Nothing in it may hold a token: neither one from
the environment nor one that somebody typed into an address or a setting.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping
from urllib.parse import quote

HIDDEN = "***"

_NAME = re.compile(
    r"TOKEN(?![A-Z])|SECRET|PASSW(OR)?D|PASSPHRASE|CREDENTIAL|_PWD$"
    r"|(API|ACCESS|PRIVATE|SIGNING|ENCRYPTION|ACCOUNT|STORAGE)_?KEY|_KEY$",
    re.IGNORECASE,
)
"""Names of environment variables that hold secrets."""
_SHORTEST = 8
"""Characters. A shorter value (``1``, ``false``) is a switch, and would be found everywhere."""

_ADDRESS = re.compile(r"(\b[a-z][a-z0-9+.-]{0,20}://)[^\s/@\"'\\<>]{1,400}@", re.IGNORECASE)
_SETTING = re.compile(
    r"((?:\b|_)(?:token|api[_-]?key|secret|secret[_-]?key|access[_-]?key|password|passwd|sig"
    r"|signature)\s?=\s?)(?!\*\*\*)[^\s&,;\"'\\]+",
    re.IGNORECASE,
)
_HEADER = re.compile(r"(\b(?:bearer|basic)\s+)[\w.+/=~-]{12,}", re.IGNORECASE)
_SHAPE = re.compile(
    r"\b(?:hf_[A-Za-z0-9]{16,}|api_org_[A-Za-z0-9]{16,}|sk-[A-Za-z0-9_-]{20,}"
    r"|gh[pousr]_[A-Za-z0-9]{20,}|github_pat_\w{20,}|glpat-[\w-]{16,}|xox[abeprs]-[\w-]{10,}"
    r"|(?:AKIA|ASIA)[0-9A-Z]{16}|AIza[\w-]{35}"
    r"|eyJ[\w-]{10,}\.[\w-]{10,}\.[\w-]{10,})"
)
"""Hugging Face, OpenAI and alike, GitHub, GitLab, Slack, AWS, Google, JSON web tokens."""


def without_environment(text: str) -> str:
    """``text`` without any value of an environment variable that holds a secret.

    Only exact values go, so that text of a user's data stays as it is otherwise.
    """
    for value in _secrets(os.environ):
        if value in text:
            text = text.replace(value, HIDDEN)
    return text


def redacted(text: str) -> str:
    """``text`` without secrets of the environment, and without what looks like one: a user and
    password in an address, ``token=...``, and the forms that well-known services give theirs."""
    text = _ADDRESS.sub(rf"\1{HIDDEN}@", without_environment(text))
    text = _HEADER.sub(rf"\1{HIDDEN}", _SETTING.sub(rf"\1{HIDDEN}", text))
    return _SHAPE.sub(HIDDEN, text)


def redacted_values(value: object) -> object:
    """A JSON value with every text in it, keys too, :func:`redacted`."""
    if isinstance(value, str):
        return redacted(value)
    if isinstance(value, Mapping):
        return {redacted(str(k)): redacted_values(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [redacted_values(v) for v in value]
    return value


def _secrets(environment: Mapping[str, str]) -> Iterator[str]:
    """Values of secrets, and how they look inside JSON and addresses; the longest first."""
    found = set()
    for name, value in environment.items():
        value = value.strip()
        if len(value) < _SHORTEST or not _NAME.search(name) or _is_path(value) or value.isdigit():
            continue
        found |= {value, json.dumps(value)[1:-1], quote(value, safe="")}
    yield from sorted(found, key=len, reverse=True)


def _is_path(value: str) -> bool:
    return value.startswith(("/", "~", "./", "../")) and os.path.exists(os.path.expanduser(value))
