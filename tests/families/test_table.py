"""The support matrix says what is true: of every class that transformers has, and of what the tests have run."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
from cases import CASES
from torch import nn
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES as CLASSES

import foveate
from foveate import FastV
from foveate.errors import UnsupportedModelError
from foveate.families import REFUSED, families, family_of, support
from foveate.families.support import PROMPTS, SIGNALS, markdown
from foveate.view import SIGNALS as ALL_SIGNALS

COVERED = {model_type: row for row in support() for model_type in row.model_types}


class Stub(nn.Module):
    def __init__(self, model_type: str) -> None:
        super().__init__()
        self.config = SimpleNamespace(model_type=model_type)


@pytest.mark.parametrize("model_type", sorted(CLASSES))
def test_every_class_of_the_installed_transformers_is_covered_or_refused(model_type: str) -> None:
    assert (model_type in COVERED) != (model_type in REFUSED), (
        f"{CLASSES[model_type]} ({model_type}) must be in exactly one of the families and foveate/families/refused.py"
    )


def test_nothing_is_covered_twice_or_both_covered_and_refused() -> None:
    types = [model_type for row in support() for model_type in row.model_types]
    assert len(types) == len(set(types))
    assert not set(types) & set(REFUSED)
    assert all(reason and not reason.endswith(".") for reason in REFUSED.values())


@pytest.mark.parametrize("model_type", sorted(REFUSED))
def test_a_refused_model_says_why(model_type: str) -> None:
    with pytest.raises(UnsupportedModelError, match="is not supported: ") as caught:
        foveate.compress(Stub(model_type), FastV(keep=4))
    assert REFUSED[model_type] in str(caught.value)


def test_the_error_for_an_unknown_model_says_how_to_add_it() -> None:
    with pytest.raises(UnsupportedModelError, match=r"no known family.*llava_onevision.*adding_a_family"):
        family_of(Stub("nothing_like_it"))


@pytest.mark.parametrize("model_type", sorted(COVERED))
def test_what_the_table_promises_is_in_the_matrix_that_the_tests_run(model_type: str) -> None:
    if model_type in CLASSES:
        assert model_type in CONFIG_MAPPING
    tested = [case for case in CASES if case.model_type == model_type]
    assert tested
    row = COVERED[model_type]
    assert {case.family for case in tested} == {row.family}
    assert {"image", "several images"} <= row.takes
    assert ("video" in row.takes) == any(case.video is not None for case in tested)


def test_the_table_knows_every_signal_and_nothing_else() -> None:
    assert set(SIGNALS) == set(ALL_SIGNALS)
    for family in families().values():
        assert family.signals <= set(SIGNALS)
        assert family.takes <= {*PROMPTS, "frames"}


def test_the_documentation_shows_the_table() -> None:
    page = (Path(__file__).parents[2] / "docs" / "families.md").read_text(encoding="utf-8")
    start, end = "<!-- matrix -->\n", "<!-- end -->"
    shown = page[page.index(start) + len(start) : page.index(end)]
    assert shown == markdown(), "put what foveate.families.support.markdown() returns into docs/families.md"
    for row in support():
        assert f"### {row.family}\n" in page or row.generic, f"docs/families.md has no paragraph about {row.family}"
