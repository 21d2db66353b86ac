"""How many cases are tried, how they are counted, and what every one of them must keep to.

In the ordinary tests each property tries a small, fixed share. ``make fuzz`` multiplies it and
draws anew each time; a failure prints the example that caused it.
"""

from __future__ import annotations

import functools
import os
import random
import unicodedata
from collections import Counter

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from holdfast.errors import HoldfastError

SCALE = float(os.environ.get("HOLDFAST_FUZZ", "1"))
"""How many times the ordinary share of cases is tried."""
TRIED: Counter[str] = Counter()
"""Cases by property."""


def cases(share, **strategies):
    """Run a test on ``share`` cases (times :data:`SCALE`), and count them."""

    def decorate(test):
        @functools.wraps(test)
        def counted(*args, **kwargs):
            TRIED[f"{test.__module__}.{test.__name__}"] += 1
            return test(*args, **kwargs)

        return settings(
            max_examples=max(1, round(share * SCALE)),
            deadline=None,
            database=None,
            derandomize=SCALE == 1,
            phases=(Phase.explicit, Phase.generate, Phase.shrink),
            suppress_health_check=list(HealthCheck),
        )(given(**strategies)(counted))

    return decorate


def is_clean(text):
    """Nothing in ``text`` moves the cursor, colours, hides or reverses; line breaks apart."""
    unsafe = ("Cc", "Cf", "Cs", "Co", "Zl", "Zp")
    return all(c == "\n" or unicodedata.category(c) not in unsafe for c in text)


def ours(action, *args, **kwargs):
    """The result of ``action``, or None if it was refused with an error of ours, in a sentence."""
    try:
        return action(*args, **kwargs)
    except HoldfastError as error:
        text = str(error)
        assert text.strip()
        assert len(text) < 40_000
        return None


SEEDS = st.integers(0, 2**32).map(random.Random)
"""What a case is built from: one draw is a hundred times cheaper than one for each field."""
LETTERS = "abcXYZ 019.,;:!?'\"\\/|{}[]()#*_-+=~`$%&@é☃😀日\x1b\x07\x00\u202e\t\n"


def some_text(rng, most=12):
    """Any characters, controls too; never empty or white space alone, and no image place."""
    text = "".join(rng.choice(LETTERS) for _ in range(rng.randint(1, most)))
    return text if text.strip() else "x"


def some_value(rng, depth=3):
    """Any value that JSON or YAML can hold, hostile texts among them."""
    kind = rng.randrange(8 if depth else 6)
    if kind == 0:
        return rng.choice([None, True, False])
    if kind == 1:
        return rng.choice([0, -1, 1, 7, 2**31, 2**63, -(10**18), 10**40])
    if kind == 2:
        return rng.choice([0.0, -0.0, 1e-300, 1.5, 1e300, 3.14])
    if kind in (3, 4):
        return some_text(rng)
    if kind == 5:
        return rng.choice(NASTY)
    if kind == 6:
        return [some_value(rng, depth - 1) for _ in range(rng.randrange(4))]
    keys = ["role", "content", "from", "value", "type", "text", "image", "path", "bytes", "a", ""]
    return {rng.choice(keys): some_value(rng, depth - 1) for _ in range(rng.randrange(4))}


NASTY = [
    *("", " ", "\0", "\x1b[2J\x1b[31m", "\x1b]0;owned\x07", "\u202egpj.exe", "\ufeff", "\r\n"),
    *("../" * 9 + "etc/passwd", "/etc/passwd", "/dev/zero", "~root", "a" * 5000, "%s%n{0}"),
    *("NaN", "1e999", "-0", "9" * 5000, "[" * 3000, "{" * 3000, "'", '"', "`id`", "$(id)"),
    *("<script>alert(1)</script>", "[x](javascript:1)", "| a | b |", "\ud800", "é", "😀", "𝟙"),
    *("null", "true", "no", "1:30", "010", "2020-13-45", "!!python/name:os.system", "*a", "&a"),
    *("lab:", "lab:vlm", "lab:count", "lm_eval:", "a:b=c", "a:b=c,d", "http://u:p@h/x", "con"),
]
HOSTILE = st.sampled_from(NASTY)
