"""VILA1.5, which transformers does not have: importing this registers its configuration, model and processor with the Auto classes.

Start with `family` (what foveate knows of it). `configuration`, `modeling`, `processing` and `internvit` are the model in transformers'
terms, and `checkpoint` reads the weights of a release.
"""

from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor

from foveate.families.vila.configuration import VilaConfig
from foveate.families.vila.family import Vila
from foveate.families.vila.modeling import VilaForConditionalGeneration
from foveate.families.vila.processing import VilaProcessor

__all__ = ["Vila", "VilaConfig", "VilaForConditionalGeneration", "VilaProcessor"]

AutoConfig.register(VilaConfig.model_type, VilaConfig, exist_ok=True)
AutoModelForImageTextToText.register(VilaConfig, VilaForConditionalGeneration, exist_ok=True)
AutoProcessor.register(VilaConfig, VilaProcessor, exist_ok=True)
