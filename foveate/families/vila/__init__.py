"""VILA1.5, which transformers has not: configuration, model, processor and loader, known to its Auto classes from here on."""

from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor

from foveate.families.vila.configuration import VilaConfig
from foveate.families.vila.family import Vila
from foveate.families.vila.modeling import VilaForConditionalGeneration
from foveate.families.vila.processing import VilaProcessor

__all__ = ["Vila", "VilaConfig", "VilaForConditionalGeneration", "VilaProcessor"]

AutoConfig.register(VilaConfig.model_type, VilaConfig, exist_ok=True)
AutoModelForImageTextToText.register(VilaConfig, VilaForConditionalGeneration, exist_ok=True)
AutoProcessor.register(VilaConfig, VilaProcessor, exist_ok=True)
