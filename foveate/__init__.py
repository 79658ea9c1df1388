"""Foveate keeps the visual tokens that matter in a multimodal language model."""

from foveate.compress import compress
from foveate.method import Method
from foveate.methods import FastV, Pool, Random, TokenCarve
from foveate.plan import Plan
from foveate.report import Report
from foveate.view import View

__all__ = ["FastV", "Method", "Plan", "Pool", "Random", "Report", "TokenCarve", "View", "compress"]
__version__ = "0.1.0"
