"""Assemble the stock model with a pretrained decoder, offline, from the decoder's package and what a run trained."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import GenerationConfig, LlamaConfig, LlavaForConditionalGeneration

from foveate import demo
from foveate.demo.folders import BUILT, built_folder
from foveate.demo.scenes.labels import GRID
from foveate.errors import InputError, ParameterError
from foveate.files.locks import claimed_folder
from foveate.files.writing import make_folder, whole_folder, write_whole
from foveate.recipe.smollm2.artefact import ADAPTERS, TrainedAdapters, read_adapters
from foveate.recipe.smollm2.card import card
from foveate.recipe.smollm2.language import IMAGE, Words, build_processor
from foveate.recipe.smollm2.model import assemble, projector_of, with_adapters
from foveate.recipe.smollm2.package import gguf_file, stored_tensors, tokenizer_of
from foveate.recipe.smollm2.quantised import decoder_config, decoder_state, verified
from foveate.recipe.smollm2.travel import Luggage, trained_tower

SHAPE = "smollm2"
SHIPPED = demo.HOME / "smollm2" / ADAPTERS
"""What foveate ships for this decoder."""
SIDES = (12, GRID)
"""Patches per side of the pictures that a model can be built for."""


def seeing(trained: TrainedAdapters, luggage: Luggage, config: LlamaConfig, side: int) -> LlavaForConditionalGeneration:
    """The stock model, in float32.

    Args:
        trained: what a run trained.
        luggage: what it was given.
        config: the decoder's configuration.
        side: patches per side of a picture, one of `SIDES`.

    Raises:
        InputError: the adapters do not fit the decoder.
    """
    image = Words(luggage.tokenizer).ids(IMAGE)[0]
    weights = dict(trained.weights)
    try:
        model = assemble(with_adapters(luggage.decoder, weights), config, luggage.tower, projector_of(weights), image, side)
    except (KeyError, RuntimeError) as error:
        reason = str(error).partition("\n")[0]
        raise InputError(f"the adapters do not fit this decoder ({reason}); take those of a run with the same decoder") from error
    model.generation_config = GenerationConfig(bos_token_id=1, eos_token_id=2, pad_token_id=2, max_new_tokens=24, do_sample=False)
    return model


def side_of(tokens: int) -> int:
    """Patches per side of a picture with so many visual tokens.

    Raises:
        ParameterError: no model can be built for it.
    """
    for side in SIDES:
        if side * side == tokens:
            return side
    known = " or ".join(str(side * side) for side in SIDES)
    raise ParameterError(f"a picture of this model has {known} visual tokens, not {tokens}", "tokens")


def find_adapters(adapters: Path | None) -> Path:
    """The file that a model is built from.

    Args:
        adapters: as the user named it; `None` for the one that foveate ships.

    Raises:
        InputError: foveate ships none.
    """
    if adapters is None and not SHIPPED.is_file():
        raise InputError(
            "this version of foveate ships no trained adapters for the pretrained decoder, so a run has to train them first: "
            f"foveate demo train --shape {SHAPE}; then name the {ADAPTERS} that it wrote"
        )
    return adapters or SHIPPED


def packaged() -> Luggage:
    """Decoder and tokenizer from the installed package, and the embedded model's tower; no texts and no pictures.

    Raises:
        MissingPackageError: a package is not installed.
        RecordError: it holds another decoder.
        FileNotFoundError: the embedded model's weights are missing.
    """
    path = gguf_file()
    decoder = verified(decoder_state(stored_tensors(path)))
    tower = {name: weight.float() for name, weight in trained_tower(demo.load()[0]).items()}
    return Luggage(decoder, tower, tokenizer_of(path), {}, {})


def build(adapters: Path | None = None, folder: Path | None = None, side: int | None = None) -> Path:
    """Assemble the model in a folder, in bfloat16, with its processor and its card.

    Args:
        adapters: what a run wrote; by default what foveate ships.
        folder: by default the one in the cache that `foveate.demo.load` looks in.
        side: patches per side of a picture, one of `SIDES`; by default those that the run learned at last.

    Returns:
        The folder.

    Raises:
        InputError: there are no adapters, or they do not fit.
        MissingPackageError: the decoder's package is not installed.
        RecordError: adapters or decoder cannot be read, or are others.
        WriteError: the folder cannot be written.
    """
    path = find_adapters(adapters)
    trained = read_adapters(path)
    side = trained.side if side is None else side
    gguf_file()
    folder = built_folder(BUILT[SHAPE]) if folder is None else folder
    make_folder(folder.parent)
    luggage = packaged()
    with claimed_folder(folder):
        write_model(trained, luggage, decoder_config(), side, folder)
    return folder


def write_model(trained: TrainedAdapters, luggage: Luggage, config: LlamaConfig, side: int, folder: Path) -> None:
    """Write the stock model, its processor and its card; see `build`."""
    model = seeing(trained, luggage, config, side)
    with whole_folder(folder) as unfinished:
        model.to(torch.bfloat16).save_pretrained(unfinished)
        build_processor(luggage.tokenizer, side).save_pretrained(unfinished)
        write_whole(unfinished / "README.md", card(trained, side))
