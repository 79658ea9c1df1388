"""Qwen2-VL, Qwen2.5-VL and Qwen3-VL under vLLM: what stays, where it is, and what is answered, against transformers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
import torch
from PIL import Image

pytest.importorskip("vllm", reason="vLLM is not installed")

import qwen_folders
from transformers import AutoModelForImageTextToText

import foveate
from foveate import Method, Plan, View
from foveate.errors import BudgetError
from foveate.methods.configuration import method_from_dict
from foveate.plugins.vllm.requests import ItemRequest
from foveate.plugins.vllm.settings import ServingSettings

METHODS: dict[str, dict[str, Any]] = {
    "tokencarve": {"method": "tokencarve", "keep": 6},
    "fastv": {"method": "fastv", "keep": 5, "layer": 3},
    "explainer": {"method": "explainer", "keep": 6, "compressor": "untrained"},
    "first layer": {"method": "firstlayerattention", "keep": 0.25},
    "pool": {"method": "pool", "keep": 6},
}
WIDE, TALL, LARGE = (84, 56), (42, 98), (112, 98)
START = "<|im_start|> user"
PICTURE = "<|vision_start|><|image_pad|><|vision_end|>"
CLIP = "<|vision_start|><|video_pad|><|vision_end|>"
ASK = "w1 w2 w3 ? <|im_end|> <|im_start|> assistant"
TOLERANCE = 1e-4


def picture(size: tuple[int, int], seed: int = 0) -> Image.Image:
    width, height = size
    noise = torch.randint(0, 256, (height, width, 3), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)
    return Image.fromarray(noise.numpy())


@dataclass(frozen=True)
class Given(Method):
    """Returns given plans in turn, one per image."""

    keep: int | float = 1.0
    layer: int = 0
    targets: tuple[tuple[int, ...], ...] = ()
    exact: ClassVar[bool] = False

    def plans(self, views: Sequence[View]) -> list[Plan]:
        return [Plan(torch.tensor(self.targets[number % len(self.targets)])) for number in range(len(views))]


@dataclass
class Reference:
    """The same checkpoint in transformers."""

    model: Any
    processor: Any

    def inputs(self, prompt: str, **media: Any) -> Any:
        return self.processor(text=[prompt], return_tensors="pt", **media)

    def plans(self, method: dict[str, Any], inputs: Any) -> list[Plan]:
        with foveate.compress(self.model, method_from_dict({"format": 1, **method, "clamp": True})) as handle, torch.no_grad():
            self.model(**inputs)
            return [image.plan for image in handle.report.images]

    def continued(self, inputs: Any, plans: Sequence[Plan], tokens: int = 6) -> tuple[list[int], list[float]]:
        """Greedy tokens and their log-probabilities, where only what the plans say enters the language model."""
        with foveate.compress(self.model, Given(targets=tuple(tuple(plan.to_list()) for plan in plans))):
            options = {"max_new_tokens": tokens, "do_sample": False, "return_dict_in_generate": True, "output_logits": True}
            found = self.model.generate(**inputs, **options)
        ids = found.sequences[0, -tokens:].tolist()
        logs = [float(logits[0].log_softmax(-1)[token]) for logits, token in zip(found.logits, ids, strict=True)]
        return ids, logs


@dataclass
class Pair:
    """One architecture, served and in transformers."""

    name: str
    served: Any
    reference: Reference

    def check(self, output: Any, inputs: Any, plans: Sequence[Plan]) -> None:
        """An answer is that of transformers with the same plans."""
        tokens, logs = self.reference.continued(inputs, plans)
        found = output.outputs[0]
        assert list(found.token_ids) == tokens
        assert [step[token].logprob for step, token in zip(found.logprobs, tokens, strict=True)] == pytest.approx(logs, abs=TOLERANCE)

    @contextmanager
    def chunks(self, tokens: int) -> Iterator[None]:
        """Prefills in chunks of that many tokens."""
        config = self.served.llm.llm_engine.engine_core.engine_core.scheduler.scheduler_config
        before, config.long_prefill_token_threshold = config.long_prefill_token_threshold, tokens
        yield
        config.long_prefill_token_threshold = before


@pytest.fixture(scope="module", params=list(qwen_folders.NAMES))
def pair(request: pytest.FixtureRequest, serve: Any, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    folder = qwen_folders.write(request.param, tmp_path_factory.mktemp("checkpoint") / "model")
    served = serve(folder, {"method": METHODS["tokencarve"]}, limit_mm_per_prompt={"image": 3, "video": 1})
    model = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32).eval()
    return Pair(request.param, served, Reference(model, served.processor))


@pytest.fixture(autouse=True)
def fresh(pair: Pair) -> None:
    pair.served.forget()


def request_for(prompt: str, *images: Any, **kwargs: Any) -> dict[str, Any]:
    found: dict[str, Any] = {"prompt": prompt}
    if images:
        found["multi_modal_data"] = {"image": list(images)}
    return {**found, "mm_processor_kwargs": kwargs} if kwargs else found


@pytest.mark.parametrize("name", METHODS)
def test_the_choice_and_the_answer_are_those_of_transformers(name: str, pair: Pair) -> None:
    pair.served.use({"method": METHODS[name]})
    for number, size in enumerate((WIDE, TALL)):
        image, prompt = picture(size, number), f"{START} w9 {PICTURE} {ASK}"
        (output,) = pair.served.generate([request_for(prompt, image)])
        plans = pair.served.plans
        pair.served.forget()
        inputs = pair.reference.inputs(prompt, images=[image])
        assert plans == pair.reference.plans(METHODS[name], inputs)
        assert plans[0].tokens_after < len(plans[0])
        pair.check(output, inputs, plans)


@dataclass(frozen=True)
class ByTower(Method):
    """Ranks by what was read in the vision tower."""

    layer: int = 0
    signal: str = "tower_attention"

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({self.signal})

    def score(self, view: View) -> torch.Tensor:
        values = getattr(view, self.signal)
        return values if values.ndim == 1 else values.norm(dim=1)


@pytest.mark.parametrize("signal", ["tower_attention", "tower_states"])
def test_signals_of_the_vision_tower_are_those_of_transformers(signal: str, pair: Pair) -> None:
    settings = ServingSettings(ByTower(keep=6, signal=signal))
    pair.served.use({"method": METHODS["pool"]})
    pair.served.front.settings = pair.served.model.foveate.settings = settings
    images, prompt = [picture(WIDE), picture(TALL, 1)], f"{START} {PICTURE} w9 {PICTURE} {ASK}"
    pair.served.generate([request_for(prompt, *images)], new_tokens=1)
    with foveate.compress(pair.reference.model, settings.method) as handle, torch.no_grad():
        pair.reference.model(**pair.reference.inputs(prompt, images=images))
    assert pair.served.plans == [image.plan for image in handle.report.images]


def test_a_seed_gives_the_same_choice_for_the_same_image(pair: Pair) -> None:
    method = {"method": "random", "keep": 6, "seed": 3}
    pair.served.use({"method": method})
    image, prompt = picture(WIDE), f"{START} {PICTURE} {ASK}"
    (output,) = pair.served.generate([request_for(prompt, image)])
    (plan,), (key,) = pair.served.plans, pair.served.model.foveate.features._kept
    fingerprint = ItemRequest(key, 6).fingerprint
    assert plan == method_from_dict({"format": 1, **method}).plans([View(torch.zeros(24, 1), (1, 4, 6), fingerprint=fingerprint)])[0]
    pair.check(output, pair.reference.inputs(prompt, images=[image]), [plan])


@pytest.mark.parametrize("name", ["tokencarve", "pool"])
@pytest.mark.parametrize("tokens", [0, 5, 9])
def test_two_images_of_different_sizes_and_chunks_that_end_inside_them(name: str, tokens: int, pair: Pair) -> None:
    pair.served.use({"method": METHODS[name]})
    images, prompt = [picture(LARGE), picture(TALL, 1)], f"{START} w9 {PICTURE} w8 w7 {PICTURE} {ASK}"
    with pair.chunks(tokens):
        (output,) = pair.served.generate([request_for(prompt, *images)])
    assert [len(plan) for plan in pair.served.plans] == [56, 21]
    pair.check(output, pair.reference.inputs(prompt, images=images), pair.served.plans)


def test_the_tower_takes_no_more_at_once_than_the_server_planned_for(pair: Pair) -> None:
    pair.served.use({"method": METHODS["tokencarve"]})
    images, prompt = [picture(LARGE), picture(TALL, 1), picture(WIDE, 2)], f"{START} {PICTURE} {PICTURE} {PICTURE} {ASK}"
    model = pair.served.model
    model.foveate._at_once = 21 + 24
    sizes: list[int] = []
    hook = model.visual.register_forward_pre_hook(lambda module, args, kwargs: sizes.append(len(args[0])), with_kwargs=True)
    (output,) = pair.served.generate([request_for(prompt, *images)])
    hook.remove()
    assert sizes == [4 * 56, 4 * (21 + 24)]
    pair.check(output, pair.reference.inputs(prompt, images=images), pair.served.plans)


def test_a_second_turn_finds_half_an_image_in_the_prefix_cache(pair: Pair) -> None:
    pair.served.use({"method": {**METHODS["tokencarve"], "keep": 16}})
    image = picture(LARGE)
    prompt = f"{START} {'w5 ' * 22} {PICTURE} {ASK}"
    first_visual = 26
    (first,) = pair.served.generate([request_for(prompt, image)])
    assert first.prompt_token_ids.index(pair.reference.model.config.image_token_id) < first_visual < 32 < first_visual + 16
    inputs = pair.reference.inputs(prompt, images=[image])
    plans = pair.served.plans
    pair.check(first, inputs, plans)
    longer = f"{prompt} w4 <|im_end|> <|im_start|> user w6 ? <|im_end|> <|im_start|> assistant"
    (second,) = pair.served.generate([request_for(longer, image)])
    assert second.num_cached_tokens == 32
    assert pair.served.plans == plans, "the choice is made once"
    pair.check(second, pair.reference.inputs(longer, images=[image]), plans)


def test_requests_with_and_without_images_run_together(pair: Pair) -> None:
    pair.served.use({"method": METHODS["tokencarve"]})
    images = [picture(WIDE), picture(TALL, 1), picture(LARGE, 2)]
    seen = [f"{START} w{number} {PICTURE} {ASK}" for number in range(3)]
    blind = [f"{START} w{number} {'w5 ' * number} {ASK}" for number in (3, 9)]
    requests = [request_for(seen[0], images[0]), request_for(blind[0]), request_for(seen[1], images[1]), request_for(blind[1])]
    with pair.chunks(7):
        outputs = pair.served.generate([*requests, request_for(seen[2], images[2])])
    for prompt, image, output in zip(seen, images, (outputs[0], outputs[2], outputs[4]), strict=True):
        inputs = pair.reference.inputs(prompt, images=[image])
        pair.check(output, inputs, pair.reference.plans(METHODS["tokencarve"], inputs))
    for prompt, output in zip(blind, (outputs[1], outputs[3]), strict=True):
        pair.check(output, pair.reference.inputs(prompt), [])


def test_requests_have_budgets_of_their_own(pair: Pair) -> None:
    pair.served.use({"method": METHODS["fastv"], "max_keep": 20})
    image, prompt = picture(WIDE), f"{START} {PICTURE} {ASK}"
    for keep in (2, 20):
        (output,) = pair.served.generate([request_for(prompt, image, foveate_keep=keep)])
        inputs = pair.reference.inputs(prompt, images=[image])
        plans = pair.reference.plans({**METHODS["fastv"], "keep": keep}, inputs)
        assert pair.served.plans[-1:] == plans
        assert plans[0].tokens_after == keep
        pair.check(output, inputs, plans)
    with pytest.raises(BudgetError, match=r"keep=21 .* above the 20"):
        pair.served.generate([request_for(prompt, image, foveate_keep=21)])


def test_a_prompt_beyond_the_last_rotary_position_is_refused(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    pair.served.use({"method": METHODS["pool"]})
    image, prompt = picture(WIDE), f"{START} {PICTURE} {ASK}"
    config = pair.served.front.info.get_hf_config().get_text_config()
    pair.served.generate([request_for(prompt, image)])
    monkeypatch.setattr(config, "max_position_embeddings", 4)
    with pytest.raises(ValueError, match="and the model has 16"):
        pair.served.generate([request_for(prompt, image)])


@pytest.mark.parametrize("name", ["pool", "fastv"])
@pytest.mark.parametrize("tokens", [0, 9])
def test_the_tokens_of_a_video_share_one_budget(name: str, tokens: int, pair: Pair) -> None:
    pair.served.use({"method": {**METHODS[name], "keep": 4}})
    frames = torch.randint(0, 256, (8, 56, 84, 3), generator=torch.Generator().manual_seed(5), dtype=torch.uint8).numpy()
    metadata = {"fps": 4.0, "duration": 2.0, "total_num_frames": 8, "frames_indices": list(range(8)), "video_backend": "opencv"}
    prompt = f"{START} w9 {CLIP} {ASK}"
    video = frames if pair.name == "qwen2_vl" else (frames, {**metadata, "do_sample_frames": False})
    with pair.chunks(tokens):
        (output,) = pair.served.generate([{"prompt": prompt, "multi_modal_data": {"video": video}}])
    inputs = pair.reference.inputs(prompt, videos=[frames], video_metadata=[metadata], do_sample_frames=False)
    plans = pair.reference.plans({**METHODS[name], "keep": 4}, inputs)
    assert pair.served.plans == plans
    assert plans[0].tokens_after == 4 * 4 < len(plans[0])
    pair.check(output, inputs, plans)
