"""Prompts out of pieces, and the slow truth: the full model under masks that say what compression means."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from zoo import PAD, Case, Piece

from foveate import Method, Plan, View
from foveate.families import Family


@dataclass(frozen=True)
class Sieve(Method):
    """Keeps every third token, merges its neighbour into it and drops the next; says what it was shown."""

    keep: int | float = 1.0
    exact: ClassVar[bool] = False

    def plan(self, view: View) -> Plan:
        return sieve(len(view))


def sieve(tokens: int) -> Plan:
    place = torch.arange(tokens)
    return Plan(torch.where(place % 3 == 2, -1, place - place % 3))


@dataclass(frozen=True)
class Prompt:
    """A padded batch, and the positions of each piece's content in it."""

    inputs: dict[str, Tensor]
    columns: list[list[Tensor]]
    pieces: list[list[Piece]]


def prompt(case: Case, rows: Sequence[Sequence[int | Piece]], *, padding: str = "left") -> Prompt:
    """Numbers are lengths of random text."""
    generator = torch.Generator().manual_seed(5)
    ids: list[list[int]] = []
    columns: list[list[Tensor]] = []
    for row in rows:
        own: list[int] = []
        places: list[Tensor] = []
        for part in row:
            if isinstance(part, Piece):
                places.append(torch.tensor(part.content) + len(own))
                own += part.ids
            else:
                own += torch.randint(2, 60, (part,), generator=generator).tolist()
        ids.append(own)
        columns.append(places)
    width = max(map(len, ids))
    tokens, mask = torch.full((len(ids), width), PAD), torch.zeros(len(ids), width, dtype=torch.long)
    for index, own in enumerate(ids):
        first = width - len(own) if padding == "left" else 0
        tokens[index, first : first + len(own)], mask[index, first : first + len(own)] = torch.tensor(own), 1
        columns[index] = [place + first for place in columns[index]]
    pieces = [[part for part in row if isinstance(part, Piece)] for row in rows]
    inputs = {"input_ids": tokens, "attention_mask": mask, **case.join(pieces)}
    if case.typed:
        types = torch.zeros_like(tokens)
        for index, places in enumerate(columns):
            for place, piece in zip(places, pieces[index], strict=True):
                types[index, place] = 1 if piece.kind == "image" else 2
        inputs["mm_token_type_ids"] = types
    return Prompt(inputs, columns, pieces)


def truth(
    case: Case,
    model: Any,
    family: Family,
    given: Prompt,
    sequences: Tensor,
    layer: int,
    *,
    trim: bool = True,
    since: int | None = None,
    made: Mapping[tuple[int, int], Plan] | None = None,
) -> Tensor:
    """Logits (b, s, v) of the full model over `sequences`: the prompt and what came after it.

    Layers from `layer` see no removed token; with `trim`, tokens from column `since` (by default: after the prompt) see none in any
    layer. A merged state is at its target's position. Positions are the original ones. Each image has the plan that was `made` for it, by
    row and position, or `sieve`'s by default.
    """
    rows, length = sequences.shape
    width = given.inputs["input_ids"].shape[1] if since is None else since
    extra = length - given.inputs["input_ids"].shape[1]
    mask = torch.cat([given.inputs["attention_mask"], torch.ones(rows, extra, dtype=torch.long)], 1)
    removed, plans = torch.zeros(rows, length, dtype=torch.bool), []
    for row, places in enumerate(given.columns):
        for position, place in enumerate(places):
            plan = sieve(len(place)) if made is None else made[row, position]
            removed[row, place[plan.merged]] = removed[row, place[plan.dropped]] = True
            plans.append((row, place, plan))
    order = torch.arange(length)
    seen = (order[None, :] <= order[:, None])[None] & mask.bool()[:, None, :]
    late = seen & ~removed[:, None, :]
    early = torch.cat([seen[:, :width], late[:, width:]], 1) if trim else seen

    def before(index: int):  # noqa: ANN202
        def hook(module, args, kwargs):  # noqa: ANN001, ANN202
            visible = (early if index < layer else late) | torch.eye(length, dtype=torch.bool)
            kwargs["attention_mask"] = torch.zeros(visible.shape).masked_fill(~visible, torch.finfo(torch.float32).min)[:, None]
            states = args[0].clone()
            for row, place, plan in plans if index == layer else []:
                states[row, place[plan.kept]] = plan.merge(states[row, place])
            return (states, *args[1:]), kwargs

        return hook

    def average(module, args, kwargs):  # noqa: ANN001, ANN202
        """Features that are added after layers from the cut are merged like the states."""
        mask, features = kwargs.get("visual_pos_masks"), kwargs.get("deepstack_visual_embeds") or ()
        for index in range(layer, len(features)):
            dense = torch.zeros(*mask.shape, features[index].shape[1])
            dense[mask] = features[index]
            for row, place, plan in plans:
                dense[row, place[plan.kept]] = plan.merge(dense[row, place])
            features[index] = dense[mask]
        return args, kwargs

    hooks = [each.register_forward_pre_hook(before(index), with_kwargs=True) for index, each in enumerate(family.layers(model))]
    hooks.append(family.decoder(model).register_forward_pre_hook(average, with_kwargs=True))
    more = {name: value for name, value in given.inputs.items() if name not in ("input_ids", "attention_mask", "mm_token_type_ids")}
    if case.typed:
        types = given.inputs["mm_token_type_ids"]
        more["mm_token_type_ids"] = torch.cat([types, torch.zeros(rows, extra, dtype=types.dtype)], 1)
    else:
        more["position_ids"] = (mask.cumsum(1) - 1).clamp(min=0)
    try:
        with torch.no_grad():
            return model(input_ids=sequences, attention_mask=mask, use_cache=False, **more).logits
    finally:
        for hook in hooks:
            hook.remove()
