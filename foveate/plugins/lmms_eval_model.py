"""The model that lmms-eval runs: any vision-language model of transformers, compressed by any method or not at all."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from lmms_eval.api.instance import GenerationResult, TokenCounts
from lmms_eval.api.model import lmms
from lmms_eval.models.model_utils.gen_metrics import log_metrics

from foveate.chat import NO_METHOD
from foveate.chat.asking import Reply, ask
from foveate.chat.conversations import Chat, Conversation
from foveate.chat.models import Subject, load_model
from foveate.chat.visuals import DEFAULT_FRAMES
from foveate.compression import compress
from foveate.errors import InputError, UnsupportedError
from foveate.method import Method
from foveate.methods.options import build_method

if TYPE_CHECKING:
    import torch
    from lmms_eval.api.instance import Instance
__all__ = ["FoveateModel"]

IMAGE = ("seen", "blind")
DEFAULT_NEW_TOKENS = 1024
"""Longest answer if neither the task nor the user sets one, as in lmms-eval's own models."""


class FoveateModel(lmms):
    """A chat model for lmms-eval. Every failure while answering is raised, because a crash must never count as a wrong answer.

    Args:
        pretrained: "demo", a folder or a Hugging Face id.
        method: a name as `foveate methods` lists it, or a method; "none" runs the full model through the same code.
        keep: visual tokens per image (int) or their share (float).
        layer: decoder layer before which tokens leave; `None` for the method's own.
        image: "seen", or "blind" to omit images and videos from the prompt.
        frames: frames taken from a video.
        seed: for random methods.
        clamp: keep all tokens where there are fewer than `keep`.
        max_new_tokens: longest answer, in place of the task's own limit.
        batch_size: questions at a time.
        max_batch_size: unused; lmms-eval passes it to every model.
        device: as `torch.device` takes it, or "auto".
        dtype: "auto", "float32", "bfloat16" or "float16".
        subject: a loaded model, instead of `pretrained`.
        settings: further options of the method.

    Raises:
        FoveateError: an argument is unknown or wrong, the model is not available or cannot take the method, or a launcher started
            several processes.
    """

    is_simple = False

    def __init__(
        self,
        pretrained: str = "demo",
        method: str | Method = NO_METHOD,
        keep: int | float | None = None,
        layer: int | None = None,
        image: str = "seen",
        frames: int = DEFAULT_FRAMES,
        seed: int | None = None,
        clamp: bool = False,
        max_new_tokens: int | None = None,
        batch_size: int | str = 1,
        max_batch_size: int | None = None,
        device: str | None = "auto",
        dtype: str = "auto",
        subject: Subject | None = None,
        **settings: Any,
    ) -> None:
        super().__init__()
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            raise UnsupportedError("foveate evaluates in one process; start it without a launcher, and divide tasks between runs instead")
        self.method = _method(method, keep, layer, seed, clamp, settings)
        if image not in IMAGE:
            raise InputError(f"image={image!r} is not known; it is {' or '.join(IMAGE)}")
        if not str(batch_size).isdigit() or int(batch_size) < 1:
            raise InputError(f"batch_size={batch_size!r} must be a whole number from 1 upwards")
        self.batch_size, self._longest = int(batch_size), max_new_tokens
        self._own = subject is None
        self.subject: Subject | None = subject or load_model(pretrained, dtype, device or "auto", compress=self.method is not None)
        self._chat = Chat(self.subject.processor, frames, blind=image == "blind")
        if self.method is not None:
            compress(self.subject.model, self.method).remove()
        self.replies: dict[tuple[str, int], Reply] = {}
        self.progress: Callable[[int], object] = lambda count: None

    @property
    def device(self) -> torch.device:
        """Where the model runs."""
        return self._loaded.model.device

    @property
    def _loaded(self) -> Subject:
        if self.subject is None:
            raise UnsupportedError("this model was released after its evaluation; make a new one")
        return self.subject

    def clean(self) -> None:
        """Free the memory for what follows the answers, such as a judge; a model that was passed in stays."""
        if self._own:
            self.subject = None
        super().clean()

    def generate_until(self, requests: Sequence[Instance]) -> list[GenerationResult]:
        """Answer all requests in batches, and log tokens and times as lmms-eval's throughput figures."""
        answers: dict[int, Reply] = {}
        for batch in self._batches(requests):
            members = [requests[index] for index in batch]
            try:
                replies = self._answer(members)
            except Exception as error:
                error.add_note(f"while answering {', '.join(f'{each.args[4]} {each.args[3]}' for each in members)} (task and document)")
                raise
            answers |= zip(batch, replies, strict=True)
            self.progress(len(batch))
        for index, reply in answers.items():
            self.replies[requests[index].args[4], requests[index].args[3]] = reply
        _log(list(answers.values()))
        ordered = (answers[index] for index in range(len(requests)))
        return [GenerationResult(reply.text, TokenCounts(reply.input_tokens, reply.output_tokens)) for reply in ordered]

    def loglikelihood(self, requests: Sequence[Instance]) -> Any:
        """Not supported, because tokens are compressed for generating.

        Raises:
            UnsupportedError: always.
        """
        raise UnsupportedError(f"{requests[0].task_name} scores given answers by their likelihood; foveate runs tasks that generate")

    def generate_until_multi_round(self, requests: Sequence[Instance]) -> Any:
        """Not supported.

        Raises:
            UnsupportedError: always.
        """
        raise UnsupportedError(f"{requests[0].task_name} asks in several rounds; foveate runs tasks that ask once")

    def _batches(self, requests: Sequence[Instance]) -> Iterator[list[int]]:
        """Indices of requests that are answered together: same task and options, longest questions first."""
        groups: dict[str, list[int]] = defaultdict(list)
        for index, request in enumerate(requests):
            groups[f"{request.args[4]} {request.args[2]}"].append(index)
        for members in groups.values():
            members.sort(key=lambda index: -len(str(requests[index].args[0])))
            for start in range(0, len(members), self.batch_size):
                yield members[start : start + self.batch_size]

    def _answer(self, requests: Sequence[Instance]) -> list[Reply]:
        """Answer one batch, split again if some prompts have images and others have none."""
        given = requests[0].args[2]
        conversations = [self._conversation(request) for request in requests]
        options = _sampling(given)
        longest = self._longest or given.get("max_new_tokens") or DEFAULT_NEW_TOKENS
        replies: dict[int, Reply] = {}
        for kind in dict.fromkeys(conversation.kind for conversation in conversations):
            places = [place for place, conversation in enumerate(conversations) if conversation.kind == kind]
            method = self.method if any(kind) else None
            asked = [conversations[place] for place in places]
            replies |= zip(places, ask(self._loaded.model, self._chat, asked, method, options, longest), strict=True)
        return [_stopped(replies[place], given.get("until")) for place in range(len(requests))]

    def _conversation(self, request: Instance) -> Conversation:
        _, messages, _, document, task, split = request.args
        return self._chat.read(messages(self.task_dict[task][split][document]))


def _method(
    name: str | Method, keep: int | float | None, layer: int | None, seed: int | None, clamp: bool, settings: Mapping[str, Any]
) -> Method | None:
    if isinstance(name, Method):
        return name
    if str(name).strip().lower() == NO_METHOD:
        if keep is not None or layer is not None or settings:
            given = [*settings, *(["keep"] if keep is not None else []), *(["layer"] if layer is not None else [])]
            raise InputError(f"{', '.join(given)}: not an option of the full model (method=none); omit it, or name a method")
        return None
    if keep is None:
        raise InputError(f"method={name} needs keep: visual tokens per image, such as keep=128, or a share, such as keep=0.25")
    if isinstance(keep, str):
        raise InputError(f"keep={keep!r} is neither a number of tokens, such as 128, nor a share in (0, 1], such as 0.25")
    return build_method(name, keep, layer, seed, [f"{option}={value}" for option, value in settings.items()], clamp)


def _sampling(given: Mapping[str, Any]) -> dict[str, Any]:
    """Options of `generate` that a task sets in place of greedy decoding."""
    beams = given.get("num_beams") or 1
    if given.get("do_sample") and (given.get("temperature") or 0) > 0:
        return {"do_sample": True, "temperature": given["temperature"], "top_p": given.get("top_p"), "num_beams": beams}
    return {"num_beams": beams}


def _stopped(reply: Reply, until: str | Iterable[str] | None) -> Reply:
    """The answer up to the first stop text of the task."""
    ends = [until] if isinstance(until, str) else list(until or ())
    text = reply.text
    for end in ends:
        text = text.split(end)[0] if end else text
    return replace(reply, text=text.strip())


def _log(replies: Sequence[Reply]) -> None:
    """Pass the figures of all answers to lmms-eval, which shows their means as `avg_...` under `throughput`."""
    if not replies:
        return
    elapsed, tokens = sum(reply.seconds for reply in replies), sum(reply.output_tokens for reply in replies)
    names = ("visual_tokens", "tokens_at_the_cut", "mean_tokens_over_layers", "method_seconds")
    means = {name: sum(getattr(reply, name) for reply in replies) / len(replies) for name in names}
    log_metrics(
        total_elapsed_time=elapsed,
        total_gen_tokens=tokens,
        avg_speed=tokens / elapsed if elapsed else 0.0,
        additional_metrics={**means, "num_requests": len(replies)},
    )
