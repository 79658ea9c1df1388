"""A method goes to JSON, YAML and text and comes back the same, or says in one line why not."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any

import pytest
import torch
from compressors import untrained
from torch import Tensor

import foveate
from foveate import (
    DART,
    EVS,
    CDPruner,
    DivPrune,
    EntropyPrune,
    Explainer,
    FastV,
    FirstLayerAttention,
    Method,
    MMTok,
    Oracle,
    Pool,
    PruMerge,
    PyramidDrop,
    Random,
    Scope,
    SparseVLM,
    TokenCarve,
    ToMe,
    TowerAttention,
    V2Drop,
    VidCom2,
    VisionZip,
)
from foveate.errors import BudgetError, InputError, LayerError, MethodError, OptionError, RecordError, UnknownNameError, UsageError
from foveate.methods import (
    load_method,
    method_from_dict,
    method_from_json,
    method_to_dict,
    method_to_json,
    methods,
    parse_method,
    registry,
    save_method,
    split_methods,
)
from foveate.methods.schema import options_of

pytestmark = pytest.mark.one_version

# Every option of every method that can be saved, with another value than its default: a method joins with one line.
CHANGED: dict[str, Method] = {
    "cdpruner": CDPruner(keep=0.5, layer=1, clamp=True, relevance_weight=0.5, centred=True),
    "divprune": DivPrune(keep=0.5, layer=1, clamp=True, centred=True),
    "evs": EVS(keep=0.5, layer=1, clamp=True),
    "dart": DART(keep=0.5, layer=1, clamp=True, image_pivots=2, text_pivots=0),
    "entropyprune": EntropyPrune(keep=9, layer=1, clamp=True, source="keys", unit_trace=True),
    "explainer": Explainer(keep=3, clamp=True, mass=0.9, at_least=2, compressor="some/folder"),
    "fastv": FastV(keep=0.25, layer=3, clamp=True, mass=1.0, at_least=0.1),
    "firstlayerattention": FirstLayerAttention(keep=1.0, clamp=True, mass=0.5, at_least=7),
    "mmtok": MMTok(8, 1, True, visual=1.0, text_temperature=0.1, visual_temperature=0.1, features="projected"),
    "pool": Pool(keep=7, layer=0, clamp=True),
    "prumerge": PruMerge(keep=0.5, layer=1, clamp=True),
    "pyramiddrop": PyramidDrop(keep=9, layer=1, clamp=True, at=(2, 0.5), mass=0.9, at_least=2),
    "random": Random(keep=1, layer=9, clamp=True, seed=-(2**70)),
    "scope": Scope(keep=8, layer=1, clamp=True, alpha=0.5),
    "sparsevlm": SparseVLM(keep=0.5, layer=1, clamp=True, at=(0.25, 7), recycle=False),
    "tokencarve": TokenCarve(
        *(5, 4, True), attention_weight=0.7, stage_one=2, source="attention_output", information="fast", mass=0.9, at_least=0.2
    ),
    "tome": ToMe(keep=0.5, layer=1, clamp=True),
    "towerattention": TowerAttention(keep=6, layer=3, clamp=True, mass=0.9, at_least=0.1),
    "vidcom2": VidCom2(keep=0.5, layer=1, clamp=True),
    "visionzip": VisionZip(keep=8, layer=1, clamp=True, contextual=0.5),
    "v2drop": V2Drop(keep=0.5, layer=1, clamp=True, at=(0.25,)),
}
BY_ITSELF = {"oracle"}
"""Needs the relevance of one batch, which no file of its own holds."""
every_method = pytest.mark.parametrize("method", CHANGED.values(), ids=CHANGED)
SCHEDULE = [FastV(keep=0.5), TokenCarve(keep=64, layer=8, information="fast")]


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    known = dict(registry._methods)
    yield
    registry._methods.clear()
    registry._methods.update(known)


def test_every_method_is_in_the_matrix_with_every_option_changed() -> None:
    assert {*CHANGED, *BY_ITSELF} == set(methods())
    for name, method in CHANGED.items():
        assert type(method) is methods()[name]
        same = [option.name for option in dataclasses.fields(method) if getattr(method, option.name) == option.default]
        assert same == (["layer"] if isinstance(method, Explainer | FirstLayerAttention) else [])  # has but one value


@every_method
@pytest.mark.parametrize("suffix", [".json", ".yaml", ".yml", ".JSON"])
def test_a_method_comes_back_from_a_file_as_it_was(method: Method, suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"method{suffix}"
    save_method(method, path)
    again = load_method(path)
    assert again == method
    assert type(again) is type(method)
    assert [type(getattr(again, name)) for name in ("keep", "layer", "clamp")] == [type(method.keep), int, bool]


@every_method
def test_a_method_comes_back_from_plain_values_and_text(method: Method) -> None:
    data = method.to_dict()
    assert data == method_to_dict(method) == json.loads(method.to_json()) == json.loads(method_to_json(method))
    assert data["format"] == 1
    assert data["method"] == method.name
    assert method_from_dict(data) == method_from_json(method.to_json()) == method
    options = ",".join(f"{option.name}={getattr(method, option.name)}" for option in dataclasses.fields(method))
    assert parse_method(f"{method.name}:{options}") == method


@pytest.mark.parametrize("suffix", [".json", ".yaml"])
def test_a_schedule_comes_back_as_a_list(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"schedule{suffix}"
    for schedule in (SCHEDULE, SCHEDULE[:1]):
        save_method(schedule, path)
        assert load_method(path) == schedule
    assert method_from_json(method_to_json(SCHEDULE)) == method_from_dict(method_to_dict(SCHEDULE)) == SCHEDULE


def test_what_a_person_writes_has_defaults_for_the_rest(tmp_path: Path) -> None:
    path = tmp_path / "carve.yaml"
    path.write_text("# for documents\nformat: 1\nmethod: Token-Carve\nkeep: 128\nstage_one: 1\n")
    assert load_method(path) == TokenCarve(128, stage_one=1)
    path.write_text("format: 1\nschedule:\n- {method: fastv, keep: 0.5}\n- {method: pool, keep: 4, layer: 8}\n")
    assert load_method(str(path)) == [FastV(0.5), Pool(4, 8)]


def test_a_path_is_saved_as_text(tmp_path: Path) -> None:
    method = Explainer(compressor=tmp_path / "compressor")
    assert method_from_dict(method.to_dict()) == method == Explainer(compressor=str(tmp_path / "compressor"))


WRONG: dict[str, tuple[Any, str]] = {
    "a newer format": ({"format": 2, "method": "fastv", "keep": 4}, "has format 2; this version of foveate reads format 1"),
    "no format": ({"method": "fastv", "keep": 4}, "has format None"),
    "a format that is no number": ({"format": "1", "method": "fastv", "keep": 4}, "has format '1'"),
    "no method": ({"format": 1, "keep": 4}, "method is missing"),
    "a method that is no name": ({"format": 1, "method": 3, "keep": 4}, "method should be a valid string, not 3"),
    "an unknown method": ({"format": 1, "method": "fastw", "keep": 4}, "unknown method 'fastw': did you mean 'fastv'?"),
    "an unknown option": ({"format": 1, "method": "fastv", "kep": 4}, "no option 'kep': did you mean 'keep'? it has keep, layer, clamp"),
    "a missing option": ({"format": 1, "method": "fastv"}, "keep is missing"),
    "text for a number": ({"format": 1, "method": "fastv", "keep": "4"}, "keep should be an integer or a number, not '4'"),
    "true for a number": ({"format": 1, "method": "fastv", "keep": True}, "keep should be an integer or a number, not True"),
    "a share for an integer": ({"format": 1, "method": "fastv", "keep": 4, "layer": 2.0}, "layer should be a valid integer, not 2.0"),
    "1 for true": ({"format": 1, "method": "fastv", "keep": 4, "clamp": 1}, "clamp should be a valid boolean, not 1"),
    "a choice": (
        {"format": 1, "method": "tokencarve", "keep": 4, "source": "x"},
        "source should be 'hidden' or 'attention_output', not 'x'",
    ),
    "outside its range": ({"format": 1, "method": "tokencarve", "keep": 4, "stage_one": 3}, "stage_one=3.0 must be a number in [1, 2]"),
    "no tokens": ({"format": 1, "method": "fastv", "keep": 0}, "keep=0 must be at least 1 token"),
    "not finite": ({"format": 1, "method": "fastv", "keep": float("inf")}, "should be a finite number"),
    "an object": ({"format": 1, "method": "fastv", "keep": torch.ones(1)}, "its values cannot be written as JSON"),
    "an object for a path": ({"format": 1, "method": "explainer", "compressor": {}}, "compressor should be text or a path"),
    "the oracle": ({"format": 1, "method": "oracle"}, "needs the true relevance"),
    "an empty schedule": ({"format": 1, "schedule": []}, "schedule is empty; give at least one method"),
    "no schedule": ({"format": 1, "schedule": "fastv"}, "schedule should be a valid array"),
    "no entries": ({"format": 1, "schedule": ["fastv"]}, "schedule[0] should be"),
    "two levels": ({"format": 1, "schedule": [], "keep": 4}, "beside schedule it has keep; put options into the entries"),
    "a list": ([{"method": "fastv", "keep": 4}], "has format None"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_no_configuration_is_refused_in_one_line(name: str) -> None:
    data, said = WRONG[name]
    with pytest.raises(RecordError) as caught:
        method_from_dict(data)
    assert str(caught.value).startswith("this dictionary is not a method's configuration: ")
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_entry_of_a_schedule_is_named(tmp_path: Path) -> None:
    path = tmp_path / "two.json"
    path.write_text(json.dumps({"format": 1, "schedule": [{"method": "fastv", "keep": 4}, {"method": "pool", "kep": 4}]}))
    with pytest.raises(RecordError, match=r"schedule\[1\] of .*two\.json is not a method's configuration: pool has no option 'kep'"):
        load_method(path)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("format: 1\nmethod: fastv\nkeep: 4\nkeep: 5\n", "the key 'keep' twice, the second time in line 4"),
        ("format: &a 1\nmethod: fastv\nkeep: *a\n", "an alias in line 3; write the value out"),
        ("format: 1\nmethod: fastv\n4: 5\n", "a key in line 3 that is not text"),
        ("format: 1\nmethod: fastv\nkeep: !!python/object/apply:os.getcwd []\n", "it is not YAML (could not determine a constructor"),
        ("format: 1\nmethod: [fastv\n", "it is not YAML (while parsing"),
        ("a: 1\n---\nb: 2\n", "it is not YAML (expected a single document"),
        ("format: 1\nmethod: fastv\nkeep: 2026-01-01\n", "its values cannot be written as JSON"),
        ("format: 1\nmethod: fastv\nkeep: .nan\n", "should be a finite number"),
        ("[" * 300, "it is not YAML"),
        ("", "has format None"),
        ("\x00", "it is not YAML"),
        ("format: 1\nmethod: fastv\nkeep: !!int ''\n", "it is not YAML (IndexError"),
        ("format: 1\nmethod: fastv\nclamp: !!bool maybe\n", "it is not YAML (KeyError"),
        ("format: 1\nmethod: fastv\nkeep: !!timestamp soon\n", "it is not YAML (AttributeError"),
    ],
)
def test_yaml_that_json_could_not_say_is_refused(text: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "method.yaml"
    path.write_text(text)
    with pytest.raises(RecordError) as caught:
        load_method(path)
    assert said in str(caught.value)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


def test_files_that_cannot_be_read_or_written_are_refused(tmp_path: Path) -> None:
    for act in (load_method, lambda path: save_method(FastV(4), path)):
        with pytest.raises(InputError, match=r"method\.toml does not say its format; end the name in \.json, \.yaml or \.yml"):
            act(tmp_path / "method.toml")
    for suffix in ("json", "yaml"):
        (tmp_path / f"folder.{suffix}").mkdir()
        (tmp_path / f"large.{suffix}").write_text(" " * 2**20)
        for name, said in (("folder", "it is a folder"), ("large", "is larger than"), ("missing", "no such file")):
            with pytest.raises(RecordError, match=said):
                load_method(tmp_path / f"{name}.{suffix}")


@pytest.mark.parametrize(
    ("method", "said"),
    [
        (Oracle(relevance=[torch.ones(4)]), r"Oracle cannot be saved: relevance holds .*Relevance\.save"),
        (Explainer(compressor=untrained()), r"Explainer cannot be saved: compressor holds .*ConvCompressor.*save_pretrained\(folder\)"),
    ],
    ids=["oracle", "explainer"],
)
def test_what_lives_in_memory_alone_says_how_to_save_it(method: Method, said: str, tmp_path: Path) -> None:
    for act in (method.to_dict, method.to_json, lambda: save_method(method, tmp_path / "method.json"), lambda: method_to_dict([method])):
        with pytest.raises(OptionError, match=said):
            act()
    assert not list(tmp_path.iterdir())


class Edge(Enum):
    """Which edge to keep."""

    LEFT = "left"
    TOP = "top"


@foveate.register
@dataclass(frozen=True)
class Rich(Method):
    """Has options of many types."""

    edge: Edge = Edge.LEFT
    sizes: tuple[int, ...] = (1, 2)
    weights: dict[str, float] = field(default_factory=dict)
    limit: int | None = None
    anything: Any = None
    give: Callable[[Tensor], Tensor] | None = None

    def score(self, view: foveate.View) -> Tensor:
        return view.states[:, 0]


RICH = registry._methods.pop("rich")


def test_options_of_many_types_survive(tmp_path: Path) -> None:
    foveate.register(RICH)
    for method in (Rich(4), Rich(4, edge=Edge.TOP, sizes=(3,), weights={"a": 0.5}, limit=7, anything=[1, {"b": None}])):
        for name in ("rich.json", "rich.yaml"):
            save_method(method, tmp_path / name)
            assert load_method(tmp_path / name) == method
    assert parse_method("rich:sizes=(3, 4),weights={'a': 1},limit=7,anything=[1, 2],keep=4,edge=top") == Rich(
        4, edge=Edge.TOP, sizes=(3, 4), weights={"a": 1.0}, limit=7, anything=[1, 2]
    )
    assert parse_method("rich:keep=4,limit=none,edge=left") == Rich(4)


def test_types_that_only_a_type_checker_sees_are_those_of_the_defaults() -> None:
    @foveate.register
    @dataclass(frozen=True)
    class Half(Rich):
        count: "Unknown" = 3  # type: ignore[name-defined] # noqa: F821, UP037
        other: "Unknown" = None  # type: ignore[name-defined] # noqa: F821, UP037
        known: Edge = Edge.TOP

    method = parse_method("half:count=4,other=[1],keep=2,sizes=(5,),known=left")
    assert method == Half(2, count=4, other=[1], sizes=(5,), known=Edge.LEFT) == method_from_dict(method.to_dict())
    for text, said in (
        ("half:keep=x", "keep=x should be an integer or a number"),
        ("half:keep=2,count=x", "count=x should be a valid int"),
    ):
        with pytest.raises(InputError, match=said):
            parse_method(text)


def test_options_are_listed_with_plain_defaults() -> None:
    @dataclass(frozen=True)
    class Listed(Rich):
        place: Path = Path("here")
        device: torch.device = field(default_factory=lambda: torch.device("cpu"))
        raw: bytes = b"\xff"
        failing: Any = field(default_factory=lambda: {}["here"])

    assert json.loads(json.dumps(options_of(Listed).defaults)) == {
        "keep": None,
        "layer": 2,
        "clamp": False,
        "edge": "left",
        "sizes": [1, 2],
        "weights": {},
        "limit": None,
        "anything": None,
        "give": None,
        "place": "here",
        "device": "cpu",
        "raw": r"b'\xff'",
        "failing": None,
    }
    assert options_of(Listed).required == ("keep",)


@pytest.mark.parametrize(
    ("method", "error", "said"),
    [
        (Rich(4, give=torch.neg), OptionError, "give holds an object of this process"),
        (Rich(4, anything=b"\xff"), OptionError, r"anything holds an object of this process \(bytes\)"),
        (Rich(4, anything=(1, 2)), MethodError, "anything would not be the same when read"),
        (Rich(4, anything=float("inf")), MethodError, "finite number"),
        ("fastv", UsageError, r"got the name 'fastv'.*foveate\.parse_method"),
        ([], UsageError, "non-empty list"),
    ],
)
def test_what_would_not_come_back_is_not_saved(method: Any, error: type[Exception], said: str, tmp_path: Path) -> None:
    foveate.register(RICH)
    with pytest.raises(error, match=said):
        save_method(method, tmp_path / "method.json")
    assert not list(tmp_path.iterdir())


def test_a_method_without_a_registered_name_is_not_saved() -> None:
    with pytest.raises(MethodError, match=r"Rich cannot be saved: .*unknown method 'rich'"):
        method_to_dict(Rich(4))

    @dataclass(frozen=True)
    class Other(FastV):
        name = "fastv"

    with pytest.raises(MethodError, match="Other cannot be saved: the name 'fastv' stands for another class"):
        method_to_dict(Other(4))


def test_arguments_fill_in_what_the_text_does_not_say() -> None:
    assert parse_method("fastv", keep=4, layer=3, seed=5, clamp=True) == FastV(4, 3, True)
    assert parse_method("random:seed=7,layer=1", keep=4, layer=3, seed=5) == Random(4, 1, seed=7)
    assert parse_method(" Token-Carve : stage-one = 1 , keep = 9 ") == TokenCarve(9, stage_one=1)
    assert parse_method("tokencarve:stage_one=1:keep=9") == TokenCarve(9, stage_one=1)
    assert parse_method(r"explainer:compressor=C:\made, here,keep=0.5").compressor == r"C:\made, here"  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("text", "error", "said"),
    [
        ("fastv", InputError, "fastv needs keep: visual tokens per image, such as keep=128, or a share"),
        ("fastw:keep=4", UnknownNameError, "did you mean 'fastv'"),
        ("", UnknownNameError, "known methods are"),
        ("fastv:", InputError, "no option after the colon; write fastv, or fastv:option=value"),
        (":keep=4", InputError, "':keep=4' names no method before the colon; write name:option=value"),
        ("fastv:keep", InputError, "'keep' must be name=value"),
        ("fastv:keep=", InputError, "fastv: 'keep=' must be name=value, such as keep=..."),
        ("fastv:kep=4", InputError, "fastv has no option 'kep': did you mean 'keep'? it has keep, layer, clamp"),
        ("fastv:keep=4,keep=5", InputError, "keep is given twice, as 4 and '5'; keep one"),
        ("fastv:keep=x", InputError, "fastv: keep=x should be an integer or a number"),
        ("fastv:keep=nan", InputError, "keep=nan should be"),
        ("fastv:keep=True", InputError, "keep=True should be"),
        ("fastv:keep=1e999", InputError, "keep=1e999 should be"),
        ("random:keep=4,seed=1.5", InputError, "random: seed=1.5 should be a valid integer"),
        ("tokencarve:keep=4,source=x", InputError, "source=x should be 'hidden' or 'attention_output'"),
        ("tokencarve:keep=4,stage_one=3", OptionError, "stage_one=3.0 must be a number in [1, 2]"),
        ("fastv:keep=0", BudgetError, "at least 1 token"),
        ("fastv:keep=4,layer=-1", LayerError, "layer=-1"),
        ("oracle", OptionError, "needs the true relevance"),
    ],
)
def test_text_that_spells_no_method_is_refused_in_one_line(text: str, error: type[Exception], said: str) -> None:
    with pytest.raises(error) as caught:
        parse_method(text)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
    assert " --" not in str(caught.value)


@pytest.mark.parametrize("given", [None, 4, b"fastv", FastV, FastV(4), ["fastv"]])
def test_what_is_not_text_spells_no_method(given: Any) -> None:
    with pytest.raises(UsageError, match=r"^parse_method\(\) takes text, such as 'fastv:keep=128'; got "):
        parse_method(given, keep=4)


def test_a_list_of_methods_is_split_between_them() -> None:
    assert split_methods("fastv") == ["fastv"]
    assert split_methods("tokencarve:information=fast,stage_one=1,fastv, random:seed=3") == [
        "tokencarve:information=fast,stage_one=1",
        "fastv",
        "random:seed=3",
    ]
    assert split_methods("fastv,,pool,") == ["fastv", "pool"]
    assert split_methods("") == []
