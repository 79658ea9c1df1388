"""Which option helps with an error: the library's errors name parameters, and here these become options of the command that runs."""

from __future__ import annotations

from collections.abc import Mapping

from foveate.errors import FoveateError
from foveate.files.limits import TooManyPixelsError

__all__ = ["hint_for"]

BY_TYPE: dict[type[FoveateError], tuple[str, ...]] = {
    TooManyPixelsError: ("max_megapixels",),
}
"""Fields of commands that help with every error of a class."""
FIELDS = {"max_pixels": "max_megapixels", "new_tokens": "max_new_tokens", "batch_size": "batch", "before": "prompt", "after": "prompt"}
"""Fields of commands by the library's name of the parameter, where they differ."""


def hint_for(error: FoveateError, options: Mapping[str, str]) -> str | None:
    """The options that help with an error, separated by commas; `None` if the command has none.

    An error may carry the names of the library's parameters that help, as its attribute `parameters`.

    Args:
        error: what was raised.
        options: of the command that runs: how each field is spelled.
    """
    named = [FIELDS.get(parameter, parameter) for parameter in getattr(error, "parameters", ())]
    named += [name for kind, names in BY_TYPE.items() if isinstance(error, kind) for name in names]
    spelled = dict.fromkeys(options[name] for name in named if name in options)
    return ", ".join(spelled) or None
