"""Decides in a worker which visual tokens of each image enter the language model: `Selector`."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor
from vllm.distributed import get_tp_group
from vllm.logger import init_logger

from foveate.devices import Checks, upload
from foveate.engine.deciding import checked_plans
from foveate.engine.identity import ModelIdentity, weights_digest
from foveate.engine.slots import averaged
from foveate.errors import ConsistencyError, FoveateError, SignalError, UnsupportedError
from foveate.families.kit.layout import Layout, MediaKind
from foveate.method import Method
from foveate.methods.pool import Pool
from foveate.plan import Plan
from foveate.plugins.vllm.architecture import Architecture, TowerReader
from foveate.plugins.vllm.features import FeatureCache, Features
from foveate.plugins.vllm.lookahead import AheadInput, Lookahead
from foveate.plugins.vllm.requests import ItemRequest, field_name
from foveate.plugins.vllm.settings import ServingSettings
from foveate.view import View

__all__ = ["Selector", "reads_prompt"]

logger = init_logger(__name__)

TOWER = ("tower_attention", "tower_states")
DECODER = frozenset({"last_attention", "text_attention", "head_attention", "attention_output", "question_states", "projected_states"})
KINDS: tuple[MediaKind, ...] = ("image", "video")
REMEMBERED = 64


def reads_prompt(method: Method) -> bool:
    """Whether a method's choice depends on the text around the image: it reads what decoder layers make of both."""
    return method.layer > 0 or bool(method.needs & (DECODER - {"projected_states"}))


class Selector:
    """Compresses what a served model's vision encoder returns.

    Args:
        model: the served model, whose weights may not be loaded yet.
        architecture: what is known of it.
        vllm_config: vLLM's configuration.

    Attributes:
        plans: the last plans, in the order of deciding, for tests and for people who want to see them.
        features: of recent images.

    Raises:
        FoveateError: the settings are missing or wrong, or this model or this server cannot do what they ask for.
    """

    def __init__(self, model: Any, architecture: Architecture, vllm_config: Any) -> None:
        config = vllm_config.model_config.hf_config
        self.settings = ServingSettings.from_dict(getattr(config, "foveate", None), vllm_config.model_config.model)
        self.architecture, self._config = architecture, config
        architecture.check(config)
        self._check_server(vllm_config)
        self.plans: deque[Plan] = deque(maxlen=REMEMBERED)
        self.features = FeatureCache(int(self.settings.feature_cache_mib * 2**20))
        self._model: Callable[[], Any] = lambda: model
        self._ahead: Lookahead | None = None
        self._ready = False
        # vLLM counts what stays of images when it fills a batch, so that one of whole images could be many times as large as it planned.
        self._at_once: int = vllm_config.scheduler_config.max_num_encoder_input_tokens

    def _check_server(self, vllm_config: Any) -> None:
        method = self.settings.method
        missing = sorted(method.needs - DECODER - self.architecture.signals)
        if missing:
            raise SignalError(
                f"{method} needs {', '.join(missing)}, which foveate does not read in {self._config.architectures[0]} under vLLM"
            )
        if reads_prompt(method) and vllm_config.lora_config is not None:
            raise UnsupportedError(
                f"{method} runs decoder layers ahead of the prefill, which vLLM's LoRA adapters do not allow; serve without adapters, or "
                f"use a method that reads vision features alone, such as pool"
            )
        if getattr(vllm_config.lora_config, "enable_tower_connector_lora", False):
            raise UnsupportedError("adapters on the vision tower would give one image several features; serve without them")
        if method.needs & set(TOWER) and vllm_config.model_config.multimodal_config.mm_encoder_tp_mode == "data":
            raise UnsupportedError(f"{method} reads the vision tower, which --mm-encoder-tp-mode data spreads over workers; use weights")
        if method.needs & set(TOWER) and vllm_config.compilation_config.compile_mm_encoder:
            raise UnsupportedError(
                f"{method} reads the vision tower, which cannot be read while compiled; serve without compile_mm_encoder"
            )
        if self.architecture.rotary_axes > 1 and vllm_config.parallel_config.pipeline_parallel_size > 1:
            raise UnsupportedError(
                "this model's kept tokens have positions that only the first pipeline stage knows; use tensor parallelism or replicas"
            )

    def prepare(self) -> None:
        """Check what needs loaded weights; the first batch does it if nobody did."""
        if self._ready:
            return
        if "tower_attention" in self.settings.method.needs:
            attention = self.architecture.tower_attention(self._model())
            if getattr(getattr(attention, "attn_backend", None), "name", "") == "FLASHINFER":
                raise UnsupportedError(
                    f"{self.settings.method} reads attention in the vision tower, and FlashInfer describes its sequences in another form; "
                    f"serve with --mm-encoder-attn-backend FLASH_ATTN"
                )
        self.settings.method.check(self._identity)
        if reads_prompt(self.settings.method):
            self._ahead = Lookahead(self.architecture.decoder(self._model()), self.settings.method.layer)
        self._ready = True

    def _identity(self) -> ModelIdentity:
        """That of the same checkpoint in transformers; the hash of sharded or quantised weights is not known."""
        text = self._config.get_text_config()
        attention = self.architecture.decoder(self._model()).layers[0].self_attn
        return ModelIdentity(
            model_type=self._config.model_type,
            decoder_type=text.model_type,
            hidden=text.hidden_size,
            layers=text.num_hidden_layers,
            heads=text.num_attention_heads,
            vocabulary=text.vocab_size,
            weights=weights_digest(_query_and_key_weights(attention)) if get_tp_group().world_size == 1 else None,
        )

    @torch.no_grad()
    def embed(self, encode: Callable[..., Any], kwargs: Mapping[str, Any]) -> tuple[Tensor, ...]:
        """What `embed_multimodal` returns: for each item the rows that enter the language model.

        Args:
            encode: the stock model's `embed_multimodal`.
            kwargs: what vLLM passed.
        """
        self.prepare()
        kind, requests, kwargs = _requests(kwargs)
        layouts = self.architecture.layouts(self._config, kind, kwargs)
        if len(layouts) != len(requests):
            raise ConsistencyError(f"{len(requests)} {kind}s were asked for, but {len(layouts)} arrived")
        found: list[Tensor] = []
        for chosen in _batches(layouts, self._at_once):
            part = kwargs if len(chosen) == len(layouts) else self.architecture.subset(kind, kwargs, chosen)
            found += self._compressed(encode, kind, part, [requests[number] for number in chosen], [layouts[number] for number in chosen])
        return tuple(found)

    def _compressed(
        self,
        encode: Callable[..., Any],
        kind: MediaKind,
        kwargs: Mapping[str, Any],
        requests: Sequence[ItemRequest],
        layouts: Sequence[Layout],
    ) -> list[Tensor]:
        """The rows that stay of items that are encoded together."""
        features = self._encoded(encode, kind, kwargs, requests, layouts)
        methods = [self.settings.asked(request.keep) for request in requests]
        views = [self._view(kind, kwargs, number, *pair) for number, pair in enumerate(zip(requests, features, strict=True))]
        found = []
        for number, (each, plan) in enumerate(zip(features, _plans(methods, views), strict=True)):
            plan = _agreed(plan, each.rows.device)
            self.plans.append(plan)
            rows, kept = _carried_out(plan, each.rows, each.layout)
            item = self.architecture.subset(kind, kwargs, [number])
            found.append(self.architecture.finished(self._model(), rows, kept, each.layout, item))
        return found

    def _encoded(
        self,
        encode: Callable[..., Any],
        kind: MediaKind,
        kwargs: Mapping[str, Any],
        requests: Sequence[ItemRequest],
        layouts: Sequence[Layout],
    ) -> list[Features]:
        """The features of all items; the vision encoder runs once for those that are not known, each once."""
        places = {request.key: number for number, request in enumerate(requests)}
        known = {key: self.features.get(key) for key in places}
        new = {key: number for key, number in places.items() if known[key] is None}
        if new:
            chosen = list(new.values())
            part = self.architecture.subset(kind, kwargs, chosen)
            rows, signals = self._run_encoder(encode, kind, part)
            for place, (key, number) in enumerate(new.items()):
                layout = layouts[number]
                if rows[place].shape[0] != layout.placeholders:
                    raise ConsistencyError(f"the vision encoder made {rows[place].shape[0]} rows for an image of {layout.placeholders}")
                made = Features(_owned(rows[place]), layout, {name: _owned(values[place]) for name, values in signals.items()})
                known[key] = made
                self.features.put(key, made)
        return [known[request.key] for request in requests]  # type: ignore[misc]

    def _run_encoder(
        self, encode: Callable[..., Any], kind: MediaKind, part: Mapping[str, Any]
    ) -> tuple[Sequence[Tensor], dict[str, list[Tensor]]]:
        architecture, model, needs = self.architecture, self._model(), self.settings.method.needs
        if not needs & set(TOWER):
            return encode(**part), {}
        reader = TowerReader(architecture.class_token(self._config))
        attention = architecture.tower_attention(model) if "tower_attention" in needs else None
        projector = architecture.projector(model) if "tower_states" in needs else None
        with reader.reading(attention, projector) if attention is not None or projector is not None else nullcontext():
            rows = encode(**part)
        signals: dict[str, list[Tensor]] = {}
        if attention is not None:
            values = torch.cat([each.flatten() for each in reader.attention])[:, None]
            folded = architecture.fold(self._config, "tower_attention", values, kind, part)
            signals["tower_attention"] = [each.squeeze(1) for each in folded]
        if projector is not None:
            values = torch.cat([each.reshape(-1, each.shape[-1]) for each in reader.states])
            signals["tower_states"] = architecture.fold(self._config, "tower_states", values, kind, part)
        return rows, signals

    def _view(self, kind: MediaKind, kwargs: Mapping[str, Any], number: int, request: ItemRequest, features: Features) -> View:
        """What the method sees of one item."""
        method, layout = self.settings.method, features.layout
        model, device = self._model(), features.rows.device
        entering, added = self.architecture.injections(model, features.rows)
        content = _content(layout, device)
        projected = entering.index_select(0, content)
        signals: dict[str, Any] = {name: value for name, value in features.signals.items() if name in method.needs}
        if "projected_states" in method.needs:
            signals["projected_states"] = projected
        states = projected
        if self._ahead is not None:
            item = self.architecture.subset(kind, kwargs, [number])
            states, read = self._ahead.run(self._ahead_input(request, layout, entering, added, content, item), method.needs)
            signals.update(read)
            assert request.turn is not None
            signals["text_after"] = request.turn.question
        return View(states, layout.grid, parts=layout.parts, kind=kind, fingerprint=request.fingerprint, **signals)

    def _ahead_input(
        self, request: ItemRequest, layout: Layout, entering: Tensor, added: Sequence[Tensor], content: Tensor, item: Mapping[str, Any]
    ) -> AheadInput:
        model, device = self._model(), entering.device
        if request.turn is None:
            raise ConsistencyError("the text around an image did not arrive with it")
        before, after = self.architecture.before_and_after(self._config, request)
        ids = upload(torch.tensor([*before, *after], dtype=torch.long), device)
        text = model.get_language_model().embed_input_ids(ids).to(entering.dtype)
        embeddings = torch.cat([text[: len(before)], entering, text[len(before) :]])
        positions = upload(self.architecture.positions(model, request, layout, item), device)
        places = torch.arange(layout.placeholders, device=device) + len(before)
        return AheadInput(embeddings, positions, content + len(before), max(1, request.turn.question), added, places)


def _batches(layouts: Sequence[Layout], most: int) -> list[list[int]]:
    """Items in order, in groups of at most that many placeholders or of a single item."""
    groups: list[list[int]] = []
    size = 0
    for number, layout in enumerate(layouts):
        size += layout.placeholders
        if not groups or size > most:
            groups.append([])
            size = layout.placeholders
        groups[-1].append(number)
    return groups


def _requests(kwargs: Mapping[str, Any]) -> tuple[MediaKind, list[ItemRequest], dict[str, Any]]:
    """The requests of a batch, taken out of what vLLM passed."""
    rest = dict(kwargs)
    found = {kind: ItemRequest.unpack_all(rest.pop(field_name(kind))) for kind in KINDS if field_name(kind) in rest}
    if len(found) != 1:
        raise ConsistencyError(
            f"a batch of the vision encoder should have requests of one kind of item, and this has {sorted(found)}; vLLM is of another "
            f"version than foveate was tested with"
        )
    kind, requests = next(iter(found.items()))
    return kind, requests, rest


def _plans(methods: Sequence[Method], views: Sequence[View]) -> list[Plan]:
    """A plan for each view.

    An image that cannot be ranked, such as one whose features overflowed, must not end a server that answers others at the same time. Its
    tokens are taken at even distances, and the log says so.
    """
    try:
        return _decided(methods, views)
    except FoveateError:
        pass
    found = []
    for method, view in zip(methods, views, strict=True):
        try:
            found += _decided([method], [view])
        except FoveateError as error:
            logger.error("foveate keeps tokens at even distances of an image that it cannot rank: %s", error)
            found += Pool(keep=method.keep, layer=0, clamp=True).plans([view])
    return found


def _decided(methods: Sequence[Method], views: Sequence[View]) -> list[Plan]:
    plans: dict[int, Plan] = {}
    checks = Checks(dict.fromkeys(map(id, views), "an image of this batch"))
    # On an accelerator all conditions are looked at once, after the work has been launched.
    with checks.collecting():
        for method in dict.fromkeys(methods):
            members = [number for number, each in enumerate(methods) if each == method]
            own = [views[number] for number in members]
            plans.update(zip(members, checked_plans(method, own, method.plans(own)), strict=True))
    checks.settle()
    return [plans[number] for number in range(len(views))]


def _owned(values: Tensor) -> Tensor:
    """The tensor without the rest of the batch that it is a part of, whose memory it would hold."""
    alone = values.untyped_storage().nbytes() == values.numel() * values.element_size()
    return values.detach() if alone else values.detach().clone()


def _content(layout: Layout, device: torch.device) -> Tensor:
    """(n,) which placeholders are visual tokens."""
    return torch.arange(layout.placeholders, device=device) if layout.content is None else upload(layout.content, device)


def _agreed(plan: Plan, device: torch.device) -> Plan:
    """The plan of the first tensor-parallel rank: should two ranks differ in the last digit, they would serve different tokens."""
    group = get_tp_group()
    if group.world_size == 1:
        return plan
    target, order = plan.on(device)
    target = group.broadcast(target.contiguous(), src=0)
    return Plan.deferred(target, plan.tokens_after, None if order is None else group.broadcast(order.contiguous(), src=0))


def _carried_out(plan: Plan, rows: Tensor, layout: Layout) -> tuple[Tensor, Tensor]:
    """The rows (k, d) that stay, newlines and the like included, and which placeholders (k,) of the item they are."""
    target, order = plan.on(rows.device)
    content = _content(layout, rows.device)
    stays = target == torch.arange(len(target), device=rows.device)
    whole = torch.ones(layout.placeholders, dtype=torch.bool, device=rows.device).index_copy_(0, content, stays)
    count = layout.placeholders - len(plan) + plan.tokens_after
    kept = torch.sort((~whole).byte(), stable=True).indices[:count]
    short = rows.index_select(0, kept)
    if order is not None:
        places = whole.long().cumsum(0) - 1
        short = averaged(short, places[content[target[order]]], rows.index_select(0, content[order]))
    return short, kept


def _query_and_key_weights(attention: Any) -> list[Tensor]:
    """The weights that make queries and keys, in the order of transformers, from vLLM's joined projection; none if they are quantised."""
    joined = getattr(attention.qkv_proj, "weight", None)
    if joined is None or joined.ndim != 2 or joined.shape[0] != attention.q_size + 2 * attention.kv_size:
        return []
    query, key, _ = joined.split([attention.q_size, attention.kv_size, attention.kv_size])
    norms = [getattr(attention, name).weight for name in ("q_norm", "k_norm") if hasattr(attention, name)]
    return [query, key, *norms]
