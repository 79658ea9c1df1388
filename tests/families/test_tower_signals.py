"""Tower signals of families that join patches in ways of their own, against plain computations."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import zoo
from oracle import Prompt, prompt
from test_view_signals import batch, views
from torch import Tensor
from zoo import Case

from foveate import View
from foveate.families import family_of

CASES = {case.model_type: case for case in zoo.CASES}
JOINED = [CASES[name] for name in ("idefics3", "smolvlm", "mistral3", "lighton_ocr")]
CLOSE = {"atol": 1e-5, "rtol": 1e-4}


def projected(model: Any, case: Case, states: Tensor) -> Tensor:
    """Projects states (tokens, patches of a token joined in row-major order) one layer after the other."""
    if case.family == "idefics3":
        return model.model.connector.modality_projection(states)
    backbone = model.model
    projector = backbone.multi_modal_projector if hasattr(backbone, "multi_modal_projector") else backbone.vision_projection
    patches = projector.norm(states.unflatten(1, (4, -1)))
    merged = projector.patch_merger.merging_layer(patches.transpose(1, 2).flatten(1))
    return projector.linear_2(projector.act(projector.linear_1(merged)))


def maps_of(model: Any, given: Prompt) -> Tensor:
    """The tower's attention maps (crops, patches, patches), mean over heads."""
    caught: list[Tensor] = []
    model.set_attn_implementation("eager")
    hook = family_of(model).tower_attention(model).register_forward_hook(lambda *call: caught.append(call[2][1]))
    with torch.no_grad():
        model(**given.inputs)
    hook.remove()
    model.set_attn_implementation("sdpa")
    return caught[0].mean(1)


def joined(received: Tensor, rows: int, columns: int) -> list[float]:
    """Mean of each 2 x 2 patches, row by row."""
    grid = received.view(2 * rows, 2 * columns)
    return [float(grid[2 * row : 2 * row + 2, 2 * column : 2 * column + 2].mean()) for row in range(rows) for column in range(columns)]


@pytest.mark.parametrize("generate", [False, True], ids=["plain forward", "generate"])
@pytest.mark.parametrize("case", JOINED, ids=lambda case: case.model_type)
def test_states_of_joined_patches_become_what_enters_the_language_model(case: Case, generate: bool) -> None:
    model = case.build()
    found = views(model, batch(case), 2, generate=generate)
    assert len({view.parts for view in found}) > 1
    for view in found:
        with torch.no_grad():
            torch.testing.assert_close(projected(model, case, view.signal("tower_states")), view.signal("projected_states"), **CLOSE)


@pytest.mark.parametrize("case", JOINED, ids=lambda case: case.model_type)
def test_attention_that_joined_patches_receive(case: Case) -> None:
    model, given = case.build(), batch(case)
    maps = maps_of(model, given)
    found, start = views(model, given, 2), 0
    for number, view in enumerate(found):
        wanted: list[float] = []
        for _, rows, columns in view.parts:
            patches = 4 * rows * columns
            together = slice(start, start + patches)  # in one sequence, where each picture sees itself alone
            own = maps[0, together, together] if len(maps) == 1 else maps[start // patches]
            wanted += joined(own.mean(0), rows, columns)
            start += patches
        torch.testing.assert_close(view.signal("tower_attention"), torch.tensor(wanted), atol=1e-6, rtol=1e-4, msg=str(number))


def test_patches_that_are_tokens_in_rows() -> None:
    case = next(case for case in zoo.CASES if case.build is zoo.llava_pixtral)
    model, given = case.build(), batch(case)
    maps, start = maps_of(model, given)[0], 0
    for view in views(model, given, 2):
        own = slice(start, start + len(view))
        torch.testing.assert_close(view.signal("tower_attention"), maps[own, own].mean(0), atol=1e-6, rtol=1e-4)
        with torch.no_grad():
            entered = model.model.multi_modal_projector(view.signal("tower_states"))
        torch.testing.assert_close(entered, view.signal("projected_states"), **CLOSE)
        start = own.stop


def videos(case: Case) -> tuple[Any, Prompt, list[View]]:
    assert case.video is not None
    model = case.build()
    given = prompt(case, [[3, case.video(0), 5], [2, case.video(1), 1, 4]], padding="left")
    return model, given, views(model, given, 2)


def test_videos_of_pooled_frames() -> None:
    model, given, found = videos(CASES["llava_next_video"])
    received = maps_of(model, given)[:, 0, 1:]
    assert sum(view.grid[0] for view in found) == len(received)
    pooled = torch.tensor([value for frame in received for value in joined(frame, *found[0].grid[1:])])
    torch.testing.assert_close(torch.cat([view.signal("tower_attention") for view in found]), pooled, atol=1e-6, rtol=1e-4)
    for view in found:
        with torch.no_grad():
            entered = model.model.multi_modal_projector(view.signal("tower_states"))
        torch.testing.assert_close(entered, view.signal("projected_states"), **CLOSE)


def test_packed_sequences_are_read_one_by_one() -> None:
    from foveate.engine.signals.attention import _received_by_sequence

    torch.manual_seed(0)
    query, key = torch.randn(2, 1, 4, 7, 8)
    bounds = torch.tensor([0, 3, 7])
    alone = [_received_by_sequence(query[:, :, part], key[:, :, part], None) for part in (slice(0, 3), slice(3, 7))]
    torch.testing.assert_close(_received_by_sequence(query, key, None, bounds), torch.cat(alone, dim=1))
    assert not torch.allclose(_received_by_sequence(query, key, None), torch.cat(alone, dim=1))
