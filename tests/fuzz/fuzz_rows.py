"""Right records in every format, beside what they must be read as."""

from __future__ import annotations

import json

from fuzz_tools import some_text

ROLES = {"user": ["user", "human"], "assistant": ["assistant", "gpt"]}


def messages(rng):
    """A conversation as ``(role, text)``: perhaps a system turn, then questions and answers."""
    turns = [("system", some_text(rng))] if rng.random() < 0.3 else []
    for _ in range(rng.randint(1, 3)):
        turns += [("user", some_text(rng)), ("assistant", some_text(rng))]
    return turns


def row(rng, kind):
    """A row of format ``kind``, and the ``(role, text)`` turns that it says."""
    turns = messages(rng)
    q, a = turns[-2][1], turns[-1][1]
    if kind == "messages":
        return {"messages": [{"role": r, "content": t} for r, t in turns]}, turns
    if kind == "sharegpt":
        spoken = [{"from": rng.choice(ROLES[r]), "value": t} for r, t in turns if r in ROLES]
        out = {"conversations": spoken}
        if turns[0][0] == "system":
            out["system"] = turns[0][1]
        return out, turns
    if kind == "alpaca":
        extra = rng.choice([None, "", some_text(rng)])
        asked = f"{q}\n{extra}" if extra else q
        out = {"instruction": q, "output": a, **({} if extra is None else {"input": extra})}
        return out, [("user", asked), ("assistant", a)]
    if kind == "prompt-completion":
        return {"prompt": q, "completion": a}, [("user", q), ("assistant", a)]
    if kind == "question-answer":
        if rng.random() < 0.3:
            return {"question": q, "answers": [a, some_text(rng)]}, [("user", q), ("assistant", a)]
        return {"question": q, "answer": a}, [("user", q), ("assistant", a)]
    return {"text": a}, [("assistant", a)]


KINDS = ("messages", "sharegpt", "alpaca", "prompt-completion", "question-answer", "text")


def rows(rng, kind, most=5):
    """Several of them, each with a column that is none of the format's: ``(rows, turns)``."""
    made = [row(rng, kind) for _ in range(rng.randint(1, most))]
    extra = [{"source": some_text(rng), "number": rng.randint(-9, 9)} for _ in made]
    return [{**r, **e} for (r, _), e in zip(made, extra, strict=True)], [t for _, t in made]


BREAKS = {
    "half": lambda line: line[: max(1, len(line) // 2)],
    "no object": lambda line: b"[1, 2]",
    "not UTF-8": lambda line: line[:-2] + b'\xff"}',
    "twice": lambda line: b'{"source": 1, ' + line[1:],
    "NaN": lambda line: b'{"x": NaN, ' + line[1:],
    "Infinity": lambda line: b'{"x": -Infinity, ' + line[1:],
    "too large": lambda line: b'{"x": 1e999, ' + line[1:],
    "digits": lambda line: b'{"x": ' + b"7" * 5000 + b", " + line[1:],
    "deep": lambda line: b'{"x": ' + b"[" * 900 + b"]" * 900 + b", " + line[1:],
    "surrogate": lambda line: b'{"x": "\\ud800", ' + line[1:],
    "no fields": lambda line: b"{}",
    "comma": lambda line: line[:-1] + b",}",
    "nul": lambda line: line + b"\0",
    "two": lambda line: line + line,
}
"""Ways to break one line of JSON Lines so that nothing honest can be read from it."""


def line(value, rng):
    return json.dumps(value, ensure_ascii=rng.random() < 0.5).encode()
