"""`foveate demo card`: what the embedded model can do, and what it cannot."""

from __future__ import annotations

from dataclasses import dataclass

from foveate.cli import console
from foveate.errors import InputError

__all__ = ["PrintCard"]


@dataclass(frozen=True, kw_only=True)
class PrintCard:
    """Print the embedded model's card: what it can do, what it cannot, how it was trained."""

    def run(self) -> None:
        """Print the card that lies beside the weights.

        Raises:
            InputError: the package was installed without its weights.
        """
        from foveate import demo

        try:
            text = (demo.path() / "README.md").read_text(encoding="utf-8")
        except FileNotFoundError as error:
            raise InputError(f"there is no model card: {error}") from error
        console.put(text)
