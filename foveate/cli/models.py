"""Loading a model by name, and turning a question about a picture into its inputs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

from foveate.errors import InputError, UnsupportedModelError

__all__ = ["DEMO", "DEMO_NOTE", "Prompt", "Subject", "find_device", "is_local", "load_model", "load_processor"]

DEMO = "demo"
DEMO_NOTE = (
    "the demo model knows its own scenes (see foveate demo scene), not the world: "
    "about other pictures, or asked in other words, it only guesses"
)


@dataclass(frozen=True)
class Prompt:
    """A question about a picture, ready for the model.

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
        return self.name == DEMO

    @property
    def device(self) -> str:
        """Where it runs."""
        return str(self.model.device)

    @property
    def dtype(self) -> str:
        """The precision it computes in."""
        return str(self.model.dtype).removeprefix("torch.")

    def prompt(self, question: str, image: Image.Image, new_tokens: int) -> Prompt:
        """Build the inputs.

        Raises:
            InputError: if the question contains the model's image placeholder, or prompt and answer do not fit the model's context.
        """
        tokenizer = getattr(self.processor, "tokenizer", self.processor)
        placeholder = _placeholder_id(self.model.config)
        words = tokenizer(question, add_special_tokens=False)["input_ids"]
        if placeholder in words:
            text = tokenizer.decode([placeholder])
            raise InputError(f"the question contains {text!r}, which stands for a picture in this model; leave it out")
        inputs = self._inputs(question, image)
        length = int(inputs["input_ids"].shape[1])
        visual = int((inputs["input_ids"] == placeholder).sum())
        self._check_context(length, visual, len(words), new_tokens)
        return Prompt(inputs.to(self.model.device, dtype=self.model.dtype), length, visual, _word_notes(question) if self.is_demo else ())

    def _inputs(self, question: str, image: Image.Image) -> Any:
        if self.is_demo:
            from foveate import demo

            return self.processor(images=image, text=demo.prompt(question), return_tensors="pt")
        if getattr(self.processor, "chat_template", None):
            content = [{"type": "image", "image": image}, {"type": "text", "text": question}]
            return self.processor.apply_chat_template(
                [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
            )
        # what LLaVA-1.5 was trained with
        return self.processor(images=image, text=f"USER: <image>\n{question} ASSISTANT:", return_tensors="pt")

    def _check_context(self, length: int, visual: int, asked: int, new_tokens: int) -> None:
        limit = getattr(self.model.config.get_text_config(), "max_position_embeddings", None)
        if limit is None or length + new_tokens <= limit:
            return
        raise InputError(
            f"too long for this model: {visual} visual tokens, {asked} tokens of the question and {length - visual - asked} of the prompt "
            f"around it are {length}, and with up to {new_tokens} tokens of the answer {length + new_tokens}; its context is {limit}: "
            f"shorten the question by {length + new_tokens - limit} tokens, or lower --max-new-tokens"
        )


def load_model(name: str, dtype: str, device: str, *, compress: bool) -> Subject:
    """Load a model and its processor.

    Args:
        name: "demo", a folder, or an id on the Hugging Face hub.
        dtype: "float32", "bfloat16", "float16" or "auto", which is float32 for the demo model, else as the checkpoint was saved.
        device: "auto" or what `torch.device` takes.
        compress: whether the model must belong to a family that can be compressed.

    Raises:
        InputError: if the model cannot be had, is of the wrong kind, or the device is not there.
        UnsupportedModelError: if it belongs to no known family, before its weights are fetched.
    """
    import torch
    from huggingface_hub.utils import logging as hub_logging
    from transformers import AutoConfig, AutoModelForImageTextToText
    from transformers.utils import logging

    where = find_device(device)
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    hub_logging.set_verbosity_error()
    config = _from_pretrained(AutoConfig, name)
    if compress:
        _check_family(name, config)
    processor = load_processor(name)
    precision = "float32" if dtype == "auto" and name == DEMO else dtype
    model = _from_pretrained(AutoModelForImageTextToText, name, dtype=precision)
    try:
        return Subject(name, model.eval().to(where), processor)
    except torch.OutOfMemoryError as error:
        raise InputError(f"{name} does not fit on {where}: try --dtype bfloat16 or --device cpu") from error


def _check_family(name: str, config: Any) -> None:
    from foveate.families import families

    known = families().values()
    if not any(config.model_type in family.model_types for family in known):
        types = ", ".join(kind for family in known for kind in family.model_types)
        raise UnsupportedModelError(f"{name} is a {config.model_type!r} model, which foveate cannot compress yet; it can: {types}")


def _word_notes(question: str) -> tuple[str, ...]:
    from foveate.demo.language import unknown_words

    unknown = dict.fromkeys(unknown_words(question))
    return (f"the demo model was never taught: {', '.join(unknown)}",) if unknown else ()


def load_processor(name: str) -> Any:
    """The processor of a model alone, which is quick.

    Raises:
        InputError: if it cannot be had, or is none for pictures and text together.
    """
    from transformers import AutoProcessor

    processor = _from_pretrained(AutoProcessor, name)
    if not hasattr(processor, "tokenizer") or not hasattr(processor, "image_processor"):
        raise InputError(f"{name!r} has no processor for pictures and text together; foveate needs a vision-language model")
    return processor


def _from_pretrained(kind: Any, name: str, **options: Any) -> Any:
    """`kind.from_pretrained`, with its errors as foveate's."""
    if name == DEMO:
        from foveate import demo

        try:
            name = str(demo.path())
        except FileNotFoundError as error:
            raise InputError(str(error)) from error
    folder = Path(name).expanduser()
    if folder.is_dir():
        name = str(folder)
    elif name.startswith((".", "/", "~")):
        raise InputError(f"no such model folder: {name}")
    try:
        return kind.from_pretrained(name, **options)
    except Exception as error:  # a folder that is missing, of another kind or damaged makes the loaders raise anything
        raise InputError(f"cannot load the model {name!r}: {_first_sentence(error)}; pass demo, a folder or a Hugging Face id") from error


def is_local(name: str) -> bool:
    """Whether a model can be had without the network."""
    return name == DEMO or Path(name).expanduser().is_dir()


def _first_sentence(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0].rstrip(".") if lines else type(error).__name__


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


def _placeholder_id(config: Any) -> int:
    names: Sequence[str] = ("image_token_id", "image_token_index")
    for name in names:
        value = getattr(config, name, None)
        if value is not None:
            return int(value)
    raise InputError(f"a {config.model_type!r} model does not say which token stands for a picture; foveate cannot count its visual tokens")
