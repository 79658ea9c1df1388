"""Where each family says that its tokens lie in a picture, compared with its own processor and vision tower."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
import zoo
import zoo_generic
from painted import BACKEND, RegionCase, check, check_sizes, noise
from region_cases import REGION_CASES
from zoo import known

import foveate
from foveate import FastV, draw
from foveate.errors import InputError, UnsupportedError, UnsupportedModelError
from foveate.families import families, regions_of


@pytest.mark.processors
@pytest.mark.parametrize("case", REGION_CASES, ids=str)
def test_a_bright_patch_moves_the_tokens_that_are_said_to_lie_there(case: RegionCase) -> None:
    if case.model_type and not known(case.model_type):
        pytest.skip(f"this transformers has no {case.model_type}")
    if case.only not in (None, BACKEND):
        pytest.skip(f"its processor needs {case.only}; make test-torchvision runs it")
    check(case, BACKEND)


@pytest.mark.processors
@pytest.mark.parametrize("size", [(400, 20), (20, 400)])
def test_a_picture_of_which_no_row_of_tiles_is_left_is_its_whole_alone(size: tuple[int, int]) -> None:
    case = next(case for case in REGION_CASES if case.name == "llava_next")
    model, processor, picture = case.build(), case.processor(BACKEND), noise(size, 0)
    inputs = case.inputs(model, processor, [picture])
    method = FastV(keep=3)
    with foveate.compress(model, method) as handle, torch.no_grad():
        model(**inputs)
        model.generate(**inputs, max_new_tokens=2, do_sample=False)
        (image,) = handle.report.images
    assert image.parts == (image.grid,) == ((1, 4, 4),)
    assert foveate.tokens_after(method, [image.parts]) == [image.tokens_after]
    assert draw.kept(handle.report, picture, model=model, processor=processor).width > 100
    check_sizes(case, BACKEND, (size,))


def test_parts_that_the_processor_does_not_make_are_refused() -> None:
    case = next(case for case in REGION_CASES if case.name == "internvl")
    model, processor = case.build(), case.processor("pil")
    with pytest.raises(InputError, match="makes 1 x 3 crops and the whole picture"):
        regions_of(model, processor, (300, 100), ((1, 4, 4),) * 3)
    assert len(regions_of(model, processor, (300, 100), ((1, 4, 4),) * 4)) == 4
    with pytest.raises(InputError, match="shows nothing"):
        regions_of(model, processor, (0, 100), ((1, 4, 4),))


def test_an_unknown_image_processor_and_tokens_without_a_place_are_unsupported() -> None:
    aria = next(case for case in zoo_generic.CASES if case.model_type == "aria").build()
    with pytest.raises(UnsupportedError, match="learned queries"):
        regions_of(aria, SimpleNamespace(image_processor=None), (30, 30), ((1, 1, 12),))
    with pytest.raises(UnsupportedError, match="it is not known what SimpleNamespace does to a picture"):
        regions_of(zoo.llava(), SimpleNamespace(image_processor=SimpleNamespace()), (30, 30), ((1, 4, 4),))
    with pytest.raises(UnsupportedError, match="no video processor"):
        regions_of(zoo.onevision(), SimpleNamespace(image_processor=None), (30, 30), ((2, 3, 3),), video=True)
    with pytest.raises(UnsupportedModelError, match="no family covers"):
        regions_of(SimpleNamespace(model_type="nothing"), None, (30, 30), ((1, 4, 4),))


def test_every_family_says_where_its_tokens_lie_or_why_it_cannot() -> None:
    there = [case for case in REGION_CASES if not case.model_type or known(case.model_type)]
    seen = {case.build().config.model_type for case in there}
    types = {kind for family in families().values() for kind in family.model_types if known(kind)}
    assert types - seen == {"aria"}
