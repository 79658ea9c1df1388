"""The support matrix as data, for `foveate models`, the documentation and the tests."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from foveate import view
from foveate.families.base import TOWER_SIGNALS, families
from foveate.families.generic import Generic
from foveate.families.refused import REFUSED

__all__ = ["COLUMNS", "PROMPTS", "SIGNALS", "Support", "carriers", "markdown", "support"]

PROMPTS = ("image", "several images", "video")
"""What a prompt may contain."""

SIGNALS = (*(name for name in view.SIGNALS if name not in TOWER_SIGNALS), *sorted(TOWER_SIGNALS))
"""All signals; those that need only the decoder come first."""

COLUMNS = ("family", "model types", *PROMPTS, *SIGNALS)


@dataclass(frozen=True)
class Support:
    """One family and what it can do.

    Attributes:
        family: its name.
        model_types: the `config.model_type` values that it covers.
        takes: which of `PROMPTS`; "frames" if the processor writes a video as images, one per frame.
        signals: which of `SIGNALS`; some models support fewer.
        summary: one line.
        generic: whether it is on the generic path, without code of its own.
    """

    family: str
    model_types: tuple[str, ...]
    takes: frozenset[str]
    signals: frozenset[str]
    summary: str
    generic: bool

    def cells(self) -> tuple[str, ...]:
        """One cell per entry of `COLUMNS`."""
        prompts = ["yes" if name in self.takes else "-" for name in PROMPTS]
        if "frames" in self.takes:
            prompts[PROMPTS.index("video")] = "as images"
        signals = ["yes" if name in self.signals else "-" for name in SIGNALS]
        return (self.family, ", ".join(self.model_types), *prompts, *signals)

    def to_dict(self) -> dict[str, Any]:
        """Plain lists and strings."""
        return {
            "name": self.family,
            "summary": self.summary,
            "model_types": list(self.model_types),
            "takes": [name for name in (*PROMPTS, "frames") if name in self.takes],
            "signals": [name for name in SIGNALS if name in self.signals],
            "generic": self.generic,
        }


def support() -> list[Support]:
    """All families by name, those of the generic path last."""
    rows = [
        Support(family.name, family.model_types, family.takes, family.signals, family.summary, isinstance(family, Generic))
        for family in families().values()
    ]
    return sorted(rows, key=lambda row: (row.generic, row.family))


def carriers(signals: Iterable[str]) -> tuple[str, ...]:
    """The families that support all of these signals, as `support` orders them. Some models of a family support fewer."""
    wanted = frozenset(signals)
    return tuple(row.family for row in support() if wanted <= row.signals)


def markdown() -> str:
    """The matrix and the refused model types as two tables for the documentation."""
    lines = [_line(COLUMNS), _line(["---"] * len(COLUMNS))]
    lines += [_line((row.family, _code(row.model_types), *row.cells()[2:])) for row in support()]
    reasons: dict[str, list[str]] = {}
    for model_type, reason in REFUSED.items():
        reasons.setdefault(reason, []).append(model_type)
    lines += ["", _line(("refused", "because")), _line(["---"] * 2)]
    lines += [_line((_code(names), reason)) for reason, names in reasons.items()]
    return "\n".join(lines) + "\n"


def _line(cells: Any) -> str:
    return "| " + " | ".join(cells) + " |"


def _code(names: Any) -> str:
    return ", ".join(f"`{name}`" for name in names)
