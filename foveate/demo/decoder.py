"""Second phase: teach the projector and the decoder to answer, on what the frozen tower sees."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from functools import cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional
from transformers import LlavaForConditionalGeneration, PreTrainedTokenizerFast

from foveate.demo.architecture import fastest_attention
from foveate.demo.backgrounds import Split
from foveate.demo.drawing import Item, paint, place
from foveate.demo.labels import CLASSES, GRID, IGNORED, PATCH, overlap, patch_labels
from foveate.demo.language import IMAGE, build_tokenizer, prompt, vocabulary
from foveate.demo.optimise import Optimiser
from foveate.demo.packed import packed_states
from foveate.demo.questions import FAMILIES, LONGEST_DESCRIPTION, Asked, ask, describe, phrase
from foveate.demo.scenes import TOUCHED, relevant_patches
from foveate.demo.tower import normalise, to_patches, tower_states, window_positions


@dataclass(frozen=True)
class Form:
    """Of a lesson: questions an image, tokens a question with its answer, and rows that predict an answer."""

    questions: int
    length: int
    answer: int

    @property
    def tokens(self) -> int:
        """Tokens behind the image."""
        return self.questions * self.length


SHORT_FORM, DESCRIPTION_FORM = Form(10, 20, 7), Form(1, 74, LONGEST_DESCRIPTION + 2)
SCENE_FORM = Form(18, 20, 7)  # a whole scene costs more to look at, and has more to ask about
DESCRIPTIONS = 0.2  # share of the steps that teach descriptions
HARD = {"comparison": 10.0, "hop": 4.0, "count": 2.5, "relation": 1.5, "word": 2.0, "number": 1.5}  # asked more often, by family
REPEATS = 8  # tries of each kind of question, of which a lesson takes some; many, so that hard ones can be asked more often

# The heads whose attention is led to the relevant patches while training, by decoder layer. The layer before the usual
# cut is among them: without that, a model this small looks nowhere in particular there, and every method that ranks
# tokens by early attention would be judged on noise. It is led to everything that a question is about; the others to
# the character that comes next on a sign, and one to the first and one to the second thing of a comparison.
GUIDED: dict[int, tuple[int, ...]] = {1: (0, 1, 2), 3: (0, 1, 2), 4: (0, 1, 2)}
WHOLE, FIRST, SECOND = GUIDED
GUIDANCE = 0.3  # weight of minus the log of the attention on relevant patches

# In the layers before the usual cut, what questions read from the image comes from another picture of the batch while
# training. Otherwise the guided heads of layer 1 read the answer itself, and removing tokens after that would cost nothing.
SEALED = 2

# Sides in patches of the windows, and how often each is drawn, until a share of the phase is done.
CURRICULUM: tuple[tuple[float, dict[int, float]], ...] = (
    (0.1, {8: 0.2, 10: 0.5, 14: 0.3}),
    (0.4, {10: 0.35, 14: 0.5, 24: 0.15}),
    (0.7, {10: 0.1, 14: 0.4, 24: 0.5}),
    (1.0, {14: 0.1, 24: 0.9}),
)


@dataclass
class Lesson:
    """A batch of images with packed questions.

    Attributes:
        patches: (b, n, 588) 8-bit pixels.
        positions: (b, n) of the patches in the whole grid.
        tokens: (b, q, l) ids of question and answer, padded on the right.
        rows: (b, q, a) places in a question whose next token is part of the answer; repeated where there are fewer.
        wanted: (b, q, a) ids of those next tokens, `IGNORED` beyond the answer.
        first, second: (b, q, a, n) patches that the next token depends on; they differ where two things are related.
        whole: (b, q, n) patches that the answer depends on.
        families: (b, q) index of the question's family, -1 where there is no question.
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


def prefix_ids() -> list[int]:
    """Ids of what comes before the image in every prompt."""
    ids: list[int] = _tokenizer()(prompt("?")).input_ids
    return ids[: ids.index(vocabulary()[IMAGE])]


@cache
def question_ids(question: str) -> tuple[int, ...]:
    """Ids of what comes after the image in the prompt of a question."""
    ids: list[int] = _tokenizer()(prompt(question)).input_ids
    return tuple(ids[ids.index(vocabulary()[IMAGE]) + 1 :])


@cache
def answer_ids(answer: str) -> tuple[int, ...]:
    """Ids of an answer, with the token that ends it."""
    tokenizer = _tokenizer()
    return (*tokenizer(answer, add_special_tokens=False).input_ids, tokenizer.eos_token_id)


def draw_items(rng: np.random.Generator, split: Split, grid: int) -> list[Item]:
    """Lay out a window so that it holds about as much to ask about as a whole scene does, as far as there is room."""
    most = {8: 3, 10: 4, 12: 5}.get(grid, 7)
    objects = int(rng.integers(min(2, most - 2), most + 1))
    signs = 1 + int(rng.random() < (0.2 if grid < 12 else 0.4))
    return place(rng, split, grid * PATCH, objects, signs, int(rng.random() < 0.5))


def draw_lesson(seed: tuple[int, ...], split: Split, batch: int, grid: int, form: Form = SHORT_FORM) -> Lesson:
    """Draw images of `grid` by `grid` patches, each somewhere in the grid of a whole scene, with their questions."""
    rng = np.random.default_rng(seed)
    side = grid * PATCH
    pixels = np.empty((batch, side, side, 3), dtype=np.uint8)
    offsets = rng.integers(0, GRID - grid + 1, (batch, 2))
    tokens = np.zeros((batch, form.questions, form.length), dtype=np.int64)
    rows = np.zeros((batch, form.questions, form.answer), dtype=np.int64)
    wanted = np.full((batch, form.questions, form.answer), IGNORED, dtype=np.int64)
    first, second = np.zeros((2, batch, form.questions, form.answer, grid * grid), dtype=bool)
    whole = np.zeros((batch, form.questions, grid * grid), dtype=bool)
    families = np.full((batch, form.questions), -1, dtype=np.int64)
    for image in range(batch):
        items, asked = _draw_questions(rng, split, grid, (int(offsets[image, 0]), int(offsets[image, 1])), form)
        pixels[image] = paint(rng, split, side, items)
        for slot, question in enumerate(asked):
            before, answer = question_ids(question.text), answer_ids(question.answer)
            ids = (*before, *answer[:-1])
            tokens[image, slot, : len(ids)] = ids
            rows[image, slot] = np.minimum(len(before) - 1 + np.arange(form.answer), len(ids) - 1)
            wanted[image, slot, : len(answer)] = answer
            whole[image, slot] = relevant_patches(question, grid).reshape(-1)
            first[image, slot], second[image, slot] = relevant_by_row(question, form.answer, grid)
            families[image, slot] = FAMILIES.index(question.family)
    arrays = (tokens, rows, wanted, first, second, whole, families)
    return Lesson(to_patches(pixels), window_positions(offsets, grid), *map(torch.from_numpy, arrays))


def _draw_questions(
    rng: np.random.Generator, split: Split, grid: int, offset: tuple[int, int], form: Form
) -> tuple[list[Item], list[Asked]]:
    """Things, and as many questions about them as the form has room for."""
    if form == DESCRIPTION_FORM:
        while True:  # some things cannot be described in order
            items = draw_items(rng, split, grid)
            if (asked := describe(rng, items)) is not None:
                return items, [asked]
    items = draw_items(rng, split, grid)
    questions = ask(rng, items, offset, repeats=REPEATS)
    weights = np.array([HARD.get(question.family, 1.0) for question in questions])
    count = min(form.questions, len(questions))
    return items, [questions[i] for i in rng.choice(len(questions), count, replace=False, p=weights / weights.sum())]


def relevant_by_row(asked: Asked, rows: int, grid: int) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """The patches (rows, grid * grid), twice, that each token of an answer depends on.

    For a text that is read, those of the token's character; for a description, those of the thing that the token tells
    of. The two differ where two things are related: one is about the first, the other about the second.
    """
    if asked.family == "description":
        goals = [goal for item in asked.about for goal in _told(item, grid)]
        told = np.array([goals[min(row, len(goals) - 1)] for row in range(rows)])
        return told, told
    pair = asked.family in ("relation", "hop") or (asked.family == "comparison" and "more" not in asked.text)
    parts = (asked.about[:1], asked.about[1:]) if pair else (asked.about, asked.about)
    first, second = (_by_row(replace(asked, about=part), rows, grid) for part in parts)
    return first, second


def _by_row(asked: Asked, rows: int, grid: int) -> NDArray[np.bool_]:
    whole = relevant_patches(asked, grid).reshape(1, -1).repeat(rows, axis=0)
    if len(asked.about) == 1 and asked.about[0].text.lower() == asked.answer and asked.about[0].kind == "sign":
        for row in range(rows):
            whole[row] = _character(asked.about[0], min(row, len(asked.answer) - 1), whole[row], grid)
    return whole


def _character(sign: Item, index: int, whole: NDArray[np.bool_], grid: int) -> NDArray[np.bool_]:
    """The patches that show one character of a sign, or the whole sign where none shows it most."""
    labels, _ = patch_labels((sign,), grid)
    wanted = whole & (labels[:, list(CLASSES).index("index")] == index)
    return wanted if wanted.any() else whole


def _told(item: Item, grid: int) -> list[NDArray[np.bool_]]:
    """For each token that a description spends on a thing, and the one behind it, the patches that the token depends on."""
    whole = (overlap(item, grid) > TOUCHED).reshape(-1)
    length = len(answer_ids(phrase(item)))
    goals = [whole] * length
    if item.kind == "sign":
        start = length - 1 - len(item.text)
        for index in range(len(item.text)):
            goals[start + index] = _character(item, index, whole, grid)
    return goals


class Speaker(nn.Module):
    """The projector and the decoder of a model, as one thing to learn."""

    def __init__(self, model: LlavaForConditionalGeneration) -> None:
        super().__init__()
        self.projector = model.model.multi_modal_projector
        self.decoder = model.model.language_model

    def forward(self, seen: Tensor, lesson: Lesson) -> tuple[Tensor, dict[int, Tensor]]:
        """Logits (b, q, a, vocabulary) of the answers' rows, and the guided layers' attention to the patches there.

        Args:
            seen: (b, n, hidden) the tower's states.
            lesson: the questions.

        Returns:
            The logits, and by layer (b, heads, q, a, n).
        """
        prefix = torch.tensor(prefix_ids(), device=seen.device)
        batch, before = len(seen), len(prefix)
        shared = torch.cat([self.decoder.embed_tokens(prefix).expand(batch, -1, -1), self.projector(seen)], dim=1)
        starts = torch.arange(before, device=seen.device).expand(batch, -1)
        # A window's patches keep the places that they have in a whole scene, and so do the questions behind it.
        positions = torch.cat([starts, before + lesson.positions], dim=1)
        states, attention = packed_states(
            self.decoder, shared, positions, lesson.tokens, watched=tuple(GUIDED), behind=before + GRID * GRID, sealed=(SEALED, before)
        )
        chosen = states.gather(2, lesson.rows[..., None].expand(-1, -1, -1, states.shape[-1]))
        logits = functional.linear(chosen, self.decoder.embed_tokens.weight)
        looked = {layer: _at_rows(weights[..., before:], lesson.rows) for layer, weights in attention.items()}
        return logits, looked


def _at_rows(attention: Tensor, rows: Tensor) -> Tensor:
    """Rows (b, q, a) of an attention (b, heads, q, l, n)."""
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
    """Share of questions whose whole answer is right, by family, each token given the right ones before it."""
    right = ((logits.argmax(-1) == lesson.wanted) | (lesson.wanted == IGNORED)).all(-1)
    return {
        name: right[lesson.families == index].float().mean().item()
        for index, name in enumerate(FAMILIES)
        if bool((lesson.families == index).any())
    }


@torch.no_grad()
def calibrate(projector: nn.Module, seen: Tensor) -> None:
    """Let the projector start as if the tower's channels had mean 0 and spread 1, which they are far from.

    Args:
        projector: two linear layers, changed in place.
        seen: (b, n, hidden) states of a few images.
    """
    mean, spread = seen.float().mean((0, 1)), seen.float().std((0, 1)) + 1e-6
    first = projector.linear_1
    assert isinstance(first, nn.Linear)
    first.weight.div_(spread)
    first.bias.sub_(first.weight @ mean)


class DecoderPhase:
    """The second phase, as the loop wants it.

    Args:
        model: its projector and decoder are learned in place, in float32; its tower stays as it is.
        seed: of the scenes.
        batch: windows of 10 by 10 patches a step; other sizes come in about as many tokens.
        pace: factor on the learning rates; below 1 where the decoder has learned before, which also leaves its projector as it is.
        guidance: weight of the supervision of attention; 0 for none.
    """

    name = "decoder"

    def __init__(
        self,
        model: LlavaForConditionalGeneration,
        *,
        seed: int,
        batch: int,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.bfloat16,
        pace: float = 1.0,
        guidance: float = GUIDANCE,
    ) -> None:
        self._guidance = guidance
        self._seed, self._batch, self._device = seed, batch, device
        self._tower = copy.deepcopy(model.model.vision_tower).to(device, dtype).requires_grad_(False)
        self._tower.config._attn_implementation = fastest_attention(device, dtype)
        self.masters = Speaker(model).to(device)
        if pace == 1:
            calibrate(self.masters.projector, self._see(draw_lesson((seed, 5), "train", 8, 10).to(device)))
        self.optimiser = Optimiser(self.masters, matrix_rate=4e-3 * pace, other_rate=2e-3 * pace, dtype=dtype)

    def order(self, step: int, rank: int, progress: float) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        """Windows of one size a step, larger ones later."""
        shares = next(shares for until, shares in CURRICULUM if progress <= until)
        rng = np.random.default_rng((self._seed, 3, step))
        side = int(rng.choice(list(shares), p=list(shares.values())))
        form = SCENE_FORM if side == GRID else SHORT_FORM
        form = DESCRIPTION_FORM if rng.random() < DESCRIPTIONS else form
        batch = self._batch * (100 + SHORT_FORM.tokens) // (side * side + form.tokens)
        return draw_lesson, ((self._seed, 4, step, rank), "train", max(2, batch), side, form)

    def loss(self, batch: Lesson, progress: float) -> tuple[Tensor, dict[str, float]]:
        """Cross-entropy of the answers, and the guidance of attention."""
        lesson = batch.to(self._device)
        logits, looked = self.optimiser.compute(self._see(lesson), lesson)
        logits = logits.float()
        answers = functional.cross_entropy(logits.flatten(0, 2), lesson.wanted.flatten(), ignore_index=IGNORED)
        guidance, masses = guidance_loss(looked, lesson)
        figures = masses if lesson.tokens.shape[1] > 1 else {}
        prefix = "scene_" if lesson.positions.shape[1] == GRID * GRID else ""
        figures |= right_by_family(logits, lesson)
        return answers + self._guidance * guidance, {f"{prefix}{name}": value for name, value in figures.items()}

    @torch.no_grad()
    def _see(self, lesson: Lesson) -> Tensor:
        return tower_states(self._tower, normalise(lesson.patches, self._tower.dtype), lesson.positions)
