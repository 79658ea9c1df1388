"""The pipeline, streamers, attention maps, embeddings, and ways of decoding that are refused."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import torch
from around import METHOD, ONE, SPARSE, answer, assert_pruning_equals_masking, assert_shortened, outside, two_rows, used_llava
from tiny import Fixed, batch, prompt, tiny_llava
from transformers import GenerationConfig, TextIteratorStreamer, pipeline

import foveate
import foveate.demo
from foveate import FastV
from foveate.errors import UnsupportedError


@pytest.fixture(scope="module")
def seeing() -> Any:
    return foveate.demo.load()


def question(processor: Any) -> tuple[Any, str, Any]:
    scene = foveate.demo.scene(0, "held_out")
    text = foveate.demo.prompt(scene.questions[0].text)
    return scene.image, text, processor(images=[scene.image], text=[text], return_tensors="pt")


def told(model: Any, processor: Any, inputs: Any) -> str:
    """What plain `generate`, which is compared with masking elsewhere, returns under the current handle."""
    ids = model.generate(**inputs, max_new_tokens=4, do_sample=False)[0, inputs["input_ids"].shape[1] :]
    return processor.decode(ids, skip_special_tokens=True)


def test_the_pipeline_says_what_generate_says(seeing: Any) -> None:
    model, processor = seeing
    image, text, inputs = question(processor)
    ask = pipeline("image-text-to-text", model=model, processor=processor)
    options = {"images": image, "text": text, "return_full_text": False, "generate_kwargs": {"max_new_tokens": 4, "do_sample": False}}
    with foveate.compress(model, FastV(keep=2, layer=0)) as handle:
        expected = told(model, processor, inputs)
        report = handle.report
        model(**processor(text=["what"], return_tensors="pt"))
        assert not handle.report.images
        said = ask(**options)[0]["generated_text"]
        assert handle.report.images[0].plan == report.images[0].plan
        assert (handle.report.tokens_before, handle.report.tokens_after) == (576, 2)
        assert said.strip() == expected.strip()


def test_streamers_see_every_token_as_it_comes(seeing: Any) -> None:
    model, processor = seeing
    inputs = question(processor)[2]
    with foveate.compress(model, FastV(keep=64)) as handle:
        expected = told(model, processor, inputs)
        streamer = TextIteratorStreamer(processor.tokenizer, skip_prompt=True, skip_special_tokens=True)
        options = {**inputs, "max_new_tokens": 4, "do_sample": False, "streamer": streamer}
        thread = threading.Thread(target=model.generate, kwargs=options)
        thread.start()
        pieces = list(streamer)
        thread.join()
        assert "".join(pieces).strip() == expected.strip()
        assert handle.report.tokens_after == 64


def masked_attention(model: Any, inputs: dict[str, torch.Tensor], ids: torch.Tensor, gone: torch.Tensor, layer: int) -> Any:
    """Attention maps of the full model whose layers from `layer` on do not see the columns `gone`, nor do later tokens anywhere."""
    length, width = ids.shape[1], inputs["input_ids"].shape[1]
    order = torch.arange(length)
    seen = order[None] <= order[:, None]
    late = seen & ~gone | torch.eye(length, dtype=torch.bool)
    early = torch.cat([seen[:width], late[width:]])

    def before(index: int) -> Any:
        def hook(module: Any, args: Any, kwargs: Any) -> Any:
            visible = early if index < layer else late
            kwargs["attention_mask"] = torch.zeros(length, length).masked_fill(~visible, torch.finfo(torch.float32).min)[None, None]
            return args, kwargs

        return hook

    layers = model.model.language_model.layers
    hooks = [each.register_forward_pre_hook(before(index), with_kwargs=True) for index, each in enumerate(layers)]
    with torch.no_grad():
        maps = model(input_ids=ids, pixel_values=inputs["pixel_values"], use_cache=False, output_attentions=True).attentions
    for hook in hooks:
        hook.remove()
    return maps


@pytest.mark.parametrize("plan", [SPARSE, ONE], ids=["five tokens", "one token"])
def test_attention_maps_are_those_of_what_stayed(plan: tuple[int, ...]) -> None:
    model, inputs = tiny_llava(attention="eager"), batch([prompt(3, "image", 5)])
    with foveate.compress(model, Fixed(targets=(plan,))) as handle:
        out = answer(model, inputs, max_new_tokens=4, output_attentions=True)
        stayed = torch.tensor(handle.report.columns[0])
    width, ids = inputs["input_ids"].shape[1], out.sequences[:, :-1]
    gone = ~torch.isin(torch.arange(ids.shape[1]), torch.cat([stayed, torch.arange(width, ids.shape[1])]))
    expected = masked_attention(model, inputs, ids, gone, 2)
    for index, (got, full) in enumerate(zip(out.attentions[0], expected, strict=True)):
        rows = torch.arange(width) if index < 2 else stayed
        torch.testing.assert_close(got, full[:, :, rows][..., rows], atol=1e-5, rtol=1e-4)
    for step, maps in enumerate(out.attentions[1:]):
        columns = torch.cat([stayed, torch.arange(width, width + step + 1)])
        for got, full in zip(maps, expected, strict=True):
            torch.testing.assert_close(got[:, :, 0], full[:, :, width + step][..., columns], atol=1e-5, rtol=1e-4)


def test_attention_maps_and_a_method_that_reads_attention_do_not_disturb_each_other() -> None:
    model, inputs = tiny_llava(attention="eager"), batch([prompt(3, "image", 5)])
    full = model(**inputs, output_attentions=True).attentions
    with foveate.compress(model, FastV(keep=4)) as handle, torch.no_grad():
        logits, plans = model(**inputs).logits, handle.report.images
        out = model(**inputs, output_attentions=True)
        assert [image.plan for image in handle.report.images] == [image.plan for image in plans]
    assert torch.equal(out.logits, logits)
    torch.testing.assert_close(out.attentions[1], full[1], atol=1e-6, rtol=1e-5)


def test_embeddings_without_ids_are_refused_and_leave_nothing() -> None:
    model, inputs = used_llava(), two_rows()
    embeddings = model.get_input_embeddings()(inputs["input_ids"]).detach()
    ran: list[int] = []
    model.model.language_model.layers[0].register_forward_hook(lambda *_: ran.append(1))
    with foveate.compress(model, METHOD) as handle:
        before = outside(model)
        with pytest.raises(UnsupportedError, match="pass input_ids and no inputs_embeds"):
            model(inputs_embeds=embeddings, attention_mask=inputs["attention_mask"])
        for more in ({}, {"input_ids": inputs["input_ids"], "pixel_values": inputs["pixel_values"]}):
            with pytest.raises(UnsupportedError, match="pass input_ids and no inputs_embeds"):
                answer(model, {"inputs_embeds": embeddings, "attention_mask": inputs["attention_mask"], **more})
        assert not ran
        assert outside(model) == before
        answer(model, inputs, max_new_tokens=1)
        assert_shortened(handle)


GUESSING = {
    "prompt_lookup_num_tokens": 3,
    "assistant_early_exit": 2,
    "use_mtp": True,
    "prefill_chunk_size": 8,
}


@pytest.mark.parametrize("place", ["arguments", "its configuration", "a configuration", "the model's behind a configuration"])
@pytest.mark.parametrize(("name", "value"), GUESSING.items(), ids=GUESSING.keys())
def test_guessing_and_chunks_are_refused_wherever_they_are_asked_for(name: str, value: Any, place: str) -> None:
    model, ran = used_llava(), []
    model.model.vision_tower.register_forward_hook(lambda *_: ran.append(1))
    handle = foveate.compress(model, METHOD)
    before = outside(model)
    options: dict[str, Any] = {name: value} if place == "arguments" else {}
    if place == "a configuration":
        options["generation_config"] = GenerationConfig(max_new_tokens=2, **{name: value})
    elif place != "arguments":
        setattr(model.generation_config, name, value)
        if place != "its configuration":
            options["generation_config"] = GenerationConfig(max_new_tokens=2)
    with pytest.raises(UnsupportedError, match=f"{name}={value}"):
        model.generate(**two_rows(), **options)
    assert not ran
    assert outside(model) == before
    setattr(model.generation_config, name, None)
    answer(model, two_rows(), max_new_tokens=1)
    assert_shortened(handle)


def test_an_assistant_is_refused_by_name_and_by_position() -> None:
    model, small = tiny_llava(), tiny_llava(layers=1)
    with foveate.compress(model, METHOD):
        with pytest.raises(UnsupportedError, match=r"assistant_model=LlavaForConditionalGeneration.*omit assistant_model"):
            model.generate(**two_rows(), assistant_model=small)
        inputs = two_rows()
        with pytest.raises(UnsupportedError, match="assistant_model"):
            model.generate(inputs.pop("input_ids"), None, None, None, None, None, small, **inputs)


def test_an_option_that_the_call_takes_back_is_not_refused() -> None:
    model = tiny_llava()
    handle = foveate.compress(model, METHOD)
    model.generation_config.prompt_lookup_num_tokens = 3
    answer(model, two_rows(), prompt_lookup_num_tokens=None)
    assert_shortened(handle)


def test_continuous_batching_is_refused_from_every_side_and_given_back() -> None:
    model, inputs = tiny_llava(), two_rows()
    ids = inputs["input_ids"].tolist()
    with foveate.compress(model, METHOD) as handle:
        for attempt in (
            lambda: model.generate_batch(ids, max_new_tokens=2),
            lambda: model.init_continuous_batching(),
            lambda: model.generate(inputs["input_ids"], cache_implementation="paged", max_new_tokens=2),
        ):
            with pytest.raises(UnsupportedError, match=r"continuous batching.*use generate"):
                attempt()
        answer(model, inputs, max_new_tokens=1)
        assert_shortened(handle)
    assert "init_continuous_batching" not in model.__dict__
    assert_pruning_equals_masking(model, model)
