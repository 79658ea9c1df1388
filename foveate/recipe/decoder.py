"""The second phase: train the projector and the decoder to answer, on the features of the frozen tower."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from functools import cache, partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedTokenizerFast

from foveate.demo.model.language import IMAGE_TOKEN, build_tokenizer, prompt, vocabulary
from foveate.demo.model.packed import packed_states
from foveate.demo.model.shape import EmbeddedShape, columns_of
from foveate.demo.scenes import relevant_patches
from foveate.demo.scenes.backgrounds import Split
from foveate.demo.scenes.compose import TOUCHED
from foveate.demo.scenes.drawing import Item, paint, place
from foveate.demo.scenes.labels import CLASSES, GRID, IGNORED, PATCH, PatchGrid, overlap, patch_labels, square
from foveate.demo.scenes.questions import FAMILIES, LONGEST_DESCRIPTION, AskedQuestion, ask, describe, phrase
from foveate.recipe.attention import fastest_attention
from foveate.recipe.optimise import Optimiser
from foveate.recipe.tower import draw_offsets, normalise, to_patches, window_positions


@dataclass(frozen=True)
class LessonSize:
    """The size of a lesson: questions per image, tokens per question with its answer, and rows that predict an answer."""

    questions: int
    length: int
    answer: int

    @property
    def tokens(self) -> int:
        """Tokens after the image."""
        return self.questions * self.length


SHORT_LESSON, DESCRIPTION_LESSON = LessonSize(10, 20, 7), LessonSize(1, 74, LONGEST_DESCRIPTION + 2)
SCENE_LESSON = LessonSize(18, 20, 7)  # a whole scene costs more to look at, and has more to ask about
DESCRIPTIONS = 0.2  # share of the steps that teach descriptions
HARD = {"comparison": 10.0, "hop": 4.0, "count": 2.5, "relation": 1.5, "word": 2.0, "number": 1.5}  # asked more often, by family
REPEATS = 8  # tries of each kind of question, some of which a lesson takes; many, so that hard ones can be asked more often

# The heads whose attention is guided to the relevant patches during training, by decoder layer. The layer before the usual
# cut is among them: without guidance, a model this small looks nowhere in particular there, and every method that ranks
# tokens by early attention would be judged on noise. It is guided to everything that a question is about; the others to
# the character that comes next on a sign, and one to the first and one to the second thing of a comparison.
GUIDED: dict[int, tuple[int, ...]] = {1: (0, 1, 2), 3: (0, 1, 2), 4: (0, 1, 2)}
WHOLE, FIRST, SECOND = GUIDED
GUIDANCE = 0.3  # weight of minus the log of the attention on relevant patches

# During training, in the layers before the usual cut, what questions read from the image comes from another picture of the
# batch. Otherwise the guided heads of layer 1 would read the answer itself, and removing tokens after that would cost nothing.
SEALED = 2


@dataclass
class Lesson:
    """A batch of images with packed questions.

    Attributes:
        patches: (b, n, 588) 8-bit pixels.
        positions: (b, n) indices of the patches in the grid of a whole scene.
        tokens: (b, q, l) ids of question and answer, padded on the right.
        rows: (b, q, a) positions in a question whose next token is part of the answer; repeated if there are fewer.
        wanted: (b, q, a) ids of those next tokens, `IGNORED` beyond the answer.
        first, second: (b, q, a, n) patches that the next token depends on; they differ if two things are related.
        whole: (b, q, n) patches that the answer depends on.
        families: (b, q) index of the question's family, -1 if there is no question.
    """

    patches: Tensor
    positions: Tensor
    tokens: Tensor
    rows: Tensor
    wanted: Tensor
    first: Tensor
    second: Tensor
    whole: Tensor
    families: Tensor

    def to(self, device: torch.device | str) -> Lesson:
        """The same batch on another device."""
        return Lesson(*(getattr(self, field.name).to(device) for field in fields(self)))


@cache
def _tokenizer() -> PreTrainedTokenizerFast:
    return build_tokenizer()


@cache
def question_ids(question: str) -> tuple[int, ...]:
    """The ids after the image in the prompt of a question."""
    ids: list[int] = _tokenizer()(prompt(question)).input_ids
    return tuple(ids[ids.index(vocabulary()[IMAGE_TOKEN]) + 1 :])


@cache
def answer_ids(answer: str) -> tuple[int, ...]:
    """The ids of an answer, with the token that ends it."""
    tokenizer = _tokenizer()
    return (*tokenizer(answer, add_special_tokens=False).input_ids, tokenizer.eos_token_id)


def draw_items(rng: np.random.Generator, split: Split, grid: int | PatchGrid) -> list[Item]:
    """Lay out a window with about as much to ask about as in a whole scene, as far as there is room."""
    rows, columns = square(grid)
    side = round((rows * columns) ** 0.5)
    most = next((most for until, most in ((8, 3), (10, 4), (12, 5)) if side <= until), 7)
    objects = int(rng.integers(min(2, most - 2), most + 1))
    signs = 1 + int(rng.random() < (0.2 if side < 12 else 0.4))
    return place(rng, split, (columns * PATCH, rows * PATCH), objects, signs, int(rng.random() < 0.5))


def draw_lesson(
    seed: tuple[int, ...], split: Split, batch: int, grid: int | PatchGrid, lesson_size: LessonSize = SHORT_LESSON, *, anywhere: bool = True
) -> Lesson:
    """Draw pictures with the rows and columns of patches in `grid`, and their questions; see `tower.draw_windows`."""
    rng = np.random.default_rng(seed)
    high, wide = square(grid)
    size = (wide * PATCH, high * PATCH)
    pixels = np.empty((batch, size[1], size[0], 3), dtype=np.uint8)
    offsets = draw_offsets(rng, batch, grid, anywhere=anywhere)
    half = np.array((GRID, GRID) if anywhere else (wide, high)) / 2
    tokens = np.zeros((batch, lesson_size.questions, lesson_size.length), dtype=np.int64)
    rows = np.zeros((batch, lesson_size.questions, lesson_size.answer), dtype=np.int64)
    wanted = np.full((batch, lesson_size.questions, lesson_size.answer), IGNORED, dtype=np.int64)
    first, second = np.zeros((2, batch, lesson_size.questions, lesson_size.answer, high * wide), dtype=bool)
    whole = np.zeros((batch, lesson_size.questions, high * wide), dtype=bool)
    families = np.full((batch, lesson_size.questions), -1, dtype=np.int64)
    for image in range(batch):
        across, down = ((half - offsets[image]) * PATCH).tolist()
        items, asked = _draw_questions(rng, split, grid, (across, down), lesson_size)
        pixels[image] = paint(rng, split, size, items)
        for slot, question in enumerate(asked):
            before, answer = question_ids(question.text), answer_ids(question.answer)
            ids = (*before, *answer[:-1])
            tokens[image, slot, : len(ids)] = ids
            rows[image, slot] = np.minimum(len(before) - 1 + np.arange(lesson_size.answer), len(ids) - 1)
            wanted[image, slot, : len(answer)] = answer
            whole[image, slot] = relevant_patches(question, grid).reshape(-1)
            first[image, slot], second[image, slot] = relevant_by_row(question, lesson_size.answer, grid)
            families[image, slot] = FAMILIES.index(question.family)
    arrays = (tokens, rows, wanted, first, second, whole, families)
    return Lesson(to_patches(pixels), window_positions(offsets, grid), *map(torch.from_numpy, arrays))


def _draw_questions(
    rng: np.random.Generator, split: Split, grid: int | PatchGrid, middle: tuple[float, float], lesson_size: LessonSize
) -> tuple[list[Item], list[AskedQuestion]]:
    """Things, and as many questions about them as the lesson has room for."""
    if lesson_size == DESCRIPTION_LESSON:
        while True:  # some things cannot be described in order
            items = draw_items(rng, split, grid)
            if (asked := describe(rng, items)) is not None:
                return items, [asked]
    items = draw_items(rng, split, grid)
    questions = ask(rng, items, middle, repeats=REPEATS)
    weights = np.array([HARD.get(question.family, 1.0) for question in questions])
    count = min(lesson_size.questions, len(questions))
    return items, [questions[i] for i in rng.choice(len(questions), count, replace=False, p=weights / weights.sum())]


def relevant_by_row(asked: AskedQuestion, rows: int, grid: int | PatchGrid) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """The patches (rows, n), twice, that each token of an answer depends on.

    For a text that is read, those of the token's character; for a description, those of the thing that the token is about. The two
    differ if two things are related: one is about the first, the other about the second.
    """
    if asked.family == "description":
        goals = [goal for item in asked.about for goal in _described(item, grid)]
        told = np.array([goals[min(row, len(goals) - 1)] for row in range(rows)])
        return told, told
    pair = asked.family in ("relation", "hop") or (asked.family == "comparison" and "more" not in asked.text)
    parts = (asked.about[:1], asked.about[1:]) if pair else (asked.about, asked.about)
    first, second = (_by_row(replace(asked, about=part), rows, grid) for part in parts)
    return first, second


def _by_row(asked: AskedQuestion, rows: int, grid: int | PatchGrid) -> NDArray[np.bool_]:
    whole = relevant_patches(asked, grid).reshape(1, -1).repeat(rows, axis=0)
    if len(asked.about) == 1 and asked.about[0].text.lower() == asked.answer and asked.about[0].kind == "sign":
        for row in range(rows):
            whole[row] = _character(asked.about[0], min(row, len(asked.answer) - 1), whole[row], grid)
    return whole


def _character(sign: Item, index: int, whole: NDArray[np.bool_], grid: int | PatchGrid) -> NDArray[np.bool_]:
    """The patches that show one character of a sign, or the whole sign if no patch shows mostly that character."""
    labels, _ = patch_labels((sign,), grid)
    wanted = whole & (labels[:, list(CLASSES).index("index")] == index)
    return wanted if wanted.any() else whole


def _described(item: Item, grid: int | PatchGrid) -> list[NDArray[np.bool_]]:
    """For each token of a description about a thing, and the token after it, the patches that the token depends on."""
    whole = (overlap(item, grid) > TOUCHED).reshape(-1)
    length = len(answer_ids(phrase(item)))
    goals = [whole] * length
    if item.kind == "sign":
        start = length - 1 - len(item.text)
        for index in range(len(item.text)):
            goals[start + index] = _character(item, index, whole, grid)
    return goals


class ProjectorAndDecoder(nn.Module):
    """The projector and the decoder of a model, as one trainable module."""

    def __init__(self, shape: EmbeddedShape, model: Any) -> None:
        super().__init__()
        self.shape = shape
        self.projector = shape.projector(model)
        self.decoder = model.model.language_model

    def forward(self, seen: Tensor, lesson: Lesson) -> tuple[Tensor, dict[int, Tensor]]:
        """Logits (b, q, a, vocabulary) of the answers' rows, and the guided layers' attention from these rows to the patches.

        Args:
            seen: (b, n, hidden) the tower's states.
            lesson: the questions.

        Returns:
            The logits, and by layer (b, heads, q, a, visual tokens).
        """
        visual = self.shape.project(self.projector, seen)
        before, following = (self._text(ids, visual) for ids in (self.shape.before_picture(), self.shape.after_picture()))
        start, stop = before.shape[1], before.shape[1] + visual.shape[1]
        places, after = self.shape.places(lesson.positions)
        count = torch.arange(max(start, following.shape[1]), device=seen.device)
        texts = (count[:length].expand(*places.shape[:-1], -1) for length in (start, following.shape[1]))
        first, last = texts
        states, attention = packed_states(
            self.decoder,
            torch.cat([before, visual, following], dim=1),
            torch.cat([first, start + places, start + after + last], dim=-1),
            lesson.tokens,
            question_position=start + after + following.shape[1],
            watched=tuple(GUIDED),
            sealed=(SEALED, start),
            rotation=self.shape.rotation,
        )
        chosen = states.gather(2, lesson.rows[..., None].expand(-1, -1, -1, states.shape[-1]))
        logits = functional.linear(chosen, self.decoder.embed_tokens.weight)
        looked = {layer: _at_rows(weights[..., start:stop], lesson.rows) for layer, weights in attention.items()}
        return logits, looked

    def _text(self, ids: list[int], visual: Tensor) -> Tensor:
        """Embeddings of a few tokens for each picture of a batch."""
        return self.decoder.embed_tokens(torch.tensor(ids, dtype=torch.long, device=visual.device)).expand(len(visual), -1, -1)


def _at_rows(attention: Tensor, rows: Tensor) -> Tensor:
    """Select rows (b, q, a) of an attention (b, heads, q, l, n)."""
    index = rows[:, None, :, :, None].expand(-1, attention.shape[1], -1, -1, attention.shape[-1])
    return attention.gather(3, index)


def guidance_loss(looked: dict[int, Tensor], lesson: Lesson) -> tuple[Tensor, dict[str, float]]:
    """Minus the log of the guided heads' attention mass on the relevant patches, averaged over layers, heads and rows."""
    valid = (lesson.wanted != IGNORED) & lesson.whole.any(-1)[..., None]
    losses, figures = [], {}
    for layer, attention in looked.items():
        goal = {WHOLE: lesson.whole[:, :, None], FIRST: lesson.first, SECOND: lesson.second}[layer]
        mass = (attention[:, list(GUIDED[layer])] * goal[:, None]).sum(-1).float()
        losses.append(-(mass + 1e-4).log().mean(1)[valid].mean())
        figures[f"mass_{layer}"] = mass.detach().mean(1)[..., 0][valid[..., 0]].mean().item()
    return torch.stack(losses).mean(), figures


def right_by_family(logits: Tensor, lesson: Lesson) -> dict[str, float]:
    """Share of questions whose whole answer is right, by family, with each token predicted from the right ones before it."""
    right = ((logits.argmax(-1) == lesson.wanted) | (lesson.wanted == IGNORED)).all(-1)
    return {
        name: right[lesson.families == index].float().mean().item()
        for index, name in enumerate(FAMILIES)
        if bool((lesson.families == index).any())
    }


class DecoderPhase:
    """The second phase, in the interface of the loop.

    Args:
        shape: the shape of the model.
        model: its projector and decoder are trained in place, in float32; its tower is unchanged.
        seed: of the scenes.
        batch: windows of 10 by 10 patches per step; steps with other sizes have about as many tokens.
        pace: factor on the learning rates; below 1 if the decoder was trained before, in which case its projector is not recalibrated.
        guidance: weight of the supervision of attention; 0 for none.
    """

    name = "decoder"

    def __init__(
        self,
        shape: EmbeddedShape,
        model: Any,
        *,
        seed: int,
        batch: int,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.bfloat16,
        pace: float = 1.0,
        guidance: float = GUIDANCE,
    ) -> None:
        self._shape, self._guidance = shape, guidance
        self._seed, self._batch, self._device = seed, batch, device
        self._tower = copy.deepcopy(shape.tower(model)).to(device, dtype).requires_grad_(False)
        self._tower.config._attn_implementation = fastest_attention(device, dtype)
        self.masters = ProjectorAndDecoder(shape, model).to(device)
        if pace == 1:
            shape.calibrate(self.masters.projector, self._see(draw_lesson((seed, 5), "train", 8, 10).to(device)))
        self.optimiser = Optimiser(self.masters, matrix_rate=4e-3 * pace, other_rate=2e-3 * pace, dtype=dtype)

    def order(self, step: int, rank: int, progress: float) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        """Windows of one size per step, larger ones later."""
        shares = next(shares for until, shares in self._shape.curriculum if progress <= until)
        rng = np.random.default_rng((self._seed, 3, step))
        rows, columns = self._shape.grid(rng, list(shares), list(shares.values()))
        lesson_size = SCENE_LESSON if rows == columns == GRID else SHORT_LESSON
        lesson_size = DESCRIPTION_LESSON if rng.random() < DESCRIPTIONS else lesson_size
        merged = self._shape.merged**2
        batch = self._batch * (100 // merged + SHORT_LESSON.tokens) // (rows * columns // merged + lesson_size.tokens)
        draw = partial(draw_lesson, anywhere=self._shape.windows)
        return draw, ((self._seed, 4, step, rank), "train", max(2, batch), (rows, columns), lesson_size)

    def loss(self, batch: Lesson, progress: float) -> tuple[Tensor, dict[str, float]]:
        """Cross-entropy of the answers, and the guidance of attention."""
        lesson = batch.to(self._device)
        logits, looked = self.optimiser.compute(self._see(lesson), lesson)
        lesson = self._by_token(lesson)
        logits = logits.float()
        answers = functional.cross_entropy(logits.flatten(0, 2), lesson.wanted.flatten(), ignore_index=IGNORED)
        guidance, masses = guidance_loss(looked, lesson)
        figures = masses if lesson.tokens.shape[1] > 1 else {}
        prefix = "scene_" if lesson.positions.shape[1] == GRID * GRID else ""
        figures |= right_by_family(logits, lesson)
        return answers + self._guidance * guidance, {f"{prefix}{name}": value for name, value in figures.items()}

    @torch.no_grad()
    def _see(self, lesson: Lesson) -> Tensor:
        return self._shape.states(self._tower, normalise(lesson.patches, self._tower.dtype), lesson.positions)

    def _by_token(self, lesson: Lesson) -> Lesson:
        """The lesson with the goals of attention per visual token instead of per patch."""
        columns = columns_of(lesson.positions)
        goals = {name: self._shape.by_token(getattr(lesson, name), columns) for name in ("first", "second", "whole")}
        return replace(lesson, **goals)
