"""Methods as the command line spells them: `tokencarve`, or `tokencarve:information=fast` with options after a colon."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING
from urllib.parse import quote

from foveate.chat import NO_METHOD
from foveate.errors import FoveateError

if TYPE_CHECKING:
    from foveate.method import Method

__all__ = ["ALL", "NO_METHOD", "every_name", "is_no_method", "label_of", "method_of", "split_specs"]

ALL = "all"
"""Stands for `every_name`."""


def is_no_method(spec: str) -> bool:
    """Whether a spelling stands for the full model."""
    return spec.strip().lower() == NO_METHOD


def split_specs(text: str) -> list[str]:
    """The methods that a list separated by commas names, each as it is spelled."""
    from foveate.methods import split_methods

    return split_methods(text)


def every_name() -> list[str]:
    """The names of all methods that a budget is enough for: `Oracle`, for one, is told the relevance from Python."""
    from foveate.methods import methods

    return [name for name in methods() if _made(name)]


def _made(name: str) -> bool:
    try:
        method_of(name, 1)
    except FoveateError:
        return False
    return True


def method_of(
    spec: str, keep: int | float, layer: int | None = None, seed: int | None = None, settings: Sequence[str] = (), *, clamp: bool = False
) -> Method:
    """The method that is spelled so.

    Args:
        spec: its name, and its own options after a colon.
        keep: tokens or share.
        layer: decoder layer; `None` for the method's own default.
        seed: for methods that have one.
        settings: more options, each as "name=value".
        clamp: let `keep` exceed the tokens there.

    Raises:
        UnknownNameError, BudgetError, LayerError, InputError: what is wrong, and what would be right.
    """
    from foveate.methods.options import build_method, split_options

    name, own = split_options(spec)
    return build_method(name, keep, layer, seed, [*own, *settings], clamp)


def label_of(spec: str, method: Method) -> str:
    """What results and their files call a method: its name and the options in its spelling, with slashes and the like escaped."""
    _, colon, own = spec.partition(":")
    return f"{method.name}{colon}{quote(own.strip(), safe=':=,+')}"
