"""`foveate sizing`: how many images a GPU holds beside a model."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from foveate.cli import console
from foveate.cli.adapter import option
from foveate.cli.bench.subject import SHAPE
from foveate.cli.checks import checked, finite, parse_image_size, parse_keep, parse_names
from foveate.cli.options import COMPRESSION, MODEL, JsonOption
from foveate.errors import BudgetError

if TYPE_CHECKING:
    from foveate.measure.sizing import ModelSize

__all__ = ["Sizing", "cells"]

SERVER = "Server"
MIB = 2**20


def parse_budgets(text: str) -> tuple[int | float, ...]:
    """The value of --keep, several budgets.

    Raises:
        typer.BadParameter: one is neither a number nor a share.
        BudgetError: one is no budget.
    """
    budgets = tuple(dict.fromkeys(parse_keep(part) for part in text.split(",")))
    for keep in budgets:
        if keep < 1 if isinstance(keep, int) else not 0 < keep <= 1:
            raise BudgetError(f"keep={keep!r} must be 1 or more tokens (int), or a share in (0, 1] (float)")
    return budgets


def parse_memory(text: str) -> tuple[float, ...]:
    """The value of --memory.

    Raises:
        typer.BadParameter: it is not a list of positive numbers.
    """
    try:
        sizes = tuple(float(part) for part in text.split(","))
    except ValueError:
        sizes = (math.nan,)
    if not all(0 < size < math.inf for size in sizes):
        raise typer.BadParameter(f"{text!r} is no list of sizes in GB, such as 24,40,80")
    return sizes


@dataclass(frozen=True, kw_only=True)
class Sizing(JsonOption):
    """Compute how many images GPUs hold beside a model, at several budgets; nothing is measured."""

    model: Annotated[
        str, option("Names separated by commas: shape:NAME, a folder, a Hugging Face id, demo; all: every known shape.", "NAME,...", MODEL)
    ] = "all"
    image_size: Annotated[str | None, option("Pixels, 672 or WIDTHxHEIGHT, if the model takes any size.", "N", MODEL)] = None
    dtype: Annotated[
        Literal["bfloat16", "float16", "float32"], option("Of weights, keys and values: bfloat16, float16 or float32.", "NAME", MODEL)
    ] = "bfloat16"
    keep: Annotated[
        str, option("Budgets: visual tokens to keep (128), or shares (0.25).", "N|SHARE,...", COMPRESSION, callback=checked(parse_budgets))
    ] = "192,128,64"
    text: Annotated[int, option("Text tokens that come with each image, question and answer.", "N", SERVER, min=0, max=10**7)] = 128
    memory: Annotated[str, option("Memory of the GPUs, in GB.", "GB,...", SERVER, callback=checked(parse_memory))] = "24,40,80"
    reserve: Annotated[
        float, option("Share of it for activations and what the server leaves free.", "SHARE", SERVER, min=0, max=0.99, callback=finite)
    ] = 0.15

    def run(self) -> None:
        """Print a row for each model and budget.

        Raises:
            FoveateError: a model is unknown or not available, or takes no images of that size.
        """
        with console.spinner("reading configurations"):
            models = list(self.models())
        rows = [row for model in models for row in self.rows(model)]
        if self.as_json:
            stated = {"dtype": self.dtype, "text": self.text, "reserve": self.reserve, "memory_gb": list(parse_memory(self.memory))}
            console.put_json({**stated, "models": [asdict(model) for model in models], "rows": rows})
            return
        console.put_table(console.listing(self.heads(), [cells(row) for row in rows]), wide=True)
        console.put(f"images at the same time, {self.assumed()}", style="dim")

    def heads(self) -> tuple[str, ...]:
        """What stands over the columns of the table."""
        return ("model", "weights", "visual tokens", "key/value MiB", *(f"{size:g} GB" for size in parse_memory(self.memory)))

    def assumed(self) -> str:
        """What the figures depend on besides model and budget."""
        return (
            f"each with {self.text} text tokens, in {self.dtype}; {self.reserve:.0%} of the memory is reserved; key/value MiB are those of "
            f"one image's visual tokens"
        )

    def models(self) -> Iterator[ModelSize]:
        """The models that --model names.

        Raises:
            FoveateError: one is unknown or not available, or takes no images of that size.
        """
        from foveate.measure.bench.shapes import shapes
        from foveate.measure.sizing import size_of_model, size_of_shape

        size = parse_image_size(self.image_size)
        names = [SHAPE + name for name in shapes()] if self.model == "all" else parse_names(self.model)
        for name in names:
            if name.lower().startswith(SHAPE):
                yield size_of_shape(name[len(SHAPE) :], size)
            else:
                yield size_of_model(name, size)

    def rows(self, model: ModelSize) -> Iterator[dict[str, Any]]:
        """A row for each budget, all tokens first; budgets that keep the same number share one."""
        from foveate.measure.sizing import DTYPES

        dtype = DTYPES[self.dtype]
        for keep in dict.fromkeys(model.kept(keep) for keep in (None, *parse_budgets(self.keep))):
            yield {
                "model": model.name,
                "weight_bytes": model.weight_bytes(dtype),
                "visual_tokens": keep,
                "of": model.tokens,
                "key_value_bytes": model.cache_bytes(keep, dtype),
                "images": [model.images(size, self.reserve, keep + self.text, dtype) for size in parse_memory(self.memory)],
            }


def cells(row: dict[str, Any]) -> list[str]:
    """A row as text, in the order of the heads."""
    tokens = f"{row['visual_tokens']} of {row['of']}" if row["visual_tokens"] < row["of"] else f"all {row['of']}"
    images = ["does not fit" if count is None else f"{count:,}" for count in row["images"]]
    return [row["model"], f"{row['weight_bytes'] / 2**30:.3g} GB", tokens, f"{row['key_value_bytes'] / MIB:.4g}", *images]
