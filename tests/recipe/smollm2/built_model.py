"""The model with a pretrained decoder as `make pretrained` builds it, for tests that are skipped where it is not."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch

from foveate import demo


def missing() -> str:
    """Why there is no model; empty if there is one."""
    try:
        demo.path("smollm2")
    except FileNotFoundError as error:
        return str(error)
    return ""


built = pytest.mark.skipif(bool(missing()), reason=missing() or "the model is built")
"""Skips a test, with the command that builds the model as its reason."""


@cache
def loaded(dtype: torch.dtype = torch.float32) -> tuple[Any, Any]:
    """The model and its processor."""
    return demo.load(dtype, shape="smollm2")
