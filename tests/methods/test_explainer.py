"""Explainer and its two bounds: what they choose, what they read, and what they refuse."""

from __future__ import annotations

import shutil
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from compressors import untrained
from tiny import IMAGE, TOKENS, batch, prompt, tiny_llava
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

import foveate
from foveate import Explainer, FirstLayerAttention, Method, Oracle, View
from foveate.errors import CompressorError, InputError, LayerError, OptionError
from foveate.explain.compressor.network import CompressorInput
from foveate.explain.relevance.result import ImageRelevance, Relevance
from foveate.families import family_of

ROWS = [prompt(3, "image", 5), prompt(2, "image", 1, "image", 7, seed=1)]


def kept(model: Any, method: Any, inputs: dict[str, Tensor]) -> list[list[int]]:
    with foveate.compress(model, method) as handle, torch.no_grad():
        model(**inputs)
    return [image.plan.kept.tolist() for image in handle.report.images]


def attention(model: Any, inputs: dict[str, Tensor], row: int) -> list[Tensor]:
    """(heads, n) of each image, from whole maps of the first layer, averaged over the text after the last image."""
    model.set_attn_implementation("eager")
    with torch.no_grad():
        maps = model(**inputs, output_attentions=True).attentions[0][row]
    model.set_attn_implementation("sdpa")
    visual = (inputs["input_ids"][row] == IMAGE).nonzero().squeeze(1)
    real = inputs["attention_mask"][row].nonzero().squeeze(1)
    asked = real[real > visual[-1]]
    return [maps[:, asked].mean(1)[:, own] for own in visual.split(TOKENS)]


@pytest.mark.parametrize("padding", ["left", "right"])
@pytest.mark.parametrize("states", [False, True])
def test_the_network_sees_the_first_layers_attention_and_its_best_tokens_stay(states: bool, padding: str) -> None:
    model, inputs = tiny_llava(), batch(ROWS, padding=padding)
    compressor = untrained(model, hidden=32 if states else 0)
    features = model.model.get_image_features(pixel_values=inputs["pixel_values"], return_dict=True).pooler_output
    found = [own for row in range(2) for own in attention(model, inputs, row)]
    with torch.no_grad():
        scores = compressor([CompressorInput(own, ((1, 4, 4),), states) for own, states in zip(found, features, strict=True)])
        means = [own.mean(0) for own in found]
    for method, truth in ((Explainer(5, compressor=compressor), scores), (FirstLayerAttention(5), means)):
        assert kept(model, method, inputs) == [sorted(own.topk(5).indices.tolist()) for own in truth]


def test_the_first_layer_runs_no_further_than_its_queries_and_keys() -> None:
    model, inputs, ran = tiny_llava(), batch(ROWS), []
    hook = family_of(model).layers(model)[0].mlp.register_forward_hook(lambda *_: ran.append(1))
    kept(model, Explainer(4, compressor=untrained(model)), inputs)
    hook.remove()
    assert len(ran) == 1


def test_a_folder_is_read_again_when_it_was_trained_anew(tmp_path: Path) -> None:
    model, inputs = tiny_llava(), batch(ROWS)
    method = Explainer(4, compressor=untrained(model).save_pretrained(tmp_path))
    first = kept(model, method, inputs)
    assert kept(model, Explainer(4, compressor=str(tmp_path)), inputs) == first
    shutil.rmtree(tmp_path)
    untrained(model, seed=5).save_pretrained(tmp_path)
    assert kept(model, method, inputs) != first


def test_another_models_compressor_is_refused_before_anything_is_put_in_place(tmp_path: Path) -> None:
    model, other = tiny_llava(), tiny_llava(seed=1)
    for compressor in (untrained(other), untrained(other).save_pretrained(tmp_path)):
        with pytest.raises(CompressorError, match=r"trained for another model.*weights .* instead of .*foveate labels, then foveate train"):
            foveate.compress(model, Explainer(4, compressor=compressor))
    with pytest.raises(CompressorError, match="layers 4 instead of 3"):
        foveate.compress(model, Explainer(4, compressor=untrained(tiny_llava(layers=3))))
    with pytest.raises(CompressorError, match="is not a folder"):
        foveate.compress(model, [Explainer(4, compressor=tmp_path / "nowhere"), foveate.FastV(2, layer=1)])
    foveate.compress(model, FirstLayerAttention(4)).remove()


def test_the_precision_of_the_model_does_not_matter() -> None:
    model = tiny_llava()
    compressor = untrained(model)
    model.to(torch.bfloat16)
    inputs = {name: value.bfloat16() if name == "pixel_values" else value for name, value in batch(ROWS).items()}
    assert [len(own) for own in kept(model, Explainer(4, compressor=compressor), inputs)] == [4, 4, 4]


def test_an_untrained_compressor_fits_every_model_and_leaves_the_generator_of_random_numbers_alone() -> None:
    inputs = batch(ROWS)
    found = [kept(model, Explainer(4, compressor="untrained"), inputs) for model in (tiny_llava(), tiny_llava(seed=1))]
    assert [len(own) for own in found[0]] == [4, 4, 4]
    method = Explainer(4, compressor="untrained")
    before = torch.get_rng_state()
    method.plan(View(torch.zeros(6, 2), (1, 2, 3), head_attention=torch.rand(7, 6, generator=torch.Generator().manual_seed(0))))
    assert torch.equal(before, torch.get_rng_state())


def test_a_prompt_that_ends_with_the_image_is_refused_and_a_template_after_it_is_enough() -> None:
    model = tiny_llava()
    for method in (Explainer(4, compressor=untrained(model)), FirstLayerAttention(4)):
        with pytest.raises(InputError, match="ends with a visual token"):
            kept(model, method, batch([prompt(5, "image"), prompt(5, "image", 2)]))
        assert len(kept(model, method, batch([prompt(5, "image", 1)]))[0]) == 4


@pytest.mark.parametrize("make", [Explainer, FirstLayerAttention])
def test_only_the_language_models_input_will_do(make: Any) -> None:
    with pytest.raises(LayerError, match=r"layer=2 .* must be 0"):
        make(4, layer=2)
    assert make().keep == 0.5


def test_what_is_no_compressor_is_refused() -> None:
    for wrong in (3, None, ""):
        with pytest.raises(OptionError, match="must be a folder, a Hugging Face id, 'demo', 'untrained', or a Conv"):
            Explainer(compressor=wrong)  # type: ignore[arg-type]
    view = View(torch.zeros(4, 2), (1, 2, 2), head_attention=torch.rand(5, 4))
    with pytest.raises(CompressorError, match="has 5 heads, and the compressor was made for 3"):
        Explainer(2, compressor=untrained()).plan(view)
    view = View(torch.zeros(4, 2), (1, 2, 2), head_attention=torch.full((3, 4), torch.nan))
    for method in (Explainer(2, compressor=untrained()), FirstLayerAttention(2)):
        with pytest.raises(InputError, match="head_attention contains NaN"):
            method.plan(view)


def test_equal_attention_keeps_the_lower_index() -> None:
    view = View(torch.zeros(6, 2), (1, 2, 3), head_attention=torch.full((3, 6), 0.1))
    assert FirstLayerAttention(2).plan(view).kept.tolist() == [0, 1]


# The oracle.


def true_relevance(*rows: list[float], grid: tuple[int, int, int] = (1, 4, 4)) -> Relevance:
    images = tuple(ImageRelevance(0, place, grid, torch.tensor([row])) for place, row in enumerate(rows))
    return Relevance(images, (torch.tensor([1]),))


def test_the_oracle_keeps_what_is_most_relevant_image_by_image() -> None:
    model, inputs = tiny_llava(), batch(ROWS)
    values = [torch.rand(TOKENS, generator=torch.Generator().manual_seed(seed)) for seed in range(3)]
    best = [sorted(own.topk(4).indices.tolist()) for own in values]
    given = true_relevance(*[own.tolist() for own in values])
    for layer in (0, 2):
        assert kept(model, Oracle(4, relevance=values, layer=layer), inputs) == best
        assert kept(model, Oracle(4, relevance=given, layer=layer), inputs) == best


def test_the_oracle_after_another_method_knows_which_tokens_are_left() -> None:
    view = View(torch.zeros(4, 2), (1, 2, 3), index=torch.tensor([0, 2, 3, 5]))
    assert Oracle(2, relevance=[torch.tensor([1.0, 9, 2, 3, 9, 0])]).plan(view).kept.tolist() == [1, 2]


def test_a_relevance_that_does_not_fit_is_refused() -> None:
    model, inputs, ones = tiny_llava(), batch(ROWS), [torch.ones(TOKENS)] * 3
    with pytest.raises(OptionError, match=r"needs the true relevance.*foveate.relevance\(model, inputs\)"):
        Oracle(0.5)
    with pytest.raises(InputError, match="the relevance of 2 images was passed for a batch of 3"):
        kept(model, Oracle(4, relevance=ones[:2]), inputs)
    with pytest.raises(InputError, match=r"image 1 has shape \(15,\), but its tokens fill 16"):
        kept(model, Oracle(4, relevance=[ones[0], torch.ones(15), ones[2]]), inputs)
    with pytest.raises(InputError, match="relevance of image 2 contains NaN"):
        kept(model, Oracle(4, relevance=[*ones[:2], torch.full((TOKENS,), torch.nan)]), inputs)


def test_what_a_report_says_of_these_methods_is_short() -> None:
    for method in (Oracle(4, relevance=[torch.ones(9999)]), Explainer(4, compressor=untrained())):
        assert len(str(method)) < 100


def flops(model: Any, inputs: dict[str, Tensor], method: Method | None) -> int:
    with FlopCounterMode(display=False) as counter, torch.no_grad(), foveate.compress(model, method) if method else nullcontext():
        model(**inputs)
    return counter.get_total_flops()


def test_looking_ahead_projects_every_key_but_only_the_questions_queries() -> None:
    model, inputs = tiny_llava(), batch([prompt(30, "image", 2)])
    everything = FirstLayerAttention(1.0)
    more = flops(model, inputs, everything) - flops(model, inputs, None)
    tokens, asked, heads, width, key_width = 30 + TOKENS + 2, 2, 4, 32, 16
    projections = tokens * width * key_width + asked * width * width + 1 * width * key_width
    assert more == 2 * (projections + asked * tokens * width + asked * tokens * heads)
    projection = family_of(model).attention(family_of(model).layers(model)[0]).q_proj
    assert not projection._forward_hooks
    assert not projection._forward_pre_hooks
