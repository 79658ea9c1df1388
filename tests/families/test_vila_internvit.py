"""The tower of VILA1.5-40b: read under its published names, the same as its formula, compressed like the others."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from test_vila import asked, by_hand, pictures
from torch import Tensor
from transformers import AutoConfig, AutoModel, AutoModelForImageTextToText, AutoProcessor
from vila_release import HALF, TOKENS, Parts, save_release
from vila_towers import INTERNVIT, internvit, internvit_states, shapes

import foveate
from foveate.errors import InputError, UnsupportedModelError
from foveate.families import family_of
from foveate.families.vila import VilaConfig
from foveate.families.vila.internvit import weights

PUBLISHED_BYTES = 11_072_992_000
"""All three shards of the published tower, in bfloat16: 4.99, 4.94 and 1.15 GB."""


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Parts]:
    folder = tmp_path_factory.mktemp("vila") / "release"
    return folder, save_release(folder, form="hermes-2", tower=internvit)


@pytest.fixture
def loaded(release: tuple[Path, Parts]):  # noqa: ANN201
    folder, parts = release
    return AutoModelForImageTextToText.from_pretrained(folder), AutoProcessor.from_pretrained(folder), parts


def published() -> Any:
    """The configuration of VILA1.5-40b. Its decoder, whose file was not seen, has the sizes of Nous-Hermes-2-Yi-34B."""
    llm = {"model_type": "llama", "vocab_size": 64000, "hidden_size": 7168, "intermediate_size": 20480, "num_hidden_layers": 60}
    llm |= {"num_attention_heads": 56, "num_key_value_heads": 8, "max_position_embeddings": 4096, "rope_theta": 5000000.0}
    top = {"model_type": "llava_llama", "image_aspect_ratio": "resize", "model_dtype": "torch.bfloat16", "s2": False}
    top |= {"mm_vision_select_feature": "patch", "mm_vision_select_layer": -1}
    projector = {"model_type": "v2l_projector", "mm_projector_type": "mlp_downsample"}
    return VilaConfig.from_dict({**top, "llm_cfg": llm, "vision_tower_cfg": INTERNVIT, "mm_projector_cfg": projector})


def test_the_published_configuration_is_read() -> None:
    config = published()
    vision = config.vision_config
    assert config.image_seq_length == 256
    assert (config.vision_feature_layer, config.vision_feature_select_strategy) == (-1, "default")
    assert (vision.model_type, vision.norm_type, vision.use_qk_norm, vision.attention_bias) == ("internvl_vision", "rms_norm", True, False)
    assert (vision.hidden_size, vision.num_attention_heads, vision.num_hidden_layers) == (3200, 25, 45)
    assert not {"use_flash_attn", "drop_path_rate", "qkv_bias"} & set(vision.to_dict())


def test_the_published_tower_has_the_size_of_its_files_and_every_name_in_them_a_place() -> None:
    with torch.device("meta"):
        tower = AutoModel.from_config(published().vision_config, dtype=torch.bfloat16)
        released = {name: torch.empty(shape) for name, shape in shapes(INTERNVIT).items()}
    assert sum(parameter.numel() * 2 for parameter in tower.parameters()) == PUBLISHED_BYTES
    placed = {own: part.shape for name, tensor in released.items() for own, part in weights(name, tensor)}
    assert placed == {name: value.shape for name, value in tower.state_dict().items()}


def test_the_tower_computes_its_formula(loaded) -> None:  # noqa: ANN001
    model, _, parts = loaded
    pixels = torch.randn(2, 3, 84, 84, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        states = model.model.vision_tower(pixels, output_hidden_states=True).hidden_states[-1]
    torch.testing.assert_close(states, internvit_states(parts.tower.state, parts.tower.config, pixels), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("files", ["shards", "bin"])
def test_logits_of_a_prompt_are_those_of_the_parts_run_by_hand(tmp_path: Path, files: str) -> None:
    parts = save_release(tmp_path / "release", form="hermes-2", weights=files, tower=internvit)
    model = AutoModelForImageTextToText.from_pretrained(tmp_path / "release")
    processor = AutoProcessor.from_pretrained(tmp_path / "release")
    images = pictures(2)
    inputs = processor(images=images, text=asked(processor, images), return_tensors="pt")
    with torch.no_grad():
        logits = model(**inputs).logits[0]
    ids, token = inputs["input_ids"][0].tolist(), model.config.image_token_id
    assert ids.count(token) == 2 * TOKENS
    expected = by_hand(parts, ids, parts.features(inputs["pixel_values"]), token)
    torch.testing.assert_close(logits[:, :token], expected, atol=1e-5, rtol=1e-5)


def test_pictures_are_squeezed_and_normalised_with_the_means_of_imagenet(loaded) -> None:  # noqa: ANN001
    _, processor, _ = loaded
    colours = pictures(1)[0]
    for picture in (colours, colours.convert("L"), colours.convert("RGBA")):
        pixels = processor(images=[picture], text="<image>", return_tensors="pt")["pixel_values"][0]
        small = np.asarray(picture.convert("RGB").resize((84, 84), Image.Resampling.BICUBIC), dtype=np.float64) / 255
        expected = (small - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
        torch.testing.assert_close(pixels.double(), torch.tensor(expected).permute(2, 0, 1), atol=1e-5, rtol=1e-5)


def test_it_can_be_saved_in_one_folder_and_loaded_again(loaded, tmp_path: Path) -> None:  # noqa: ANN001
    model, processor, _ = loaded
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    again, text = AutoProcessor.from_pretrained(tmp_path), asked(processor, pictures(1))
    one, two = (each(images=pictures(1), text=text, return_tensors="pt") for each in (processor, again))
    assert torch.equal(one["pixel_values"], two["pixel_values"])
    with torch.no_grad():
        assert torch.equal(AutoModelForImageTextToText.from_pretrained(tmp_path)(**two).logits, model(**one).logits)


def test_a_compressed_run_sees_what_the_class_token_attends_to(loaded) -> None:  # noqa: ANN001
    """At the last layer, whose output is projected; four patches become one token at their place."""
    model, processor, parts = loaded
    seen: list[foveate.View] = []

    class Look(foveate.Method):
        needs = frozenset({"tower_attention", "tower_states"})

        def plan(self, view: foveate.View) -> foveate.Plan:
            seen.append(view)
            return foveate.Plan.keep([0, 4], len(view))

    inputs = processor(images=pictures(1), text=asked(processor, pictures(1)), return_tensors="pt")
    caught: list[Tensor] = []
    model.set_attn_implementation("eager")
    hook = family_of(model).tower_attention(model).register_forward_hook(lambda *call: caught.append(call[2][1]))
    with foveate.compress(model, Look(keep=2, layer=0)) as handle, torch.no_grad():
        out = model.generate(**inputs, max_new_tokens=4, do_sample=False, eos_token_id=None)
    hook.remove()
    assert out.shape[1] == inputs["input_ids"].shape[1] + 4
    assert handle.report.images[0].tokens_after == 2
    assert model.model.vision_tower.encoder.layer[-1].attention is family_of(model).tower_attention(model)
    attended = caught[0].mean(1)[0, 0, 1:].view(HALF, 2, HALF, 2).mean((1, 3)).flatten()
    torch.testing.assert_close(seen[0].signal("tower_attention"), attended, atol=1e-6, rtol=1e-5)
    states = parts.tower.patches(inputs["pixel_values"])[0].view(HALF, 2, HALF, 2, -1).mean((1, 3)).flatten(0, 1)
    torch.testing.assert_close(seen[0].signal("tower_states"), states, atol=1e-5, rtol=1e-5)


def first_shard(folder: Path) -> tuple[Path, dict[str, Tensor]]:
    file = folder / "vision_tower" / "model-00001-of-00002.safetensors"
    return file, load_file(file)


BROKEN = {
    "missing": (lambda state: {**state, "encoder.layers.0.attn.qkv.weight": None}, "missing.*encoder.layer.0.attention.k_proj"),
    "left over": (lambda state: {**state, "encoder.layers.0.norm1.bias": torch.zeros(48)}, "left over 1.*layer.0.layernorm_before.bias"),
    "unknown": (lambda state: {**state, "encoder.layers.0.gate": torch.zeros(48)}, "left over 1.*encoder.layer.0.gate"),
    "of another shape": (
        lambda state: {**state, "encoder.layers.0.ls1": torch.zeros(47)},
        r"of another shape 1 .*layer\.0\.lambda_1 47 for 48\)",
    ),
    "not for three": (
        lambda state: {**state, "encoder.layers.0.attn.qkv.weight": torch.zeros(142, 48)},
        r"of another shape 1 .*layer\.0\.attention\.v_proj.weight 46 x 48 for 48 x 48\)",
    ),
    "of two rows": (lambda state: {**state, "encoder.layers.0.attn.qkv.weight": torch.zeros(2, 48)}, "missing.*v_proj"),
}


@pytest.mark.parametrize(("broken", "message"), BROKEN.values(), ids=BROKEN.keys())
def test_weights_that_do_not_fit_are_refused_by_name(tmp_path: Path, broken: Any, message: str) -> None:
    save_release(tmp_path / "release", form="hermes-2", tower=internvit)
    file, state = first_shard(tmp_path / "release")
    save_file({name: value for name, value in broken(state).items() if value is not None}, file)
    with pytest.raises(InputError, match=f"do not fit its configuration, so .*{message}"):
        AutoModelForImageTextToText.from_pretrained(tmp_path / "release")


@pytest.mark.parametrize("feature", ["cls_patch", None])
def test_a_class_token_among_the_patches_is_refused(tmp_path: Path, feature: str | None) -> None:
    save_release(tmp_path / "release", tower=internvit, mm_vision_select_feature=feature)
    with pytest.raises(UnsupportedModelError, match=re.escape(f"mm_vision_select_feature={feature!r}") + ".*supported: patch$"):
        AutoConfig.from_pretrained(tmp_path / "release")


def test_another_epsilon_is_refused_where_transformers_would_not_take_it(tmp_path: Path) -> None:
    save_release(tmp_path / "release", tower=internvit)
    file = tmp_path / "release" / "vision_tower" / "config.json"
    file.write_text(json.dumps({**INTERNVIT, "layer_norm_eps": 1e-5}))
    with pytest.raises(UnsupportedModelError, match=r"vision_tower_cfg\.layer_norm_eps=1e-05"):
        AutoConfig.from_pretrained(tmp_path / "release")
    file.write_text(json.dumps({**INTERNVIT, "layer_norm_eps": 1e-5, "qk_normalization": False}))
    assert AutoConfig.from_pretrained(tmp_path / "release").vision_config.layer_norm_eps == 1e-5
