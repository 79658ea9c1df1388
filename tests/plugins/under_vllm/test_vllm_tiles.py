"""LLaVA-NeXT and LLaVA-OneVision under vLLM: what stays and what is answered, against transformers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

pytest.importorskip("vllm", reason="vLLM is not installed")

import tiny_tiles
import transformers
from safetensors.torch import load_file
from tiny_tiles import frames, picture

import foveate
from foveate.methods.configuration import method_from_dict
from foveate.plan import Plan

TEXT = "w3 <image> w5 w6 w7 w8"
VIDEO = TEXT.replace("<image>", "<video>")
SIZES = ((50, 50), (20, 60), (60, 20), (130, 97), (300, 300), (4, 100), (100, 4))
"""(height, width): square, wide, tall, odd, large, and so far from square that nothing but newlines is left of the tiles."""


METHODS: dict[str, dict[str, Any]] = {
    "tokencarve": {"method": "tokencarve", "keep": 12},
    "tokencarve late": {"method": "tokencarve", "keep": 0.25, "layer": 3, "source": "attention_output"},
    "fastv": {"method": "fastv", "keep": 9},
    "explainer": {"method": "explainer", "compressor": "untrained", "keep": 12},
    "first layer": {"method": "firstlayerattention", "keep": 10},
    "pool": {"method": "pool", "keep": 12},
    "tower": {"method": "towerattention", "keep": 12},
}


@dataclass
class Whole:
    """A prompt as the full model takes it in.

    Attributes:
        embeddings: (s, d).
        items: for each image or video its places, and which of these are no newlines.
    """

    embeddings: Tensor
    items: list[tuple[Tensor, Tensor]]


@dataclass
class Reference:
    """The same checkpoint in transformers, and the server."""

    model: Any
    processor: Any
    served: Any
    folder: Path

    def inputs(self, text: str, images: Sequence[Any] = (), videos: Sequence[Any] = ()) -> Any:
        media: dict[str, Any] = {"images": list(images)} if images else {}
        if videos:
            media |= {"videos": [torch.from_numpy(video).permute(0, 3, 1, 2) for video in videos], "do_sample_frames": False}
        return self.processor(text=[text], **media, return_tensors="pt")

    def plans(self, method: dict[str, Any], inputs: Any) -> list[Plan]:
        """What foveate decides in the network."""
        with foveate.compress(self.model, method_from_dict({"format": 1, **method, "clamp": True})) as handle, torch.no_grad():
            self.model(**inputs)
            return [image.plan for image in handle.report.images]

    @torch.no_grad()
    def whole(self, inputs: Any, lengths: Sequence[int]) -> Whole:
        """What enters the decoder, found by running the model. `lengths` are those of the items."""
        caught: list[Tensor] = []
        hook = self.model.model.language_model.register_forward_pre_hook(
            lambda module, args, kwargs: caught.append(kwargs["inputs_embeds"][0]), with_kwargs=True
        )
        self.model(**inputs)
        hook.remove()
        ids, embeddings = inputs["input_ids"][0], caught[0]
        places = torch.isin(ids, torch.tensor([tiny_tiles.IMAGE, tiny_tiles.VIDEO])).nonzero().squeeze(1)
        newline = self.model.model.image_newline
        items = [(own, (embeddings[own] != newline).any(1).nonzero().squeeze(1)) for own in places.split(list(lengths))]
        return Whole(embeddings, items)

    @torch.no_grad()
    def continued(self, whole: Whole, plans: Sequence[Plan], tokens: int = 6) -> tuple[list[int], list[float]]:
        """Greedy tokens and their log-probabilities, from a sequence that was that short from the start."""
        embeddings, stays = whole.embeddings.clone(), torch.ones(len(whole.embeddings), dtype=torch.bool)
        for (places, content), plan in zip(whole.items, plans, strict=True):
            own = places[content]
            stays[own] = False
            stays[own[plan.kept]] = True
            embeddings[own[plan.kept]] = plan.merge(whole.embeddings[own])
        short, at, found, logs = embeddings[stays][None], stays.nonzero().T, [], []  # kept tokens stay where they were
        for _ in range(tokens):
            logits = self.model(inputs_embeds=short, position_ids=at).logits[0, -1].log_softmax(-1)
            found.append(int(logits.argmax()))
            logs.append(float(logits.max()))
            short = torch.cat([short, self.model.get_input_embeddings()(torch.tensor([[found[-1]]]))], dim=1)
            at = torch.cat([at, at[:, -1:] + 1], dim=1)
        return found, logs

    def check(self, output: Any, plans: Sequence[Plan], inputs: Any, lengths: Sequence[int] | None = None) -> None:
        """An answer of the server is that of transformers with as short a sequence."""
        ids = inputs["input_ids"][0]
        if lengths is None:
            lengths = [int(torch.isin(ids, torch.tensor([tiny_tiles.IMAGE, tiny_tiles.VIDEO])).sum())]
        tokens, logs = self.continued(self.whole(inputs, lengths), plans)
        assert len(output.prompt_token_ids) == len(ids) - sum(len(plan) - plan.tokens_after for plan in plans)
        assert list(output.outputs[0].token_ids) == tokens
        found = [step[token].logprob for step, token in zip(output.outputs[0].logprobs, tokens, strict=True)]
        assert found == pytest.approx(logs, abs=1e-4)

    def lengths(self, inputs: Any) -> list[int]:
        """Placeholders of each image."""
        with torch.no_grad():
            found = self.model.get_image_features(pixel_values=inputs["pixel_values"], image_sizes=inputs["image_sizes"])
        return [len(rows) for rows in found.pooler_output]


SAVES = {"llava_next": tiny_tiles.save_next, "llava_onevision": tiny_tiles.save_onevision}


@pytest.fixture(scope="module")
def references(serve: Any, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Reference]:
    """By name; each is made once."""

    @cache
    def reference(name: str) -> Reference:
        folder = SAVES[name](tmp_path_factory.mktemp("saved"))
        served = serve(folder, {"method": METHODS["pool"]})
        model = transformers.AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32).eval()
        return Reference(model, transformers.AutoProcessor.from_pretrained(folder), served, folder)

    return reference


@pytest.fixture(params=SAVES)
def reference(request: pytest.FixtureRequest, references: Callable[[str], Reference]) -> Reference:
    return references(request.param)


@pytest.fixture
def onevision(references: Callable[[str], Reference]) -> Reference:
    return references("llava_onevision")


def request_for(text: str, **media: Any) -> dict[str, Any]:
    return {"prompt": text, "multi_modal_data": media}


def test_rows_and_their_layout_are_those_of_transformers(reference: Reference) -> None:
    reference.served.use({"method": METHODS["pool"]})
    for number, size in enumerate(SIZES):
        shown = picture(*size, seed=number)
        reference.served.generate([request_for(TEXT, image=shown)])
        (features,) = reference.served.model.foveate.features._kept.values()
        reference.served.forget()
        inputs = reference.inputs(TEXT, [shown])
        whole = reference.whole(inputs, reference.lengths(inputs))
        ((places, content),) = whole.items
        torch.testing.assert_close(features.rows, whole.embeddings[places], atol=1e-4, rtol=1e-4)
        assert torch.equal(features.layout.content, content)


@pytest.mark.parametrize("name", METHODS)
def test_the_choice_and_the_answer_are_those_of_transformers(name: str, reference: Reference) -> None:
    reference.served.use({"method": METHODS[name]})
    shown = [picture(*size, seed=number) for number, size in enumerate(SIZES)]
    outputs = reference.served.generate([request_for(TEXT, image=each) for each in shown])
    for each, output, plan in zip(shown, outputs, reference.served.plans, strict=True):
        inputs = reference.inputs(TEXT, [each])
        assert [plan] == reference.plans(METHODS[name], inputs)
        reference.check(output, [plan], inputs)


@pytest.mark.parametrize("name", ["tokencarve", "explainer", "tower"])
def test_each_of_two_pictures_in_one_prompt_is_treated_as_if_it_were_alone(name: str, reference: Reference) -> None:
    reference.served.use({"method": METHODS[name]})
    shown = [picture(20, 60, seed=1), picture(300, 290, seed=2)]
    text = TEXT.replace("<image>", "<image><image>")
    (output,) = reference.served.generate([request_for(text, image=shown)])
    plans = reference.served.plans
    inputs = reference.inputs(text, shown)
    reference.check(output, plans, inputs, reference.lengths(inputs))
    for each, plan in zip(shown, plans, strict=True):
        assert [plan] == reference.plans(METHODS[name], reference.inputs(TEXT, [each]))


def test_a_batch_of_everything_is_answered_as_one_by_one(reference: Reference) -> None:
    reference.served.use({"method": METHODS["tokencarve"], "max_keep": 30})
    two = [picture(30, 90, seed=3), picture(90, 31, seed=4)]
    requests = [
        request_for("w3 <image> w4 <image> w5", image=two),
        {"prompt": "w1 w2 w3"},
        {**request_for(TEXT, image=picture(56, 56, seed=5)), "mm_processor_kwargs": {"foveate_keep": 30}},
        request_for(TEXT, image=picture(56, 56, seed=5)),
        request_for(TEXT, image=two[0]),
    ]
    together = reference.served.generate(requests)
    assert [plan.tokens_after for plan in reference.served.plans] == [12, 12, 30, 12, 12]
    for asked, output in zip(requests, together, strict=True):
        reference.served.forget()
        (alone,) = reference.served.generate([asked])
        assert output.prompt_token_ids == alone.prompt_token_ids
        assert output.outputs[0].token_ids == alone.outputs[0].token_ids
        if "multi_modal_data" not in asked:
            continue
        media = asked["multi_modal_data"]["image"]
        inputs = reference.inputs(asked["prompt"], media if isinstance(media, list) else [media])
        reference.check(output, reference.served.plans, inputs, reference.lengths(inputs))


@pytest.mark.parametrize("keep", [12, 0.5, 1.0])
def test_no_picture_is_longer_than_the_server_expects(keep: float, reference: Reference) -> None:
    reference.served.use({"method": {"method": "pool", "keep": keep}})
    front = reference.served.front
    expected = front.info.get_mm_max_tokens_per_item(1024, {"image": 1, "video": 1})["image"]
    config, method = front.info.get_hf_config(), front.settings.most

    def placeholders(size: tuple[int, int]) -> int:
        whole = [0] * front.info.get_num_image_tokens(image_height=size[0], image_width=size[1])
        layout = front.architecture.front_layout(config, "image", None, {"image_sizes": torch.tensor(size)})
        return len(front.shortened(whole, "image", layout, method))

    assert max(placeholders((height, width)) for height in range(4, 160, 6) for width in range(4, 160, 5)) <= expected
    corners = [tuple(point) for point in config.image_grid_pinpoints]
    assert max(map(placeholders, corners)) <= expected <= max(map(placeholders, corners)) * 1.25


def test_names_of_towers_with_and_without_their_wrapper_are_the_same_weights(reference: Reference) -> None:
    """The two checkpoints that are served here are of one form each."""
    found = load_file(reference.folder / "model.safetensors")
    assert any("vision_model" in name for name in found) == (reference.model.config.model_type == "llava_next")
    bare = [name.replace("vision_tower.vision_model.", "vision_tower.") for name in found]
    wrapped = [name.replace("vision_tower.", "vision_tower.vision_model.") for name in bare]
    mapper = reference.served.model.hf_to_vllm_mapper
    assert mapper.apply_list(bare) == mapper.apply_list(wrapped)


CLIPS = ((3, 40, 60), (1, 35, 35), (4, 20, 90))
"""(frames, height, width)."""


@pytest.mark.parametrize("name", ["tokencarve", "pool", "tower"])
def test_a_video_keeps_so_many_tokens_per_frame_and_its_newline(name: str, onevision: Reference) -> None:
    method = {**METHODS[name], "keep": 4}
    onevision.served.use({"method": method})
    shown = [frames(*size, seed=number) for number, size in enumerate(CLIPS)]
    outputs = onevision.served.generate([request_for(VIDEO, video=each) for each in shown])
    for each, output, plan in zip(shown, outputs, onevision.served.plans, strict=True):
        assert plan.tokens_after == 4 * len(each)
        inputs = onevision.inputs(VIDEO, videos=[each])
        assert [plan] == onevision.plans(method, inputs)
        onevision.check(output, [plan], inputs)


def test_a_video_may_be_as_long_as_without_compression(onevision: Reference) -> None:
    onevision.served.use({"method": {"method": "pool", "keep": 4}})
    info = onevision.served.front.info
    pictures = max(info.get_num_image_tokens(image_height=height, image_width=width) for height, width in tiny_tiles.ONEVISION_PINPOINTS)
    count = next(
        count for count in range(99, 0, -1) if info.get_num_video_tokens(image_width=35, image_height=35, num_frames=count) <= pictures
    )
    assert count > info.get_num_frames_with_most_features(1024, {"video": 1})
    assert info.get_mm_max_tokens_per_item(1024, {"image": 1, "video": 1})["video"] >= 4 * count + 1


@pytest.mark.parametrize("name", ["tokencarve", "tower"])
def test_a_picture_and_two_videos_in_one_prompt(name: str, onevision: Reference) -> None:
    onevision.served.use({"method": {**METHODS[name], "keep": 4}})
    text = "w3 <image> w4 <video><video> w5 w6"
    shown, clips = picture(60, 20, seed=6), [frames(2, 40, 60, seed=7), frames(2, 60, 41, seed=8)]
    (output,) = onevision.served.generate([request_for(text, image=shown, video=clips)])
    inputs = onevision.inputs(text, [shown], clips)
    lengths = [*onevision.lengths(inputs), 19, 19]
    of_videos = [plan for plan in onevision.served.plans if len(plan) == 18]
    (of_picture,) = [plan for plan in onevision.served.plans if len(plan) != 18]
    assert [plan.tokens_after for plan in (of_picture, *of_videos)] == [4, 8, 8]
    assert of_videos[0] != of_videos[1]
    onevision.check(output, [of_picture, *of_videos], inputs, lengths)
