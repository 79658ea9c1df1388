"""The server's front: decides from sizes and settings how many placeholders an image has, and sends its question along with it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from hashlib import sha256
from typing import Any

import torch
from transformers import BatchFeature
from vllm.logger import init_logger
from vllm.multimodal.inputs import MultiModalFieldConfig
from vllm.multimodal.parse import DictEmbeddingItems, EmbeddingItems
from vllm.multimodal.processing import ProcessorInputs, PromptReplacement

from foveate.errors import ConsistencyError, InputError, ParameterError
from foveate.families.kit.layout import Layout, MediaKind
from foveate.method import Method
from foveate.plugins.vllm.architecture import Architecture
from foveate.plugins.vllm.requests import ItemRequest, field_name
from foveate.plugins.vllm.selection import KINDS, reads_prompt
from foveate.plugins.vllm.settings import ServingSettings
from foveate.plugins.vllm.turns import Turn, answer_marker, turns

__all__ = ["KEEP", "FrontProcessor", "without_own"]

logger = init_logger(__name__)

KEEP = "foveate_keep"
"""The name of a request's own budget among its `mm_processor_kwargs`."""
_REQUESTS = "foveate_requests"
_DUMMY = "foveate_dummy"
_OURS = object()
_OWN = (KEEP, _REQUESTS, _DUMMY)


class FrontProcessor:
    """Goes before one of vLLM's multimodal processors in the bases of a class, and lets it announce fewer placeholders.

    Attributes:
        architecture: what is known of the model.
    """

    architecture: Architecture
    info: Any

    def __init__(self, info: Any, dummy_inputs: Any) -> None:
        super().__init__(info, dummy_inputs)  # type: ignore[call-arg]
        model = info.ctx.model_config
        self.settings = ServingSettings.from_dict(getattr(info.get_hf_config(), "foveate", None), model.model)
        self._digest = sha256(repr(self.settings.to_dict()).encode()).hexdigest()
        self.architecture.check(info.get_hf_config())
        if KEEP in (info.ctx.get_mm_config().mm_processor_kwargs or {}):
            raise ParameterError(f"{KEEP} is an option of a request; set the server's budget in its settings", KEEP)
        self._reads_prompt = reads_prompt(self.settings.method)
        self._marker = answer_marker(info.get_tokenizer(), _chat_template(info)) if self._reads_prompt else ()

    @property
    def _placeholders(self) -> dict[int, MediaKind]:
        config = self.info.get_hf_config()
        return {getattr(config, name): kind for kind, name in self.architecture.placeholders.items()}

    def get_dummy_inputs(self, *args: Any, **kwargs: Any) -> ProcessorInputs:
        """The largest input: with the largest budget that a request may ask for."""
        inputs: ProcessorInputs = super().get_dummy_inputs(*args, **kwargs)  # type: ignore[misc]
        own = {KEEP: self.settings.most.keep, _DUMMY: _OURS}
        return replace(inputs, hf_processor_mm_kwargs={**inputs.hf_processor_mm_kwargs, **own})

    def apply(self, inputs: ProcessorInputs, timing_ctx: Any) -> Any:
        """See vLLM; refuses what cannot be compressed.

        Raises:
            FoveateError: the request's budget is none, features come without pixels, or no text follows the last image.
        """
        return super().apply(self._with_requests(inputs), timing_ctx)  # type: ignore[misc]

    def _with_requests(self, inputs: ProcessorInputs) -> ProcessorInputs:
        """The same inputs, with what the worker has to know of each item among the options of the processor."""
        kwargs = dict(inputs.hf_processor_mm_kwargs)
        # transformers' processor would ignore a misspelt name, and the request would get another budget than it asks for.
        dummy = kwargs.get(_DUMMY) is _OURS  # no request can say that it is vLLM's own
        known = (KEEP, _DUMMY) if dummy else (KEEP,)
        strange = next((name for name in kwargs if name.startswith("foveate") and name not in known), None)
        if strange is not None:
            raise ParameterError(f"{strange} is no option of a request; its budget is {KEEP}", strange)
        method = self.settings.asked(kwargs.pop(KEEP, None))
        kwargs.pop(_DUMMY, None)
        for items in inputs.mm_data_items.values():
            if isinstance(items, EmbeddingItems | DictEmbeddingItems):
                raise InputError("features without pixels cannot be compressed by this server; send the image itself")
        if not dummy:
            self._check_positions(inputs, kwargs)
        plain = replace(inputs, hf_processor_mm_kwargs=kwargs)
        around = self._turns(inputs.prompt, dummy)
        requests: dict[str, list[ItemRequest]] = {}
        for kind, hashes in super()._get_mm_hashes(plain).items():  # type: ignore[misc]
            if kind not in KINDS:
                raise InputError(f"this server compresses images and videos; it takes no {kind}")
            own = around.get(kind, [])
            if len(own) != len(hashes):
                raise InputError(f"the prompt has {len(own)} placeholder(s) for {len(hashes)} {kind}(s); it needs one for each")
            requests[kind] = [
                ItemRequest(sha256(key.encode()).digest(), method.keep, turn if self._reads_prompt else None)
                for key, turn in zip(hashes, own, strict=True)
            ]
        return replace(inputs, hf_processor_mm_kwargs={**kwargs, _REQUESTS: requests})

    def _check_positions(self, inputs: ProcessorInputs, kwargs: Mapping[str, Any]) -> None:
        """Refuse a prompt that ends beyond the model's last position: positions count removed tokens too."""
        last = len(inputs.prompt)
        for kind, items in inputs.mm_data_items.items():
            # An item without data was sent before, and its size is not known here.
            last += sum(self.reach(kind, items, number, kwargs) for number in range(len(items)) if items.get(number) is not None)
        limit = self.architecture.rotary_factor * self.info.get_hf_config().get_text_config().max_position_embeddings
        if last > limit:
            raise InputError(
                f"with all tokens of its images this prompt reaches to position {last}, and the model has {limit}; send fewer images, "
                f"or smaller ones"
            )

    def reach(self, kind: MediaKind, items: Any, number: int, kwargs: Mapping[str, Any]) -> int:
        """How many positions an item of a request takes."""
        known: dict[str, Any] = {"pixel_values_videos": items.get(number)}
        if kind == "image":
            size = items.get_image_size(number)
            known = {"image_sizes": torch.tensor([size.height, size.width])}
        return self.architecture.front_layout(self.info.get_hf_config(), kind, None, known).placeholders

    def _turns(self, prompt: Sequence[int], dummy: bool) -> dict[MediaKind, list[Turn]]:
        found = turns(prompt, self._placeholders, self._marker)
        if self._reads_prompt and not dummy and any(turn.question == 0 for own in found.values() for turn in own):
            name = type(self.settings.method).__name__
            raise InputError(f"no text follows the last image, so {name} cannot tell what matters; put the question after it")
        return found

    def _get_mm_hashes(self, inputs: ProcessorInputs) -> dict[str, list[str]]:
        """As vLLM's, and different for requests whose choices may differ."""
        kwargs = without_own(inputs.hf_processor_mm_kwargs)
        hashes = super()._get_mm_hashes(replace(inputs, hf_processor_mm_kwargs=kwargs))  # type: ignore[misc]
        requests = inputs.hf_processor_mm_kwargs[_REQUESTS]
        return {
            kind: [
                sha256(f"{key} {request.digest} {self._digest}".encode()).hexdigest()
                for key, request in zip(own, requests[kind], strict=True)
            ]
            for kind, own in hashes.items()
        }

    def _get_cache_missing_processor_kwargs(self, inputs: ProcessorInputs, mm_is_cached: Mapping[str, Sequence[bool]]) -> dict[str, Any]:
        requests = inputs.hf_processor_mm_kwargs[_REQUESTS]
        missing = {
            kind: [request for request, cached in zip(own, mm_is_cached[kind], strict=True) if not cached] for kind, own in requests.items()
        }
        plain = replace(inputs, hf_processor_mm_kwargs=without_own(inputs.hf_processor_mm_kwargs))
        return {**super()._get_cache_missing_processor_kwargs(plain, mm_is_cached), _REQUESTS: missing}  # type: ignore[misc]

    def _get_hf_mm_inputs(self, mm_items: Any, hf_kwargs: Mapping[str, Any]) -> Any:
        """As vLLM's; the requests pass beside the processor, which some models call in ways of their own."""
        found = super()._get_hf_mm_inputs(mm_items, without_own(hf_kwargs))  # type: ignore[misc]
        requests: Mapping[str, Sequence[ItemRequest]] = hf_kwargs[_REQUESTS]
        packed = {field_name(kind): [request.pack() for request in own] for kind, own in requests.items() if own}
        return found._replace(passthrough_data={**found.passthrough_data, **packed})

    def _get_mm_fields_config(self, hf_inputs: BatchFeature, hf_processor_mm_kwargs: Mapping[str, Any]) -> dict[str, MultiModalFieldConfig]:
        fields = super()._get_mm_fields_config(hf_inputs, without_own(hf_processor_mm_kwargs))  # type: ignore[misc]
        return {**fields, **{field_name(kind): MultiModalFieldConfig.batched(kind, keep_on_cpu=True) for kind in KINDS}}

    def _get_prompt_updates(self, mm_items: Any, hf_processor_mm_kwargs: Mapping[str, Any], out_mm_kwargs: Any) -> list[Any]:
        """As vLLM's, with fewer placeholders."""
        updates = super()._get_prompt_updates(mm_items, without_own(hf_processor_mm_kwargs), out_mm_kwargs)  # type: ignore[misc]
        requests = hf_processor_mm_kwargs[_REQUESTS]
        return [self._shortened(update, mm_items, out_mm_kwargs, requests) for update in updates]

    def _shortened(self, update: Any, mm_items: Any, out_mm_kwargs: Any, requests: Mapping[str, Sequence[ItemRequest]]) -> Any:
        kind = update.modality
        if not isinstance(update, PromptReplacement) or kind not in KINDS:
            raise ConsistencyError(
                f"vLLM updates the prompt for a {kind} in a way that foveate does not know; its version is not supported"
            )
        whole = update.replacement

        def replacement(number: int) -> Any:
            item = mm_items[kind].get(number)
            size = mm_items[kind].get_image_size(number) if kind == "image" else None
            out = {name: field.data for name, field in out_mm_kwargs[kind][number].items()}
            layout = self.architecture.front_layout(self.info.get_hf_config(), kind, size if kind == "image" else item, out)
            method = self.settings.asked(requests[kind][number].keep)
            full = whole(number) if callable(whole) else whole
            return self.shortened(full, kind, layout, method)

        return replace(update, replacement=replacement)

    def shortened(self, full: Any, kind: MediaKind, layout: Layout, method: Method) -> Any:
        """What stands in the prompt for an item, with as many placeholders as stay.

        Args:
            full: what vLLM would write.
            kind: of the item.
            layout: of the item.
            method: says how many visual tokens stay.
        """
        if not isinstance(full, list) or len(full) != layout.placeholders:
            found = len(full) if isinstance(full, list) else type(full).__name__
            raise ConsistencyError(f"vLLM wants {found} placeholders for a {kind} of {layout.placeholders}; its version is not supported")
        tokens = layout.placeholders if layout.content is None else len(layout.content)
        frames = layout.grid[0]
        return full[: len(full) - tokens + method.budget(tokens, frames)]


def without_own(kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """The options of transformers' processor alone."""
    return {name: value for name, value in kwargs.items() if name not in _OWN}


def _chat_template(info: Any) -> str | None:
    """The processor's template, which vLLM prefers to the tokenizer's."""
    return getattr(info.get_hf_processor(), "chat_template", None)
