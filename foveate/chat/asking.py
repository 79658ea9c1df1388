"""Asking a model a batch of questions, compressed or not, and recording the cost of every answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from foveate.chat.counting import counted, placeholder_ids, placeholders
from foveate.chat.greedy import generate_greedily
from foveate.chat.processors import check_tokens, refusals_of
from foveate.compression import compress
from foveate.engine.clock import seconds

if TYPE_CHECKING:
    from foveate.chat.conversations import Chat, Conversation
    from foveate.method import Method
    from foveate.report import ImageReport

__all__ = ["Reply", "ask", "mean_tokens_over_layers"]


@dataclass(frozen=True)
class Reply:
    """One answer.

    Attributes:
        text: the answer.
        input_tokens: of the prompt, including visual tokens and excluding padding.
        output_tokens: of the answer.
        visual_tokens: of all images and videos of the prompt, before compression, excluding newlines and the like.
        tokens_at_the_cut: those that remain after the last cut; all of them for the full model.
        mean_tokens_over_layers: visual tokens that a decoder layer processes during the prefill, averaged over all layers.
        method_seconds: time spent on signals and plans, divided by the rows of the batch; 0 for the full model.
        seconds: of the whole generation, divided by the rows of the batch.
    """

    text: str
    input_tokens: int
    output_tokens: int
    visual_tokens: int
    tokens_at_the_cut: int
    mean_tokens_over_layers: float
    method_seconds: float
    seconds: float


@torch.inference_mode()
def ask(
    model: Any, chat: Chat, conversations: Sequence[Conversation], method: Method | None, options: Mapping[str, Any], new_tokens: int
) -> list[Reply]:
    """Answer a batch.

    Args:
        model: a loaded vision-language model.
        chat: makes its inputs.
        conversations: the questions, all of one `kind`.
        method: how to compress; `None` for the full model.
        options: of `generate`, in place of the greedy ones.
        new_tokens: longest answer.

    Raises:
        ProcessorError: the processor or its chat template fails, or belongs to another model.
    """
    inputs = chat.inputs(conversations).to(model.device, dtype=model.dtype)
    if any(conversations[0].kind):
        check_tokens(model, chat.processor, inputs["input_ids"], placeholder_ids(model))
    start = seconds(model.device)
    report = None
    around: Any = counted(model) if method is None else compress(model, method)
    with around as running, refusals_of(model):
        output = generate_greedily(model, inputs, new_tokens, chat.padding, **options)
        spent = (seconds(model.device) - start) / len(conversations)
        if method is None:
            visual = running(inputs["input_ids"])
        else:
            report, visual = running.report, placeholders(model, inputs["input_ids"])
    width = inputs["input_ids"].shape[1]
    layers = model.config.get_text_config().num_hidden_layers
    replies = []
    for row, answer in enumerate(output[:, width:]):
        images = [image for image in report.images if image.row == row] if report is not None else []
        before = sum(image.tokens_before for image in images) if images else visual[row]
        replies.append(
            Reply(
                text=chat.decode(answer),
                input_tokens=int(inputs["attention_mask"][row].sum()),
                output_tokens=int((answer != chat.padding).sum()),
                visual_tokens=before,
                tokens_at_the_cut=sum(image.tokens_after for image in images) if images else before,
                mean_tokens_over_layers=sum(mean_tokens_over_layers(image, layers) for image in images) if images else float(before),
                method_seconds=report.method_seconds / len(conversations) if report is not None else 0.0,
                seconds=spent,
            )
        )
    return replies


def mean_tokens_over_layers(image: ImageReport, layers: int) -> float:
    """Visual tokens of one image that a decoder layer processes, averaged over `layers` layers: what papers call equivalent tokens."""
    cuts = {stage.layer: stage.plan.tokens_after for stage in image.stages}
    seen, present = 0, image.tokens_before
    for layer in range(layers):
        present = cuts.get(layer, present)
        seen += present
    return seen / layers
