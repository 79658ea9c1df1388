"""Signals inside compressed runs of every family, compared with what plain hooks read in the full model under masks."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from cases import CASES
from oracle import Prompt, prompt, sieve, truth
from test_view_signals import Spy
from torch import Tensor
from zoo import Case, known

import foveate
from foveate import Plan, View
from foveate.families import family_of
from foveate.families.vila.modeling import PatchMerger

KNOWN = [case for case in CASES if known(case.model_type) and str(case) not in ("llava_next mistral", "llava_next qwen2")]
EXACT = {"atol": 2e-5, "rtol": 1e-4}


@dataclass(frozen=True)
class Thinning(Spy):
    """Records what it was shown, and leaves fewer tokens for the methods after it."""

    exact = False

    def plan(self, view: View) -> Plan:
        self.seen.append(view)
        return sieve(len(view))


def rows(case: Case) -> Prompt:
    several = case.several or case.image
    parts: list[list[Any]] = [[3, case.image(0), 5], [2, several(1), 1, several(2), 4]]
    return prompt(case, parts if case.video is None else [*parts, [1, case.video(0), 6]])


class Read:
    """The full model under the masks of a cut before layer 1, with everything that passes by."""

    def __init__(self, case: Case, model: Any, given: Prompt) -> None:
        family, self.entered, self.attended, self.projected, self.received = family_of(model), {}, {}, [], []
        model.set_attn_implementation("eager")
        with ExitStack() as stack:

            def watch(module: Any, see: Callable[..., None], *, before: bool = False) -> None:
                attach = module.register_forward_pre_hook if before else module.register_forward_hook
                stack.callback(attach(see).remove)

            for index, layer in enumerate(family.layers(model)):
                watch(layer, lambda _, args, index=index: self.entered.setdefault(index, args[0]), before=True)
                watch(family.attention(layer), lambda _, args, output, index=index: self.attended.setdefault(index, output))
            if tower_of(case) is not None:
                watch(feature_attention(model), lambda _, args, output: self.received.append(output[1].mean(1)))
                watch(model.model.multi_modal_projector, lambda _, args: self.projected.append(args[0]), before=True)
            truth(case, model, family, given, given.inputs["input_ids"], 1)
        model.set_attn_implementation("sdpa" if case.family not in ("got_ocr2", "pp_chart2table") else "eager")


@pytest.mark.parametrize("case", KNOWN, ids=str)
def test_methods_after_a_cut_see_what_the_full_model_computes_without_the_removed_tokens(case: Case) -> None:
    model, given = case.build(), rows(case)
    family = family_of(model)
    first, last = (kind(layer=layer, wants=family.gives(model)) for kind, layer in ((Thinning, 1), (Spy, 3)))
    with foveate.compress(model, [first, last]):
        model.generate(**given.inputs, max_new_tokens=1, do_sample=False)
    read = Read(case, model, given)
    placeholders = torch.tensor(list(family.placeholders(model).values()))
    places = [(row, place) for row, columns in enumerate(given.columns) for place in columns]
    assert len(first.seen) == len(last.seen) == len(places)
    for early, late, (row, place) in zip(first.seen, last.seen, places, strict=True):
        plan, real = sieve(len(place)), given.inputs["attention_mask"][row].nonzero().squeeze(1)
        kept, end = place[plan.kept], real[-1]
        text = real[~torch.isin(given.inputs["input_ids"][row, real], placeholders)]
        asked = text[text > max(int(each.max()) for each in given.columns[row])]
        for view, where, layer in ((early, place, 1), (late, kept, 3)):
            output, by_head = read.attended[layer - 1][:2]
            maps = by_head.mean(1)
            torch.testing.assert_close(view.signal("last_attention"), maps[row, end, where], **EXACT)
            torch.testing.assert_close(view.signal("text_attention"), maps[row, asked][:, where], **EXACT)
            torch.testing.assert_close(view.signal("head_attention"), by_head[row][:, asked].mean(1)[:, where], **EXACT)
            torch.testing.assert_close(view.signal("attention_output"), output[row, where], **EXACT)
            torch.testing.assert_close(view.signal("projected_states"), read.entered[0][row, where], **EXACT)
            torch.testing.assert_close(view.signal("question_states"), read.entered[layer][row, asked], **EXACT)
            torch.testing.assert_close(view.signal("question_embeddings"), read.entered[0][row, asked], **EXACT)
            torch.testing.assert_close(view.signal("earlier_states"), read.entered[layer - 1][row, where], **EXACT)
            assert view.signal("keys").shape[0] == len(where)
            assert view.signal("question_keys").shape[0] == len(asked)
        # Before the first cut nothing has left, so the masks of the truth, which hide what leaves there, do not apply.
        torch.testing.assert_close(late.signal("next_attention"), read.attended[3][1].mean(1)[row, end, kept], **EXACT)
        torch.testing.assert_close(late.states, read.entered[3][row, kept], **EXACT)
        for name in sorted(family.gives(model) & {"tower_attention", "tower_states"}):
            assert torch.equal(late.signal(name), early.signal(name)[plan.kept])

    fold = tower_of(case)
    if fold is not None:
        pieces = [piece for own in given.pieces for piece in own]
        for name, values in (("tower_attention", [own[..., None] for own in received(model, read)]), ("tower_states", read.projected)):
            for view, expected in zip(first.seen, fold(model, pieces, values), strict=True):
                torch.testing.assert_close(view.signal(name).reshape(len(view), -1), expected, **EXACT)


# Vision towers: where the features come from, and how the models themselves join patches.


def feature_attention(model: Any) -> Any:
    tower, layer = model.model.vision_tower, model.config.vision_feature_layer
    inner = getattr(tower, "vision_model", tower)
    encoder = getattr(inner, "encoder", inner)
    if hasattr(encoder, "layer"):
        return encoder.layer[layer].attention
    own = encoder.layers[layer]
    return own.self_attn if hasattr(own, "self_attn") else own.attention


def received(model: Any, read: Read) -> list[Tensor]:
    """Per call of the tower (crops, patches)."""
    siglip = model.config.vision_config.model_type == "siglip_vision_model"
    return [maps.mean(1) if siglip else maps[:, 0, 1:] for maps in read.received]


def squares(model: Any, pieces: Any, values: list[Tensor]) -> list[Tensor]:
    return list(values[0])


def tiles(model: Any, pieces: Any, values: list[Tensor]) -> list[Tensor]:
    """Packed by the model, with a newline that is seen if it comes along."""
    images, found = values[0], []
    crops = [piece.tensors["pixel_values"].shape[1] for piece in pieces if piece.kind == "image"]
    more = {} if hasattr(model.config, "vision_aspect_ratio") else {"vision_feature_select_strategy": "default"}
    if "vision_aspect_ratio" in vars(model.config):
        more["vision_aspect_ratio"] = model.config.vision_aspect_ratio
    for piece, part in zip(pieces, images.split(crops), strict=False):
        newline = torch.full(part.shape[-1:], torch.nan)
        (packed,), _ = model.model.pack_image_features([part], piece.tensors["image_sizes"].tolist(), image_newline=newline, **more)
        found.append(packed[torch.tensor(piece.content)])
    return found + [model.model.apply_pooling(frames).flatten(0, 1) for frames in values[1:]]


def shuffled(model: Any, pieces: Any, values: list[Tensor]) -> list[Tensor]:
    own = values[0]
    if own.shape[-1] == 1:
        own = model.model.pixel_shuffle(own.unflatten(1, (8, 8)), scale_factor=0.5).flatten(1, 2).mean(-1, keepdim=True)
    return [part.flatten(0, 1) for part in own.split([len(piece.parts) for piece in pieces])]


def joined(model: Any, pieces: Any, values: list[Tensor]) -> list[Tensor]:
    (own,) = values
    total, count = (PatchMerger()(each).unflatten(2, (4, -1)).sum(2) for each in (own, torch.ones_like(own)))
    return [part[torch.tensor(piece.content)] for part, piece in zip(total / count, pieces, strict=True)]


TOWERS: dict[str, Callable[[Any, Any, list[Tensor]], list[Tensor]]] = {
    "llava": squares,
    "llava-next": tiles,
    "llava-onevision": tiles,
    "internvl": shuffled,
    "vila": joined,
}
"""Qwen's towers and those of pictures in rows of patches have files of their own."""


def tower_of(case: Case) -> Callable[[Any, Any, list[Tensor]], list[Tensor]] | None:
    return None if case.variant == "pixtral" else TOWERS.get(case.family)
