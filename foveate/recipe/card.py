"""The model card: measured figures for a set of weights, and what a reader must know before trusting them."""

from __future__ import annotations

import html
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from foveate.compression import compress
from foveate.demo.model.shape import EmbeddedShape
from foveate.demo.model.shapes import EMBEDDED_SHAPES, shape_of
from foveate.demo.scenes import VERSION
from foveate.demo.scenes.drawing import LONGEST, SHORTEST, WORDS
from foveate.demo.scenes.labels import GRID
from foveate.engine.remembered import remembered_features
from foveate.files.checkpoints import load_folder
from foveate.files.locks import claimed_folder
from foveate.files.records import Count, Number, RecordSchema, Size, read_text
from foveate.files.writing import write_whole
from foveate.measure.scenes import BALANCED, Score, attention_recall, balanced, chance, digest, evaluate, named_things, summary
from foveate.methods import Random
from foveate.recipe.decoder import FIRST, GUIDED, SEALED, SECOND, WHOLE
from foveate.recipe.loop import LOG

FIGURES, CARD = "figures.json", "README.md"
NOTES = "notes.md"  # in the folder of a run: text that its card should add
KEPT, CUT = 2 / 9, 2  # share of the visual tokens that is kept, and the decoder layer before which the others are usually dropped
_ROWS = 8  # of a learning curve

_TEXT = """---
license: apache-2.0
library_name: transformers
pipeline_tag: image-text-to-text
---
{portrait}

**It knows its scenes, not the world.** It was trained {begun} on drawn scenes (`foveate.demo.scenes`) and answers
questions in their wording about their colours, shapes, signs and digits. A photograph of anything else gets a
confident wrong answer. Signs are lettered in one 5 by 7 pixel alphabet, 14 pixels high, with {shortest} to {longest} characters, which are
answered one by one. A third of the signs carry numbers, a third letters at random, the others words: {words} in training, and
{new_words} others in held-out scenes, so what is measured is reading and not knowing a list.

## Accuracy on held-out scenes

{questions} questions about {scenes} scenes, version {version}, {each} of each family, each scene asked about at most once per family;
stock greedy `generate`, exact match of the whole answer, Wilson intervals of 95 %. Questions come in two to four wordings each.

{table}

*Without image* omits the picture from the prompt. *Chance* is the best that the wording alone can do: the answer that
training scenes give to it most often. *Cut* is the accuracy, on the first {some} questions of each family, when all visual tokens except
a random one are dropped before decoder layer {cut}: at chance, the layers before it have not read the answer. *Recall* is the share
of a question's relevant {tokens} among the {kept} of {of} that the last prompt token attends to most in decoder layer
{before}, averaged over heads, on the same questions; at random it is {random:.3f}. A thing is *small* up to 4 {small} (an
object of 22 to 28 pixels, a handwritten digit); a scene is *crowded* with 7 or more things. Descriptions count as right if every thing
and its order are; of the things that they name, F1 is {named:.3f}.

## Attention was supervised

During training, some heads ({heads}) were guided to the patches
that a question is about: minus the log of their attention mass there, weight {weight}, at the rows that predict the
answer. In layer {whole} the goal is everything asked about (a whole sign); in the others it is, for signs, the character that
comes next, for descriptions the next thing, and if two things are related the first in layer {first} and the second in layer {second}.
In the first {sealed} layers, what the questions read from the image came from another picture of the batch, so that these layers
learn where to look and not what is there: nothing can be answered before the usual cut. Methods that rank tokens by this
model's attention benefit from this supervision: a comparison on this model alone does not show that they do as well on
others. `--guidance 0` trains without it.

## Training

{training}

{pictures} The same recipe: `foveate demo train{option}`.

## Sources

Backgrounds are crops of scikit-learn's `china.jpg` (Yuto Kitayama) and `flower.jpg` (dany13), both CC BY; handwritten
digits are from the UCI repository (E. Alpaydin, C. Kaynak; CC BY 4.0). Held-out scenes use other parts of the
photographs and other digits than training scenes.
"""


_PORTRAITS = {
    "llava": """# Foveate's embedded model

A LLaVA of {parameters:.1f} million parameters that sees: `LlavaForConditionalGeneration` with a CLIP-style tower
({tower_layers} layers, {hidden} wide, 336 pixels, patches of 14, 576 visual tokens) and a Llama decoder
({layers} layers, {hidden} wide), stored in bfloat16 ({megabytes:.1f} MB). It exists so that compressing visual tokens can be tried,
shown and tested on trained weights without downloading any.""",
    "qwen2-vl": """# Foveate's embedded model, with dynamic resolution

A Qwen2-VL of {parameters:.1f} million parameters that sees: `Qwen2VLForConditionalGeneration` with a tower of two-dimensional rotary
positions ({tower_layers} layers, {hidden} wide, patches of 14), a merger that makes one visual token of 2 by 2 patches, and a decoder
({layers} layers, {hidden} wide) with rotary positions by time, row and column, stored in bfloat16 ({megabytes:.1f} MB). A scene of 336
by 336 pixels is 144 visual tokens; pictures may have any other number of rows and columns up to that many. It exists so that
compressing visual tokens can be tested on trained weights of a second family without downloading any.

`foveate.demo.load(shape="qwen2-vl")` loads it with its processor, because transformers' own processor for it needs torchvision.""",
}
_CONVERTED = """It did not start from scratch but from the weights of the embedded model in its first shape, a LLaVA: the
blocks of the tower, the patch embedding (half of it for each of the two frames that a patch spans), the decoder and the words,
with biases of zero where the LLaVA has none. The merger began with the mean of the LLaVA's projector over the
four patches, plus noise. The positions, in tower and decoder, are new. So this model contains what the LLaVA had learned,
including its supervised attention."""
_PICTURES = {
    "llava": """Windows of a scene are shown to the decoder at the rotary positions that their patches have in the whole scene, so the
model has seen missing visual tokens before, which real models have not.""",
    "qwen2-vl": """Small pictures, square or not, are separate pictures here, with positions that begin at their first corner:
left and right are those of the picture. The channels of the decoder's heads rotate by time, row and column in turn
(`mrope_section` of fifteen parts) and not in three blocks, the last of which would be too slow to distinguish a dozen columns.""",
}


@dataclass(frozen=True)
class _CardFigures:
    """The figures that `measure` writes."""

    version: Count
    each: Size
    scenes: Count
    named_things: Number
    chance: dict[str, Number]
    recall: dict[str, Number]
    full: dict[str, Score]
    without_image: dict[str, Score]
    cut: dict[str, Score]

    def __post_init__(self) -> None:
        if "all" not in self.full:
            raise ValueError("full.all is missing")


@dataclass(frozen=True)
class _CardRecipe:
    """The part of a run's recipe that the card states."""

    start: str | None
    processes: Size
    seed: int
    hidden: Size
    tower_layers: Size
    layers: Size
    guidance: Number


_FIGURES_SCHEMA: RecordSchema[_CardFigures] = RecordSchema("the figures of an embedded model", _CardFigures, remedy="measure it again")
_RECIPE_SCHEMA: RecordSchema[_CardRecipe] = RecordSchema("the recipe of a training run", _CardRecipe)


def describe(run: Path, each: int = BALANCED, device: str = "cpu", progress: Callable[[int], object] | None = None) -> Path:
    """Measure the weights of a training run and write their card next to them; returns the card.

    Args:
        run: folder of the run, whose `weights` are measured.
        each: how many held-out questions of each family to ask.
        device: where to measure.
        progress: called with the number of questions just answered.

    Raises:
        BusyError: another process is writing to the folder.
        WriteError: the card cannot be written.
    """
    folder = run / "weights"
    with claimed_folder(run):
        measure(folder, each, device=device, progress=progress)
        cores = f"{os.cpu_count()} CPU cores"
        write_card(folder, run, cores if device == "cpu" else f"{torch.cuda.get_device_name(device)} and {cores}")
    return folder / CARD


def measure(
    folder: Path, each: int = BALANCED, batch_size: int = 16, device: str = "cpu", progress: Callable[[int], object] | None = None
) -> dict[str, Any]:
    """Measure weights on held-out scenes and save the figures next to them (`figures.json`).

    Args:
        folder: weights and processor.
        each: held-out questions of each family; attention and the cut are measured on a quarter of them.
        batch_size: questions per batch.
        device: where to measure, in float32.
        progress: called with the number of questions just answered.
    """
    model = load_folder(folder, torch.float32, device)
    processor = shape_of(folder).processor(folder)
    asked, some = balanced(each), balanced(max(1, each // 4))
    with remembered_features(model):
        full = evaluate(model, processor, asked, batch_size, progress)
        with compress(model, Random(keep=1, layer=CUT)):
            cut = evaluate(model, processor, some, batch_size)
    blind = evaluate(model, processor, some, 4 * batch_size, without_image=True)
    figures: dict[str, Any] = {
        "version": VERSION,
        "digest": digest(asked),
        "each": each,
        "scenes": len({sample.seed for sample in asked}),
        "named_things": named_things(full),
        "chance": chance(asked),
        "recall": attention_recall(model, processor, some, layer=CUT - 1),
    }
    for name, results in (("full", full), ("without_image", blind), ("cut", cut)):
        figures[name] = {family: asdict(score) for family, score in summary(results).items()}
    write_whole(folder / FIGURES, json.dumps(figures, indent=1) + "\n")
    return figures


def _converted(shape: EmbeddedShape, start: str | None) -> bool:
    """Whether a run began from weights of another shape; missing weights count as of its own shape."""
    return start is not None and (Path(start) / "config.json").is_file() and shape_of(Path(start)) is not shape


def _beginning(shape: EmbeddedShape, start: str | None) -> list[str]:
    """What the card says about the weights that a run began from."""
    if start is None:
        return []
    if not _converted(shape, start):
        return ["It continued from earlier weights of its own shape; what follows was added.", ""]
    return [_CONVERTED, ""]


def _table(figures: dict[str, Any]) -> Iterator[str]:
    yield "| family | n | accuracy | 95 % interval | without image | chance | cut | recall |"
    yield "|---|---|---|---|---|---|---|---|"
    for family, score in figures["full"].items():
        share = f"{score['right'] / score['count']:.3f} | {score['low']:.3f}-{score['high']:.3f}"
        left = (_share(figures[name].get(family)) for name in ("without_image", "cut"))
        guessed, recall = figures["chance"].get(family), figures["recall"].get(family)
        blind, cut = left
        yield (
            f"| {_cell(family)} | {score['count']} | {share} | {blind} | {'' if guessed is None else f'{guessed:.3f}'} "
            f"| {cut} | {'' if recall is None else f'{recall:.2f}'} |"
        )


def _share(score: dict[str, Any] | None) -> str:
    return "" if score is None else f"{score['right'] / score['count']:.3f}"


def _cell(text: str) -> str:
    """A name escaped for a cell of a Markdown table."""
    return html.escape(" ".join(text.split()), quote=False).translate({ord(sign): f"\\{sign}" for sign in "\\|*_`[]"})


def _training(log: Path) -> Iterator[str]:
    """A table of each phase's learning curve: accuracies on whole training scenes, averaged over the last steps."""
    phases: dict[str, dict[int, dict[str, Any]]] = {}
    for number, line in enumerate(read_text(log).splitlines(), start=1):
        entry = LOG.parse(line, f"{log}, line {number}")
        figures = {name: value for name, value in entry.raw.items() if isinstance(value, int | float)}
        phases.setdefault(entry.value.phase, {})[entry.value.step] = figures
    for phase, entries in phases.items():
        steps = sorted(entries)
        last = entries[steps[-1]]
        names = [name for name in last if name.startswith("scene_") and "mass" not in name and "pixels" not in name]
        yield f"**{_cell(phase)}**: {last['step']} steps in {last['seconds'] / 60:.0f} minutes."
        yield ""
        yield f"| step | minutes | {' | '.join(_cell(name.removeprefix('scene_')) for name in names)} |"
        yield "|---" * (len(names) + 2) + "|"
        for step in sorted({*steps[:: max(1, len(steps) // _ROWS)], steps[-1]}):
            cells = [f"{entries[step][name]:.2f}" if name in entries[step] else "" for name in names]
            yield f"| {step} | {entries[step]['seconds'] / 60:.0f} | {' | '.join(cells)} |"
        yield ""


def write_card(folder: Path, run: Path, hardware: str) -> None:
    """Write the card of measured weights (`README.md`).

    Args:
        folder: weights with their `figures.json`.
        run: folder of the training run, for its recipe, log and notes.
        hardware: what it was trained on, in words.
    """
    figures = _FIGURES_SCHEMA.read(folder / FIGURES).raw
    shape = shape_of(folder)
    tokens = (GRID // shape.merged) ** 2
    model = load_folder(folder)
    recipe = _RECIPE_SCHEMA.read(run / "recipe.json").raw
    training = [
        *_beginning(shape, recipe["start"]),
        f"On {hardware}, in {recipe['processes']} process(es), seed {recipe['seed']}. Accuracies below are running averages on",
        "whole training scenes, each token given the right ones before it.",
        "",
        *_training(run / "log.jsonl"),
        read_text(run / NOTES) if (run / NOTES).exists() else "",
    ]
    guided = [f"{', '.join(map(str, heads))} of layer {layer}" for layer, heads in GUIDED.items()]
    text = _TEXT.format(
        portrait=_PORTRAITS[shape.name].format(
            parameters=sum(weight.numel() for weight in model.parameters()) / 1e6,
            tower_layers=recipe["tower_layers"],
            layers=recipe["layers"],
            hidden=recipe["hidden"],
            megabytes=(folder / "model.safetensors").stat().st_size / 1e6,
        ),
        begun="from another embedded model" if _converted(shape, recipe["start"]) else "from scratch",
        pictures=_PICTURES[shape.name],
        option="" if shape is next(iter(EMBEDDED_SHAPES.values())) else f" --shape {shape.name}",
        tokens="patches" if shape.merged == 1 else "visual tokens",
        of=tokens,
        small="visual tokens" if shape.merged == 1 else "patches",
        words=len(WORDS["train"]),
        new_words=len(WORDS["held_out"]),
        shortest=SHORTEST,
        longest=LONGEST,
        scenes=figures["scenes"],
        each=figures["each"],
        named=figures["named_things"],
        questions=figures["full"]["all"]["count"],
        version=figures["version"],
        table="\n".join(_table(figures)),
        kept=round(KEPT * tokens),
        random=KEPT,
        cut=CUT,
        before=CUT - 1,
        some=max(1, figures["each"] // 4),
        heads="; ".join(guided),
        weight=recipe["guidance"],
        sealed=SEALED,
        whole=WHOLE,
        first=FIRST,
        second=SECOND,
        training="\n".join(training),
    )
    write_whole(folder / CARD, text)
