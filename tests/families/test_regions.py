"""Each family's claim where its tokens lie in a picture, held against its own processor and vision tower."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
import zoo
import zoo_generic
from painted import BACKEND, Sight, check, check_sizes, noise
from sights import SIGHTS
from zoo import known

import foveate
from foveate import FastV, draw
from foveate.errors import InputError, UnsupportedError, UnsupportedModelError
from foveate.families import families, regions_of


@pytest.mark.processors
@pytest.mark.parametrize("sight", SIGHTS, ids=str)
def test_a_bright_patch_moves_the_tokens_that_are_said_to_lie_there(sight: Sight) -> None:
    if sight.model_type and not known(sight.model_type):
        pytest.skip(f"this transformers has no {sight.model_type}")
    if sight.only not in (None, BACKEND):
        pytest.skip(f"its processor needs {sight.only}; make test-torchvision runs it")
    check(sight, BACKEND)


@pytest.mark.processors
@pytest.mark.parametrize("size", [(400, 20), (20, 400)])
def test_a_picture_of_which_no_row_of_tiles_is_left_is_its_whole_alone(size: tuple[int, int]) -> None:
    sight = next(sight for sight in SIGHTS if sight.name == "llava_next")
    model, processor, picture = sight.build(), sight.processor(BACKEND), noise(size, 0)
    inputs = sight.inputs(model, processor, [picture])
    method = FastV(keep=3)
    with foveate.compress(model, method) as handle, torch.no_grad():
        model(**inputs)
        model.generate(**inputs, max_new_tokens=2, do_sample=False)
        (image,) = handle.report.images
    assert image.parts == (image.grid,) == ((1, 4, 4),)
    assert foveate.tokens_after(method, [image.parts]) == [image.tokens_after]
    assert draw.kept(handle.report, picture, model=model, processor=processor).width > 100
    check_sizes(sight, BACKEND, (size,))


def test_parts_that_the_processor_does_not_make_are_refused() -> None:
    sight = next(sight for sight in SIGHTS if sight.name == "internvl")
    model, processor = sight.build(), sight.processor("pil")
    with pytest.raises(InputError, match="makes 1 x 3 crops and the whole picture"):
        regions_of(model, processor, (300, 100), ((1, 4, 4),) * 3)
    assert len(regions_of(model, processor, (300, 100), ((1, 4, 4),) * 4)) == 4
    with pytest.raises(InputError, match="shows nothing"):
        regions_of(model, processor, (0, 100), ((1, 4, 4),))


def test_an_image_processor_that_nobody_knows_and_tokens_without_a_place_are_unsupported() -> None:
    aria = next(case for case in zoo_generic.CASES if case.model_type == "aria").build()
    with pytest.raises(UnsupportedError, match="learned queries"):
        regions_of(aria, SimpleNamespace(image_processor=None), (30, 30), ((1, 1, 12),))
    with pytest.raises(UnsupportedError, match="SimpleNamespace does to a picture is not known"):
        regions_of(zoo.llava(), SimpleNamespace(image_processor=SimpleNamespace()), (30, 30), ((1, 4, 4),))
    with pytest.raises(UnsupportedError, match="no video processor"):
        regions_of(zoo.onevision(), SimpleNamespace(image_processor=None), (30, 30), ((2, 3, 3),), video=True)
    with pytest.raises(UnsupportedModelError, match="no family covers"):
        regions_of(SimpleNamespace(model_type="nothing"), None, (30, 30), ((1, 4, 4),))


def test_every_family_has_a_sight_or_says_why_not() -> None:
    there = [sight for sight in SIGHTS if not sight.model_type or known(sight.model_type)]
    seen = {sight.build().config.model_type for sight in there}
    types = {kind for family in families().values() for kind in family.model_types if known(kind)}
    assert types - seen == {"aria"}
