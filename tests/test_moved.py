"""Documented paths that moved still import, and say where they went."""

from __future__ import annotations

import subprocess
import sys
from importlib import import_module

import pytest
import torch

from foveate import View
from foveate.moved import MOVED


@pytest.mark.parametrize("old", MOVED)
def test_an_old_path_imports_the_names_of_the_new_one(old: str) -> None:
    new = import_module(MOVED[old])
    sys.modules.pop(old, None)
    with pytest.warns(DeprecationWarning, match=MOVED[old]):
        module = import_module(old)
    assert all(getattr(module, name) is getattr(new, name) for name in getattr(new, "__all__", ()))
    assert getattr(module, "__all__", None) == getattr(new, "__all__", None)  # what `import *` takes


def test_an_old_name_of_a_view_still_reads() -> None:
    view = View(states=torch.zeros(1, 2), grid=(1, 1, 1), text_after=3)
    with pytest.warns(DeprecationWarning, match="text_after"):
        assert view.text_behind == 3


def test_an_old_path_can_be_run() -> None:
    done = subprocess.run([sys.executable, "-m", "foveate.demo.train", "--help"], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0
    assert "usage" in done.stdout.lower()
