"""VILA1.5: read from the release's layout, the same as its parts run by hand, and compressed like any other model."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from oracle import Prompt, Sieve, truth
from PIL import Image
from safetensors.torch import load_file, save_file
from tiny import Fixed
from torch import Tensor
from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor, LlamaConfig
from vila_release import HALF, TOKENS, Parts, save_release
from zoo_vila import CASES

import foveate
from foveate.errors import FoveateError, InputError, UnsupportedModelError
from foveate.families import family_of
from foveate.families.vila import VilaConfig
from foveate.families.vila.modeling import PatchMerger

QUESTION = "what colour is the circle ?"


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Parts]:
    folder = tmp_path_factory.mktemp("vila") / "release"
    return folder, save_release(folder)


@pytest.fixture
def loaded(release: tuple[Path, Parts]):  # noqa: ANN201
    folder, parts = release
    return AutoModelForImageTextToText.from_pretrained(folder), AutoProcessor.from_pretrained(folder), parts


def pictures(count: int, seed: int = 0) -> list[Image.Image]:
    noise = np.random.default_rng(seed).integers(0, 255, (count, 9, 13, 3), dtype=np.uint8)
    return [Image.fromarray(each).resize((130, 90)) for each in noise]


def asked(processor, images: list[Image.Image], question: str = QUESTION) -> str:  # noqa: ANN001
    content = [*({"type": "image"} for _ in images), {"type": "text", "text": question}]
    return processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True, tokenize=False)


def by_hand(parts: Parts, ids: list[int], features: Tensor, image_token: int) -> Tensor:
    """Logits of one prompt from the parts alone."""
    pieces: list[list[int] | Tensor] = []
    queue, column = iter(features), 0
    while column < len(ids):
        if ids[column] == image_token:
            pieces.append(next(queue))
            column += TOKENS
        else:
            end = next((at for at in range(column, len(ids)) if ids[at] == image_token), len(ids))
            pieces.append(ids[column:end])
            column = end
    return parts.logits(pieces)


@pytest.mark.parametrize("weights", ["shards", "bin"])
def test_logits_are_those_of_the_parts_run_by_hand(tmp_path: Path, weights: str) -> None:
    parts = save_release(tmp_path / "release", weights=weights)
    model = AutoModelForImageTextToText.from_pretrained(tmp_path / "release")
    processor = AutoProcessor.from_pretrained(tmp_path / "release")
    images = pictures(3)
    inputs = processor(images=images, text=asked(processor, images), return_tensors="pt")
    with torch.no_grad():
        logits = model(**inputs).logits[0]
    ids, token = inputs["input_ids"][0].tolist(), model.config.image_token_id
    assert ids.count(token) == 3 * TOKENS
    torch.testing.assert_close(logits[:, :token], by_hand(parts, ids, parts.features(inputs["pixel_values"]), token), atol=1e-5, rtol=1e-5)
    assert logits.softmax(-1)[:, token].max() == 0


def test_the_published_size_has_196_tokens_that_go_down_the_columns() -> None:
    patches = torch.arange(27 * 27.0).view(1, -1, 1) + 1
    tokens = PatchMerger()(patches)
    assert tokens.shape == (1, 196, 4)
    assert tokens[0, 0].tolist() == [1, 2, 28, 29]
    assert tokens[0, 1].tolist() == [55, 56, 82, 83]
    assert tokens[0, 14].tolist() == [3, 4, 30, 31]
    assert tokens[0, 13].tolist() == [26 * 27 + 1, 26 * 27 + 2, 0, 0]
    assert tokens[0, 195].tolist() == [27 * 27, 0, 0, 0]


def test_a_batch_with_padding_equals_one_by_one(loaded) -> None:  # noqa: ANN001
    model, processor, _ = loaded
    one, two = pictures(1), pictures(2, seed=1)
    texts = [asked(processor, one), asked(processor, two, "is the circle red ?")]
    inputs = processor(images=[one, two], text=texts, padding=True, return_tensors="pt")
    assert inputs["attention_mask"][0, 0] == 0
    out = model.generate(**inputs, max_new_tokens=8, do_sample=False, eos_token_id=None)
    for row, (images, text) in enumerate(zip((one, two), texts, strict=True)):
        alone = model.generate(
            **processor(images=images, text=text, return_tensors="pt"), max_new_tokens=8, do_sample=False, eos_token_id=None
        )
        assert out[row, -8:].tolist() == alone[0, -8:].tolist()


def test_generation_never_makes_an_image_token_and_can_penalise_repetition(loaded) -> None:  # noqa: ANN001
    model, processor, _ = loaded
    inputs = processor(images=pictures(1), text=asked(processor, pictures(1)), return_tensors="pt")
    out = model.generate(
        **inputs, max_new_tokens=40, do_sample=True, temperature=9.0, repetition_penalty=2.0, num_beams=2, eos_token_id=None
    )
    assert model.config.image_token_id not in out[0, inputs["input_ids"].shape[1] :].tolist()


def test_pruning_equals_masking_for_frames_and_mixed_batches(loaded) -> None:  # noqa: ANN001
    """With the processor's own inputs; the matrix has this model among the others."""
    model, processor, _ = loaded
    frames = pictures(3)
    texts = [asked(processor, frames), asked(processor, frames[:1], "is the circle red ?"), asked(processor, [])]
    inputs = dict(processor(images=[*frames, *pictures(1, seed=1)], text=texts, padding=True, padding_side="right", return_tensors="pt"))
    width = inputs["input_ids"].shape[1]
    with foveate.compress(model, Sieve(layer=2)) as handle:
        out = model.generate(
            **inputs, max_new_tokens=32, do_sample=False, eos_token_id=None, output_logits=True, return_dict_in_generate=True
        )
    assert [image.row for image in handle.report.images] == [0, 0, 0, 1]
    assert {image.grid for image in handle.report.images} == {(1, HALF, HALF)}
    down = torch.arange(TOKENS).view(HALF, HALF).T.flatten()
    visual = inputs["input_ids"] == model.config.image_token_id
    columns = [[own[down] for own in row.nonzero().squeeze(1).split(TOKENS) if len(own)] for row in visual]
    given = Prompt(inputs, columns, [])
    expected = truth(CASES[0], model, family_of(model), given, out.sequences, 2)
    last = (inputs["attention_mask"] * torch.arange(1, width + 1)).argmax(1)
    torch.testing.assert_close(out.logits[0], expected[torch.arange(3), last], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(torch.stack(out.logits[1:], 1), expected[:, width:-1], atol=1e-4, rtol=1e-4)


def test_an_identity_plan_and_a_removed_handle_change_nothing(loaded) -> None:  # noqa: ANN001
    model, processor, _ = loaded
    inputs = processor(images=pictures(2), text=asked(processor, pictures(2)), return_tensors="pt")
    with torch.no_grad():
        full = model(**inputs).logits
        with foveate.compress(model, Fixed(targets=(tuple(range(TOKENS)),))):
            torch.testing.assert_close(model(**inputs).logits, full, atol=1e-5, rtol=1e-5)
        assert torch.equal(model(**inputs).logits, full)


def test_cells_of_the_grid_are_places_in_the_picture(loaded) -> None:  # noqa: ANN001
    """A method that asks for one cell keeps the token whose patches lie there."""
    model, processor, parts = loaded
    inputs = processor(images=pictures(1), text=asked(processor, pictures(1)), return_tensors="pt")
    seen: list[Tensor] = []

    class Look(foveate.Method):
        def plan(self, view: foveate.View) -> foveate.Plan:
            seen.append(view.states)
            return foveate.Plan.keep([0], len(view))

    with foveate.compress(model, Look(keep=1, layer=0)), torch.no_grad():
        model(**inputs)
    tokens = parts.features(inputs["pixel_values"])[0]
    row, column = 0, 2
    torch.testing.assert_close(seen[0][row * HALF + column], tokens[column * HALF + row], atol=1e-5, rtol=1e-5)


def test_tower_signals_are_means_over_the_patches_that_there_are(loaded) -> None:  # noqa: ANN001
    model, _, _ = loaded
    values = torch.arange(2 * 25.0).view(-1, 1)
    first, second = family_of(model).fold(model, "tower_attention", values, None)
    assert first[:, 0].tolist() == [3.0, 5.0, 6.5, 13.0, 15.0, 16.5, 20.5, 22.5, 24.0]
    assert torch.equal(second, first + 25)


@pytest.mark.parametrize(
    ("form", "start", "end"),
    [
        (
            "vicuna_v1",
            "A chat between a curious user and an artificial intelligence assistant. ",
            " USER: <image>\n<image>\nWhy? ASSISTANT:",
        ),
        (
            "llama_3",
            "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nYou are a helpful language and vision assistant. ",
            "<|eot_id|><|start_header_id|>user<|end_header_id|>\n\n<image>\n<image>\nWhy?<|eot_id|>"
            "<|start_header_id|>assistant<|end_header_id|>\n\n",
        ),
        (
            "hermes-2",
            "<|im_start|>system\nAnswer the questions.<|im_end|>",
            "<|im_start|>user\n<image>\n<image>\nWhy?<|im_end|><|im_start|>assistant\n",
        ),
    ],
)
def test_prompt_forms_follow_the_vocabulary(tmp_path: Path, form: str, start: str, end: str) -> None:
    save_release(tmp_path / "release", form=form)
    processor = AutoProcessor.from_pretrained(tmp_path / "release")
    text = asked(processor, pictures(2), "Why?")
    assert text.startswith(start)
    assert text.endswith(end)
    ids = processor.apply_chat_template(
        [{"role": "user", "content": [{"type": "image", "image": pictures(1)[0]}, {"type": "text", "text": "Why?"}]}],
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
    )["input_ids"][0]
    assert (ids == processor.image_token_id).sum() == TOKENS
    assert (ids == processor.tokenizer.bos_token_id).sum() == 1
    ends = {"vicuna_v1": [2], "llama_3": [2, 19], "hermes-2": [2, 19]}[form]
    assert AutoModelForImageTextToText.from_pretrained(tmp_path / "release").generation_config.eos_token_id == ends


def test_turns_and_a_system_prompt_of_ones_own(loaded) -> None:  # noqa: ANN001
    _, processor, _ = loaded
    turns = [("system", "Be brief."), ("user", "One?"), ("assistant", "Yes."), ("user", "Two?")]
    text = processor.apply_chat_template(
        [{"role": role, "content": [{"type": "text", "text": words}]} for role, words in turns], add_generation_prompt=True, tokenize=False
    )
    assert text == "Be brief. USER: One? ASSISTANT: Yes.</s>USER: Two? ASSISTANT:"


@pytest.mark.processors
def test_it_can_be_saved_in_one_folder_and_loaded_again(loaded, tmp_path: Path) -> None:  # noqa: ANN001
    model, processor, _ = loaded
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    inputs = processor(images=pictures(1), text=asked(processor, pictures(1)), return_tensors="pt")
    again = AutoProcessor.from_pretrained(tmp_path)(images=pictures(1), text=asked(processor, pictures(1)), return_tensors="pt")
    assert torch.equal(inputs["input_ids"], again["input_ids"])
    assert torch.equal(inputs["pixel_values"], again["pixel_values"])
    with torch.no_grad():
        assert torch.equal(AutoModelForImageTextToText.from_pretrained(tmp_path)(**again).logits, model(**inputs).logits)


def test_the_precision_can_be_chosen(release: tuple[Path, Parts]) -> None:
    model = AutoModelForImageTextToText.from_pretrained(release[0], dtype=torch.bfloat16)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}


def test_the_attention_kernel_of_every_part_can_be_changed(loaded) -> None:  # noqa: ANN001
    model, processor, _ = loaded
    inputs = processor(images=pictures(1), text=asked(processor, pictures(1)), return_tensors="pt")
    with torch.no_grad():
        before = model(**inputs).logits
        assert model.config._attn_implementation == "sdpa"
        model.set_attn_implementation("eager")
        assert model.model.language_model.config._attn_implementation == "eager"
        torch.testing.assert_close(model(**inputs).logits, before, atol=1e-4, rtol=1e-4)


def test_an_id_that_the_tokenizer_has_already_is_not_taken_for_images(tmp_path: Path) -> None:
    folder = tmp_path / "release"
    save_release(folder)
    (folder / "llm" / "added_tokens.json").write_text(json.dumps({"[PAD]": 18}))
    assert AutoConfig.from_pretrained(folder).image_token_id == 19


def test_the_published_configuration_of_the_3b_model_is_read() -> None:
    """Its figures, as the published config.json has them; the parts' own entries are abridged."""
    llm = {"model_type": "llama", "vocab_size": 32000, "hidden_size": 2560, "intermediate_size": 6912, "num_hidden_layers": 32}
    llm |= {"num_attention_heads": 20, "num_key_value_heads": 20, "max_position_embeddings": 4096, "rms_norm_eps": 1e-5}
    llm |= {"rope_theta": 10000.0, "rope_scaling": None, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "max_length": 20}
    vision = {"model_type": "siglip_vision_model", "image_size": 384, "patch_size": 14, "hidden_size": 1152, "num_hidden_layers": 27}
    vision |= {"intermediate_size": 4304, "num_attention_heads": 16, "hidden_act": "gelu_pytorch_tanh"}
    top = {"model_type": "llava_llama", "image_aspect_ratio": "resize", "mm_vision_select_feature": "cls_patch", "s2": False}
    top |= {"mm_vision_select_layer": -2, "model_dtype": "torch.bfloat16", "s2_scales": "336,672,1008"}
    projector = {"model_type": "v2l_projector", "mm_projector_type": "mlp_downsample"}
    config = VilaConfig.from_dict({**top, "llm_cfg": llm, "vision_tower_cfg": vision, "mm_projector_cfg": projector})
    assert config.image_seq_length == 196
    assert config.image_token_id == 32000
    assert isinstance(config.text_config, LlamaConfig)
    assert config.dtype == torch.bfloat16


REFUSED = {
    "scales": ({"s2": True}, "s2=true"),
    "dynamic scales": ({"dynamic_s2": True}, "dynamic_s2=true"),
    "padded pictures": ({"image_aspect_ratio": "pad"}, "image_aspect_ratio='pad'"),
    "start and end tokens": ({"mm_use_im_start_end": True}, "mm_use_im_start_end"),
    "without the class token": ({"mm_vision_select_feature": "patch"}, "mm_vision_select_feature='patch'"),
}


@pytest.mark.parametrize(("changes", "message"), REFUSED.values(), ids=REFUSED.keys())
def test_variants_that_would_go_wrong_are_refused(tmp_path: Path, changes: dict[str, object], message: str) -> None:
    save_release(tmp_path / "release", **changes)
    with pytest.raises(UnsupportedModelError, match=message):
        AutoConfig.from_pretrained(tmp_path / "release")


@pytest.mark.parametrize(
    ("part", "entry", "value"),
    [
        ("vision_tower", "model_type", "clip_vision_model"),
        ("mm_projector", "mm_projector_type", "mlp2x_gelu"),
        ("llm", "model_type", "qwen2"),
    ],
)
def test_parts_of_another_kind_are_refused(tmp_path: Path, part: str, entry: str, value: str) -> None:
    save_release(tmp_path / "release")
    file = tmp_path / "release" / part / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), entry: value}))
    with pytest.raises(UnsupportedModelError, match=value):
        AutoConfig.from_pretrained(tmp_path / "release")


def test_another_llava_llama_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llava_llama", "mm_vision_tower": "openai/clip-vit-large-patch14-336"}))
    with pytest.raises(UnsupportedModelError, match="llm_cfg=None"):
        AutoConfig.from_pretrained(tmp_path)


def test_a_release_that_is_not_here_as_a_whole_says_how_to_get_it(release: tuple[Path, Parts], tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text((release[0] / "config.json").read_text())
    with pytest.raises(UnsupportedModelError, match="hf download"):
        AutoConfig.from_pretrained(tmp_path)


def test_a_shard_that_is_missing_is_named(tmp_path: Path) -> None:
    folder = tmp_path / "release"
    save_release(folder)
    (folder / "llm" / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(InputError, match="model-00002-of-00002"):
        AutoModelForImageTextToText.from_pretrained(folder)


def test_an_index_that_leads_out_of_its_folder_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "release"
    save_release(folder)
    (folder / "llm" / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"x": "../vision_tower/model.safetensors"}}))
    with pytest.raises(InputError, match="not in its folder"):
        AutoModelForImageTextToText.from_pretrained(folder)


def test_weights_that_do_not_fit_are_refused_and_not_made_up(tmp_path: Path) -> None:
    folder = tmp_path / "release"
    save_release(folder)
    file = folder / "mm_projector" / "model.safetensors"
    whole = load_file(file)
    for state in (
        {k: v for k, v in whole.items() if k != "layers.4.bias"},
        {**whole, "layers.4.bias": torch.zeros(7)},
        {**whole, "x": torch.zeros(1)},
    ):
        save_file(state, file)
        with pytest.raises(InputError, match=r"do not fit its configuration"):
            AutoModelForImageTextToText.from_pretrained(folder)


def test_a_folder_without_weights_and_a_damaged_file_are_refused(tmp_path: Path) -> None:
    folder = tmp_path / "release"
    save_release(folder)
    file = folder / "vision_tower" / "model.safetensors"
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(InputError, match="damaged or cut off"):
        AutoModelForImageTextToText.from_pretrained(folder)
    file.unlink()
    with pytest.raises(InputError, match="has no weights"):
        AutoModelForImageTextToText.from_pretrained(folder)


class Trap:
    """Unpickling this would write a file."""

    def __init__(self, where: Path) -> None:
        self.where = where

    def __reduce__(self):  # noqa: ANN204
        return (Path.write_text, (self.where, "sprung"))


def test_a_file_that_would_run_code_is_not_opened(tmp_path: Path) -> None:
    folder = tmp_path / "release"
    save_release(folder, weights="bin")
    torch.save({"model.norm.weight": Trap(tmp_path / "sprung")}, folder / "llm" / "pytorch_model.bin")
    with pytest.raises(InputError, match="more than tensors"):
        AutoModelForImageTextToText.from_pretrained(folder)
    (folder / "llm" / "pytorch_model.bin").write_bytes(pickle.dumps({"x": Trap(tmp_path / "sprung")}))
    with pytest.raises(InputError):
        AutoModelForImageTextToText.from_pretrained(folder)
    assert not (tmp_path / "sprung").exists()


def test_the_processor_refuses_what_it_would_get_wrong(loaded) -> None:  # noqa: ANN001
    _, processor, _ = loaded
    with pytest.raises(InputError, match=r"<image> 1 time\(s\), but 2 image\(s\)"):
        processor(images=pictures(2), text="USER: <image> why ?")
    with pytest.raises(InputError, match="as its frames"):
        processor(videos=[pictures(2)], text="why ?")
    with pytest.raises(InputError, match="prompt is needed"):
        processor(images=pictures(2))


def test_placeholders_without_pixels_are_refused(loaded) -> None:  # noqa: ANN001
    model, processor, _ = loaded
    inputs = processor(images=pictures(1), text=asked(processor, pictures(1)), return_tensors="pt")
    cut = {"input_ids": inputs["input_ids"][:, :-12], "pixel_values": inputs["pixel_values"]}
    with foveate.compress(model, foveate.FastV(keep=2)), pytest.raises((FoveateError, ValueError)):
        model.generate(**cut, max_new_tokens=1)
