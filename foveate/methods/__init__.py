"""The methods that come with foveate, one file each, and what gives methods names, files and text. None of them knows a model."""

from foveate.methods.cdpruner import CDPruner
from foveate.methods.configuration import load_method, method_from_dict, method_from_json, method_to_dict, method_to_json, save_method
from foveate.methods.dart import DART
from foveate.methods.divprune import DivPrune
from foveate.methods.entropy_prune import EntropyPrune
from foveate.methods.evs import EVS
from foveate.methods.explainer import Explainer
from foveate.methods.fastv import FastV
from foveate.methods.first_layer_attention import FirstLayerAttention
from foveate.methods.information import information_contribution, information_method
from foveate.methods.mmtok import MMTok
from foveate.methods.options import parse_method, split_methods
from foveate.methods.oracle import Oracle
from foveate.methods.pool import Pool
from foveate.methods.prumerge import PruMerge
from foveate.methods.pyramid_drop import PyramidDrop
from foveate.methods.random import Random
from foveate.methods.registry import find_method, methods, register
from foveate.methods.scope import Scope
from foveate.methods.sparsevlm import SparseVLM
from foveate.methods.tokencarve import TokenCarve
from foveate.methods.tome import ToMe
from foveate.methods.tower_attention import TowerAttention
from foveate.methods.v2drop import V2Drop
from foveate.methods.vidcom2 import VidCom2
from foveate.methods.visionzip import VisionZip

__all__ = [
    "DivPrune", "Explainer", "FastV", "FirstLayerAttention", "Oracle", "Pool", "Random", "Scope", "TokenCarve", "TowerAttention",
    "CDPruner", "EVS", "MMTok", "PruMerge", "ToMe", "VidCom2", "VisionZip",
    "DART", "EntropyPrune", "PyramidDrop", "SparseVLM", "V2Drop",
    "find_method", "information_contribution", "information_method",
    "load_method", "method_from_dict", "method_from_json", "method_to_dict", "method_to_json", "methods", "parse_method", "register",
    "save_method", "split_methods",
]  # fmt: skip
