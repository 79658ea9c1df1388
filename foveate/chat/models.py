"""Loading a model by name, with its processor, and asking it one question."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from foveate.errors import InputError, ParameterError, UnsupportedModelError

if TYPE_CHECKING:
    from foveate.chat.visuals import VisualInput
    from foveate.families import Family
    from foveate.files.checkpoints import Checkpoint

__all__ = [
    "DEMO",
    "DEMO_NOTE",
    "Prompt",
    "Subject",
    "checkpoint_of",
    "find_device",
    "is_local",
    "load_config",
    "load_model",
    "load_processor",
]

DEMO = "demo"
DTYPES = ("auto", "float32", "bfloat16", "float16")
DEMO_NOTE = (
    "the embedded model knows its own scenes (see foveate demo scene), not the world: "
    "about other images, or asked in other words, it only guesses"
)


@dataclass(frozen=True)
class Prompt:
    """A question about an image or video, ready for the model.

    Attributes:
        inputs: keyword arguments of `generate`, on the model's device.
        length: all positions, including visual tokens.
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

    def prompt(self, question: str, visual: VisualInput, new_tokens: int) -> Prompt:
        """Build the inputs of one question.

        Raises:
            ParameterError: prompt and answer do not fit the model's context.
            InputError: the question contains the model's image placeholder, or the processor has no chat template for a video.
            ProcessorError: the processor or its chat template fails, or belongs to another model.
        """
        from foveate.chat.conversations import build_inputs, question_about
        from foveate.chat.counting import named_placeholder_ids
        from foveate.chat.processors import check_tokens, encode

        tokenizer = getattr(self.processor, "tokenizer", self.processor)
        placeholders = named_placeholder_ids(self.model)
        words = encode(tokenizer, question)
        for placeholder in placeholders:
            if placeholder in words:
                text = tokenizer.decode([placeholder])
                raise InputError(f"the question contains {text!r}, which stands for an image in this model; omit it")
        inputs = build_inputs(self.processor, [question_about(self.processor, question, visual)])
        length = int(inputs["input_ids"].shape[1])
        visual_tokens = sum(int((inputs["input_ids"] == placeholder).sum()) for placeholder in placeholders)
        check_tokens(self.model, self.processor, inputs["input_ids"], placeholders)
        self._check_context(length, visual_tokens, len(words), new_tokens, frames=len(visual.pictures))
        notes = _word_notes(question) if self.is_demo and not _is_built(self.name) else ()
        return Prompt(inputs.to(self.model.device, dtype=self.model.dtype), length, visual_tokens, notes)

    def _check_context(self, length: int, visual: int, asked: int, new_tokens: int, *, frames: int) -> None:
        limit = getattr(self.model.config.get_text_config(), "max_position_embeddings", None)
        if limit is None or length + new_tokens <= limit:
            return
        ways = ("max_new_tokens", "frames") if frames > 1 else ("max_new_tokens",)
        raise ParameterError(
            f"too long for this model: {visual} visual tokens, {asked} tokens of the question and {length - visual - asked} of the prompt "
            f"around it are {length}, and with up to {new_tokens} tokens of the answer {length + new_tokens}; its context is {limit}: "
            f"shorten the question by {length + new_tokens - limit} tokens, or lower {' or '.join(ways)}",
            *ways,
        )


def load_model(name: str, dtype: str, device: str, *, compress: bool, video: bool = False) -> Subject:
    """Load a model and its processor.

    Args:
        name: "demo", "demo-" and another shape of the embedded model, a folder, or an id on the Hugging Face hub.
        dtype: "float32", "bfloat16", "float16" or "auto": float32 for the embedded model, else as the checkpoint was saved.
        device: "auto" or what `torch.device` takes.
        compress: whether the model must belong to a family that can be compressed.
        video: whether it will be shown a video.

    Raises:
        InputError: the model is not available or of the wrong kind, or the device does not exist.
        UnsupportedModelError: it belongs to no known family, or takes no video; raised before its weights are fetched.
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
    checkpoint = checkpoint_of(name)
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
        raise ParameterError(f"{name} does not fit on {where}; try dtype bfloat16 or device cpu", "dtype", "device") from error


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
    return (f"the embedded model never learned: {', '.join(unknown)}",) if unknown else ()


def load_processor(name: str) -> Any:
    """Load the processor of a model alone, which is quick.

    Raises:
        InputError: it is not available, or is not for images and text together.
    """
    import foveate.families  # noqa: F401 - some families bring models that transformers has not
    from foveate.demo.model.shapes import on_its_library, own_processor
    from foveate.files import checkpoints

    checkpoint = checkpoint_of(name)
    folder = checkpoint.folder
    processor = checkpoints.load_processor(checkpoint, None if folder is None else own_processor(folder))
    return processor if folder is None else on_its_library(processor, folder)


def load_config(name: str) -> Any:
    """Load the configuration of a model alone, which is quick.

    Raises:
        CheckpointError: see `foveate.files.checkpoints.load_config`.
    """
    import foveate.families  # noqa: F401 - some families bring models that transformers has not
    from foveate.files import checkpoints

    return checkpoints.load_config(checkpoint_of(name))


def checkpoint_of(name: str) -> Checkpoint:
    """The files of a model, found by its name; nothing is loaded.

    Raises:
        InputError: there is no such folder or embedded model, and the name cannot be an id on the Hugging Face hub.
    """
    from foveate.files.checkpoints import find_checkpoint

    return find_checkpoint(name, _demo_folder(name) if _is_demo(name) else None)


def _is_demo(name: str) -> bool:
    """Whether a name stands for the embedded model, in any of its shapes."""
    return name == DEMO or (name.startswith(f"{DEMO}-") and not os.path.isdir(name))


def _is_built(name: str) -> bool:
    """Whether a name stands for an embedded model with a decoder that was pretrained, and so has a vocabulary of its own."""
    from foveate import demo

    return name.removeprefix(f"{DEMO}-") in demo.BUILT


def _demo_folder(name: str) -> Path:
    from foveate import demo

    first, *others = (*demo.FOLDERS, *demo.BUILT)
    shapes = {DEMO: first, **{f"{DEMO}-{shape}": shape for shape in others}}
    if name not in shapes:
        raise InputError(f"there is no embedded model {name!r}; there is {', '.join(shapes)}")
    try:
        return demo.path(shapes[name])
    except FileNotFoundError as error:
        raise InputError(str(error)) from error


def is_local(name: str) -> bool:
    """Whether a model is available without the network."""
    return _is_demo(name) or os.path.isdir(os.path.expanduser(name))


def find_device(name: str) -> Any:
    """The `torch.device` of that name; "auto" is a GPU if there is one.

    Raises:
        InputError: it does not exist.
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
        raise ParameterError("device='meta' computes nothing; choose cpu or cuda", "device")
    return where
