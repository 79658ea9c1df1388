"""Each family's claim where its tokens lie in a picture, held against its own processor and vision tower."""

from __future__ import annotations

import pytest
from painted import BACKEND, Sight, check
from sights import SIGHTS


@pytest.mark.processors
@pytest.mark.parametrize("sight", SIGHTS, ids=str)
def test_a_bright_patch_moves_the_tokens_that_are_said_to_lie_there(sight: Sight) -> None:
    if sight.only not in (None, BACKEND):
        pytest.skip(f"its processor needs {sight.only}; make test-torchvision runs it")
    check(sight, BACKEND)
