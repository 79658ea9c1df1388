"""VILA1.5's processor: pictures to pixels, and prompts in which each `<image>` becomes that picture's placeholders."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer, BatchFeature, ProcessorMixin
from transformers.image_utils import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

from foveate.errors import InputError, UnsupportedError
from foveate.families.vila import internvit
from foveate.families.vila.configuration import VilaConfig, is_release
from foveate.files.checkpoints import pretrained
from foveate.files.checkpoints.pillow import on_pillow
from foveate.images import flat

__all__ = ["MARKER", "CHAT_TEMPLATES", "VilaProcessor", "prompt_form"]

MARKER = "<image>"
"""Stands for one picture, or one frame of a video, in a prompt."""

_SENTENCEPIECE = {"sentencepiece": "sentencepiece", "google.protobuf": "protobuf"}
"""The modules that reading a SentencePiece tokenizer needs, and their packages."""

_BODY = (
    "{%- macro body(content) -%}{%- if content is string -%}{{ content }}{%- else -%}{%- for part in content -%}"
    "{%- if part['type'] == 'text' -%}{{ part['text'] }}{%- elif part['type'] == 'image' -%}{{ '<image>\n' }}"
    "{%- else -%}{{ raise_exception('VILA takes text and images; pass a video as its frames, one image each, not as ' + part['type']) }}"
    "{%- endif -%}{%- endfor -%}{%- endif -%}{%- endmacro -%}"
    "{%- if messages[0]['role'] == 'system' -%}{%- set system = body(messages[0]['content']) -%}{%- set turns = messages[1:] -%}"
    "{%- else -%}{%- set system = SYSTEM -%}{%- set turns = messages -%}{%- endif -%}"
)


def _form(system: str, opening: str, user: tuple[str, str], assistant: tuple[str, str], answer: str) -> str:
    """A chat template from the text before the turns, around each turn, and at the start of an answer."""
    return (
        _BODY.replace("SYSTEM", repr(system))
        + "{{ OPENING }}{%- for turn in turns -%}{%- if turn['role'] == 'user' -%}{{ USER }}{%- else -%}{{ ASSISTANT }}{%- endif -%}"
        "{%- endfor -%}{%- if add_generation_prompt -%}{{ ANSWER }}{%- endif -%}".replace("OPENING", opening)
        .replace("USER", f"{user[0]!r} + body(turn['content']) + {user[1]!r}")
        .replace("ASSISTANT", f"{assistant[0]!r} + body(turn['content']) + {assistant[1]!r}")
        .replace("ANSWER", repr(answer))
    )


_LLAMA_3 = ("<|start_header_id|>user<|end_header_id|>\n\n", "<|start_header_id|>assistant<|end_header_id|>\n\n")
_HERMES = ("<|im_start|>user\n", "<|im_start|>assistant\n")

CHAT_TEMPLATES: dict[str, str] = {
    "vicuna_v1": _form(
        "A chat between a curious user and an artificial intelligence assistant. "
        "The assistant gives helpful, detailed, and polite answers to the user's questions.",
        "system + ' '",
        ("USER: ", " "),
        ("ASSISTANT: ", "</s>"),
        "ASSISTANT:",
    ),
    "llama_3": _form(
        "You are a helpful language and vision assistant. You are able to understand the visual content that the user provides, "
        "and assist the user with a variety of tasks using natural language.",
        "'<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\n' + system + '<|eot_id|>'",
        (_LLAMA_3[0], "<|eot_id|>"),
        (_LLAMA_3[1], "<|eot_id|>"),
        _LLAMA_3[1],
    ),
    "hermes-2": _form(
        "Answer the questions.",
        "'<|im_start|>system\n' + system + '<|im_end|>'",
        (_HERMES[0], "<|im_end|>"),
        (_HERMES[1], "<|im_end|>"),
        _HERMES[1],
    ),
}
"""Chat templates by the release's names for its prompt formats."""


def prompt_form(tokenizer: Any) -> str:
    """Which of `CHAT_TEMPLATES` a model was trained with, judging by the tokens of its vocabulary."""
    vocabulary = tokenizer.get_vocab()
    return "llama_3" if "<|eot_id|>" in vocabulary else "hermes-2" if "<|im_end|>" in vocabulary else "vicuna_v1"


class VilaProcessor(ProcessorMixin):
    """Turns pictures and prompts into the inputs of a VILA1.5.

    Args:
        image_processor: SigLIP's, which squeezes every picture into a square; for InternViT, with that tower's mean and deviation.
        tokenizer: the language model's.
        chat_template: one of `CHAT_TEMPLATES`, or any other.
        image_seq_length: visual tokens of each picture.
        image_token_id: the id of their placeholders; it need not be in the tokenizer.
    """

    def __init__(
        self,
        image_processor: Any = None,
        tokenizer: Any = None,
        chat_template: str | None = None,
        image_seq_length: int = 196,
        image_token_id: int = 32000,
    ) -> None:
        self.image_seq_length, self.image_token_id, self.image_token = image_seq_length, image_token_id, MARKER
        super().__init__(image_processor, tokenizer, chat_template=chat_template)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, **kwargs: Any) -> Any:
        """Load a processor from a release's folder, or from one that `save_pretrained` wrote."""
        if not is_release(pretrained_model_name_or_path):
            return on_pillow(super().from_pretrained(pretrained_model_name_or_path, **kwargs), SiglipImageProcessorPil)
        folder = Path(pretrained_model_name_or_path)
        config = pretrained(VilaConfig, folder)
        images = _image_processor(folder / "vision_tower", config.vision_config)
        tokenizer = _tokenizer(folder / "llm")
        if len(tokenizer) == config.image_token_id:
            tokenizer.add_special_tokens({"additional_special_tokens": [MARKER]}, replace_extra_special_tokens=False)
        if tokenizer.pad_token_id is None:
            tokenizer.pad_token = tokenizer.unk_token or tokenizer.eos_token
        tokenizer.padding_side = "left"  # the releases pad for training; generation needs each row's last token at the end
        form = CHAT_TEMPLATES[prompt_form(tokenizer)]
        return cls(images, tokenizer, form, image_seq_length=config.image_seq_length, image_token_id=config.image_token_id)

    def __call__(
        self,
        images: Any = None,
        text: str | Sequence[str] | None = None,
        videos: Any = None,
        audio: Any = None,
        *,
        padding: bool | str = False,
        padding_side: str | None = None,
        return_tensors: str | None = None,
        add_special_tokens: bool = True,
    ) -> BatchFeature:
        """Encode one prompt or several.

        Args:
            images: pictures in the order of the `<image>` in all prompts: one, a list, or a list per prompt. A video is its frames.
            text: a prompt, or a list of them.
            videos: not supported.
            audio: not supported.
            padding: as for tokenizers; needed if prompts differ in length and tensors are requested.
            padding_side: "left" or "right", instead of the tokenizer's.
            return_tensors: "pt" for tensors.
            add_special_tokens: let the tokenizer begin a prompt with its own token.

        Returns:
            `input_ids` (b, s), `attention_mask` (b, s), and with pictures `pixel_values` (images, 3, h, w).

        Raises:
            InputError: no text, a video or sound, or a number of pictures other than that of `<image>` in the prompts.
        """
        if videos is not None or audio is not None:
            raise InputError("VILA takes text and images; pass a video as its frames: as images, with one <image> each in the prompt")
        if text is None:
            raise InputError(f"a prompt is needed with the images, with {MARKER} where each belongs; pass text=...")
        prompts = [text] if isinstance(text, str) else list(text)
        pictures = list(flat(images))
        wanted = sum(prompt.count(MARKER) for prompt in prompts)
        if wanted != len(pictures):
            raise InputError(f"the text has {MARKER} {wanted} time(s), but {len(pictures)} image(s) were given; write one for each image")
        rows = [self._encode(prompt, add_special_tokens) for prompt in prompts]
        if padding or return_tensors is None:
            side = {} if padding_side is None else {"padding_side": padding_side}
            data = dict(self.tokenizer.pad({"input_ids": rows}, padding=padding, return_attention_mask=True, **side))
        else:
            data = {"input_ids": rows, "attention_mask": [[1] * len(row) for row in rows]}
        if pictures:
            data["pixel_values"] = self.image_processor(pictures, return_tensors=return_tensors)["pixel_values"]
        return BatchFeature(data, tensor_type=return_tensors)

    def _encode(self, prompt: str, add_special_tokens: bool) -> list[int]:
        """Ids of one prompt. The text between pictures is tokenised piece by piece, as in the models' training."""
        first, *others = prompt.split(MARKER)
        ids = list(self.tokenizer(first, add_special_tokens=add_special_tokens)["input_ids"])
        for piece in others:
            ids += [self.image_token_id] * self.image_seq_length
            ids += self.tokenizer(piece, add_special_tokens=False)["input_ids"]
        return ids


def _image_processor(folder: Path, tower: Any) -> Any:
    """Turns pictures into pixels. Pillow resizes them, as in the release; torchvision's results differ in the last bits."""
    if tower.model_type != internvit.MODEL_TYPE:
        return pretrained(SiglipImageProcessorPil, folder)
    # The release's file for InternViT names a class of its own and nothing else.
    size = dict(zip(("height", "width"), tower.image_size, strict=True))
    return SiglipImageProcessorPil(size=size, image_mean=IMAGENET_DEFAULT_MEAN, image_std=IMAGENET_DEFAULT_STD)


def _tokenizer(folder: Path) -> Any:
    """The language model's tokenizer.

    Raises:
        UnsupportedError: it is a SentencePiece file, and the packages to read it are not installed.
    """
    if not (folder / "tokenizer.json").is_file() and (folder / "tokenizer.model").is_file():
        missing = [name for module, name in _SENTENCEPIECE.items() if not _installed(module)]
        if missing:
            names = " ".join(missing)
            raise UnsupportedError(f"{folder / 'tokenizer.model'} is a SentencePiece file, which cannot be read here: pip install {names}")
    return pretrained(AutoTokenizer, folder)


def _installed(module: str) -> bool:
    try:
        import_module(module)
    except ImportError:
        return False
    return True
