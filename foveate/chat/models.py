"""Loading a model by name, and turning a question about a picture or video into its inputs."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from foveate.errors import InputError, UnsupportedModelError

if TYPE_CHECKING:
    from foveate.families import Family
    from foveate.files.checkpoints import Checkpoint
    from foveate.video import Frames

__all__ = ["DEMO", "DEMO_NOTE", "Prompt", "Shown", "Subject", "find_device", "is_local", "load_config", "load_model", "load_processor"]

DEMO = "demo"
DTYPES = ("auto", "float32", "bfloat16", "float16")
DEMO_NOTE = (
    "the demo model knows its own scenes (see foveate demo scene), not the world: "
    "about other pictures, or asked in other words, it only guesses"
)


@dataclass(frozen=True)
class Shown:
    """What a question is about: one picture, or the frames of a video.

    Attributes:
        pictures: at least one, all of one size.
        video: where they come from, unless it is a picture.
    """

    pictures: tuple[Image.Image, ...]
    video: Frames | None = None

    @property
    def size(self) -> tuple[int, int]:
        """Width and height."""
        return self.pictures[0].size


@dataclass(frozen=True)
class Prompt:
    """A question about a picture or video, ready for the model.

    Attributes:
        inputs: keyword arguments of `generate`, on the model's device.
        length: positions in all, visual tokens among them.
        visual: visual tokens.
        notes: what the user may want to know.
    """

    inputs: Any
    length: int
    visual: int
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Subject:
    """A loaded model with its processor."""

    name: str
    model: Any = field(repr=False)
    processor: Any = field(repr=False)

    @property
    def is_demo(self) -> bool:
        """Whether it is the embedded model."""
        return _is_demo(self.name)

    @property
    def device(self) -> str:
        """Where it runs."""
        return str(self.model.device)

    @property
    def dtype(self) -> str:
        """The precision it computes in."""
        return str(self.model.dtype).removeprefix("torch.")

    def prompt(self, question: str, shown: Shown, new_tokens: int) -> Prompt:
        """Build the inputs.

        Raises:
            InputError: if the question contains the model's image placeholder, or prompt and answer do not fit the model's context.
            ProcessorError: the processor or its chat template fails, or belongs to another model.
        """
        from foveate.chat.processors import check_tokens, encode

        tokenizer = getattr(self.processor, "tokenizer", self.processor)
        placeholders = _placeholder_ids(self.model)
        words = encode(tokenizer, question)
        for placeholder in placeholders:
            if placeholder in words:
                text = tokenizer.decode([placeholder])
                raise InputError(f"the question contains {text!r}, which stands for a picture in this model; leave it out")
        inputs = self._inputs(question, shown)
        length = int(inputs["input_ids"].shape[1])
        visual = sum(int((inputs["input_ids"] == placeholder).sum()) for placeholder in placeholders)
        check_tokens(self.model, self.processor, inputs["input_ids"], placeholders)
        self._check_context(length, visual, len(words), new_tokens, len(shown.pictures))
        return Prompt(inputs.to(self.model.device, dtype=self.model.dtype), length, visual, _word_notes(question) if self.is_demo else ())

    def _inputs(self, question: str, shown: Shown) -> Any:
        from foveate.chat.processors import chat_texts, make_inputs

        if self.is_demo and len(shown.pictures) == 1:
            from foveate import demo

            return make_inputs(self.processor, [demo.prompt(question)], images=[shown.pictures[0]])
        asked = {"type": "text", "text": question}
        video = shown.video if getattr(self.processor, "video_processor", None) is not None else None
        if getattr(self.processor, "chat_template", None):
            seen: list[dict[str, Any]] = [{"type": "image"} for _ in shown.pictures] if video is None else [{"type": "video"}]
            texts = chat_texts(self.processor, [[{"role": "user", "content": [*seen, asked]}]])
            if video is not None:
                return make_inputs(self.processor, texts, **_video_inputs(video))
            return make_inputs(self.processor, texts, images=[list(shown.pictures)])
        if video is not None or len(shown.pictures) > 1:
            raise InputError(
                f"{self.name} has no chat template, so nobody knows how it is asked about a video; save one beside its processor"
            )
        # what LLaVA-1.5 was trained with
        return make_inputs(self.processor, [f"USER: <image>\n{question} ASSISTANT:"], images=[shown.pictures[0]])

    def _check_context(self, length: int, visual: int, asked: int, new_tokens: int, pictures: int) -> None:
        limit = getattr(self.model.config.get_text_config(), "max_position_embeddings", None)
        if limit is None or length + new_tokens <= limit:
            return
        ways = "lower --max-new-tokens or --frames" if pictures > 1 else "lower --max-new-tokens"
        raise InputError(
            f"too long for this model: {visual} visual tokens, {asked} tokens of the question and {length - visual - asked} of the prompt "
            f"around it are {length}, and with up to {new_tokens} tokens of the answer {length + new_tokens}; its context is {limit}: "
            f"shorten the question by {length + new_tokens - limit} tokens, or {ways}"
        )


def _video_inputs(video: Frames) -> dict[str, Any]:
    """What a processor is given of a video; it is told when each frame was shown, and chooses none itself."""
    from foveate.chat.conversations import video_metadata

    return {"videos": [list(video.images)], "video_metadata": [video_metadata(video)], "do_sample_frames": False}


def load_model(name: str, dtype: str, device: str, *, compress: bool, video: bool = False) -> Subject:
    """Load a model and its processor.

    Args:
        name: "demo", "demo-" and another shape of the demo model, a folder, or an id on the Hugging Face hub.
        dtype: "float32", "bfloat16", "float16" or "auto", which is float32 for the demo model, else as the checkpoint was saved.
        device: "auto" or what `torch.device` takes.
        compress: whether the model must belong to a family that can be compressed.
        video: whether it will be asked about a video.

    Raises:
        InputError: if the model cannot be had, is of the wrong kind, or the device is not there.
        UnsupportedModelError: if it belongs to no known family, or takes no video, before its weights are fetched.
    """
    import torch
    from huggingface_hub.utils import logging as hub_logging
    from transformers.utils import logging

    import foveate.families  # noqa: F401 - some families bring models that transformers has not
    from foveate.files.checkpoints import load_config, load_weights

    if dtype not in DTYPES:
        raise InputError(f"dtype={dtype!r} is not known; it is {', '.join(DTYPES)}")
    where = find_device(device)
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    hub_logging.set_verbosity_error()
    checkpoint = _checkpoint(name)
    config = load_config(checkpoint)
    if compress:
        _check_family(name, config)
    if video:
        _check_video(name, config)
    processor = load_processor(name)
    precision = "float32" if dtype == "auto" and _is_demo(name) else dtype
    try:
        return Subject(name, load_weights(checkpoint, config, precision, where), processor)
    except torch.OutOfMemoryError as error:
        raise InputError(f"{name} does not fit on {where}: try --dtype bfloat16 or --device cpu") from error


def _check_family(name: str, config: Any) -> None:
    from foveate.families import families

    known = families().values()
    if not any(config.model_type in family.model_types for family in known):
        types = ", ".join(kind for family in known for kind in family.model_types)
        raise UnsupportedModelError(f"{name} is a {config.model_type!r} model, which foveate cannot compress yet; it can: {types}")


def _check_video(name: str, config: Any) -> None:
    from foveate.families import families

    family = _family(config)
    if family is not None and family.takes.isdisjoint(("video", "frames")):
        known = ", ".join(other.name for other in families().values() if not other.takes.isdisjoint(("video", "frames")))
        raise UnsupportedModelError(f"{name} is a {config.model_type!r} model, which takes no video; families that do: {known}")


def _family(config: Any) -> Family | None:
    from foveate.families import families

    return next((family for family in reversed(families().values()) if config.model_type in family.model_types), None)


def _word_notes(question: str) -> tuple[str, ...]:
    from foveate.demo.model.language import unknown_words

    unknown = dict.fromkeys(unknown_words(question))
    return (f"the demo model was never taught: {', '.join(unknown)}",) if unknown else ()


def load_processor(name: str) -> Any:
    """The processor of a model alone, which is quick.

    Raises:
        InputError: if it cannot be had, or is none for pictures and text together.
    """
    import foveate.families  # noqa: F401 - some families bring models that transformers has not
    from foveate.demo.model.shapes import on_its_library, own_processor
    from foveate.files import checkpoints

    checkpoint = _checkpoint(name)
    folder = checkpoint.folder
    processor = checkpoints.load_processor(checkpoint, None if folder is None else own_processor(folder))
    return processor if folder is None else on_its_library(processor, folder)


def load_config(name: str) -> Any:
    """The configuration of a model alone, which is quick.

    Raises:
        CheckpointError: see `foveate.files.checkpoints.load_config`.
    """
    import foveate.families  # noqa: F401 - some families bring models that transformers has not
    from foveate.files import checkpoints

    return checkpoints.load_config(_checkpoint(name))


def _checkpoint(name: str) -> Checkpoint:
    from foveate.files.checkpoints import find_checkpoint

    return find_checkpoint(name, _demo_folder(name) if _is_demo(name) else None)


def _is_demo(name: str) -> bool:
    """Whether a name stands for the demo model, in whatever shape."""
    return name == DEMO or (name.startswith(f"{DEMO}-") and not os.path.isdir(name))


def _demo_folder(name: str) -> Path:
    from foveate import demo

    first, *others = demo.FOLDERS
    shapes = {DEMO: first, **{f"{DEMO}-{shape}": shape for shape in others}}
    if name not in shapes:
        raise InputError(f"there is no demo model {name!r}; there is {', '.join(shapes)}")
    try:
        return demo.path(shapes[name])
    except FileNotFoundError as error:
        raise InputError(str(error)) from error


def is_local(name: str) -> bool:
    """Whether a model can be had without the network."""
    return _is_demo(name) or os.path.isdir(os.path.expanduser(name))


def find_device(name: str) -> Any:
    """The `torch.device` of that name; "auto" is a GPU if there is one.

    Raises:
        InputError: if it is not there.
    """
    import torch

    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        where = torch.device(name)
        torch.empty(1, device=where)  # a device that torch can name is not always there
    except (RuntimeError, AssertionError, ValueError) as error:
        there = ["cpu"] + [f"cuda:{number}" for number in range(torch.cuda.device_count())]
        raise InputError(f"there is no device {name!r} here; there is {', '.join(there)}") from error
    if where.type == "meta":
        raise InputError("--device meta computes nothing; choose cpu or cuda")
    return where


def _placeholder_ids(model: Any) -> tuple[int, ...]:
    """The tokens that stand for pictures and videos."""
    config = model.config
    family = _family(config)
    ids = tuple(family.placeholders(model).values()) if family is not None else ()
    for name in ("image_token_id", "image_token_index"):
        value = getattr(config, name, None)
        if not ids and value is not None:
            ids = (int(value),)
    if not ids:
        raise InputError(
            f"a {config.model_type!r} model does not say which token stands for a picture; foveate cannot count its visual tokens"
        )
    return ids
