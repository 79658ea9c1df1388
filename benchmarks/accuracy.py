"""Accuracy of the embedded model on held-out scenes, for every method and budget, as it comes out.

The embedded model's upbringing matters here: some heads of its early layers were guided to the relevant patches, which
flatters methods that rank by attention. Its card says so, and so must whoever quotes these figures.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import torch
import typer
from common import save
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

import foveate
import foveate.demo
from foveate import FastV, Method, Pool, Random, TokenCarve

BUDGETS = (192, 128, 64)
METHODS: dict[str, type[Method]] = {"TokenCarve": TokenCarve, "FastV": FastV, "Random": Random, "Pool": Pool}
