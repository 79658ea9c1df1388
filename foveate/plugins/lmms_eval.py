"""What lmms-eval finds through its entry point `lmms_eval.models`: a model called "foveate".

    lmms-eval --model foveate --model_args pretrained=llava-hf/llava-1.5-7b-hf,method=tokencarve,keep=128 --tasks textvqa_val

lmms-eval imports this module at every start, so it imports nothing heavy itself.
"""

from __future__ import annotations

from typing import Any

__all__ = ["manifests"]


def manifests() -> list[Any]:
    """The entry point's payload: lmms-eval's name for the model, and the path of its class."""
    from lmms_eval.models.registry_v2 import ModelManifest

    return [ModelManifest(model_id="foveate", chat_class_path="foveate.plugins.lmms_eval_model.FoveateModel")]
