"""How well a model answers questions about scenes: with the stock `generate`, by exact match, per family, with intervals.

    from foveate.demo import load
    from foveate.measure.scenes import evaluate, samples, summary
    print(summary(evaluate(*load(), samples(50))))

To measure a method, compress the model around the call (`with foveate.compress(model, method):`).
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from foveate.demo.model.language import IMAGE_TOKEN, prompt, unknown_words
from foveate.demo.model.shapes import shape_of
from foveate.demo.scenes import FAMILIES, Question, Split, scene
from foveate.demo.scenes.compose import SMALLEST
from foveate.demo.scenes.drawing import COLOURS, SHAPES
from foveate.demo.scenes.labels import GRID, PATCH
from foveate.demo.scenes.questions import LONGEST_DESCRIPTION, PLURALS
from foveate.files.records import Count, Number, Size
from foveate.measure import statistics

_LONGEST = LONGEST_DESCRIPTION + 2  # tokens of an answer
BALANCED = 160  # questions of each family in the held-out set


@dataclass(frozen=True)
class SceneQuestion:
    """One question about the scene of one seed."""

    seed: int
    image: Image.Image
    question: Question


@dataclass(frozen=True)
class SceneAnswer:
    """A model's answer to one question."""

    seed: int
    family: str
    question: str
    answer: str
    given: str
    tags: tuple[str, ...] = ()

    @property
    def right(self) -> bool:
        """Whether the answer equals the reference exactly."""
        return self.given == self.answer


@dataclass(frozen=True)
class Score:
    """A share of right answers, with its 95 % Wilson interval."""

    right: Count
    count: Size
    low: Number
    high: Number

    @property
    def share(self) -> float:
        """Right answers divided by questions."""
        return self.right / self.count

    def __str__(self) -> str:
        return f"{self.share:.3f} [{self.low:.3f}, {self.high:.3f}] of {self.count}"


def samples(scenes: int | range, split: Split = "held_out") -> list[SceneQuestion]:
    """All questions about the scenes of some seeds; a number n stands for the first n seeds."""
    seeds = range(scenes) if isinstance(scenes, int) else scenes
    drawn = ((seed, scene(seed, split)) for seed in seeds)
    return [SceneQuestion(seed, shown.image, question) for seed, shown in drawn for question in shown.questions]


def balanced(each: int = BALANCED, split: Split = "held_out", side: int = GRID) -> list[SceneQuestion]:
    """The evaluation set: the first `each` questions of every family, at most one per family and scene; `side` is that of `scene`.

    With the default, 2,080 questions about held-out scenes; `foveate.demo.scenes.VERSION` fixes which. They are ordered by family,
    so that the answers of a batch have similar lengths.
    """
    found: dict[str, list[SceneQuestion]] = {family: [] for family in FAMILIES}
    seed = 0
    while any(len(chosen) < each for chosen in found.values()):
        shown = scene(seed, split, side)
        for question in shown.questions:
            if len(found[question.family]) < each:
                found[question.family].append(SceneQuestion(seed, shown.image, question))
        seed += 1
    return [sample for family in FAMILIES for sample in found[family]]


def digest(asked: Iterable[SceneQuestion]) -> str:
    """SHA-256 over seeds, questions, answers and relevant patches of an evaluation set, and the pixels of its scenes."""
    total = hashlib.sha256()
    seen: set[int] = set()
    for sample in asked:
        question = sample.question
        total.update(f"{sample.seed}|{question.family}|{question.text}|{question.answer}\n".encode())
        total.update(np.packbits(question.relevant).tobytes())
        if sample.seed not in seen:
            seen.add(sample.seed)
            total.update(sample.image.tobytes())
    return total.hexdigest()


def wilson(right: int, count: int) -> Score:
    """A score with its 95 % Wilson interval.

    Raises:
        ValueError: `count` is zero.
    """
    return Score(right, count, *statistics.wilson(right, count))


@torch.inference_mode()
def evaluate(
    model: Any,
    processor: Any,
    asked: Sequence[SceneQuestion],
    batch_size: int = 16,
    progress: Callable[[int], object] | None = None,
    *,
    without_image: bool = False,
) -> list[SceneAnswer]:
    """Ask a model every question, greedily, through `generate`.

    Args:
        model: an embedded model, compressed or not.
        processor: its processor, which pads on the left.
        asked: the questions.
        batch_size: questions at a time.
        progress: called with the number of questions just answered.
        without_image: omit the image from the prompt, to see what can be guessed from the question alone.
    """
    results: list[SceneAnswer] = []
    for start in range(0, len(asked), batch_size):
        batch = asked[start : start + batch_size]
        texts = [prompt_of(processor, sample.question.text) for sample in batch]
        if without_image:
            placeholder = f"{processor.image_token}\n"
            inputs = processor(text=[text.replace(placeholder, "") for text in texts], padding=True, return_tensors="pt")
        else:
            inputs = processor(images=[sample.image for sample in batch], text=texts, padding=True, return_tensors="pt")
        inputs = inputs.to(model.device, dtype=model.dtype)
        output = model.generate(**inputs, max_new_tokens=_LONGEST, do_sample=False)
        read = str.strip if own_language(processor) else written_together
        said = processor.batch_decode(output[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        results += [
            SceneAnswer(
                sample.seed, sample.question.family, sample.question.text, sample.question.answer, read(given), sample.question.tags
            )
            for sample, given in zip(batch, said, strict=True)
        ]
        if progress is not None:
            progress(len(batch))
    return results


def own_language(processor: Any) -> bool:
    """Whether a processor is of an embedded model that was trained from scratch, with prompts and words of its own."""
    return bool(getattr(processor, "image_token", IMAGE_TOKEN) == IMAGE_TOKEN)


def prompt_of(processor: Any, question: str) -> str:
    """The prompt for a question about one image: the embedded model's own, or that of a pretrained decoder's chat template."""
    if own_language(processor) or not getattr(processor, "chat_template", None):
        return prompt(question)
    content = [{"type": "image"}, {"type": "text", "text": question.strip()}]
    return str(processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True))


def side_of(processor: Any) -> int:
    """Patches per side of the scenes that an embedded model of this processor knows: 24 unless its pictures are smaller."""
    size = getattr(getattr(processor, "image_processor", None), "crop_size", None)
    return GRID if own_language(processor) or not size else min(GRID, max(SMALLEST, int(size["height"]) // PATCH))


def written_together(answer: str) -> str:
    """An answer in lower case, with single letters joined to words: a pretrained decoder spells what it reads."""
    return re.sub(r"(?<=\b\w) (?=\w\b)", "", answer.strip().lower())


READING = ("word", "number")
SLICES: dict[str, Callable[[SceneAnswer], bool]] = {
    "reading": lambda result: result.family in READING,
    "small things": lambda result: "small" in result.tags and result.family not in READING,
    "large things": lambda result: "large" in result.tags and result.family not in READING,
    "sparse scenes": lambda result: "sparse" in result.tags,
    "crowded scenes": lambda result: "crowded" in result.tags,
}
"""Subsets of the questions across families; see `Question.tags`."""


def summary(results: Iterable[SceneAnswer]) -> dict[str, Score]:
    """Scores by family in the order of `FAMILIES`, then by `SLICES`, then of `all` questions together."""
    counts: dict[str, list[bool]] = defaultdict(list)
    for result in results:
        slices = (name for name, holds in SLICES.items() if holds(result))
        for name in (result.family, *slices, "all"):
            counts[name].append(result.right)
    return {name: wilson(sum(counts[name]), len(counts[name])) for name in (*FAMILIES, *SLICES, "all") if counts[name]}


def named_things(results: Iterable[SceneAnswer]) -> float:
    """How much of the scenes the descriptions name correctly: F1 over the things named, each with all its properties.

    Raises:
        ValueError: there is no description among the results.
    """
    hits = named = there = 0
    for result in results:
        if result.family == "description":
            wanted, given = (Counter(re.split(r", | and ", text.rstrip("."))) for text in (result.answer, result.given))
            hits, named, there = hits + (wanted & given).total(), named + given.total(), there + wanted.total()
    if not there:
        raise ValueError("no description was asked for")
    return 2 * hits / (named + there)


def _wording(question: str) -> str:
    """A question without its colours, shapes and the text of signs."""
    names = "|".join((*COLOURS, *PLURALS.values(), *SHAPES))
    return " ".join(word for word in re.sub(rf"\b({names}|an?)\b", "", question).split() if not unknown_words(word))


def chance(asked: Iterable[SceneQuestion], scenes: int = 400) -> dict[str, float]:
    """Accuracy from the wording of a question alone, by family: always the most frequent answer in training scenes.

    Args:
        asked: the questions.
        scenes: training scenes to learn the most frequent answers from.
    """
    often: dict[str, Counter[str]] = defaultdict(Counter)
    for seed in range(scenes):
        for question in scene(seed).questions:
            often[_wording(question.text)][question.answer] += 1
    right: dict[str, list[bool]] = defaultdict(list)
    for sample in asked:
        known = often.get(_wording(sample.question.text))
        for name in (sample.question.family, "all"):
            right[name].append(known is not None and known.most_common(1)[0][0] == sample.question.answer)
    return {name: sum(right[name]) / len(right[name]) for name in (*FAMILIES, "all") if right[name]}


@torch.inference_mode()
def attention_recall(
    model: Any,
    processor: Any,
    asked: Sequence[SceneQuestion],
    layer: int = 1,
    keep: int | None = None,
    batch_size: int = 8,
) -> dict[str, float]:
    """Share of the relevant visual tokens among those that the last prompt token attends to most, by family.

    Attention is averaged over the heads of one decoder layer. A random choice gives `keep` divided by all of them. Questions
    without a relevant patch (about absent things) are omitted.

    Args:
        model: uncompressed; its attention implementation is `eager` during the call.
        processor: its processor.
        asked: the questions.
        layer: decoder layer, from 0.
        keep: visual tokens chosen; by default two in nine of them, which is 128 of 576.
        batch_size: questions at a time.
    """
    shape = shape_of(model)
    asked = [sample for sample in asked if sample.question.relevant.any()]
    shares: dict[str, list[float]] = defaultdict(list)
    before = model.model.language_model.config._attn_implementation
    model.set_attn_implementation({"text_config": "eager"})
    try:
        for start in range(0, len(asked), batch_size):
            batch = asked[start : start + batch_size]
            for sample, row in zip(batch, _last_row_attention(model, processor, batch, layer), strict=True):
                patches = torch.from_numpy(sample.question.relevant)
                relevant = shape.by_token(patches.flatten(), patches.shape[1]).to(row.device)
                chosen = torch.zeros_like(relevant)
                chosen[row.topk(keep or len(row) * 2 // 9).indices] = True
                recall = (chosen & relevant).sum() / relevant.sum()
                shares[sample.question.family].append(float(recall))
                shares["all"].append(float(recall))
    finally:
        model.set_attn_implementation({"text_config": before})
    return {name: sum(shares[name]) / len(shares[name]) for name in (*FAMILIES, "all") if shares[name]}


def _last_row_attention(model: Any, processor: Any, batch: Sequence[SceneQuestion], layer: int) -> list[Tensor]:
    """For each sample the attention (visual tokens,) of the last prompt token to the image, averaged over heads."""
    texts = [prompt(sample.question.text) for sample in batch]
    inputs = processor(images=[sample.image for sample in batch], text=texts, padding=True, return_tensors="pt")
    inputs = inputs.to(model.device, dtype=model.dtype)
    attention = model(**inputs, output_attentions=True, logits_to_keep=1).attentions[layer][:, :, -1].mean(1)
    visual = inputs["input_ids"] == model.config.image_token_id
    return [row[mask] for row, mask in zip(attention, visual, strict=True)]
