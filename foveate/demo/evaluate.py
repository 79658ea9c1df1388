"""How well a model answers about scenes: stock `generate`, exact answers, per family, with intervals.

    from foveate.demo import load
    from foveate.demo.evaluate import evaluate, samples, summary
    print(summary(evaluate(*load(), samples(50))))

Whatever compresses the model around a call (`with foveate.compress(model, method):`) is measured with it.
"""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from PIL import Image
from torch import Tensor
from transformers import LlavaForConditionalGeneration, LlavaProcessor

from foveate.demo.drawing import COLOURS, SHAPES
from foveate.demo.language import IMAGE, prompt
from foveate.demo.questions import PLURALS
from foveate.demo.scenes import FAMILIES, Question, Split, scene

_LONGEST = 8  # tokens of an answer


@dataclass(frozen=True)
class Sample:
    """One question about the scene of one seed."""

    seed: int
    image: Image.Image
    question: Question


@dataclass(frozen=True)
class Result:
    """What a model answered to a question."""

    seed: int
    family: str
    question: str
    answer: str
    given: str

    @property
    def right(self) -> bool:
        """Whether the whole answer is right."""
        return self.given == self.answer


@dataclass(frozen=True)
class Score:
    """A share of right answers, with its Wilson interval of 95 %."""

    right: int
    count: int
    low: float
    high: float

    @property
    def share(self) -> float:
        """Right answers over questions."""
        return self.right / self.count

    def __str__(self) -> str:
        return f"{self.share:.3f} [{self.low:.3f}, {self.high:.3f}] of {self.count}"


def samples(scenes: int | range, split: Split = "held_out") -> list[Sample]:
    """All questions about the scenes of some seeds; a number means the first so many."""
    seeds = range(scenes) if isinstance(scenes, int) else scenes
    drawn = ((seed, scene(seed, split)) for seed in seeds)
    return [Sample(seed, shown.image, question) for seed, shown in drawn for question in shown.questions]


def wilson(right: int, count: int) -> Score:
    """A score with its Wilson interval of 95 %.

    Raises:
        ValueError: there is nothing to score.
    """
    if count < 1:
        raise ValueError("an interval needs at least one question")
    z = 1.959964
    middle = (right + z * z / 2) / (count + z * z)
    reach = z * math.sqrt(right * (count - right) / count + z * z / 4) / (count + z * z)
    return Score(right, count, max(0.0, middle - reach), min(1.0, middle + reach))


@torch.inference_mode()
def evaluate(
    model: LlavaForConditionalGeneration,
    processor: LlavaProcessor,
    asked: Sequence[Sample],
    batch_size: int = 16,
    progress: Callable[[int], object] | None = None,
    *,
    without_image: bool = False,
) -> list[Result]:
    """Ask a model every question through `generate`, greedily, and keep what it says.

    Args:
        model: a model with the embedded model's prompt, compressed or not.
        processor: its processor, which pads on the left.
        asked: the questions.
        batch_size: questions at a time.
        progress: called with the number of questions just answered.
        without_image: leave the image out of the prompt: what can be guessed from the question alone.
    """
    results: list[Result] = []
    for start in range(0, len(asked), batch_size):
        batch = asked[start : start + batch_size]
        texts = [prompt(sample.question.text) for sample in batch]
        if without_image:
            inputs = processor(text=[text.replace(f"{IMAGE}\n", "") for text in texts], padding=True, return_tensors="pt")
        else:
            inputs = processor(images=[sample.image for sample in batch], text=texts, padding=True, return_tensors="pt")
        inputs = inputs.to(model.device, dtype=model.dtype)
        output = model.generate(**inputs, max_new_tokens=_LONGEST, do_sample=False)
        said = processor.batch_decode(output[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        results += [
            Result(sample.seed, sample.question.family, sample.question.text, sample.question.answer, given.strip())
            for sample, given in zip(batch, said, strict=True)
        ]
        if progress is not None:
            progress(len(batch))
    return results


def summary(results: Iterable[Result]) -> dict[str, Score]:
    """Scores by family, in the order of `FAMILIES`, and of `all` questions together."""
    counts: dict[str, list[bool]] = defaultdict(list)
    for result in results:
        counts[result.family].append(result.right)
        counts["all"].append(result.right)
    return {name: wilson(sum(counts[name]), len(counts[name])) for name in (*FAMILIES, "all") if counts[name]}


def chance(asked: Iterable[Sample]) -> dict[str, float]:
    """The best accuracy, by family, of answers that look at the wording of a question but not at the image.

    The most frequent answer to each wording, colours and shapes in the question aside.
    """
    answers: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)
    names = "|".join((*COLOURS, *PLURALS.values(), *SHAPES))
    for sample in asked:
        wording = re.sub(rf"\ban?\b|\b({names})\b", "", sample.question.text)
        answers[sample.question.family, wording][sample.question.answer] += 1
    best: dict[str, int] = defaultdict(int)
    every: dict[str, int] = defaultdict(int)
    for (family, _), given in answers.items():
        for name in (family, "all"):
            best[name] += given.most_common(1)[0][1]
            every[name] += given.total()
    return {name: best[name] / every[name] for name in (*FAMILIES, "all") if every[name]}


@torch.inference_mode()
def attention_recall(
    model: LlavaForConditionalGeneration,
    processor: LlavaProcessor,
    asked: Sequence[Sample],
    layer: int = 1,
    keep: int = 128,
    batch_size: int = 8,
) -> dict[str, float]:
    """Share of the relevant patches among those that the last prompt token attends to most, by family.

    Attention is averaged over the heads of one decoder layer. Choosing at random gives `keep` over 576. Questions
    without a relevant patch (about what is not there) are left out.

    Args:
        model: uncompressed; its attention implementation is `eager` during the call.
        processor: its processor.
        asked: the questions.
        layer: decoder layer, from 0.
        keep: patches chosen.
        batch_size: questions at a time.
    """
    asked = [sample for sample in asked if sample.question.relevant.any()]
    shares: dict[str, list[float]] = defaultdict(list)
    before = model.model.language_model.config._attn_implementation
    model.set_attn_implementation({"text_config": "eager"})
    try:
        for start in range(0, len(asked), batch_size):
            batch = asked[start : start + batch_size]
            for sample, row in zip(batch, _last_row_attention(model, processor, batch, layer), strict=True):
                relevant = torch.from_numpy(sample.question.relevant).flatten().to(row.device)
                chosen = torch.zeros_like(relevant)
                chosen[row.topk(keep).indices] = True
                recall = (chosen & relevant).sum() / relevant.sum()
                shares[sample.question.family].append(float(recall))
                shares["all"].append(float(recall))
    finally:
        model.set_attn_implementation({"text_config": before})
    return {name: sum(shares[name]) / len(shares[name]) for name in (*FAMILIES, "all") if shares[name]}


def _last_row_attention(
    model: LlavaForConditionalGeneration, processor: LlavaProcessor, batch: Sequence[Sample], layer: int
) -> list[Tensor]:
    """For each sample the attention (576,) of the last prompt token to the image, averaged over heads."""
    texts = [prompt(sample.question.text) for sample in batch]
    inputs = processor(images=[sample.image for sample in batch], text=texts, padding=True, return_tensors="pt")
    inputs = inputs.to(model.device, dtype=model.dtype)
    attention = model(**inputs, output_attentions=True, logits_to_keep=1).attentions[layer][:, :, -1].mean(1)
    visual = inputs["input_ids"] == model.config.image_token_id
    return [row[mask] for row, mask in zip(attention, visual, strict=True)]
