"""Each family's claim where its tokens lie in a picture, held against its own processor and vision tower."""

from __future__ import annotations

import pytest
from painted import BACKENDS, Sight, check
from sights import SIGHTS

RUNS = [(sight, backend) for sight in SIGHTS for backend in BACKENDS if sight.only in (None, backend)]


@pytest.mark.parametrize(("sight", "backend"), RUNS, ids=lambda each: str(each))
def test_a_bright_patch_moves_the_tokens_that_are_said_to_lie_there(sight: Sight, backend: str) -> None:
    check(sight, backend)
