"""What the rows of the table share: one prompt, one plan, the truth about them, and what a model looks like from outside."""

from __future__ import annotations

from typing import Any

import torch
from tiny import TOKENS, Fixed, batch, keep_target, prompt, reference_logits, tiny_llava
from torch import Tensor, nn

import foveate
from foveate.compression import Handle

SPARSE = keep_target([1, 4, 5, 9, 12])
MERGING = tuple(1 if i in (0, 2) else 12 if i == 15 else t for i, t in enumerate(SPARSE))
ONE = keep_target([3])
METHOD = Fixed(targets=(MERGING, ONE))
STEPS = 8


def two_rows() -> dict[str, Tensor]:
    """Two prompts of different lengths with an image each."""
    return batch([prompt(3, "image", 5), prompt(2, "image", 9, seed=1)])


def used_llava() -> Any:
    """The tiny model after a first call, in which transformers installs some hooks of its own for good."""
    model = tiny_llava()
    with torch.no_grad():
        model(**two_rows())
    return model


def answer(model: Any, inputs: dict[str, Tensor], **options: Any) -> Any:
    """What greedy decoding gives, with the logits of each step."""
    options = {"max_new_tokens": STEPS, "do_sample": False, "output_logits": True, "return_dict_in_generate": True, **options}
    return model.generate(**inputs, **options)


def assert_pruning_equals_masking(model: nn.Module, plain: Any, tolerance: float = 1e-4, **options: Any) -> None:
    """`model`, compressed, gives what `plain` gives under masks. `plain` is the transformers model with the same weights."""
    inputs = two_rows()
    with foveate.compress(model, METHOD) as handle:
        out = answer(model, inputs, **options)
        assert_shortened(handle)
        targets = [[image.plan.target] for image in handle.report.images]
    width = inputs["input_ids"].shape[1]
    mask = torch.cat([inputs["attention_mask"], torch.ones(2, STEPS, dtype=torch.long)], dim=1)
    expected = reference_logits(plain, out.sequences, mask, inputs["pixel_values"], width, targets, METHOD.layer)
    torch.testing.assert_close(torch.stack(out.logits, 1), expected[:, width - 1 : -1], atol=tolerance, rtol=tolerance)


def assert_shortened(handle: Handle) -> None:
    """The last prefill left one token of the second image and five of the first."""
    assert [image.tokens_after for image in handle.report.images] == [5, 1]
    assert [image.tokens_before for image in handle.report.images] == [TOKENS, TOKENS]


def outside(model: nn.Module) -> list[Any]:
    """Hooks, attributes and configurations of every module: equal before and after means that everything was removed."""
    modules = [(name, len(m._forward_hooks), len(m._forward_pre_hooks), sorted(m.__dict__)) for name, m in model.named_modules()]
    return [modules, [id(getattr(module, "config", None)) for module in model.modules()]]
