"""Model types that transformers can load for images and text, and why foveate does not compress them (yet).

Any type that is neither listed here nor covered by a family is unknown; the tests fail if the installed transformers has such a class.
"""

from __future__ import annotations

__all__ = ["REFUSED"]

_CROSS = "its text layers read the image through cross-attention, so no visual token is in the text decoder's sequence"
_ENCODER_DECODER = "an encoder-decoder: the image is in the encoder's output, not in the decoder's sequence"
_BIDIRECTIONAL = "image tokens attend to each other in both directions, which needs a separate mask after the cut"
_SLIDING = "its decoder has sliding-window layers, whose masks and caches count the tokens in between"
_HYBRID = "its decoder has recurrent layers (linear attention or convolutions), whose states have read every token"
_SELECTED = "its decoder selects the keys that each query sees (indexed or block-sparse attention) by their positions"
_DEEPSTACK = "its decoder adds image features after several layers, and this class is not verified"
_POSITIONS = "its decoder adds learned or sinusoidal positions at its input and passes none to its layers"
_DISCRETE = "its images are discrete codes from a quantiser, embedded like text; not verified"
_TIMM = "its vision tower comes from timm, which the tests do not install; not verified"
_TEXT = "it takes no images"
_NOT_VERIFIED = "not verified"

REFUSED: dict[str, str] = {
    "apertus1p5": _DISCRETE,
    "aya_vision": _SLIDING,
    "blip": _CROSS,
    "blip-2": _POSITIONS,
    "chameleon": _DISCRETE,
    "cohere2_vision": _SLIDING,
    "cohere_compass": _DEEPSTACK,
    "cosmos3_omni": _DEEPSTACK,
    "deepseek_ocr2": _NOT_VERIFIED,
    "diffusion_gemma": "it writes blocks of text by diffusion and attends to them in both directions",
    "dots3_note": f"{_SELECTED}, and other layers have sliding windows",
    "emu3": _DISCRETE,
    "ernie4_5_vl_moe": "its experts are chosen by token types, which every layer receives for the full sequence",
    "evolla": "it reads proteins, not images",
    "exaone4_5": _SLIDING,
    "fast_vlm": _TIMM,
    "florence2": _ENCODER_DECODER,
    "fuyu": _NOT_VERIFIED,
    "gemma3": f"{_BIDIRECTIONAL}; and {_SLIDING}",
    "gemma3n": _SLIDING,
    "gemma4": f"{_BIDIRECTIONAL}; and {_SLIDING}",
    "gemma4_unified": f"{_BIDIRECTIONAL}; and {_SLIDING}",
    "git": "its image features precede the text without placeholders, under a mask of their own",
    "glm5_next": f"{_HYBRID}; and {_SELECTED}",
    "granite4_vision": _DEEPSTACK,
    "granite_docling": _DEEPSTACK,
    "hy_v4_vl": _SELECTED,
    "hunyuan_vl": _NOT_VERIFIED,
    "idefics": _CROSS,
    "idefics2": "its published decoder (Mistral 7B v0.1) has a sliding window of 4096 tokens; not verified without",
    "inkling2": _SLIDING,
    "inkling2_loop": f"{_SLIDING}; and some layers run several times",
    "inkling_mm_model": _SLIDING,
    "instructblip": "its decoder is OPT or T5 in most checkpoints, without rotary positions in its layers; not verified with Vicuna",
    "instructblipvideo": "its decoder is OPT or T5 in most checkpoints, without rotary positions in its layers; not verified with Vicuna",
    "kosmos-2": _POSITIONS,
    "kosmos-2.5": _POSITIONS,
    "lfm2_vl": _HYBRID,
    "lfm3_vl": _HYBRID,
    "llama4": "its decoder attends within chunks of the sequence, which removed tokens would shift",
    "minicpm_ocr": _HYBRID,
    "minicpmv4_6": _HYBRID,
    "minicpmv4_7": _HYBRID,
    "minimax_m3_vl": _SELECTED,
    "mistral4": _TEXT,
    "mistral_large4": _SELECTED,
    "mllama": _CROSS,
    "molmo2": _BIDIRECTIONAL,
    "muse_glimmer": _SLIDING,
    "muse_spark": _SLIDING,
    "nemotron_h_omni": _HYBRID,
    "paligemma": _BIDIRECTIONAL,
    "perception_lm": _TIMM,
    "pi0": "it controls robots: an action decoder reads the inner layers of a vision-language model",
    "pix2struct": _ENCODER_DECODER,
    "pp_formulanet": _ENCODER_DECODER,
    "qwen2_5_omni_thinker": _NOT_VERIFIED,
    "qwen3_5": _HYBRID,
    "qwen3_5_moe": _HYBRID,
    "qwen3_omni_moe_thinker": _DEEPSTACK,
    "qwen4_exp": f"{_HYBRID}; and {_SELECTED}",
    "shieldgemma2": f"{_BIDIRECTIONAL}; and {_SLIDING}",
    "step3p7": _SLIDING,
    "t5gemma2": _ENCODER_DECODER,
    "udop": _ENCODER_DECODER,
    "unlimited_ocr": _SLIDING,
    "vision-encoder-decoder": _ENCODER_DECODER,
}
"""The reason for each `config.model_type`."""
