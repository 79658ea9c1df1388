"""Whatever a data set holds in place of a picture or a video is read, or refused with one of foveate's errors."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from foveate.errors import InputError
from foveate.explain.labels.pictures import read_pictures, read_video

CELLS: dict[str, Any] = {
    "nothing": None,
    "an empty list": [],
    "a list of nothing": [None],
    "an empty record": {},
    "a record of nothing": {"bytes": None, "path": None},
    "no bytes": {"bytes": b""},
    "text for bytes": {"bytes": "text"},
    "numbers for bytes": {"bytes": [1, 2, 3]},
    "bytes that are no picture": {"bytes": b"text", "path": 5},
    "a number for a path": {"path": 5},
    "a number": 5,
    "a share": float("nan"),
    "a truth": True,
    "a class": object(),
    "an empty path": "",
    "the home of nobody": "~nobody-is-called-so/picture.png",
    "a null byte": "nul\0l.png",
    "a long name": "x" * 5000,
    "a device": "/dev/zero",
    "a folder": Path("/"),
    "rows of different lengths": [[[1, 2, 3]], [[1, 2, 3], [4, 5, 6]]],
    "fewer dimensions": [[1, 2], [3, 4]],
    "four channels": np.zeros((4, 4, 4), np.uint8),
    "no rows": np.zeros((0, 5, 3), np.uint8),
    "no columns": np.zeros((5, 0, 3), np.uint8),
    "no numbers": np.full((4, 4, 3), np.nan),
    "words": [[["a", "b", "c"]]],
    "huge numbers": [[[10**30] * 3] * 2] * 2,
    "negative numbers": np.full((4, 4, 3), -1),
    "a strip": np.zeros((1, 20_000, 3), np.uint8),
    "an open strip": Image.new("RGB", (1, 20_000)),
    "an open picture without pixels": Image.new("RGB", (0, 3)),
}


@pytest.mark.parametrize("cell", CELLS.values(), ids=CELLS.keys())
def test_a_cell_that_is_no_picture_or_video_is_refused(tmp_path: Path, cell: Any) -> None:
    with pytest.raises(InputError):
        read_pictures(cell, tmp_path)
    with pytest.raises(InputError):
        read_video(cell, 3, tmp_path)
    with pytest.raises(InputError):
        read_video([cell, cell], 3, tmp_path)


def test_a_picture_is_the_same_open_embedded_and_as_a_file(tmp_path: Path) -> None:
    gray = Image.fromarray(np.linspace(0, 65535, 64).reshape(8, 8).astype(np.uint16))
    clear = Image.new("RGBA", (8, 8), (0, 0, 0, 0))
    for picture in (gray, clear):
        buffer = io.BytesIO()
        picture.save(buffer, "PNG")
        (tmp_path / "a.png").write_bytes(buffer.getvalue())
        seen = {read_pictures(cell, tmp_path)[0].tobytes() for cell in (picture, {"bytes": buffer.getvalue()}, "a.png")}
        assert len(seen) == 1
    assert set(next(iter(seen))) == {255}  # what is transparent is white
