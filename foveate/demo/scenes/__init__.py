"""Scenes that the embedded model knows: pictures, questions and answers, drawn from seeds."""

from foveate.demo.scenes.compose import FAMILIES, VERSION, Question, Scene, Split, relevant_patches, scene

__all__ = ["FAMILIES", "VERSION", "Question", "Scene", "Split", "relevant_patches", "scene"]
