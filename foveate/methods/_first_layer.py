"""Checks of methods that read the attention of decoder layer 0."""

from __future__ import annotations

from collections.abc import Iterable

from foveate.errors import InputError, LayerError
from foveate.method import Method
from foveate.view import View

__all__ = ["check_layer", "check_question"]


def check_layer(method: Method) -> None:
    """Check that the method acts at the language model's input.

    Raises:
        LayerError: it acts elsewhere.
    """
    if method.layer != 0:
        raise LayerError(
            f"layer={method.layer!r} of {type(method).__name__} must be 0: it decides by the attention of the first decoder layer, "
            f"at the language model's input"
        )


def check_question(views: Iterable[View]) -> None:
    """Check that text follows the images; no other text can attend to them.

    Raises:
        InputError: a prompt ends with a visual token.
    """
    if any(view.text_after == 0 for view in views):
        raise InputError(
            "the prompt ends with a visual token, so no text attends to the image and its tokens cannot be ranked; "
            "put the question after the image, or use a method that needs no question, such as pool"
        )
