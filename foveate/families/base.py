"""What foveate must know about one kind of model: `Family`, and the registry of families."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import Any, ClassVar, TypeVar

from torch import Tensor, nn

from foveate.entry_points import Extensions
from foveate.errors import InputError, UnsupportedError, UnsupportedModelError, UsageError
from foveate.families.kit.layout import Encoding, ImageTokens, MediaKind
from foveate.families.kit.regions import RegionRequest, Regions
from foveate.families.kit.towers import single_layer
from foveate.families.refused import REFUSED
from foveate.printable import described
from foveate.view import TOWER_SIGNALS as _TOWER_SIGNALS
from foveate.view import Grid

__all__ = ["Family", "families", "family_of", "regions_of", "register"]

DECODER_SIGNALS = frozenset(
    {
        *("last_attention", "text_attention", "head_attention", "next_attention", "queries", "keys", "question_keys"),
        *("attention_output", "earlier_states", "question_states", "question_embeddings", "projected_states"),
    }
)
"""Signals that need only the decoder of a family."""

TOWER_SIGNALS = _TOWER_SIGNALS
"""Signals for which a family implements `tower_attention`, `projector` and `fold`."""


class Family(ABC):
    """Knows where things are in one kind of model, and nothing about methods. One stateless subclass per file.

    Attributes:
        name: its common name.
        summary: one line for lists.
        model_types: the `config.model_type` values that it covers.
        takes: what a prompt may contain, out of "image", "several images", and "video", or "frames" if a video is written as images.
        signals: names from `foveate.view.SIGNALS` that it supports; `gives` narrows them for one model.
        encoders: the backbone's methods that turn pixels into features, with what they encode. Each call is recorded as an
            `Encoding`; `generate` makes it before the model's forward, a plain forward inside it.
        injects: whether it overrides `injected`; a class that overrides it without saying so is refused when it is defined.
    """

    name: str
    summary: str
    model_types: tuple[str, ...]
    takes: frozenset[str] = frozenset({"image", "several images"})
    signals: frozenset[str] = DECODER_SIGNALS
    encoders: ClassVar[Mapping[str, MediaKind]] = {"get_image_features": "image", "get_video_features": "video"}
    injects: ClassVar[bool] = False

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        overrides = any("injected" in vars(base) for base in cls.__mro__ if base is not Family)
        if overrides != cls.injects:
            said = "overrides injected() but does not say so" if overrides else "does not override injected()"
            raise UsageError(f"{cls.__name__} {said}; set injects = {overrides} in the class")

    @abstractmethod
    def check(self, model: nn.Module) -> None:
        """Refuse a variant that the family cannot handle.

        Raises:
            UnsupportedModelError: the message names the setting that prevents it.
        """

    @abstractmethod
    def images(self, model: nn.Module, input_ids: Tensor, seen: Sequence[Encoding]) -> list[list[ImageTokens]]:
        """The images and videos of each row, in the order of the prompt. `place` does most of the work.

        Args:
            model: the model that was passed to `compress`.
            input_ids: (b, s) on the CPU, without the copies of a sample that beams make.
            seen: what was encoded for this forward pass, at most one call per encoder; empty if there were no pixels.

        Raises:
            InputError: placeholders that do not add up to whole images, or for which nothing was encoded.
        """

    def regions(self, request: RegionRequest) -> Regions:
        """Where each part's tokens lie in the picture, given what this model's processors do to it.

        Args:
            request: the picture's size, the processor with its settings, and the image's parts.

        Raises:
            UnsupportedError: that is unknown: the tokens have no place in the picture, or the processor is of an unknown kind.
            InputError: this processor does not make these parts from this picture.
        """
        raise UnsupportedError(f"family {self.name!r} does not say where its tokens lie in a picture")

    def placeholders(self, model: nn.Module) -> dict[MediaKind, int]:
        """The token id of each kind's placeholders, including newlines and the like if they share it."""
        config: Any = model.config
        ids: dict[MediaKind, int | None] = {kind: getattr(config, f"{kind}_token_id", None) for kind in ("image", "video")}
        return {kind: token for kind, token in ids.items() if token is not None}

    def gives(self, model: nn.Module) -> frozenset[str]:
        """The signals that this particular model supports: none of the tower's if features of several of its layers are joined."""
        return self.signals if single_layer(model.config) else self.signals - TOWER_SIGNALS

    def backbone(self, model: nn.Module) -> nn.Module:
        """The module that joins image features and text and calls the decoder; its forward takes `input_ids`."""
        return model.base_model  # type: ignore[return-value]

    def decoder(self, model: nn.Module) -> nn.Module:
        """The text decoder; its forward takes `inputs_embeds`."""
        return self.backbone(model).language_model  # type: ignore[return-value]

    def layers(self, model: nn.Module) -> Sequence[nn.Module]:
        """The decoder's layers, in order."""
        return self.decoder(model).layers  # type: ignore[return-value]

    def attention(self, layer: nn.Module) -> nn.Module:
        """The self-attention module of one decoder layer."""
        return layer.self_attn  # type: ignore[return-value]

    def injected(self, kwargs: dict[str, Any]) -> tuple[Tensor, Sequence[Tensor]] | None:
        """Remove from the decoder's arguments what it would add to visual tokens after its first layers.

        Args:
            kwargs: those of the decoder's forward; what is returned must be removed from them, so that only foveate adds it.

        Returns:
            `None` in most models, otherwise (mask, features): mask (b, s) bool, and for each decoder layer, from layer 0, a tensor
            (mask.sum(), d) that is added to the masked positions of that layer's output, row by row.
        """
        return None

    def tower(self, model: nn.Module) -> nn.Module:
        """The vision tower."""
        backbone: Any = self.backbone(model)
        return backbone.vision_tower if hasattr(backbone, "vision_tower") else backbone.visual

    def tower_attention(self, model: nn.Module) -> nn.Module:
        """The attention module of the vision-tower layer whose output is used (the last such layer with full attention)."""
        raise NotImplementedError(f"family {self.name!r} lists tower_attention among its signals but does not implement it")

    def class_token(self, model: nn.Module) -> bool:
        """Whether the tower's sequences begin with a class token; if so, its attention ranks the patches."""
        return False

    def projector(self, model: nn.Module) -> nn.Module:
        """The projector: its first argument is the vision features before projection, its output those after."""
        return self.backbone(model).multi_modal_projector  # type: ignore[return-value]

    def fold(self, model: nn.Module, signal: str, values: Tensor, seen: Encoding) -> list[Tensor]:
        """Bring values read in the vision tower into the order of visual tokens.

        Args:
            model: the model that was passed to `compress`.
            signal: "tower_attention" or "tower_states".
            values: (p, c) in the tower's own order, one image after the other. Attention: c = 1, without class tokens. States: as
                the projector receives them.
            seen: the call in which they were read.

        Returns:
            per image (n, c), in the order of `ImageTokens.columns`; attention is averaged over the patches that become one token.
        """
        raise NotImplementedError(f"family {self.name!r} lists {signal} among its signals but cannot bring it into the order of tokens")


GROUP = "foveate.families"
"""The entry-point group in which a package names its families."""

_FAMILIES: dict[str, Family] = {}
_Registered = TypeVar("_Registered", bound="Family | type[Family]")


def register(family: _Registered) -> _Registered:
    """Add a family, or a class of which one is made, to the table. A function and a decorator.

    Later entries win for a `model_type` that two of them cover.

    Raises:
        UsageError: it is neither, or lacks a name, a summary or a tuple of model types.
    """
    found = family() if isinstance(family, type) and issubclass(family, Family) else family
    if not isinstance(found, Family):
        raise UsageError(f"register() takes a foveate.families.Family; got {described(family)}. Methods have foveate.register")
    missing = [name for name in ("name", "summary", "model_types") if not getattr(found, name, None)]
    if missing:
        raise UsageError(f"{type(found).__name__} has no {', '.join(missing)}; set them in the class")
    if isinstance(found.model_types, str):  # `in` would find parts of it
        raise UsageError(f"{type(found).__name__}.model_types is text; make it a tuple: ({found.model_types!r},)")
    _FAMILIES[found.name] = found
    return family


def families() -> dict[str, Family]:
    """The known families by name: those of foveate, of installed packages, and your own."""
    _extensions.load()
    return dict(_FAMILIES)


def _add(found: Any) -> None:
    """What an entry point names: a family, its class, or a module whose import registers some."""
    known = _FAMILIES.values()
    if not isinstance(found, ModuleType) and not any(found in (family, type(family)) for family in known):
        register(found)


_extensions = Extensions(GROUP, _add)


def family_of(model: nn.Module) -> Family:
    """The family of a loaded model, after its own check.

    Raises:
        UnsupportedModelError: no family covers `model.config.model_type`, or the family does not support the variant.
    """
    kind = getattr(getattr(model, "config", None), "model_type", None)
    for family in reversed(families().values()):
        if kind in family.model_types:
            family.check(model)
            return family
    if kind in REFUSED:
        raise UnsupportedModelError(
            f"{type(model).__name__} with model_type {kind!r} is not supported: {REFUSED[kind]}. `foveate models` lists the ones that are."
        )
    known = ", ".join(sorted(name for family in families().values() for name in family.model_types))
    raise UnsupportedModelError(
        f"{type(model).__name__} with model_type {kind!r} belongs to no known family. Known model types: {known}. "
        f"To add one, subclass foveate.families.Family and register it (docs/adding_a_family.md)."
    )


def regions_of(
    model: Any, processor: Any, size: tuple[int, int], parts: Sequence[Grid], *, video: bool = False, pictures: int = 1
) -> Regions:
    """Where the tokens of an image lie in the picture that the model's processor was given.

    Args:
        model: a loaded model, or its configuration.
        processor: its processor, with the settings that it had for the picture.
        size: (width, height) of the picture in pixels, upright and before any resizing; for a video, that of its frames.
        parts: (t, h, w) of each part of the image, such as `ImageReport.parts`.
        video: whether these are a video's tokens: `kind == "video"` in a report.
        pictures: how many images the prompt has.

    Returns:
        one `Region` per part; that of a video is the same in each of its frames.

    Raises:
        UnsupportedModelError: no family covers the model.
        UnsupportedError: that is unknown: the tokens have no place in the picture, or the processor is of an unknown kind.
        InputError: this processor does not make these parts from a picture of that size.
    """
    config = getattr(model, "config", model)
    kind = getattr(config, "model_type", None)
    family = next((family for family in reversed(families().values()) if kind in family.model_types), None)
    if family is None:
        raise UnsupportedModelError(f"no family covers model_type {kind!r}, so it is not known where its tokens lie in a picture")
    width, height = size
    if width < 1 or height < 1 or not parts:
        raise InputError(f"a picture of {width} x {height} pixels in {len(parts)} part(s) shows nothing; pass the picture's own size")
    found = family.regions(RegionRequest(config, processor, (int(width), int(height)), tuple(parts), video, pictures))
    if tuple(region.grid for region in found) != tuple(part[1:] for part in parts):
        raise InputError(
            f"{family.name} has parts of {[region.grid for region in found]} (rows, columns) for this picture, not {list(parts)}; "
            f"pass the picture and the processor that the model was given"
        )
    return found
