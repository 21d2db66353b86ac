"""A model's matrices, found by their names: what the draw is counted against."""

from collections import defaultdict


def matrix(parts):
    """{(block, unit, module): parts} of everything inside of the blocks."""
    found = defaultdict(list)
    for part in parts:
        if part.block is not None:
            name = part.parameter
            for end in (".weight", ".bias", "_bias"):
                name = name.removesuffix(end)
            found[part.block, part.unit, name].append(part)
    return found
