"""`foveate demo train --shape smollm2`: the recipe with everything it needs taken from installed packages."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from transformers import LlamaForCausalLM

from foveate.errors import InputError
from foveate.files.locks import claimed_folder
from foveate.files.records import ANYTHING
from foveate.files.writing import write_whole
from foveate.recipe.smollm2.artefact import ADAPTERS, read_adapters
from foveate.recipe.smollm2.build import packaged
from foveate.recipe.smollm2.card import card
from foveate.recipe.smollm2.drawers import warm
from foveate.recipe.smollm2.language import build_tokenizer
from foveate.recipe.smollm2.package import gguf_file
from foveate.recipe.smollm2.quantised import decoder_config
from foveate.recipe.smollm2.texts import asked
from foveate.recipe.smollm2.train import SightPlan, SightRun
from foveate.recipe.smollm2.travel import Luggage, scikit_pictures

TEXTS, SETTINGS = "texts.json", "recipe.json"
SHORTEST = 60.0  # seconds


def plan_for(device: str, seconds: float, *, seed: int = 0, workers: int = 0) -> SightPlan:
    """How to train on a device: whole scenes in half precision on a GPU, small pictures in float32 elsewhere.

    Args:
        device: where to compute.
        seconds: for everything.
        seed: of weights and scenes.
        workers: processes that draw.
    """
    gpu = device.startswith("cuda")
    return SightPlan(
        seconds=seconds,
        device=device,
        workers=workers,
        tokens=16000 if gpu else 300,
        align=min(12.0 if gpu else 60.0, seconds / 20),
        labelled=1200 if gpu else 64,
        judging=min(24.0 if gpu else 420.0, seconds / 10),
        scenes=480 if gpu else 24,
        watched=96 if gpu else 8,
        every=30.0 if gpu else 300.0,
        log=5.0 if gpu else 60.0,
        rank=16,
        seed=seed,
        half=gpu,
        whole=gpu,
    )


def train(out: Path, plan: SightPlan) -> Path:
    """Train, or resume a run that was stopped; the folder receives the adapters, their card, a curve and results.

    Args:
        out: folder for everything.
        plan: see `plan_for`.

    Returns:
        The file of the adapters.

    Raises:
        InputError: the time is too short, or the folder holds a run of another recipe.
        MissingPackageError: the decoder's package, or scikit-learn, is not installed.
        TrainingError: the loss or a weight is not finite; the last checkpoint stays.
        BusyError: another process trains there.
    """
    if plan.seconds < SHORTEST:
        raise InputError(f"{plan.seconds:.0f} seconds are too short for this recipe; give it {SHORTEST:.0f} or more")
    gguf_file()
    begun = time.time()
    with claimed_folder(out):
        _check_settings(out / SETTINGS, plan)
        if plan.workers:
            warm()
        SightRun(out, out, _luggage(out / TEXTS), plan, begun).train()
        trained = read_adapters(out / ADAPTERS)
        write_whole(out / "README.md", card(trained, trained.side))
    return out / ADAPTERS


def _check_settings(path: Path, plan: SightPlan) -> None:
    """What must not change when a run is resumed."""
    settings = {"seed": plan.seed, "rank": plan.rank, "whole": plan.whole}
    if not path.exists():
        write_whole(path, json.dumps(settings))
    elif (found := ANYTHING.read(path).raw) != settings:
        raise InputError(f"{path.parent} holds a run of another recipe ({found}, not {settings}); name another folder")


def _luggage(path: Path) -> Luggage:
    """What training needs; the untouched decoder's answers are asked for once, and kept in a file."""
    found = packaged()
    if path.exists():
        texts: dict[str, Any] = ANYTHING.read(path).raw
    else:
        model = LlamaForCausalLM(decoder_config())
        model.model.load_state_dict(found.decoder)
        model.tie_weights()
        texts = asked(model.eval(), build_tokenizer(found.tokenizer))
        write_whole(path, json.dumps(texts, indent=1, ensure_ascii=False))
    pictures = {name: picture.numpy() for name, picture in scikit_pictures().items()}
    return replace(found, texts=texts, pictures=pictures)
