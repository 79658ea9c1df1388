"""Which visual tokens an answer rests on: `relevance`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, get_args

import torch
from torch import Tensor, nn

from foveate.chat.greedy import generate_greedily
from foveate.compression import is_compressed
from foveate.engine.encoders import Encoders
from foveate.engine.surroundings import check_not_compiled, unwrapped
from foveate.errors import HandleError, InputError, OptionError, UnsupportedModelError
from foveate.explain.relevance.result import ImageRelevance, Relevance, Target
from foveate.explain.relevance.sequences import answers_of, checked_answers, checked_inputs, laid_out
from foveate.explain.relevance.trace import LayerCall, recorded, walk_attention, walk_back
from foveate.families import Family, ImageTokens, family_of

__all__ = ["relevance"]

_TOGETHER = 4
"""Answer tokens that share one walk back through the layers; each takes the memory of about five states (b, n, d)."""


def relevance(
    model: nn.Module,
    inputs: Mapping[str, Any],
    answer: Sequence[Sequence[int] | Tensor] | Tensor | None = None,
    *,
    target: Target = "logit",
    gradients: bool = True,
    max_new_tokens: int = 32,
    block: int | None = None,
) -> Relevance:
    """Compute how much each visual token of a prompt mattered to each token of the answer.

    For every answer token y: R = I; layer by layer R = R + E[(A * dy/dA)^+] R, with A the layer's attention and E the mean over
    heads. The relevance is row p of R at the visual columns, where p is the position that predicts y. Answer tokens before y are part of
    the sequence. No map is ever stored.

    Time: one forward pass over prompt and answer, then one more forward pass per group of four answer tokens, and one backward pass per
    token. Rows of a batch share all passes, so many samples are fastest together. On a CPU an answer of one token took 1.1 to 1.3 times
    as long as a plain checkpointed backward pass, and one of four tokens 2.2 to 2.6 times. Memory grows linearly with the length, and was
    0.6 to 0.9 of that pass's (docs/explainability.md).

    Args:
        model: a loaded transformers model of a known family (see `foveate.families`), with or without a PEFT wrapper. Its weights get
            no gradients, and it is left unchanged.
        inputs: the processor's mapping: input_ids (b, s), attention_mask, pixel_values, ...; left or right padding.
        answer: token ids, one sequence per row; the model's greedy answers if `None`.
        target: the quantity to explain of each answer token: its "logit" or its "log_probability".
        gradients: weight attention by its gradient, as in the formula above; otherwise R = R + E[A] R, which depends on the answer only
            by its length.
        max_new_tokens: longest answer that the model may generate.
        block: query rows of attention per block; by default as many as make 1 MiB of weights on a CPU and 64 MiB on an accelerator, and
            at least 32.

    Returns:
        the relevance of each image's tokens for each answer token, and the answers.

    Raises:
        UnsupportedModelError: no family covers this model, or its attention is not a softmax over all keys.
        HandleError: the model is compressed; remove the handle first.
        InputError: the inputs have no image, or are not a processor's output; the answer is invalid; logits or relevance are not finite.
        OptionError: an option outside its range.
    """
    _check_options(target, max_new_tokens, block)
    model = unwrapped(model)
    family = family_of(model)
    check_not_compiled(model, family)
    attentions = _checked_attentions(model, family)
    given = checked_inputs(inputs)
    placeholders = list(family.placeholders(model).values())
    if not bool(torch.isin(given["input_ids"], torch.tensor(placeholders, device=given["input_ids"].device)).any()):
        raise InputError("relevance is that of visual tokens, and these inputs have none; pass a prompt with an image")
    with _at_rest(model):
        answers = _own_answers(model, given, max_new_tokens) if answer is None else answer
        checked = checked_answers(answers, len(given["input_ids"]), _vocabulary(model), placeholders)
        forced = laid_out(given, checked, "right", _padding(model))
        images, rows = _explained(model, family, attentions, forced, checked, target, gradients, block)
    return Relevance(tuple(_by_image(images, rows, checked)), checked, target, gradients)


def _explained(
    model: nn.Module,
    family: Family,
    attentions: Sequence[nn.Module],
    forced: dict[str, Any],
    answers: Sequence[Tensor],
    target: Target,
    gradients: bool,
    block: int | None,
) -> tuple[list[list[ImageTokens]], Tensor]:
    """The images of each row, and the relevance (t, b, n) of every position; entries beyond the end of a row's answer are meaningless."""
    device = forced["input_ids"].device
    ends = forced["attention_mask"].sum(1)
    first = ends - torch.tensor([len(answer) for answer in answers], device=device) - 1  # predicts the answer's first token
    longest = max(map(len, answers))
    # Past its end a shorter answer repeats its last position; those rows are discarded.
    places = torch.minimum(first[:, None] + torch.arange(longest, device=device), ends[:, None] - 2)
    columns, index = places.unique(return_inverse=True)
    images, logits, calls = _forward(model, family, attentions, forced, columns)
    values = _values(logits, index, answers, target)
    starts = torch.nn.functional.one_hot(places.T, forced["input_ids"].shape[1]).to(torch.promote_types(logits.dtype, torch.float32))
    if not gradients:
        return images, _finite(walk_attention(calls, starts, block=block))
    found = []
    for begin in range(0, longest, _TOGETHER):
        some = slice(begin, begin + _TOGETHER)
        found.append(walk_back(calls, values[some], starts[some], block=block, keep=begin + _TOGETHER < longest))
    return images, _finite(torch.cat(found))


def _forward(
    model: nn.Module, family: Family, attentions: Sequence[nn.Module], forced: dict[str, Any], columns: Tensor
) -> tuple[list[list[ImageTokens]], Tensor, list[LayerCall]]:
    """The images of each row, the logits (b, c, v) at some columns, and the layers' calls."""
    encoders = Encoders(model, family, frozenset())
    encoders.enter()
    try:
        with recorded(family.layers(model), attentions) as calls:
            logits: Tensor = model(**forced, use_cache=False, logits_to_keep=columns).logits
            if logits.shape[1] != len(columns):  # some models ignore that
                logits = logits[:, columns]
        if len(calls) != len(attentions):
            raise UnsupportedModelError(
                f"{len(calls)} calls of {len(attentions)} decoder layers were seen; relevance needs exactly one per layer"
            )
        seen, _ = encoders.seen(forced.get("mm_encoder_outputs"))
        images = family.images(model, forced["input_ids"].cpu(), seen)
    finally:
        encoders.remove()
    return images, logits, calls


def _values(logits: Tensor, index: Tensor, answers: Sequence[Tensor], target: Target) -> list[Tensor]:
    """The value to explain per answer token, summed over the rows, which do not depend on each other."""
    own = logits.gather(1, index[:, :, None].expand(-1, -1, logits.shape[-1])).float()
    if not bool(own.detach().isfinite().any(-1).all()) or bool(own.detach().isnan().any()):
        raise InputError("the model's logits for this answer are not numbers; check the pixels, or load the model in bfloat16 or float32")
    if target == "log_probability":
        own = own.log_softmax(-1)
    values = []
    for token in range(index.shape[1]):
        picked = [own[row, token, int(answer[token])] for row, answer in enumerate(answers) if token < len(answer)]
        values.append(torch.stack(picked).sum())
    return values


def _by_image(images: Sequence[Sequence[ImageTokens]], relevance: Tensor, answers: Sequence[Tensor]) -> Iterator[ImageRelevance]:
    for row, own in enumerate(images):
        for position, image in enumerate(own):
            tokens = relevance[: len(answers[row]), row, image.columns.to(relevance.device)]
            yield ImageRelevance(row, position, image.grid, tokens.float().cpu(), image.parts, image.kind)


def _finite(relevance: Tensor) -> Tensor:
    if not bool(relevance.isfinite().all()):
        raise InputError("the relevance is not finite, because gradients overflow in this precision; load the model in bfloat16 or float32")
    return relevance


def _check_options(target: str, max_new_tokens: int, block: int | None) -> None:
    if target not in get_args(Target):
        raise OptionError(f"target={target!r} must be one of {', '.join(map(repr, get_args(Target)))}")
    for name, value in (("max_new_tokens", max_new_tokens), ("block", block)):
        if value is not None and value < 1:
            raise OptionError(f"{name}={value} must be at least 1")


def _checked_attentions(model: nn.Module, family: Family) -> list[nn.Module]:
    if is_compressed(model, family):
        raise HandleError(
            f"this {type(model).__name__} has a foveate handle, so some visual tokens would be gone; call its remove() before relevance()"
        )
    kinds = set(getattr(family.decoder(model).config, "layer_types", None) or ()) - {"full_attention", "sliding_attention"}
    if kinds:
        raise UnsupportedModelError(f"the decoder has layers of type {', '.join(sorted(kinds))}; relevance needs softmax attention in all")
    if any(parameter.is_meta for layer in family.layers(model) for parameter in layer.parameters()):
        raise UnsupportedModelError(
            "some decoder layers are offloaded, so their weights are gone when the backward pass needs them; load the model on devices "
            "that can hold all of it"
        )
    return [family.attention(layer) for layer in family.layers(model)]


@contextmanager
def _at_rest(model: nn.Module) -> Iterator[None]:
    """No dropout, no gradients of weights, and gradients of everything else, whatever the caller set; the model is restored afterwards."""
    training = [module for module in model.modules() if module.training]
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    try:
        model.eval()
        for parameter in trained:
            parameter.requires_grad_(False)
        with torch.inference_mode(False), torch.enable_grad():
            yield
    finally:
        for module in training:
            module.training = True
        for parameter in trained:
            parameter.requires_grad_(True)


def _own_answers(model: Any, given: dict[str, Any], max_new_tokens: int) -> tuple[Tensor, ...]:
    """The model's greedy answers, whatever its generation settings."""
    none = [torch.zeros(0, dtype=torch.long)] * len(given["input_ids"])
    prompts = laid_out(given, none, "left", _padding(model))
    with torch.no_grad():
        output = generate_greedily(model, prompts, max_new_tokens, _padding(model))
    ends = model.generation_config.eos_token_id
    ends = [] if ends is None else [ends] if isinstance(ends, int) else list(ends)
    return answers_of(output[:, prompts["input_ids"].shape[1] :], ends)


def _padding(model: Any) -> int:
    settings = (model.generation_config, model.config.get_text_config(), model.config)
    return next((int(value) for at in settings if (value := getattr(at, "pad_token_id", None)) is not None), 0)


def _vocabulary(model: Any) -> int:
    return int(model.get_input_embeddings().num_embeddings)
