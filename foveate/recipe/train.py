"""The recipe of the embedded model: one command, any device, resumable.

    python -m foveate.recipe.train runs/demo --hours 2

First the vision tower learns to name what each patch shows (`tower`). Then the projector and the decoder learn to answer from the
features of the frozen tower (`decoder`), first on small windows and at the end on whole scenes. A killed run resumes from its last
checkpoint when it is started again with the same folder.
"""

from __future__ import annotations

import argparse
import copy
import json
import socket
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import distributed
from torch.multiprocessing.spawn import spawn
from transformers import GenerationConfig

from foveate.demo.model.shape import EmbeddedShape
from foveate.demo.model.shapes import EMBEDDED_SHAPES
from foveate.errors import FoveateError
from foveate.files.checkpoints.finite import not_finite
from foveate.files.locks import claimed_folder
from foveate.files.records import RecordSchema, brief, read_text
from foveate.files.writing import whole_folder, write_error, write_whole
from foveate.measure.scenes import BALANCED
from foveate.recipe.card import describe
from foveate.recipe.decoder import GUIDANCE, DecoderPhase, ProjectorAndDecoder
from foveate.recipe.loop import Loop, Pace, checkpoint, restored
from foveate.recipe.muon import fast_bfloat16
from foveate.recipe.tower import TowerPhase, TowerWithHeads

SLOWER = 0.5  # share of the learning rates for a model that was trained before


@dataclass(frozen=True)
class Recipe:
    """Everything that determines a training run.

    Attributes:
        shape: the shape of the model, one of `EMBEDDED_SHAPES`.
        device: where to compute: `cpu`, `cuda`, ...
        hours: how long to train by the clock, or `None` to count steps.
        steps: steps of the two phases; only a run by steps is reproducible bit for bit.
        tower_share: share of the hours for the first phase.
        seed: of weights and scenes.
        batch: windows per step and process in the tower's phase; the decoder's phase takes a quarter of it.
        processes: how many processes train together and average their gradients; on a CPU, one per core beats threads.
        workers: processes that draw scenes for each training process; 0 draws in the training process.
        hidden: width of tower and decoder.
        tower_layers: depth of the tower.
        layers: depth of the decoder.
        bfloat16: compute in half precision; `None`: if the device is fast at it.
        guidance: weight of the supervision of attention (see `decoder.GUIDED`); 0 for none.
        start: folder of an earlier model's weights to continue from, or `None` to start from scratch. Its words are matched by name, so
            the vocabulary may have grown; its shape may differ if one can be converted to the other.
        checkpoint_every: seconds between checkpoints.
    """

    shape: str = "llava"
    device: str = "cpu"
    hours: float | None = None
    steps: tuple[int, int] | None = None
    tower_share: float = 0.3
    seed: int = 0
    batch: int = 64
    processes: int = 1
    workers: int = 0
    hidden: int = 192
    tower_layers: int = 6
    layers: int = 8
    bfloat16: bool | None = None
    guidance: float = GUIDANCE
    start: str | None = None
    checkpoint_every: float = 120.0

    def paces(self) -> tuple[Pace, Pace]:
        """The paces of the tower's and the decoder's phases."""
        if (self.hours is None) == (self.steps is None):
            raise ValueError("give either hours or steps")
        if self.steps is not None:
            return Pace(steps=self.steps[0]), Pace(steps=self.steps[1])
        seconds = (self.hours or 0) * 3600
        return Pace(seconds=self.tower_share * seconds), Pace(seconds=(1 - self.tower_share) * seconds)


_SCHEMA: RecordSchema[Recipe] = RecordSchema("the recipe of a training run", Recipe)


def train(out: Path, recipe: Recipe) -> Path:
    """Train the embedded model, or resume a killed run.

    Args:
        out: folder for checkpoints (`tower.pt`, `decoder.pt`), the log (`log.jsonl`) and the weights (`weights/`).
        recipe: how to train. A folder that was begun with another recipe is refused.

    Returns:
        The folder of the weights.

    Raises:
        ValueError: the folder holds a run with another recipe, or neither or both of hours and steps are given.
        TrainingError: the loss or the weights are no longer finite; the last checkpoint stays.
        BusyError: another run is writing to the folder.
        WriteError: the folder cannot be written; the last checkpoint stays.
    """
    recipe.paces()
    with claimed_folder(out):
        begun = out / "recipe.json"
        wanted = json.dumps(asdict(recipe), indent=1)
        if begun.exists() and read_text(begun) != wanted:
            raise ValueError(f"{out} holds a run with another recipe: use another folder, or the recipe in {begun}")
        write_whole(begun, wanted)
        if recipe.processes > 1:
            _run_together(out, recipe)
        else:
            _run(out, recipe)
    return out / "weights"


def _run_together(out: Path, recipe: Recipe) -> None:
    """Train in several processes; this one is the first, so that the others end with it when it is killed."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"tcp://localhost:{free.getsockname()[1]}"
    others = spawn(_run_as_another, (out, recipe, address), recipe.processes - 1, join=False)
    try:
        _run_as(0, out, recipe, address)
    except BaseException:
        for process in others.processes:  # they would wait for this one
            process.terminate()
            process.join()
        raise
    while not others.join():
        pass


def _run_as_another(index: int, out: Path, recipe: Recipe, address: str) -> None:
    _run_as(index + 1, out, recipe, address)


def _run_as(rank: int, out: Path, recipe: Recipe, address: str) -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(max(1, threads // recipe.processes))
    distributed.init_process_group("gloo", init_method=address, rank=rank, world_size=recipe.processes)
    try:
        _run(out, recipe)
    finally:
        distributed.destroy_process_group()
        torch.set_num_threads(threads)


def _fresh(recipe: Recipe) -> Any:
    shape = EMBEDDED_SHAPES[recipe.shape]
    model = shape.build(hidden=recipe.hidden, tower_layers=recipe.tower_layers, layers=recipe.layers, seed=recipe.seed)
    if recipe.start is not None:
        carry_over(shape, Path(recipe.start), model)
    return model


def carry_over(shape: EmbeddedShape, folder: Path, model: Any) -> None:
    """Copy the weights of an earlier embedded model of the same size into a new one; what it does not have stays unchanged.

    Raises:
        ValueError: the earlier model has another size, a shape that cannot be converted, or weights that are not finite.
    """
    own = model.state_dict()
    state = shape.earlier(folder, own)
    spoiled = not_finite({name: weight for name, weight in state.items() if name in own})
    if spoiled:
        raise ValueError(f"{folder} holds weights that are not finite ({spoiled[0]}); start from another model")
    wrong = [name for name, weight in own.items() if name not in state or state[name].shape != weight.shape]
    if wrong:
        raise ValueError(f"{folder} holds a model of another shape: {wrong[0]} differs. Give the same hidden, tower_layers and layers")
    model.load_state_dict(state)


def _run(out: Path, recipe: Recipe) -> None:
    shape, model = EMBEDDED_SHAPES[recipe.shape], _fresh(recipe)
    device = _own_device(recipe.device)
    half = fast_bfloat16(device) if recipe.bfloat16 is None else recipe.bfloat16
    dtype = torch.bfloat16 if half else torch.float32
    first, second = recipe.paces()

    def loop(pace: Pace) -> Loop:
        return Loop(out, pace, workers=recipe.workers, checkpoint_every=recipe.checkpoint_every)

    pace = 1.0 if recipe.start is None else SLOWER
    tower = TowerPhase(shape, shape.tower(model), seed=recipe.seed, batch=recipe.batch, device=device, dtype=dtype, pace=pace)
    loop(first).run(tower)
    batch = max(1, recipe.batch // 4)
    decoder = DecoderPhase(shape, model, seed=recipe.seed, batch=batch, device=device, dtype=dtype, pace=pace, guidance=recipe.guidance)
    loop(second).run(decoder)
    if not distributed.is_initialized() or distributed.get_rank() == 0:
        export(shape, model, out / "weights")


def _own_device(device: str) -> torch.device:
    """The device of this process: on GPUs, each of several processes takes one."""
    if device == "cuda" and distributed.is_initialized():
        return torch.device("cuda", distributed.get_rank() % torch.cuda.device_count())
    return torch.device(device)


def export(shape: EmbeddedShape, model: Any, folder: Path) -> None:
    """Write a model and its processor in the standard layout, in bfloat16, each file atomically; a new folder appears in one step.

    Raises:
        WriteError: they cannot be written.
    """
    copied = copy.deepcopy(model).to("cpu", torch.bfloat16)
    copied.set_attn_implementation("sdpa")
    copied.generation_config = GenerationConfig(bos_token_id=1, eos_token_id=2, pad_token_id=0, max_new_tokens=16, do_sample=False)
    with whole_folder(folder) as unfinished:
        try:
            copied.save_pretrained(unfinished)
        except SafetensorError as error:  # safetensors' way to report a full disk
            raise write_error(folder, error) from error
        shape.processor().save_pretrained(unfinished)


def recipe_of(out: Path) -> Recipe:
    """The recipe of a run.

    Raises:
        RecordError: it is missing or damaged; the message names the key.
    """
    found = _SCHEMA.read(out / "recipe.json")
    if found.value.shape not in EMBEDDED_SHAPES:
        raise _SCHEMA.refusal(found.where, f"shape should be {' or '.join(EMBEDDED_SHAPES)}, not {brief(found.value.shape)}")
    return found.value


def export_checkpoint(out: Path) -> Path:
    """Write the weights of a run's current checkpoints, while it continues, and return their folder.

    Raises:
        RecordError: the run has no checkpoint of the decoder yet, or its files are damaged.
        WriteError: they cannot be written.
    """
    recipe = recipe_of(out)
    shape, model = EMBEDDED_SHAPES[recipe.shape], _fresh(recipe)
    for learner, name in ((TowerWithHeads(shape, shape.tower(model)), "tower"), (ProjectorAndDecoder(shape, model), "decoder")):
        path = out / f"{name}.pt"
        restored(path, learner, checkpoint(path)[1]["masters"])
    export(shape, model, out / "weights")
    return out / "weights"


def main() -> None:
    """The command line of `python -m foveate.recipe.train`."""
    parser = argparse.ArgumentParser(prog="python -m foveate.recipe.train", description="Train the embedded model.")
    parser.add_argument("out", type=Path, help="folder for checkpoints, log and weights; an existing run is resumed")
    parser.add_argument("--shape", choices=EMBEDDED_SHAPES, default=Recipe.shape, help="the shape of the model")
    pace = parser.add_mutually_exclusive_group()
    pace.add_argument("--hours", type=float, help="time to train, in total")
    pace.add_argument("--steps", type=int, nargs=2, metavar=("TOWER", "DECODER"), help="steps instead of hours")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--tower-share", type=float, default=Recipe.tower_share)
    parser.add_argument("--seed", type=int, default=Recipe.seed)
    parser.add_argument("--batch", type=int, default=Recipe.batch)
    parser.add_argument("--processes", type=int, default=Recipe.processes, help="on a CPU: one per core")
    parser.add_argument("--workers", type=int, default=Recipe.workers, help="processes that draw scenes; on a GPU, all cores")
    parser.add_argument("--guidance", type=float, default=Recipe.guidance, help="weight of the supervision of attention; 0 for none")
    parser.add_argument("--start", help="folder of an earlier model's weights to continue from")
    parser.add_argument("--export-only", action="store_true", help="write the weights of the checkpoints as they are")
    parser.add_argument("--card-questions", type=int, default=BALANCED, help="held-out questions of each family to measure the weights on")
    options = vars(parser.parse_args())
    each = options.pop("card_questions")
    out = options.pop("out")
    if options.pop("export_only"):
        print(export_checkpoint(out))
        return
    steps = options.pop("steps")
    try:
        train(out, Recipe(steps=steps and tuple(steps), **options))
        print(describe(out, each, options["device"]))
    except FoveateError as error:
        raise SystemExit(f"error: {error}") from error


if __name__ == "__main__":
    main()
