"""Methods as the command line spells them: `tokencarve`, or `tokencarve:information=fast` with options after colons."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING
from urllib.parse import quote

if TYPE_CHECKING:
    from foveate.method import Method

__all__ = ["NO_METHOD", "is_no_method", "label_of", "method_of", "split_specs"]

NO_METHOD = "none"
"""In place of a method: the full model alone."""
_NEXT_OPTION = re.compile(r":(?=[A-Za-z_][\w-]*=)")


def is_no_method(spec: str) -> bool:
    """Whether a spelling stands for the full model."""
    return spec.strip().lower() == NO_METHOD


def split_specs(text: str) -> list[str]:
    """The methods that a list separated by commas names, each as it is spelled."""
    return [spec.strip() for spec in text.split(",") if spec.strip()]


def method_of(
    spec: str, keep: int | float, layer: int | None = None, seed: int | None = None, settings: Sequence[str] = (), *, clamp: bool = False
) -> Method:
    """The method that is spelled so.

    Args:
        spec: its name, and its own options after colons.
        keep: tokens or share.
        layer: decoder layer; `None` for the method's own default.
        seed: for methods that have one.
        settings: more options, each as "name=value".
        clamp: let `keep` exceed the tokens there.

    Raises:
        UnknownNameError, BudgetError, LayerError, InputError: what is wrong, and what would be right.
    """
    from foveate.methods.options import build_method

    name, colon, own = spec.partition(":")
    return build_method(name, keep, layer, seed, [*(_NEXT_OPTION.split(own) if colon else ()), *settings], clamp)


def label_of(spec: str, method: Method) -> str:
    """What results and their files call a method: its name and the options in its spelling, with slashes and the like escaped."""
    _, colon, own = spec.partition(":")
    return f"{method.name}{colon}{quote(own.strip(), safe=':=,+')}"
