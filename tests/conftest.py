"""Shared by all tests."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from torchvision_here import make_importable

make_importable()  # before transformers, which imports it where it is installed
