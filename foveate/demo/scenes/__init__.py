"""Scenes that the embedded model knows: pictures, questions and answers, drawn from seeds.

Start with `compose` (`scene`). `drawing`, `backgrounds` and `glyphs` make the picture, `questions` asks about it, and `labels` says what
each patch shows.
"""

from foveate.demo.scenes.compose import FAMILIES, VERSION, Question, Scene, Split, relevant_patches, scene

__all__ = ["FAMILIES", "VERSION", "Question", "Scene", "Split", "relevant_patches", "scene"]
