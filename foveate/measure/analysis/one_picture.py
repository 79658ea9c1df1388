"""Many questions about one picture, under many ways of choosing its tokens: what they share is computed once.

The states of visual tokens do not depend on a question after them. So the text before a picture and the picture run through the decoder
once, each question attends to them, and a method that acts before layer l needs only the layers from l on to run again. Everything runs
through the model's own modules, and methods decide by `Method.plans`, as in `foveate.compress`. An answer is right if each of its tokens
is the most likely one after the right ones before it, which is so exactly if greedy generation gives that answer and ends it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn
from transformers import DynamicCache

from foveate.engine.arguments import as_argument, cache_of
from foveate.engine.signals.attention import AttentionProbe, RowsRead
from foveate.engine.slots import averaged
from foveate.families import family_of
from foveate.measure.scenes import prompt_of
from foveate.plan import Plan
from foveate.view import View

__all__ = ["AskedAbout", "OnePicture"]


@dataclass(frozen=True)
class AskedAbout:
    """A question about a picture, and the text that a right answer consists of, as the model writes it."""

    text: str
    answer: str


@dataclass(frozen=True)
class _Rows:
    """Everything after the visual tokens, padded on the right; each row is a question with its answer.

    Attributes:
        ids: (m, t).
        asked: (m,) length of each question with what the template adds.
        predicting: (m, r) places whose next token belongs to an answer; those of shorter answers repeat their last place.
        wanted: (m, r) ids of these tokens; -1 beyond the last.
    """

    ids: Tensor
    asked: Tensor
    predicting: Tensor
    wanted: Tensor


class OnePicture:
    """A picture with its questions, read once by the uncompressed model, and again from the cut on with some of its tokens.

    Args:
        model: a LLaVA whose prompts put the question after the picture.
        processor: its processor.
        image: the picture.
        asked: the questions.

    Attributes:
        columns: (layers, s, d) the states that enter each layer, of all columns up to the last visual token.
        visual: how many of these, at the end, are visual tokens.
        attention_outputs: (layers, visual, d) the self-attention's output at visual tokens.
        attention: (layers, m, heads, s) of each question's last row.
        question_attention: (m, heads, visual) of layer 0, mean over the question's rows.
        right: of each question, whether the uncompressed model answers it right.
    """

    @torch.no_grad()
    def __init__(self, model: Any, processor: Any, image: Image.Image, asked: Sequence[AskedAbout]) -> None:
        self._model, self._family = model, family_of(model)
        self._layers = list(self._family.layers(model))
        self._decoder: Any = self._family.decoder(model)
        texts = [prompt_of(processor, one.text) for one in asked]
        inputs = processor(images=[image] * len(asked), text=texts, return_tensors=None)["input_ids"]
        placeholder = torch.tensor(list(self._family.placeholders(model).values()))
        ids = [torch.as_tensor(row).flatten() for row in inputs]
        shown = torch.isin(ids[0], placeholder)
        end = int(shown.nonzero()[-1]) + 1
        self.visual = int(shown.sum())
        self._before = end - self.visual
        answers = [_answer(processor, one.answer) for one in asked]
        self._rows = _rows([row[end:] for row in ids], answers)
        without = processor(text=[text.replace(f"{processor.image_token}\n", "") for text in texts])["input_ids"]
        self._blind = _rows([torch.as_tensor(row) for row in without], answers)
        pixels = processor.image_processor(images=[image], return_tensors="pt")["pixel_values"].to(model.dtype)
        self._read(ids[0][:end], pixels)

    def _read(self, ids: Tensor, pixels: Tensor) -> None:
        outputs: list[Tensor] = []
        with _watched(self._layers, self._family, outputs):
            whole = self._model(input_ids=ids[None], pixel_values=pixels, use_cache=True, output_hidden_states=True, logits_to_keep=1)
        self.columns = torch.cat(whole.hidden_states[: len(self._layers)])
        self.attention_outputs = torch.stack([output[0, self._before :] for output in outputs])
        self._cache = [(layer.keys, layer.values) for layer in cache_of(whole).layers]
        rows, count = self._rows, len(self._rows.ids)
        questions = self._model(
            input_ids=rows.ids,
            **as_argument(self._cached(range(len(self._layers)), torch.zeros(count, dtype=torch.long))),
            use_cache=True,
            output_hidden_states=True,
            logits_to_keep=1,
        )
        self._text = torch.stack(questions.hidden_states[: len(self._layers)])
        self.right = self._judged(questions.hidden_states[-1], rows)
        every = torch.arange(int(rows.asked.max())).expand(count, -1)
        shares = (every < rows.asked[:, None]) / rows.asked[:, None]
        self.question_attention = self._attention(0, every, shares)[:, :, self._before : len(ids)]
        last = (rows.asked - 1)[:, None]
        self.attention = torch.stack([self._attention(n, last, torch.ones(count, 1)) for n in range(len(self._layers))])[..., : len(ids)]

    def _attention(self, layer: int, rows: Tensor, shares: Tensor) -> Tensor:
        """Attention (m, heads, keys) of the questions' rows (m, r) in one layer, weighted by shares; nothing else of it runs again."""
        probe = AttentionProbe(self._family.attention(self._layers[layer]), rows, shares, ahead=True)
        try:
            self._run([layer], self._text[layer], self._text_places(), self._cached([layer], torch.zeros(len(rows), dtype=torch.long)))
        except RowsRead:
            pass
        finally:
            probe.detach()
        assert probe.by_head is not None
        return probe.by_head

    def view(self, layer: int, question: int, fingerprint: int = 0) -> View:
        """What a method that acts before a layer sees of the picture when one of the questions is asked."""
        states = self.columns[layer, self._before :]
        side = round(self.visual**0.5)
        return View(
            states,
            (1, side, self.visual // side),
            last_attention=self.attention[max(layer - 1, 0), question, :, self._before :].mean(0),
            head_attention=self.question_attention[question],
            attention_output=self.attention_outputs[layer - 1] if layer else None,
            projected_states=self.columns[0, self._before :],
            fingerprint=fingerprint,
            text_after=int(self._rows.asked[question]),
        )

    @torch.no_grad()
    def ask_blind(self) -> list[bool]:
        """Ask every question with a prompt that has no picture, nor the new line after it."""
        blind = self._model(input_ids=self._blind.ids, output_hidden_states=True, logits_to_keep=1)
        return self._judged(blind.hidden_states[-1], self._blind)

    @torch.no_grad()
    def ask(self, layer: int, plans: Sequence[Plan]) -> tuple[list[bool], list[tuple[Tensor, Tensor]]]:
        """Ask every question again, with some of the tokens from one layer on.

        Args:
            layer: before which the others leave.
            plans: one for each question; all keep as many tokens.

        Returns:
            whether each answer is right, and for each question the kept states (k, d) that enter the layer and what its self-attention
            makes of them.
        """
        keys = [tuple(plan.target.tolist()) for plan in plans]
        order = {key: number for number, key in enumerate(dict.fromkeys(keys))}
        different = [plans[keys.index(key)] for key in order]
        group = torch.tensor([order[key] for key in keys])
        states = torch.stack([self._shortened(layer, plan) for plan in different])
        places = self._before + torch.stack([plan.kept for plan in different])
        numbers = range(layer, len(self._layers))
        cache = self._cached(numbers, torch.zeros(len(different), dtype=torch.long), self._before)
        outputs: list[Tensor] = []
        with _watched([self._layers[layer]], self._family, outputs):
            self._run(numbers, states, places, cache)
        shared = {number: (cache.layers[number].keys[group], cache.layers[number].values[group]) for number in numbers}
        final = self._run(numbers, self._text[layer], self._text_places(), _filled(shared))
        measured = [(states[number], outputs[0][number]) for number in group.tolist()]
        return self._judged(self._decoder.norm(final), self._rows), measured

    def _shortened(self, layer: int, plan: Plan) -> Tensor:
        states = self.columns[layer, self._before :]
        if plan.merges:
            added = plan.merged if plan.order is None else plan.order
            states = averaged(states, plan.target[added], states[added])
        return states[plan.kept]

    def _run(self, numbers: Sequence[int], states: Tensor, places: Tensor, cache: DynamicCache) -> Tensor:
        """Run some layers over states (m, n, d) at positions (1 or m, n), after what the cache holds of each."""
        earlier = cache.layers[numbers[0]].keys.shape[2]
        count = states.shape[1]
        hidden = torch.ones(count, earlier + count, dtype=torch.bool).triu(earlier + 1)
        mask = torch.zeros(1, 1, count, earlier + count, dtype=states.dtype).masked_fill(hidden, torch.finfo(states.dtype).min)
        turn = self._decoder.rotary_emb(states, position_ids=places)
        for number in numbers:
            states = self._layers[number](
                states, attention_mask=mask, position_ids=places, position_embeddings=turn, use_cache=True, **as_argument(cache)
            )
        return states

    def _cached(self, numbers: Sequence[int], rows: Tensor, columns: int | None = None) -> DynamicCache:
        """A cache that holds the first columns of the picture's prompt in some layers, once for each of the rows."""
        return _filled({n: (self._cache[n][0][rows, :, :columns], self._cache[n][1][rows, :, :columns]) for n in numbers})

    def _text_places(self) -> Tensor:
        return (self._before + self.visual + torch.arange(self._rows.ids.shape[1]))[None]

    def _judged(self, final: Tensor, rows: _Rows) -> list[bool]:
        """Whether every token of each answer is the most likely one."""
        own = final.gather(1, rows.predicting[..., None].expand(-1, -1, final.shape[-1]))
        likely = self._model.lm_head(own).argmax(-1)
        good: Tensor = ((likely == rows.wanted) | (rows.wanted < 0)).all(1)
        return [bool(value) for value in good]


def _answer(processor: Any, answer: str) -> Tensor:
    """The ids of an answer and of the token that ends it."""
    tokenizer = processor.tokenizer
    return torch.tensor([*tokenizer(answer, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id])


def _rows(questions: Sequence[Tensor], answers: Sequence[Tensor]) -> _Rows:
    asked = torch.tensor([len(question) for question in questions])
    longest = max(map(len, answers))
    steps = torch.stack([torch.arange(longest).clamp(max=len(answer) - 1) for answer in answers])
    wanted = [torch.nn.functional.pad(answer, (0, longest - len(answer)), value=-1) for answer in answers]
    rows = [torch.cat([question, answer[:-1]]) for question, answer in zip(questions, answers, strict=True)]
    return _Rows(nn.utils.rnn.pad_sequence(rows, batch_first=True), asked, asked[:, None] - 1 + steps, torch.stack(wanted))


def _filled(entries: dict[int, tuple[Tensor, Tensor]]) -> DynamicCache:
    """A cache that holds keys and values of some layers."""
    cache = DynamicCache()
    for number, (keys, values) in entries.items():
        cache.update(keys, values, number)
    return cache


@contextmanager
def _watched(layers: Sequence[nn.Module], family: Any, outputs: list[Tensor]) -> Iterator[None]:
    """Collects the output of each layer's self-attention."""
    hooks = [family.attention(layer).register_forward_hook(lambda module, args, output: outputs.append(output[0])) for layer in layers]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
