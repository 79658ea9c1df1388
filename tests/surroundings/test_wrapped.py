"""Models inside PEFT, and models with quantised weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from around import METHOD, answer, assert_pruning_equals_masking, outside, two_rows
from tiny import tiny_llava

import foveate
from foveate import FastV
from foveate.errors import HandleError, UnsupportedError, UnsupportedModelError

TARGETS = ["q_proj", "v_proj", "up_proj"]


def lora(model: Any, **options: Any) -> Any:
    """A wrapped model whose adapter is far from nothing."""
    peft = pytest.importorskip("peft")
    torch.manual_seed(3)
    return peft.get_peft_model(model, peft.LoraConfig(r=4, target_modules=TARGETS, init_lora_weights=False, **options)).eval()


@pytest.mark.parametrize("task", [None, "CAUSAL_LM"])
def test_an_adapted_model_prunes_as_it_masks(task: str | None) -> None:
    wrapped, plain = lora(tiny_llava(), task_type=task), tiny_llava()
    changed = answer(wrapped, two_rows()).logits[0] - answer(plain, two_rows()).logits[0]
    before = outside(wrapped)
    assert_pruning_equals_masking(wrapped, wrapped.get_base_model())
    assert outside(wrapped) == before
    assert changed.abs().max() > 0.1


def test_the_model_inside_may_be_compressed_instead_but_not_both() -> None:
    wrapped = lora(tiny_llava())
    with foveate.compress(wrapped, FastV(keep=4)):
        expected = answer(wrapped, two_rows()).logits
        with pytest.raises(HandleError, match="already has"):
            foveate.compress(wrapped.get_base_model(), FastV(keep=4))
    with foveate.compress(wrapped.get_base_model(), FastV(keep=4)):
        assert torch.equal(torch.stack(answer(wrapped, two_rows()).logits), torch.stack(expected))


def test_an_adapter_is_switched_off_and_merged_under_the_handle() -> None:
    wrapped, plain = lora(tiny_llava()), tiny_llava()
    with foveate.compress(plain, METHOD):
        without = torch.stack(answer(plain, two_rows()).logits)
    with foveate.compress(wrapped, METHOD):
        adapted = torch.stack(answer(wrapped, two_rows()).logits)
        with wrapped.disable_adapter():
            torch.testing.assert_close(torch.stack(answer(wrapped, two_rows()).logits), without, atol=1e-5, rtol=1e-5)
        wrapped.merge_adapter()
        torch.testing.assert_close(torch.stack(answer(wrapped, two_rows()).logits), adapted, atol=1e-4, rtol=1e-4)


def test_ways_of_generating_that_would_go_wrong_are_refused_through_the_wrapper_too() -> None:
    wrapped = lora(tiny_llava())
    with foveate.compress(wrapped, FastV(keep=4)), pytest.raises(UnsupportedError, match="prompt_lookup_num_tokens=3"):
        wrapped.generate(**two_rows(), max_new_tokens=2, prompt_lookup_num_tokens=3)


def test_virtual_tokens_in_front_of_the_prompt_are_refused() -> None:
    peft = pytest.importorskip("peft")
    for kind in (peft.PromptTuningConfig, peft.PrefixTuningConfig):
        wrapped = peft.get_peft_model(tiny_llava(), kind(task_type="CAUSAL_LM", num_virtual_tokens=3))
        before = outside(wrapped)
        with pytest.raises(UnsupportedModelError, match=rf"{kind.__name__}.*LoRA"):
            foveate.compress(wrapped, FastV(keep=4))
        assert outside(wrapped) == before


def reloaded(folder: Path, **options: Any) -> Any:
    """The tiny model, quantised while it is loaded, as people do it."""
    pytest.importorskip("accelerate")
    from transformers import LlavaForConditionalGeneration

    tiny_llava().save_pretrained(folder)
    return LlavaForConditionalGeneration.from_pretrained(folder, **options).eval()


def test_a_model_quantised_by_torchao_prunes_as_it_masks(tmp_path: Path) -> None:
    quantization = pytest.importorskip("torchao.quantization")
    from transformers import TorchAoConfig

    config = TorchAoConfig(quantization.Int8WeightOnlyConfig(), modules_to_not_convert=["lm_head", "vision_tower", "multi_modal_projector"])
    model = reloaded(tmp_path, quantization_config=config)
    weight = model.model.language_model.layers[0].self_attn.q_proj.weight
    assert type(weight) is not torch.nn.Parameter
    assert_pruning_equals_masking(model, model)


def test_a_model_quantised_by_bitsandbytes_prunes_as_it_masks(tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes")
    from transformers import BitsAndBytesConfig

    config = BitsAndBytesConfig(load_in_4bit=True, llm_int8_skip_modules=["lm_head", "vision_tower", "multi_modal_projector"])
    model = reloaded(tmp_path, quantization_config=config)
    assert type(model.model.language_model.layers[0].self_attn.q_proj).__name__ == "Linear4bit"
    assert_pruning_equals_masking(model, model)


def test_linear_layers_of_another_class_do_not_matter() -> None:
    """What every quantiser does: put modules of its own in the place of the linear layers."""

    class Rounded(torch.nn.Module):
        def __init__(self, weight: torch.Tensor) -> None:
            super().__init__()
            self.scale = weight.abs().amax(1, keepdim=True) / 127
            self.whole = (weight / self.scale).round().to(torch.int8)

        def forward(self, states: torch.Tensor) -> torch.Tensor:
            return states @ (self.whole.to(states.dtype) * self.scale).T

    model = tiny_llava()
    with torch.no_grad():
        for layer in model.model.language_model.layers:
            for parent, names in ((layer.self_attn, ("q_proj", "k_proj", "v_proj", "o_proj")), (layer.mlp, ("up_proj", "down_proj"))):
                for name in names:
                    setattr(parent, name, Rounded(getattr(parent, name).weight))
    assert_pruning_equals_masking(model, model)
    with foveate.compress(model, FastV(keep=4)) as handle:
        model(**two_rows())
        assert handle.report.tokens_after == 8
