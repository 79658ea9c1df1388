"""The sections of `benchmarks/gpu.py`, in order of importance."""

from __future__ import annotations

import copy
import shutil
import subprocess
import time
import warnings
from collections import Counter
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import CompileConfig

import foveate
from foveate import FastV, Method, Pool, Random, TokenCarve
from foveate.engine.arguments import as_argument, cache_of
from foveate.errors import FoveateError
from foveate.measure.bench.generating import Decoding
from foveate.measure.bench.memory import peak_memory
from foveate.measure.bench.prompts import random_prompt
from foveate.measure.bench.records import Group, Quartiles, Run
from foveate.measure.bench.shapes import ImageFormat, ModelShape, Scale, build, find_shape
from foveate.measure.bench.speed import measure
from foveate.measure.facts import facts
from foveate.methods import Explainer, information_contribution

Keep = Callable[[dict[str, Any]], None]
BEFORE, AFTER = 36, 40
"""Tokens of text around the image, as in the prompt that papers measure with."""
SHARE = 128 / 576
"""Of the visual tokens, what stays."""


@dataclass
class Card:
    """Where the sections run, and until when.

    Attributes:
        device: CUDA, or a CPU to see that the script runs.
        end: seconds since the epoch.
        small: tiny models and few rounds.
        models: made so far, by name.
    """

    device: torch.device
    end: float
    small: bool
    models: dict[str, tuple[nn.Module, ImageFormat]] = field(default_factory=dict)

    @classmethod
    def here(cls, device: str | None, end: float, *, small: bool) -> Card:
        """On the device of that name, or on the best there is."""
        return cls(torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu")), end, small)

    def left(self) -> float:
        """Seconds."""
        return self.end - time.time()

    def usable(self) -> bool:
        """Whether the device still works; after some errors it does not, in this process."""
        try:
            self.wait()
        except RuntimeError:
            return False
        return True

    def wait(self) -> None:
        """Until all work is done."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def model(self, name: str) -> tuple[nn.Module, ImageFormat]:
        """A shape with random weights, made on the device, and how it is given a picture."""
        if name not in self.models:
            shape = _tiny(find_shape(name)) if self.small else find_shape(name)
            dtype = torch.bfloat16 if self.device.type == "cuda" else torch.float32
            self.models[name] = build(shape, device=self.device, dtype=dtype), shape.picture
        return self.models[name]

    def until(self, seconds: float) -> Callable[[], bool]:
        """True once that many seconds have passed, or the end is near."""
        end = min(time.time() + seconds, self.end - 10)
        return lambda: time.time() > end


@dataclass(frozen=True)
class Section:
    """One part of the results.

    Attributes:
        run: measures on a card, hands over what there is so far, and returns the whole.
        least: seconds without which it does not start.
        timed: whether nothing else may run on the device meanwhile.
        model: the shape that it needs first.
    """

    run: Callable[[Card, Keep], dict[str, Any]]
    least: float
    timed: bool = True
    model: str | None = None

    def prepare(self, card: Card) -> None:
        """Make the model, which takes seconds that need not be waited for."""
        if self.model is not None:
            card.model(self.model)


def fits(card: Card, section: Section) -> bool:
    """Whether there is time for a section."""
    return card.small or card.left() > section.least


def gpu_facts(card: Card) -> dict[str, Any]:
    """Versions, machine, card and driver."""
    found = facts()
    if card.device.type != "cuda":
        return found
    properties = torch.cuda.get_device_properties(card.device)
    found |= {"memory": properties.total_memory, "multiprocessors": properties.multi_processor_count}
    asked = "driver_version,power.limit,clocks.max.sm,clocks.max.mem"
    if shutil.which("nvidia-smi"):
        done = subprocess.run(["nvidia-smi", f"--query-gpu={asked}", "--format=csv,noheader"], capture_output=True, text=True, check=False)
        if done.returncode == 0:
            found |= dict(zip(asked.split(","), map(str.strip, done.stdout.strip().split("\n")[0].split(",")), strict=False))
    return found


# The methods.


def _information() -> tuple[str, str]:
    """Both ways of measuring information: the one for accelerators, and the exact one."""
    try:
        TokenCarve(keep=1, information="auto")  # type: ignore[arg-type]
    except FoveateError:
        return "fast", "exact"
    return "auto", "exact"


def _carve(keep: int | float, information: str) -> Method:
    return TokenCarve(keep, information=information)  # type: ignore[arg-type]


def _methods(tokens: int, *, exact: bool = True) -> list[Method]:
    keep = max(1, round(SHARE * tokens))
    kinds = _information() if exact else _information()[:1]
    return [FastV(keep), *(_carve(keep, kind) for kind in kinds), Explainer(keep, compressor="untrained")]


# Waits.


def waits(card: Card, keep: Keep) -> dict[str, Any]:
    """How often the host waits for the device, by torch's own debug mode: in a second prefill, and in a decoding step."""
    if card.device.type != "cuda":
        return {"skipped": "torch counts waits on CUDA alone"}
    found: dict[str, Any] = {"rows": []}
    shape = find_shape("llava-1.5-7b")
    for layers in (8, 32):
        small = shape.scaled(Scale(hidden=256, layers=layers))
        model = build(small, device=card.device, dtype=torch.bfloat16)
        for batch in (1, 8):
            inputs = random_prompt(model, small.picture, before=BEFORE, after=AFTER, batch=batch)
            for method in (None, *_methods(576), Random(128), Pool(128)):
                around: AbstractContextManager[Any] = nullcontext() if method is None else foveate.compress(model, method)
                with around, torch.no_grad():
                    _prefill(model, inputs)
                    prefill, output = _waits_of(partial(_prefill, model, inputs))
                    token = output.logits[:, -1:].argmax(-1)
                    step, _ = _waits_of(partial(model, input_ids=token, **as_argument(cache_of(output)), use_cache=True))
                name = "full" if method is None else str(method)
                found["rows"].append({"layers": layers, "batch": batch, "name": name, "prefill": prefill, "step": step})
            keep(found)
    return found


def _prefill(model: nn.Module, inputs: dict[str, Tensor]) -> Any:
    return model(**inputs, use_cache=True, logits_to_keep=1)


def _waits_of(call: Callable[[], Any]) -> tuple[dict[str, int], Any]:
    """The number of waits by the line of Python that made them, and what the call returned."""
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            output = call()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    places = Counter(f"{_inside(warning.filename)}:{warning.lineno}" for warning in caught if "synchroniz" in str(warning.message))
    return dict(places.most_common()), output


def _inside(file: str) -> str:
    """A path from its package on."""
    parts = Path(file).parts
    for package in ("foveate", "transformers", "torch"):
        if package in parts:
            return "/".join(parts[len(parts) - parts[::-1].index(package) - 1 :])
    return Path(file).name


# Prefill, compiled layers, decoding, long prompts.


def _group(card: Card, name: str, side: int | None, batch: int, methods: Callable[[int], list[Method]], **options: Any) -> dict[str, Any]:
    """One measurement of `foveate bench` as plain values."""
    model, picture = card.model(name)
    picture = picture if side is None else picture.sized(side, side)
    inputs = random_prompt(model, picture, before=BEFORE, after=AFTER, batch=batch)
    return _plain(measure(model, inputs, methods(picture.tokens), **options))


def _plain(group: Group) -> dict[str, Any]:
    plain: dict[str, Any] = Run({}, "", {}, {}, [group]).to_dict()["groups"][0]
    return plain


def prefill(card: Card, keep: Keep) -> dict[str, Any]:
    """LLaVA-1.5-7B's shape at three batch sizes, cut to 128 tokens."""
    found: dict[str, Any] = {"groups": []}
    plan = ((2, 1, 10.0),) if card.small else ((1, 15, 25.0), (8, 7, 30.0), (32, 5, 45.0))
    for batch, rounds, seconds in plan:
        if card.left() < seconds / 2:
            break
        options = {"rounds": rounds, "new_tokens": (1, 2), "until": card.until(seconds)}
        found["groups"].append(_group(card, "llava-1.5-7b", None, batch, _methods, **options))
        keep(found)
    return found


def compiled_layers(card: Card, keep: Keep) -> dict[str, Any]:
    """The same at batch 1, with compiled layers after the cut: CUDA graphs of generated code."""
    options = {"rounds": 2 if card.small else 12, "new_tokens": (1, 2), "until": card.until(110)}
    return {"groups": [_group(card, "llava-1.5-7b", None, 1, partial(_methods, exact=False), compiled_layers=True, **options)]}


def decode(card: Card, keep: Keep) -> dict[str, Any]:
    """Tokens by `generate`: as it comes, and with a static cache and a step of CUDA graphs."""
    return _decoding(card, _cudagraphs(card))


def decode_stock(card: Card, keep: Keep) -> dict[str, Any]:
    """The same with the compiler that transformers chooses, which takes minutes."""
    return _decoding(card, None)


def _decoding(card: Card, compilation: CompileConfig | None) -> dict[str, Any]:
    ways: tuple[Decoding, ...] = ("generate", "compiled")
    counts = (1, 2, 4) if card.small else (1, 16, 128)
    options: dict[str, Any] = {"rounds": 2 if card.small else 4, "new_tokens": counts, "decodings": ways, "compilation": compilation}

    def one(tokens: int) -> list[Method]:
        return [FastV(max(1, round(SHARE * tokens)))]

    group = _group(card, "llava-1.5-7b", None, 1, one, until=card.until(40), **options)
    compiler = "transformers' own choice" if compilation is None else f"CompileConfig(backend={compilation.backend!r})"
    return {"groups": [group], "compilation": compiler}


def _cudagraphs(card: Card) -> CompileConfig:
    """Graphs without a compiler, which would take a minute for 32 layers."""
    return CompileConfig(backend="cudagraphs" if card.device.type == "cuda" else "eager", mode="default", dynamic=False)


def long_prompts(card: Card, keep: Keep) -> dict[str, Any]:
    """Qwen2.5-VL-7B's shape with 2,304 and 6,400 visual tokens."""
    found: dict[str, Any] = {"groups": []}
    for side, rounds in ((112, 1), (168, 1)) if card.small else ((48 * 28, 6), (80 * 28, 5)):
        if card.left() < 15:
            break
        options = {"rounds": rounds, "new_tokens": (1, 2), "until": card.until(25)}
        found["groups"].append(_group(card, "qwen2.5-vl-7b", side, 1, partial(_methods, exact=False), **options))
        keep(found)
    return found


# Relevance and information.


def relevance(card: Card, keep: Keep) -> dict[str, Any]:
    """Memory and time of `foveate.relevance` on LLaVA-1.5-7B's shape, for three answer tokens."""
    model, picture = card.model("llava-1.5-7b")
    inputs = random_prompt(model, picture, before=BEFORE, after=AFTER)
    model.requires_grad_(False)
    found: dict[str, Any] = {"tokens": inputs["input_ids"].shape[1], "answer_tokens": 3}
    spent = []
    for _ in range(2 if card.small else 4):
        with peak_memory(card.device) as memory:
            card.wait()
            start = time.perf_counter()
            foveate.relevance(model, inputs, [[11, 12, 13]])
            card.wait()
            spent.append(time.perf_counter() - start)
    with peak_memory(card.device) as plain, torch.no_grad():
        _prefill(model, inputs)
        card.wait()
    figure = Quartiles.of(spent[1:])
    weights = sum(parameter.nbytes for parameter in model.parameters())
    return {**found, "seconds": vars(figure), "added": memory.added, "prefill_added": plain.added, "weights": weights, "tool": memory.tool}


def information(card: Card, keep: Keep) -> dict[str, Any]:
    """The information contribution alone, of one picture and of eight, and of one long prompt where that is possible."""
    found: dict[str, Any] = {"rows": []}
    sizes = ((1, 64, 128), (8, 64, 128)) if card.small else ((1, 576, 4096), (8, 576, 4096), (1, 2304, 3584), (1, 6400, 3584))
    for batch, tokens, width in sizes:
        states = _decaying(batch, tokens, width).to(card.device, torch.bfloat16)
        for kind in _information():
            if kind == "exact" and tokens > 2304:
                continue
            call = partial(information_contribution, states, kind)  # type: ignore[arg-type]
            try:
                times = _milliseconds(card, call, 20 if kind == "exact" else 50)
            except (FoveateError, ValueError) as error:
                found["rows"].append({"pictures": batch, "tokens": tokens, "width": width, "kind": kind, "reason": f"{error!s:.200}"})
                continue
            found["rows"].append({"pictures": batch, "tokens": tokens, "width": width, "kind": kind, "milliseconds": vars(times)})
            keep(found)
    return found


def _milliseconds(card: Card, call: Callable[[], Any], times: int) -> Quartiles:
    """Median and quartiles on the clock, the device waited for at both ends of each call."""
    for _ in range(3):
        call()
    spent: list[float] = []
    while len(spent) < times and (len(spent) < 3 or sum(spent) < 2000):
        card.wait()
        start = time.perf_counter()
        call()
        card.wait()
        spent.append(1e3 * (time.perf_counter() - start))
    return Quartiles.of(spent)


def _decaying(batch: int, tokens: int, width: int) -> Tensor:
    """Random states whose columns decay by a power law, as those of a trained model do."""
    generator = torch.Generator().manual_seed(0)
    return torch.randn(batch, tokens, width, generator=generator) * torch.arange(1, width + 1).float() ** -0.7


def _tiny(shape: ModelShape) -> ModelShape:
    """The shape with few narrow layers and small pictures."""
    scaled = shape.scaled(Scale(hidden=256 if "qwen" in shape.name else 128, layers=4))
    if scaled.picture.layout != "square":
        return scaled
    config = copy.deepcopy(dict(scaled.config))
    config["vision_config"]["image_size"] = side = 6 * scaled.picture.pixels_per_token
    config |= {name: 36 for name in ("image_seq_length",) if name in config}
    return replace(scaled, config=config, picture=replace(scaled.picture, width=side, height=side))


SECTIONS = {
    "waits": Section(waits, 20, timed=False),
    "prefill": Section(prefill, 40, model="llava-1.5-7b"),
    "decode": Section(decode, 50),
    "long_prompts": Section(long_prompts, 40),
    "relevance": Section(relevance, 15),
    "information": Section(information, 10),
    "compiled_layers": Section(compiled_layers, 120),
    "decode_stock": Section(decode_stock, 100),
}
