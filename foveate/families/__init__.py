"""One file per model family; importing this package fills the table. Nothing outside it names a family."""

from foveate.families import llava as _llava  # noqa: F401 - registers itself
from foveate.families.base import Family, ImageTokens, families, family_of, register

__all__ = ["Family", "ImageTokens", "families", "family_of", "register"]
