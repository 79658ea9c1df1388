"""The code of docs/adding_a_family.md, put where it says, is a family that passes the tests of all others; other pages' code runs."""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import test_layouts
import test_matrix
import torch
import zoo
from clips import write_clip
from oracle import prompt
from PIL import Image
from torch.nn import functional as F
from transformers import LlavaConfig
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from vila_release import TOKENS, save_release
from zoo import Case

import foveate
from foveate.errors import InputError, SignalError, UnsupportedModelError
from foveate.families import base, family_of, generic
from foveate.families.base import DECODER_SIGNALS, TOWER_SIGNALS
from foveate.families.support import markdown

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "adding_a_family.md").read_text(encoding="utf-8")
BLOCKS: dict[str, str] = dict(re.findall(r"```python\n# (\S+\.py)\n(.*?)```", PAGE, re.DOTALL))
"""The page's code by the file that it belongs into."""


class StampConfig(LlavaConfig):
    """A model type for the page's line of the generic path."""

    model_type = "stamp"


@pytest.fixture(scope="module")
def cases() -> Iterator[dict[str, Case]]:
    """The page followed to its end, and undone afterwards."""
    known, modules = dict(base._FAMILIES), set(sys.modules)
    with pytest.MonkeyPatch.context() as patch:
        model = run("transformers/models/postcard/modeling_postcard.py")
        patch.setattr(zoo.transformers, "PostcardForConditionalGeneration", model.PostcardForConditionalGeneration, raising=False)
        patch.setitem(zoo.CLASSES, "postcard", "PostcardForConditionalGeneration")
        patch.setitem(zoo.CLASSES, "stamp", "LlavaForConditionalGeneration")
        for config in (model.PostcardConfig, StampConfig):
            CONFIG_MAPPING.register(config.model_type, config)
        run("foveate/families/postcard.py")
        entry = eval(BLOCKS["foveate/families/generic.py"].strip(), dict(vars(generic)))
        base.register(generic.Generic(entry))
        (postcard,) = run("tests/families/zoo.py", {**vars(zoo), "CASES": []}).CASES
        yield {"postcard": postcard, "stamp": Case("stamp", "stamp", stamp, stamp_image)}
    for config in (model.PostcardConfig, StampConfig):
        del CONFIG_MAPPING._extra_content[config.model_type]
    base._FAMILIES.clear()
    base._FAMILIES.update(known)
    for name in set(sys.modules) - modules:
        if name.startswith("page_"):
            del sys.modules[name]


def run(name: str, given: dict[str, Any] | None = None) -> Any:
    """Run one file of the page as a module of its own."""
    module = ModuleType("page_" + Path(name).stem)
    module.__dict__.update({key: value for key, value in (given or {}).items() if not key.startswith("__")})
    sys.modules[module.__name__] = module
    exec(compile(BLOCKS[name], name, "exec"), module.__dict__)
    return module


def stamp() -> Any:
    return zoo.model_of("stamp", vision_config=zoo.clip(), text_config=zoo.text(), image_token_index=zoo.IMAGE)


def stamp_image(seed: int) -> zoo.Piece:
    return zoo.plain(16, (1, 4, 4), {"pixel_values": zoo.noise(seed, 1, 3, 28, 28)}, before=[zoo.START], after=[zoo.END])


@dataclass(frozen=True)
class Spy(foveate.Method):
    """Keeps every token, and what it was shown."""

    keep: int | float = 1.0
    seen: list[foveate.View] = field(default_factory=list)
    needs = DECODER_SIGNALS | TOWER_SIGNALS

    def plan(self, view: foveate.View) -> foveate.Plan:
        self.seen.append(view)
        return foveate.Plan.identity(len(view))


@pytest.mark.parametrize("name", ["one image", "several images", "mixed batch"])
@pytest.mark.parametrize("family", ["postcard", "stamp"])
def test_pruning_equals_masking_for_the_families_of_the_page(cases: dict[str, Case], family: str, name: str) -> None:
    assert list(test_matrix.scenarios(cases[family])) == ["one image", "several images", "mixed batch"]
    test_matrix.test_pruning_equals_masking_in_prefill_and_32_new_tokens(cases[family], name, "left")


def test_right_padding_too(cases: dict[str, Case]) -> None:
    test_matrix.test_pruning_equals_masking_in_prefill_and_32_new_tokens(cases["postcard"], "mixed batch", "right")


def test_tokens_lie_where_the_page_says(cases: dict[str, Case]) -> None:
    test_layouts.test_a_token_depends_most_on_the_pixels_of_its_place(cases["postcard"])


def test_placeholders_without_pixels_are_refused(cases: dict[str, Case]) -> None:
    case = cases["postcard"]
    given = prompt(case, [[3, case.image(0), 5]]).inputs
    with foveate.compress(case.build(), foveate.FastV(keep=4)) as handle, pytest.raises(InputError, match="placeholders"):
        handle.model(input_ids=given["input_ids"], attention_mask=given["attention_mask"])


@pytest.mark.parametrize("generate", [False, True], ids=["plain forward", "generate"])
def test_tower_signals_are_the_towers_own_averaged_as_the_model_does(cases: dict[str, Case], generate: bool) -> None:
    case = cases["postcard"]
    model, spy = case.build(), Spy()
    given = prompt(case, [[3, case.image(0), 5], [2, case.image(1), 1, case.image(2), 4]])
    with foveate.compress(model, spy), torch.no_grad():
        if generate:
            model.generate(**given.inputs, max_new_tokens=1, do_sample=False)
        else:
            model(**given.inputs)
    model.set_attn_implementation("eager")
    with torch.no_grad():
        tower = model.model.vision_tower(given.inputs["pixel_values"], output_attentions=True, output_hidden_states=True)
    received, patches = tower.attentions[-2][:, :, 0, 1:].mean(1), tower.hidden_states[-2][:, 1:]
    pieces = [piece for row in given.pieces for piece in row]
    assert [view.grid for view in spy.seen] == [piece.parts[0] for piece in pieces] == [(1, 4, 4), (1, 4, 2), (1, 2, 4)]
    for view, attention, states in zip(spy.seen, received, patches, strict=True):
        shape = view.grid[1:]
        expected = F.adaptive_avg_pool2d(attention.view(1, 4, 4), shape).flatten()
        torch.testing.assert_close(view.signal("tower_attention"), expected, atol=1e-6, rtol=1e-4)
        expected = F.adaptive_avg_pool2d(states.T.unflatten(1, (4, 4)), shape).flatten(1).T
        torch.testing.assert_close(view.signal("tower_states"), expected, atol=1e-5, rtol=1e-4)


def test_budgets_count_no_newline(cases: dict[str, Case]) -> None:
    case, method = cases["postcard"], foveate.FastV(keep=0.5)
    model = case.build()
    given = prompt(case, [[3, case.image(1), 5]])
    with foveate.compress(model, method) as handle:
        model.generate(**given.inputs, max_new_tokens=1, do_sample=False)
    (image,) = handle.report.images
    assert [image.tokens_after] == foveate.tokens_after(method, [image.parts]) == [4]


def test_the_settings_that_the_page_refuses_are_refused(cases: dict[str, Case]) -> None:
    model = cases["postcard"].build()
    model.config.vision_feature_select_strategy = "full"
    with pytest.raises(UnsupportedModelError, match="vision_feature_select_strategy='full'"):
        foveate.compress(model, foveate.FastV(keep=4))


def test_the_generic_path_gives_no_tower_signals(cases: dict[str, Case]) -> None:
    with pytest.raises(SignalError, match="stamp"):
        foveate.compress(cases["stamp"].build(), Spy())


def test_the_families_are_in_the_table_and_gone_when_undone(cases: dict[str, Case]) -> None:
    assert "| postcard | `postcard` | yes | yes | - |" in markdown()
    assert "| stamp | `stamp` | yes | yes | - |" in markdown()
    assert type(family_of(cases["postcard"].build())).__name__ == "Postcard"


def test_the_page_describes_the_interface_that_there_is() -> None:
    table = PAGE[PAGE.index("| member |") : PAGE.index("What goes in and out of `images`")]
    members = {name for row in table.splitlines() for name in re.findall(r"`([a-z_]+)", row.split(" | ")[0])}
    assert members == {name for name in {**vars(base.Family), **base.Family.__annotations__} if not name.startswith("_")}
    shapes = set(re.findall(r"^\| `([a-z_]+)` \| ", PAGE[: PAGE.index("## The example")], re.MULTILINE))
    functions = {name: value for name, value in vars(generic).items() if inspect.isfunction(value)}
    assert shapes == {name for name, value in functions.items() if list(value.__annotations__) == ["config", "input_ids", "seen", "return"]}


def test_the_page_names_files_and_helpers_that_there_are() -> None:
    there = {path.name for folder in ("foveate/families", "tests/families") for path in (ROOT / folder).rglob("*.py")}
    assert set(re.findall(r"`([a-z_0-9]+\.py)`", PAGE)) <= there
    helpers = re.findall(r"`(features|runs|towers)\.(\w+)", PAGE)
    assert helpers
    for module, name in helpers:
        assert hasattr(import_module(f"foveate.families.kit.{module}"), name)


def test_the_page_lists_every_public_helper() -> None:
    table = PAGE[PAGE.index("| module of `foveate.families.kit`") :].split("\n\n")[0]
    rows = [row.split(" | ") for row in table.splitlines()[2:]]
    listed = {row[0].strip("| `"): set(re.findall(r"`(\w+)`", row[1])) for row in rows}
    files = (ROOT / "foveate" / "families" / "kit").glob("[a-z]*.py")
    public = {file.stem: set(import_module(f"foveate.families.kit.{file.stem}").__all__) for file in files}
    public["regions"] -= {"Request"}  # the old name of another
    assert listed == public
    text = PAGE[PAGE.index("### Helpers") : PAGE.index("| module of")]
    exported = re.findall(r"`(\w+)`", text[text.index("exports") : text.index("foveate.families.base")])
    assert len(exported) > 5
    for name in exported:
        assert hasattr(import_module("foveate.families"), name)


def test_a_family_in_a_package_of_ones_own_is_known_once_registered() -> None:
    code = re.findall(r"```python\n(from foveate.families import register\n.*?)```", PAGE, re.DOTALL)
    known = dict(base._FAMILIES)
    try:
        exec(*code, {})
        assert base.families()["stamp"].model_types == ("stamp",)
    finally:
        base._FAMILIES.clear()
        base._FAMILIES.update(known)


def test_the_code_about_vila_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = (ROOT / "docs" / "vila.md").read_text(encoding="utf-8")
    first, second = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    save_release(tmp_path / "VILA1.5-3b")
    Image.new("RGB", (64, 48), "navy").save(tmp_path / "photo.jpg")
    write_clip(tmp_path / "clip.mp4", 16)
    monkeypatch.chdir(tmp_path)
    known: dict[str, Any] = {}
    exec(first, known)
    assert known["handle"].report.tokens_before == TOKENS
    assert known["handle"].report.tokens_after == round(TOKENS / 4)
    exec(second, known)
    assert [part["type"] for part in known["content"]] == ["image"] * 8 + ["text"]
    known["processor"].apply_chat_template([{"role": "user", "content": known["content"]}], tokenize=True, return_dict=True)


def test_the_numbers_on_the_page_about_budgets() -> None:
    page = (ROOT / "docs" / "how_it_works.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"```python\n(foveate.tokens_after.*?)```", page, re.DOTALL)
    for line in block.splitlines():
        call, _, said = line.partition("  # ")
        assert str(eval(call, {"foveate": foveate})) == said[said.index("[") :]
