"""What `foveate bench` measures: a model, loaded or made in a published shape, and prompts for it."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from foveate.cli import console
from foveate.errors import InputError, LayerError, UnknownNameError

if TYPE_CHECKING:
    from torch import Tensor

    from foveate.chat.models import Subject
    from foveate.measure.bench.shapes import ImageFormat, ModelShape
    from foveate.method import Method

__all__ = ["SHAPE", "BenchSubject", "Prompts", "load_bench"]

SHAPE = "shape:"
DEFAULT_SIDE = 672
"""Pixels of the image that a model's own processor is given."""


@dataclass(frozen=True)
class Prompts:
    """What every prompt is like: text tokens before and after the image, the size of the image in pixels, and the seed."""

    before: int
    after: int
    image_size: tuple[int, int] | None
    seed: int


@dataclass(frozen=True)
class BenchSubject:
    """A model, and how an image reaches it: through its processor, or as its shape says."""

    model: Any = field(repr=False)
    subject: Subject | None
    picture: ImageFormat | None

    def inputs(self, prompts: Prompts, batch: int, new_tokens: int) -> dict[str, Tensor]:
        """A prompt of that many rows.

        Raises:
            InputError: it does not fit the model, or its context.
        """
        from foveate.measure.bench.prompts import prompt_like, random_prompt

        _check_context(self.model.config, prompts.before + prompts.after, new_tokens)  # before so many words are drawn
        lengths: Mapping[str, int] = {"before": prompts.before, "after": prompts.after, "batch": batch, "seed": prompts.seed}
        if self.subject is None:
            assert self.picture is not None
            inputs = random_prompt(self.model, self.picture, **lengths)
        else:
            own = self._own_prompt(self.subject, prompts.image_size or (DEFAULT_SIDE, DEFAULT_SIDE))
            tokenizer = self.subject.processor.tokenizer
            inputs = prompt_like(self.model, own, {*tokenizer.all_special_ids, *tokenizer.added_tokens_decoder}, **lengths)
        _check_context(self.model.config, inputs["input_ids"].shape[1], new_tokens)
        return inputs

    @staticmethod
    def _own_prompt(subject: Subject, size: tuple[int, int]) -> Any:
        from PIL import Image

        from foveate.chat.visuals import VisualInput

        return subject.prompt("what colour is the circle?", VisualInput((Image.new("RGB", size, "gray"),)), 1).inputs


def load_bench(
    name: str, scale: str | None, prompts: Prompts, methods: Sequence[Method], *, dtype: str, device: str, attention: str | None
) -> BenchSubject:
    """Load or make the model; refuses before that what it can.

    Raises:
        FoveateError: an unknown name, a size that cannot be, a method that does not fit, too little memory.
    """
    if name.lower().startswith(SHAPE):
        return _shaped(name[len(SHAPE) :], scale, prompts, methods, dtype, device, attention)
    if scale is not None:
        raise InputError(
            f"--scale makes a published shape smaller; {name!r} has a size of its own; omit it, or name a shape: --model {SHAPE}NAME"
        )
    from foveate.chat.models import is_local, load_model

    if not is_local(name):
        _refuse_misspelt(name)
        console.note(f"{name} is no folder here; it comes from the Hugging Face hub, unless it is cached")
    subject = load_model(name, dtype, device, compress=True)
    if attention is not None:
        _set_attention(subject.model, attention)
    check_layers(methods, subject.model.config.get_text_config().num_hidden_layers)
    return BenchSubject(subject.model, subject, None)


def check_layers(methods: Sequence[Method], layers: int) -> None:
    """Refuse a method whose layer a decoder of that many layers does not have.

    Raises:
        LayerError: naming the method and the last layer.
    """
    for method in methods:
        if method.layer >= layers:
            raise LayerError(f"{method}: layer={method.layer}, but the decoder's last layer is {layers - 1}; choose --layer below {layers}")


def _shaped(
    name: str, scale: str | None, prompts: Prompts, methods: Sequence[Method], dtype: str, device: str, attention: str | None
) -> BenchSubject:
    import torch

    from foveate.chat.models import find_device
    from foveate.measure.bench.shapes import build, find_shape, parse_size

    shape = find_shape(name)
    if scale is not None:
        shape = shape.scaled(parse_size(scale))
    picture = shape.picture if prompts.image_size is None else shape.picture.sized(*prompts.image_size)
    check_layers(methods, shape.config["text_config"]["num_hidden_layers"])
    for method in methods:
        method.budget(picture.tokens)
    where = find_device(device)
    precision = ("bfloat16" if where.type == "cuda" else "float32") if dtype == "auto" else dtype
    kind: torch.dtype = getattr(torch, precision)
    _check_memory(shape, where, kind, precision)
    with console.spinner(f"making random weights in the shape of {shape.name}"):
        try:
            model = build(shape, device=where, dtype=kind, seed=prompts.seed, attention=attention)
        except (ValueError, ImportError) as error:
            raise InputError(f"cannot make {shape.name} with --attention {attention}: {error}") from error
    return BenchSubject(model, None, picture)


def _check_memory(shape: ModelShape, where: Any, kind: Any, precision: str) -> None:
    """Refuse weights that do not fit, because the system kills a process that fills the memory, without a message."""
    import torch

    from foveate.measure.bench.memory import free_memory
    from foveate.measure.bench.shapes import build

    parameters = sum(parameter.numel() for parameter in build(shape, device=torch.device("meta"), dtype=kind).parameters())
    needed, free = parameters * kind.itemsize, free_memory(where)
    if free is not None and needed > free:
        narrower = "" if kind.itemsize == 2 else "--dtype bfloat16, "
        raise InputError(
            f"{shape.name} needs {needed / 1e9:.1f} GB for its weights in {precision}, and {free / 1e9:.1f} GB are free on {where}; "
            f"try {narrower}--scale 0.25, or a smaller shape"
        )


def _set_attention(model: Any, attention: str) -> None:
    try:
        model.set_attn_implementation(attention)
    except (ValueError, ImportError, KeyError) as error:
        raise InputError(f"this model cannot run with --attention {attention}: {error}") from error


def _refuse_misspelt(name: str) -> None:
    """Refuse a name that cannot be a folder or an id, if it is close to a known one."""
    from foveate.measure.bench.shapes import shapes

    if "/" in name or name.startswith((".", "~")) or Path(name).suffix == ".json":
        return
    known = ["demo", *(SHAPE + shape for shape in shapes())]
    near = difflib.get_close_matches(name.lower(), known, n=1) or [each for each in known if each == SHAPE + name.lower()]
    if near:
        raise UnknownNameError(f"unknown model {name!r}: did you mean {near[0]!r}? Known without a folder or an id: {', '.join(known)}")


def _check_context(config: Any, length: int, new_tokens: int) -> None:
    limit = getattr(config.get_text_config(), "max_position_embeddings", None)
    if limit is not None and length + new_tokens > limit:
        raise InputError(
            f"a prompt of {length} tokens and {new_tokens} new ones are {length + new_tokens}, and the model's context is {limit}; "
            f"lower --prompt, --new-tokens or --image-size"
        )
