"""The picture of kept tokens, checked in its pixels."""

from pathlib import Path

import numpy as np
import pytest
from canvases import canvas_of, region
from PIL import Image

from foveate import Plan, Report, draw
from foveate.draw.cells import Canvas, paint, shade_for, stretched
from foveate.draw.panels import panels_of
from foveate.draw.panes import Pane, panes_of
from foveate.draw.places import Placement
from foveate.errors import InputError
from foveate.families import Region
from foveate.families.kit.regions import cells as spans
from foveate.report import ImageReport, Stage

pytestmark = pytest.mark.one_version

GREEN = (20, 160, 60)


def report(plan: Plan, grid: tuple[int, int, int], *stages: Plan) -> Report:
    cuts = tuple(Stage(f"Method(keep={stage.tokens_after})", 2 + number, stage) for number, stage in enumerate(stages or (plan,)))
    return Report((ImageReport(0, 0, grid, plan, cuts),))


def small_plan() -> Plan:
    """Of 16 tokens 0, 5 and 10 stay, 1 and 15 are merged into 0 and 10."""
    target = [-1] * 16
    for index, goal in {0: 0, 5: 5, 10: 10, 1: 0, 15: 10}.items():
        target[index] = goal
    return Plan.from_list(target)


def carve(tokens: int, keep: int) -> Plan:
    target = [-1] * tokens
    for index in range(keep):
        target[index * (tokens // keep)] = index * (tokens // keep)
    merged = next((index for index, goal in enumerate(target) if goal < 0), None)
    if merged is not None:
        target[merged] = 0
    return Plan.from_list(target)


def cells(plan: Plan, *, lines: bool = False) -> np.ndarray:
    """Mean colour (4, 4, 3) of the middle of each cell of a painted 4 x 4 panel over green."""
    picture = Image.new("RGB", (160, 160), GREEN)
    canvas = canvas_of((0, 0, 160, 160), (160, 160), (4, 4), 160)
    panel = np.asarray(paint(picture, canvas, plan.to_list(), shade_for(picture, canvas.region.box), lines=lines, grid=True), dtype=float)
    return panel.reshape(4, 40, 4, 40, 3)[:, 12:28, :, 12:28].mean((1, 3))


def test_kept_cells_are_clear_dropped_ones_gray_and_merged_ones_pink() -> None:
    plan = small_plan()
    for index, colour in enumerate(cells(plan).reshape(16, 3)):
        red, green, blue = colour
        if index in (0, 5, 10):
            assert np.abs(colour - GREEN).max() < 2
        elif index in (1, 15):
            assert red > 150
            assert red > blue > green
        else:
            assert max(colour) - min(colour) < 6


def test_lines_can_be_omitted() -> None:
    assert not np.array_equal(cells(small_plan(), lines=True), cells(small_plan(), lines=False))


def test_a_cut_that_drops_and_merges_is_two_steps_after_the_original() -> None:
    steps = panels_of(report(small_plan(), (1, 4, 4)).images[0])
    assert [(step.title, step.counts) for step in steps] == [
        ("Original", "16 tokens (4 x 4)"),
        ("After selection", "5 of 16 tokens stay"),
        ("After merging", "3 of 16 tokens, 2 merged into them"),
    ]


def test_a_cut_that_only_drops_or_only_merges_is_one_step() -> None:
    dropping = panels_of(report(Plan.keep([1, 2], 16), (1, 4, 4)).images[0])
    pooling = panels_of(report(Plan.from_list([index // 2 * 2 for index in range(16)]), (1, 4, 4)).images[0])
    assert [step.title for step in dropping] == ["Original", "After selection"]
    assert [step.title for step in pooling] == ["Original", "After merging"]


def test_every_cut_of_a_schedule_is_a_step_over_all_tokens() -> None:
    first, second = Plan.keep([0, 4, 8, 12], 16), Plan.from_list([0, 0, 2, -1])
    steps = panels_of(report(first.then(second), (1, 4, 4), first, second).images[0])
    assert [step.title for step in steps] == ["Original", "Cut 1, before layer 2", "Cut 2, before layer 3"]
    assert steps[2].plan.kept.tolist() == [0, 8]
    assert steps[2].plan.merged.tolist() == [4]
    assert steps[2].counts == "2 of 16 tokens, 1 merged into them"


def test_a_saved_report_gives_the_same_picture(tmp_path: Path) -> None:
    saved = report(small_plan(), (1, 4, 4))
    saved.save(tmp_path / "report.json")
    picture = Image.new("RGB", (90, 60), GREEN)
    assert draw.kept(saved, picture).tobytes() == draw.kept(tmp_path / "report.json", picture).tobytes()


@pytest.mark.parametrize("grid", [(24, 24), (1, 1), (4, 4), (3, 50), (50, 3), (60, 60)])
@pytest.mark.parametrize("size", [(336, 336), (900, 90), (50, 800), (1, 1)])
def test_any_grid_over_any_shape_of_picture_can_be_drawn(grid: tuple[int, int], size: tuple[int, int]) -> None:
    tokens = grid[0] * grid[1]
    page = draw.kept(report(carve(tokens, max(1, tokens // 9)), (1, *grid)), Image.new("RGB", size, GREEN))
    assert page.mode == "RGB"
    assert max(page.size) < 6000


@pytest.mark.parametrize("keep", [576, 192, 128, 64, 16])
def test_budgets_of_the_usual_grid_can_be_drawn(keep: int) -> None:
    last = draw.kept(report(carve(576, keep), (1, 24, 24)), Image.new("RGB", (336, 336), GREEN), panels=False)
    every = draw.kept(report(carve(576, keep), (1, 24, 24)), Image.new("RGB", (336, 336), GREEN))
    assert every.width > 1.5 * last.width


def test_what_the_model_did_not_see_is_dark() -> None:
    plan = Plan.identity(16)
    canvas = canvas_of((100, 0, 200, 100), (300, 100), (4, 4), 200)
    panel = np.asarray(paint(Image.new("RGB", (300, 100), "white"), canvas, plan.to_list(), (150, 150, 150), lines=True, grid=False))
    left = canvas.origin[0]
    assert panel[:, : left - 4].mean() < 140
    assert panel[20:-20, left + 8 : left + 190].min() > 250


def test_dropped_tokens_take_a_gray_that_the_picture_does_not_have() -> None:
    box = region(0, 0, 40, 40, (4, 4)).box
    assert shade_for(Image.new("RGB", (40, 40), (150, 150, 150)), box)[0] > 200
    assert shade_for(Image.new("RGB", (40, 40), "white"), box)[0] < 200
    assert shade_for(Image.new("RGB", (40, 40), "black"), box)[0] < 200


def test_a_video_has_a_column_for_each_frame_up_to_a_limit() -> None:
    def page(frames: int) -> Image.Image:
        video = [Image.new("RGB", (80, 80), (20 * frame, 90, 30)) for frame in range(2 * frames)]
        return draw.kept(report(carve(frames * 16, frames * 4), (frames, 4, 4)), video)

    two, six, nine = page(2), page(6), page(9)
    assert two.width < six.width == nine.width


def parted(parts: tuple[tuple[int, int, int], ...], plan: Plan) -> Report:
    return Report((ImageReport(0, 0, (1, 1, len(plan)), plan, (Stage("Method(keep=1)", 2, plan),), parts),))


def lattice(size: tuple[int, int], down: int, across: int, side: int) -> list[Region]:
    """Crops of a picture row by row, `side` x `side` tokens each."""
    rows, columns = spans(down * side, size[1] / (down * side)), spans(across * side, size[0] / (across * side))
    return [
        Region(tuple(rows[row * side : (row + 1) * side]), tuple(columns[column * side : (column + 1) * side]), "crop")
        for row in range(down)
        for column in range(across)
    ]


def whole(size: tuple[int, int], grid: tuple[int, int]) -> Region:
    return Region(tuple(spans(grid[0], size[1] / grid[0])), tuple(spans(grid[1], size[0] / grid[1])), "whole")


def parts_of(regions: list[Region]) -> tuple[tuple[int, int, int], ...]:
    return tuple((1, *each.grid) for each in regions)


def panes(picture: Image.Image, regions: list[Region]) -> list[Pane]:
    return panes_of([picture], [parts_of(regions)], Placement(tuple(regions)))


def test_crops_are_joined_as_they_lie_next_to_the_whole_picture() -> None:
    wide = Image.new("RGB", (300, 100), GREEN)
    # Of three crops side by side the second one's upper right token stays, of the whole picture the last.
    plan = Plan.from_list([index if index in (5, 15) else -1 for index in range(16)])
    joined, alone = panes(wide, [*lattice((300, 100), 1, 3, 2), whole((300, 100), (2, 2))])
    assert (joined.grid, alone.grid) == ((2, 6), (2, 2))
    assert (joined.name, alone.name) == ("1 x 3 crops", "whole picture")
    assert [place for place, goal in enumerate(joined.targets(plan)) if goal >= 0] == [3]
    assert [place for place, goal in enumerate(alone.targets(plan)) if goal >= 0] == [3]
    assert (joined.counts(plan), alone.counts(plan)) == ("1 of 12 tokens stay", "1 of 4 tokens stay")


def test_crops_that_are_rows_are_drawn_as_rows_however_wide_the_picture_is_and_stand_where_the_model_has_them() -> None:
    wide = Image.new("RGB", (300, 100), GREEN)
    alone, joined = panes(wide, [whole((300, 100), (2, 2)), *lattice((300, 100), 3, 1, 2)])
    assert (alone.name, joined.name) == ("whole picture", "3 x 1 crops")
    assert joined.grid == (6, 2)
    assert joined.tokens == tuple(range(4, 16))


def test_a_picture_of_one_tile_has_captions_in_the_order_of_its_parts() -> None:
    first, second = panes(Image.new("RGB", (90, 90), GREEN), [whole((90, 90), (3, 3)), *lattice((90, 90), 1, 1, 3)])
    assert (first.name, second.name) == ("whole picture", "crops, joined")
    assert (first.tokens, second.tokens) == (tuple(range(9)), tuple(range(9, 18)))


def test_the_whole_picture_and_one_rectangle_of_crops_keep_their_own_grids() -> None:
    plan = Plan.from_list([0, -1, -1, 0, *range(4, 10)])
    regions = [whole((90, 60), (2, 2)), Region(whole((90, 60), (2, 3)).rows, whole((90, 60), (2, 3)).columns, "crop")]
    alone, rectangle = panes(Image.new("RGB", (90, 60)), regions)
    assert (alone.grid, rectangle.grid) == ((2, 2), (2, 3))
    assert alone.targets(plan) == [0, -1, -1, 0]
    across = Plan.from_list([4, -1, -1, 3, *range(4, 10)])
    assert alone.targets(across)[0] >= 4
    wide = Image.new("RGB", (90, 60), GREEN)
    pages = [draw.kept(parted(((1, 2, 2), (1, 2, 3)), across), wide, lines=lines).height for lines in (True, False)]
    assert pages[0] > pages[1]  # the note about the token that left its rectangle


def test_strips_that_no_token_covers_are_omitted() -> None:
    columns = (*spans(2, 20), *((start + 60, end + 60) for start, end in spans(2, 20)))
    gapped = Region(tuple(spans(2, 50)), columns, "crop")
    picture = Image.new("RGB", (100, 100), GREEN)
    picture.paste((255, 0, 0), (40, 0, 60, 100))  # between the two crops
    fitted = Canvas.fit(gapped, picture.size, 400)
    assert fitted.gaps
    sheet = np.asarray(stretched(picture, fitted))
    assert (sheet[..., 0] < sheet[..., 1]).mean() > 0.95  # resizing mixes some pixels from beyond the edges
    assert not Canvas.fit(whole((100, 100), (2, 2)), picture.size, 400).gaps


def test_a_smaller_last_cell_is_drawn_smaller() -> None:
    columns = (*spans(2, 40), (80.0, 100.0))
    fitted = Canvas.fit(Region(columns, columns), (100, 100), 500)
    assert fitted.across == (0, 200, 400, 500)
    plan = Plan.keep([2], 9)
    picture = Image.new("RGB", (100, 100), GREEN)
    panel = np.asarray(paint(picture, fitted, plan.to_list(), (150, 150, 150), lines=False, grid=False))
    assert (panel[20:180, 420:480] == GREEN).all()
    assert not (panel[20:180, 320:380] == GREEN).any()


def test_frames_that_are_images_of_several_crops_are_drawn_frame_by_frame() -> None:
    frame = ((1, 2, 2),) * 3
    plan = Plan.identity(12)
    images = tuple(ImageReport(0, number, (1, 1, 12), plan, (Stage("Method(keep=12)", 2, plan),), frame) for number in range(2))
    regions = (*lattice((40, 20), 1, 2, 2), whole((40, 20), (2, 2)))
    found = panes_of([Image.new("RGB", (40, 20))] * 2, [frame] * 2, Placement(regions))
    assert [pane.name for pane in found] == [f"frame {n}, {what}" for n in (1, 2) for what in ("1 x 2 crops", "whole picture")]
    assert sorted(token for pane in found for token in pane.tokens) == list(range(24))
    one = draw.kept(Report(images), Image.new("RGB", (40, 20)), panels=False)
    both = draw.kept(Report(images), [Image.new("RGB", (40, 20))] * 2, panels=False)
    assert both.width > one.width


def test_merges_into_another_frame_have_no_line_but_are_counted() -> None:
    plan = Plan.from_list([0, 0, 2, 3, 0, 5, 6, 7])
    page = draw.kept(report(plan, (2, 2, 2)), [Image.new("RGB", (40, 40), GREEN)] * 2, panels=False)
    without = draw.kept(report(plan, (2, 2, 2)), [Image.new("RGB", (40, 40), GREEN)] * 2, panels=False, lines=False)
    assert page.height > without.height  # the note about token 4


def test_requests_that_cannot_be_met_are_refused(tmp_path: Path) -> None:
    picture = Image.new("RGB", (40, 40))
    good = report(small_plan(), (1, 4, 4))
    with pytest.raises(InputError, match=r"index=1.*1 image"):
        draw.kept(good, picture, index=1)
    with pytest.raises(InputError, match="no image"):
        draw.kept(Report(), picture)
    with pytest.raises(InputError, match=r"16 tokens.*25 cells"):
        draw.kept(report(small_plan(), (1, 5, 5)), picture)
    with pytest.raises(InputError, match="4 frame"):
        draw.kept(report(small_plan(), (4, 2, 2)), picture)
    with pytest.raises(InputError, match="differ in size"):
        draw.kept(report(small_plan(), (4, 2, 2)), [picture] * 3 + [Image.new("RGB", (9, 9))])
    with pytest.raises(InputError, match="cut 2"):
        draw.kept(report(small_plan(), (1, 4, 4), small_plan(), small_plan()), picture)


NO_REPORTS = ["", "{", "[]", "{}", '{"format": 1}', '{"format": 99}', '{"format": 1, "images": [1], "columns": []}', "\0\1"]


@pytest.mark.parametrize("text", NO_REPORTS)
def test_a_file_that_is_no_report_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "report.json").write_text(text)
    with pytest.raises(InputError, match="not a foveate report"):
        draw.kept(tmp_path / "report.json", Image.new("RGB", (40, 40)))


def test_a_missing_report_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        draw.kept(tmp_path / "report.json", Image.new("RGB", (40, 40)))
    with pytest.raises(InputError, match="cannot be read: it is a folder"):
        draw.kept(tmp_path, Image.new("RGB", (40, 40)))
