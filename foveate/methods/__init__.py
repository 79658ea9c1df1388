"""The methods that come with foveate, one file each. None of them knows a model."""

from foveate.methods.fastv import FastV
from foveate.methods.information import information_contribution
from foveate.methods.pool import Pool
from foveate.methods.random import Random
from foveate.methods.registry import find_method, methods
from foveate.methods.tokencarve import TokenCarve

__all__ = ["FastV", "Pool", "Random", "TokenCarve", "find_method", "information_contribution", "methods"]
