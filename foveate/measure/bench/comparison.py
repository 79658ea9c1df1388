"""Whether two runs of `foveate bench` are comparable, and how else they differ."""

from __future__ import annotations

from foveate.measure.bench.records import Group, Row, Run
from foveate.measure.facts import differences

__all__ = ["RowPair", "notes", "pairs", "unfair"]

_DECISIVE = ("class", "model_type", "parameters", "dtype", "device", "attention", "sdpa_backends")
"""Facts about the model that make times incomparable; others, such as its weights, do not."""

RowPair = tuple[Group, Row, Group, Row]


def unfair(one: Run, other: Run) -> list[str]:
    """Why the runs cannot be compared: different kernels, precisions, shapes or prompts, each as "what: one, other"."""
    mine, theirs = one.facts.get("model") or {}, other.facts.get("model") or {}
    found = [f"{name}: {mine.get(name)}, {theirs.get(name)}" for name in _DECISIVE if mine.get(name) != theirs.get(name)]
    for part in {**one.shape, **other.shape}:
        here, there = one.shape.get(part, {}), other.shape.get(part, {})
        names = [name for name in {**here, **there} if here.get(name) != there.get(name)]
        found += [f"{part} {name}: {here.get(name)}, {there.get(name)}" for name in names]
    for group, row, rival_group, rival in pairs(one, other):
        where = f"at batch {group.batch}"
        for name in ("prompt_tokens", "visual_tokens"):
            if getattr(group, name) != getattr(rival_group, name):
                found.append(f"{name.replace('_', ' ')} {where}: {getattr(group, name)}, {getattr(rival_group, name)}")
        if row.flops and rival.flops and row.kernels != rival.kernels:
            found.append(
                f"attention kernel of {row.name} {where}: {', '.join(row.kernels) or 'none'}, {', '.join(rival.kernels) or 'none'}"
            )
    if not found and not pairs(one, other):
        found.append("no row of one was measured at the same batch size in the other")
    return list(dict.fromkeys(found))


def notes(one: Run, other: Run) -> list[str]:
    """Other differences, such as versions, machine or weights."""
    return [text for text in differences(one.facts, other.facts) if text.partition(":")[0] not in _DECISIVE]


def pairs(one: Run, other: Run) -> list[RowPair]:
    """The rows that both runs have, by batch size and name, each with its group."""
    groups = [(group, rival) for group in one.groups for rival in other.groups if group.batch == rival.batch]
    return [
        (group, row, rival_group, rival)
        for group, rival_group in groups
        for row in group.rows
        if (rival := rival_group.row(row.name)) is not None
    ]
