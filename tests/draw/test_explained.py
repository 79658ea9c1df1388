"""The picture of relevance, checked in its panels and their pixels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from canvases import canvas_of
from PIL import Image

from foveate import Relevance, draw
from foveate.draw import Word, explained
from foveate.draw.heat import colour, paint_heat
from foveate.draw.page import LegendEntry, Tile
from foveate.errors import InputError
from foveate.explain.relevance.result import ImageRelevance

pytestmark = pytest.mark.one_version

GRAY = Image.new("RGB", (160, 160), (128, 128, 128))


def relevance(tokens: Sequence[Sequence[float]], grid: tuple[int, int, int], **options: Any) -> Relevance:
    values = torch.tensor(tokens, dtype=torch.float32)
    return Relevance((ImageRelevance(0, 0, grid, values, **options),), (torch.arange(len(values)),))


@pytest.fixture
def pages(monkeypatch: pytest.MonkeyPatch) -> list[tuple[list[list[Tile]], list[LegendEntry], list[str]]]:
    """The parts of every page, and the page itself."""
    found: list[Any] = []
    real = explained.lay_out

    def note(*parts: Any) -> Image.Image:
        found.append(parts)
        return real(*parts)

    monkeypatch.setattr(explained, "lay_out", note)
    return found


def middles(panel: Image.Image, rows: int, columns: int) -> np.ndarray:
    """Mean colour (rows, columns, 3) of the middle of each cell."""
    pixels = np.asarray(panel, dtype=float)
    high, wide = pixels.shape[0] // rows, pixels.shape[1] // columns
    cells = pixels[: high * rows, : wide * columns].reshape(rows, high, columns, wide, 3)
    return cells[:, high // 4 : high - high // 4, :, wide // 4 : wide - wide // 4].mean((1, 3))


def test_a_cells_colour_is_that_of_its_level_the_stronger_the_higher() -> None:
    canvas = canvas_of((0, 0, 160, 160), (160, 160), (2, 2), 160)
    levels = [0.0, 0.25, 0.6, 1.0]
    cells = middles(paint_heat(GRAY, canvas, levels, ()), 2, 2).reshape(4, 3)
    ground = 0.7 * 128 + 0.3 * 190
    for level, cell in zip(levels, cells, strict=True):
        share = 0.35 + 0.5 * level
        assert np.abs(cell - (share * np.array(colour(level)) + (1 - share) * ground)).max() < 3
    assert np.linalg.norm(cells[3] - colour(1.0)) < np.linalg.norm(cells[0] - colour(0.0))


def test_the_top_cells_are_outlined_and_no_others() -> None:
    canvas = canvas_of((0, 0, 160, 160), (160, 160), (4, 4), 160)
    bare, marked = (np.asarray(paint_heat(GRAY, canvas, [0.5] * 16, top), dtype=float) for top in ((), (5,)))
    changed = np.abs(bare - marked).max(2) > 8
    assert changed[38:42, 44:76].any()
    assert not changed[84:, :].any()
    assert not changed[:, 84:].any()


def test_the_whole_answer_is_the_mean_and_each_word_the_mean_of_its_tokens(pages: list[Any]) -> None:
    found = relevance([[1, 0, 0, 0], [0, 4, 0, 0], [0, 0, 4, 0]], (1, 2, 2))
    draw.relevance(found, GRAY, [Word("one", (0,)), Word("two", (1, 2))], question="what?", answer="one two", top=0, crop="whole")
    tiles = [tile for row in pages[0][0] for tile in row]
    assert [tile.title for tile in tiles] == ["what?", "Whole answer: one two", '"one"', '"two"']
    light = {tile.title: middles(tile.image, 2, 2).reshape(4, 3)[:, 1].round().tolist() for tile in tiles[1:]}
    whole, one, two = light.values()  # green rises with the level
    assert max(whole) == whole[1] == whole[2] > whole[0] > whole[3]
    assert max(one) == one[0] > one[1] == one[2] == one[3]
    assert max(two) == two[1] == two[2] > two[0] == two[3]


def test_frames_share_their_scale_and_their_top_tokens(pages: list[Any]) -> None:
    tokens = torch.zeros(6, 2, 2)
    tokens[0, 0, 0], tokens[5, 1, 1] = 1.0, 4.0
    found = relevance([tokens.flatten().tolist()], (6, 2, 2), kind="video")
    draw.relevance(found, [GRAY] * 6, answer="yes", top=1, crop="whole")
    (bare, heat), legend, notes = pages[0]
    assert [len(bare), len(heat)] == [4, 4]
    assert "4 of 6 frames are shown" in " ".join(notes)
    assert heat[0].counts == "top 1 of 24 tokens hold 80%"
    first, last = (middles(heat[place].image, 2, 2) for place in (0, 3))
    share = 0.35 + 0.5 * 0.5  # the root of a quarter
    assert np.abs(first[0, 0] - (share * np.array(colour(0.5)) + (1 - share) * (0.7 * 128 + 0.3 * 190))).max() < 3
    assert last[1, 1, 0] > first[0, 0, 0]  # only the largest of all frames is yellow
    assert legend[-1].text == "top 1 tokens"


def test_frames_that_a_model_was_shown_as_images_are_drawn_as_a_video(pages: list[Any]) -> None:
    images = tuple(ImageRelevance(0, number, (1, 2, 2), torch.eye(4)[number : number + 1]) for number in range(3))
    found = Relevance(images, (torch.arange(1),))
    draw.relevance(found, [GRAY] * 3, answer="yes", top=1, crop="whole")
    bare, heat = pages[0][0]
    assert [tile.title for tile in heat] == [f"Whole answer: yes, frame {number}" for number in (1, 2, 3)]
    assert [int(middles(tile.image, 2, 2)[..., 1].argmax()) for tile in heat] == [0, 1, 2]
    assert len(bare) == 3


def test_tokens_without_a_place_are_drawn_next_to_the_picture(pages: list[Any]) -> None:
    draw.relevance(relevance([[1, 0, 0, 0]], (1, 2, 2)), Image.new("RGB", (90, 30), "red"), question="what?", answer="yes")
    ((bare, heat),), _, notes = pages[0]
    assert bare.title == "what?"
    assert np.asarray(bare.image).reshape(-1, 3).min(0).tolist() == [255, 0, 0]
    assert np.asarray(heat.image)[..., 1].max() > 80  # and none of it is under the tokens
    assert any("not known" in note for note in notes)


def test_each_crop_of_an_image_has_its_panel(pages: list[Any]) -> None:
    values = [0.0] * 8
    values[6] = 1.0
    found = relevance([values], (1, 1, 8), parts=((1, 2, 2), (1, 2, 2)))
    draw.relevance(found, GRAY, answer="yes", top=2)
    heat = pages[0][0][1]
    assert len(heat) == 2
    hot = [middles(tile.image, 2, 2)[..., 0] for tile in heat]
    assert hot[0].max() - hot[0].min() < 30
    assert hot[1].argmax() == 2


def test_relevance_that_is_nothing_is_drawn_as_such(pages: list[Any]) -> None:
    draw.relevance(relevance([[0, 0, 0, 0]], (1, 2, 2)), GRAY, answer="no", crop="whole")
    assert pages[0][0][0][1].counts == "no token matters"


def test_long_answers_have_seven_panels_and_say_so(pages: list[Any]) -> None:
    found = relevance([[1, 2, 3, 4]] * 9, (1, 2, 2))
    draw.relevance(found, GRAY, [Word(f"w{place}", (place,)) for place in range(9)])
    assert sum(len(row) for row in pages[0][0]) == 2 + 7
    assert any("first 7 of 9 words" in note for note in pages[0][2])


def test_what_does_not_fit_is_refused() -> None:
    found = relevance([[1, 2, 3, 4]], (1, 2, 2))
    with pytest.raises(InputError, match=r"index=1, but the relevance is of 1 image\(s\): 0..0"):
        draw.relevance(found, GRAY, index=1)
    with pytest.raises(InputError, match="frame"):
        draw.relevance(relevance([[1.0] * 12], (3, 2, 2), kind="video"), [GRAY] * 2)
