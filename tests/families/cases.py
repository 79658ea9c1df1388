"""All rows of the matrix family x what a prompt holds. A new family's `Case` goes into a zoo, and the zoo in here."""

from __future__ import annotations

import zoo
import zoo_generic
import zoo_qwen
import zoo_vila

CASES = [*zoo.CASES, *zoo_qwen.CASES, *zoo_vila.CASES, *zoo_generic.CASES]
