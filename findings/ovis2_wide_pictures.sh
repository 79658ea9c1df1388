#!/usr/bin/env bash
# transformers 5.24.0, Ovis2's image processor: tiles of a picture that is not square.
#
# Behaviour: with use_covering_area_grid=True, its default, a picture of 1792 x 448 pixels becomes four tiles one above the other: it is squeezed to
#   448 pixels of width and stretched to 1792 of height, then cut into rows. A tall picture becomes four tiles side by side likewise. Rows and
#   columns of the chosen grid have changed places on the way.
# Expected: four tiles side by side, each with its quarter of the picture, as use_covering_area_grid=False gives them.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet torch==2.13.0
"$folder/venv/bin/python" -m pip install --quiet transformers==5.24.0 pillow==13.0.0 numpy==2.4.6
cat > "$folder/check.py" <<'PY'
import numpy as np
import transformers
from PIL import Image
from transformers.models.ovis2.image_processing_pil_ovis2 import Ovis2ImageProcessorPil

SIDE = 448
picture = np.zeros((SIDE, 4 * SIDE, 3), np.uint8)
picture[:, :SIDE] = 255  # the left quarter is white
print(f"transformers {transformers.__version__}; a picture of {4 * SIDE} x {SIDE} pixels whose left quarter is white:")
found = {}
for covering in (True, False):
    processor = Ovis2ImageProcessorPil(
        crop_to_patches=True, min_patches=1, max_patches=9, size={"height": SIDE, "width": SIDE}, use_covering_area_grid=covering
    )
    made = processor(images=Image.fromarray(picture), return_tensors="np")
    whole, *tiles = made["pixel_values"]
    white = [round(float((tile > 0).mean()), 2) for tile in tiles]
    found[covering] = ([int(size) for size in made["grids"][0]], white)
    print(f"  use_covering_area_grid={covering}: grid of rows and columns {found[covering][0]}, white share of each tile {white}")
assert Ovis2ImageProcessorPil().use_covering_area_grid is True
assert found[True] == ([4, 1], [0.25] * 4), "wide pictures are cut into columns now"
assert found[False] == ([1, 4], [1.0, 0.0, 0.0, 0.0])
PY
"$folder/venv/bin/python" "$folder/check.py" 2> /dev/null
