"""General data of the lab: what its models were pre-trained on, as one mixed set.

``lab:general`` is plain text, as a corpus is: conversations of the abilities that need no
picture, written out with the chat template's marks, so that every token is learned.
``lab:general-vlm`` is conversations with and without pictures.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator

from holdfast.data.records import Record, say
from holdfast.lab.ability import Ability, Split, draw_records
from holdfast.lab.catalogue import HELD_OUT, PREFIX, PROBES, ability
from holdfast.lab.tokenizer import END

SETS = ("lab:general", "lab:general-vlm")
SIZE = {"train": 1000, "test": 200}
"""Records where nobody says how many: as many as GeRe's authors took (Zhang et al. 2025)."""


def general(name: str, split: Split, n: int | None, seed: int) -> list[Record]:
    """At most ``n`` records, the abilities in turn; the same for the same arguments.

    Args:
        name: one of :data:`SETS`.
        n: 1,000 to train on and 200 to test on unless given.
    """
    wanted = SIZE[split] if n is None else n
    found = list(_abilities(name))
    each = -(-wanted // len(found))
    # a small world may have fewer questions than its share; the others make up for it
    drawn = [draw_records(a, split, 2 * each, seed) for a in found]
    turns = itertools.zip_longest(*drawn)
    records = [r for turn in turns for r in turn if r is not None][:wanted]
    return [_text(r) for r in records] if name == SETS[0] else records


def _abilities(name: str) -> Iterator[Ability]:
    which = ("lm", "vlm") if name == SETS[0] else ("vlm",)
    names = dict.fromkeys(a for w in which for a in (*HELD_OUT[w], *PROBES[w]))
    for short in names:
        found = ability(PREFIX + short)
        if name == SETS[1] or not draw_records(found, "train", 1, 0)[0].images:
            yield found


def _text(record: Record) -> Record:
    turns = "".join(f"<|{m.role}|>{m.text}{END}" for m in record.messages)
    return Record((say("assistant", turns),), id=record.id, raw=True)
