"""Tiny random models, inputs, and the slow reference that compressed runs are compared with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration, MistralConfig

from foveate import (
    DART,
    DivPrune,
    EntropyPrune,
    FastV,
    Method,
    Plan,
    Pool,
    PyramidDrop,
    Random,
    Scope,
    SparseVLM,
    TokenCarve,
    TowerAttention,
    V2Drop,
    View,
)

IMAGE, PAD, VOCABULARY = 90, 0, 96
TOKENS = 16


def tiny_llava(
    *,
    seed: int = 0,
    layers: int = 4,
    attention: str = "sdpa",
    dtype: torch.dtype = torch.float32,
    side: int = 4,
    key_heads: int = 2,
    decoder: type[LlamaConfig] | type[MistralConfig] = LlamaConfig,
    **decoder_options: Any,
) -> LlavaForConditionalGeneration:
    """A random LLaVA with `side` x `side` visual tokens, whose attention is far from uniform."""
    torch.manual_seed(seed)
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(
            hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4, image_size=7 * side, patch_size=7
        ),
        text_config=decoder(
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=layers,
            num_attention_heads=4,
            num_key_value_heads=key_heads,
            vocab_size=VOCABULARY,
            max_position_embeddings=2048,
            pad_token_id=PAD,
            bos_token_id=1,
            eos_token_id=None,
            **decoder_options,
        ),
        image_token_id=IMAGE,
        image_seq_length=side * side,
        vision_feature_layer=-2,
    )
    config._attn_implementation = attention
    model = LlavaForConditionalGeneration(config).to(dtype).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                fan_in = parameter[0].numel()
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 1.4 * fan_in**-0.5)
    model.generation_config.pad_token_id = PAD
    model.generation_config.eos_token_id = None
    model.generation_config.suppress_tokens = [IMAGE]
    return model


def prompt(*lengths: int | str, seed: int = 0) -> list[int]:
    """Random text of the given lengths, with "image" where an image belongs: prompt(3, "image", 5)."""
    generator = torch.Generator().manual_seed(seed)
    ids: list[int] = []
    for part in lengths:
        ids += [IMAGE] * TOKENS if part == "image" else torch.randint(2, 80, (int(part),), generator=generator).tolist()
    return ids


def pixels(images: int, *, seed: int = 0, side: int = 4) -> Tensor:
    """Random pictures (images, 3, h, w)."""
    return torch.randn(images, 3, 7 * side, 7 * side, generator=torch.Generator().manual_seed(100 + seed))


def batch(rows: Sequence[list[int]], *, padding: str = "left", seed: int = 0) -> dict[str, Tensor]:
    """Padded inputs for several prompts, with as many random pictures as they have placeholders."""
    width = max(map(len, rows))
    ids, mask = torch.full((len(rows), width), PAD), torch.zeros(len(rows), width, dtype=torch.long)
    for index, row in enumerate(rows):
        place = slice(width - len(row), width) if padding == "left" else slice(0, len(row))
        ids[index, place], mask[index, place] = torch.tensor(row), 1
    inputs = {"input_ids": ids, "attention_mask": mask}
    images = sum(row.count(IMAGE) for row in rows) // TOKENS
    return {**inputs, "pixel_values": pixels(images, seed=seed)} if images else inputs


def alone(inputs: dict[str, Tensor], row: int) -> dict[str, Tensor]:
    """One row of a batch, without its padding."""
    real = inputs["attention_mask"][row].bool()
    counts = (inputs["input_ids"] == IMAGE).sum(1) // TOKENS
    first = int(counts[:row].sum())
    single = {"input_ids": inputs["input_ids"][row, real][None], "attention_mask": real[real].long()[None]}
    images = inputs.get("pixel_values")
    mine = None if images is None else images[first : first + int(counts[row])]
    return {**single, "pixel_values": mine} if mine is not None and len(mine) else single


@dataclass(frozen=True)
class Fixed(Method):
    """Returns given plans in turn, one per image of a prefill."""

    keep: int | float = 1.0
    targets: tuple[tuple[int, ...], ...] = ()
    exact: ClassVar[bool] = False

    def plans(self, views: Sequence[View]) -> list[Plan]:
        return [Plan(torch.tensor(self.targets[index % len(self.targets)])) for index in range(len(views))]


def keep_target(kept: Sequence[int], tokens: int = TOKENS) -> tuple[int, ...]:
    """The map of a plan that keeps some tokens and drops the rest."""
    return tuple(Plan.keep(list(kept), tokens).to_list())


def reference_logits(
    model: LlavaForConditionalGeneration,
    ids: Tensor,
    mask: Tensor,
    pixel_values: Tensor | None,
    prefill: int,
    targets: Sequence[Sequence[Tensor]],
    layer: int,
    *,
    trim: bool = True,
) -> Tensor:
    """Logits (b, s, v) of the full, uncompressed model under masks that say what compression must mean.

    Layers from `layer` never see a removed token; with `trim`, tokens after the prefill see none in any layer. A merged
    state is at its target's position. Positions are the original ones. `targets[row]` are maps per image.
    """
    rows, length = ids.shape
    removed = torch.zeros(rows, length, dtype=torch.bool)
    merges: list[tuple[int, Tensor, Tensor]] = []
    for row in range(rows):
        visual = (ids[row, :prefill] == model.config.image_token_id).nonzero().squeeze(1)
        for target in targets[row]:
            columns, visual = visual[: len(target)], visual[len(target) :]
            plan = Plan(target)
            removed[row, columns[plan.merged]] = True
            removed[row, columns[plan.dropped]] = True
            merges.append((row, columns, plan.target))
    order = torch.arange(length)
    seen = (order[None, :] <= order[:, None])[None] & mask.bool()[:, None, :]
    late = seen & ~removed[:, None, :]
    early = seen.clone()
    if trim:
        early[:, prefill:] = late[:, prefill:]
    eye = torch.eye(length, dtype=torch.bool)[None]

    def before(index: int):  # noqa: ANN202
        def hook(module, args, kwargs):  # noqa: ANN001, ANN202
            visible = (early if index < layer else late) | eye
            additive = torch.zeros(visible.shape, dtype=args[0].dtype).masked_fill(~visible, torch.finfo(args[0].dtype).min)
            kwargs["attention_mask"] = additive[:, None]
            states = args[0]
            if index == layer:
                states = states.clone()
                for row, columns, target in merges:
                    merged = Plan(target).merge(states[row, columns])
                    states[row, columns[Plan(target).kept]] = merged
            return (states, *args[1:]), kwargs

        return hook

    hooks = [
        module.register_forward_pre_hook(before(index), with_kwargs=True) for index, module in enumerate(model.model.language_model.layers)
    ]
    positions = (mask.long().cumsum(1) - 1).clamp(min=0)
    try:
        with torch.no_grad():
            extra = {} if pixel_values is None else {"pixel_values": pixel_values}
            return model(input_ids=ids, attention_mask=mask, position_ids=positions, use_cache=False, **extra).logits
    finally:
        for hook in hooks:
            hook.remove()


SPARSE = keep_target([1, 4, 5, 9, 12])
"""Keeps five tokens of sixteen."""

METHODS = [
    *(TokenCarve(keep=6), TokenCarve(keep=6, source="attention_output"), FastV(keep=6), Random(keep=6), Pool(keep=6)),
    *(DivPrune(keep=6), Scope(keep=6), TowerAttention(keep=6)),
    *(DART(keep=6), EntropyPrune(keep=6), PyramidDrop(keep=6), SparseVLM(keep=6), V2Drop(keep=6)),
]
"""Every method that needs nothing but the model, keeping six tokens."""


def generate(model: Any, inputs: dict[str, Any], steps: int = 6, **options: Any) -> Any:
    """Greedy `generate` with its logits."""
    options = {"do_sample": False, "output_logits": True, **options}
    return model.generate(**inputs, max_new_tokens=steps, return_dict_in_generate=True, **options)
