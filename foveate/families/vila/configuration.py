"""The configuration of a VILA1.5 model, read from a release's `config.json` or from one that transformers saved."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from transformers import LlavaConfig

from foveate.errors import UnsupportedModelError
from foveate.families.vila import internvit
from foveate.files.records import ANYTHING, Count, RecordSchema

__all__ = ["FEATURES", "PARTS", "SIGLIP", "VilaConfig", "added_tokens", "image_side", "is_release", "patch_side"]

PARTS = {"llm_cfg": "llm", "vision_tower_cfg": "vision_tower", "mm_projector_cfg": "mm_projector"}
"""Entries of a release's configuration, and the folders with the same content and the weights."""

SIGLIP = "siglip_vision_model"
FEATURES = {SIGLIP: ("cls_patch", "full"), internvit.RELEASED: ("patch", "default")}
"""The feature selection that keeps the square of patches, per vision tower: as `mm_vision_select_feature`, and in transformers.

"cls_patch" takes all states, and "patch" all but the first, which is a patch in SigLIP and the class token in InternViT.
"""


class VilaConfig(LlavaConfig):
    """Configuration of `VilaForConditionalGeneration`: that of a LLaVA with another projector.

    `from_dict` also reads a release's own `config.json`. The releases have no image token; here it is the first id after their
    vocabulary, so `text_config.vocab_size` is larger than in the release by at least one.
    """

    model_type = "llava_llama"

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, **kwargs: Any) -> Any:
        """See `PreTrainedConfig.from_pretrained`."""
        return super().from_pretrained(pretrained_model_name_or_path, **{"name_or_path": str(pretrained_model_name_or_path), **kwargs})

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        """Build the configuration from either form.

        Raises:
            UnsupportedModelError: a variant that this implementation would compute wrongly; the message names the setting.
        """
        if "text_config" not in config_dict:
            config_dict = _from_release(config_dict, Path(kwargs.get("name_or_path") or ""))
        return super().from_dict(config_dict, **kwargs)


def is_release(folder: Any) -> bool:
    """Whether a folder holds a model in the release's layout, with each part in its own folder."""
    return all((Path(folder) / part).is_dir() for part in PARTS.values())


def image_side(config: Any) -> int:
    """Rows and columns of an image's visual tokens: half of the patches, rounded up."""
    return (patch_side(config) + 1) // 2


def patch_side(config: Any) -> int:
    """Rows and columns of an image's patches."""
    vision = config.vision_config
    image, patch = (size if isinstance(size, int) else size[0] for size in (vision.image_size, vision.patch_size))
    return int(image // patch)


@dataclass(frozen=True)
class _Added:
    content: str


@dataclass(frozen=True)
class _Numbered:
    content: str
    id: Count


@dataclass(frozen=True)
class _Fast:
    """Of tokenizer.json."""

    added_tokens: list[_Numbered] = field(default_factory=list)


@dataclass(frozen=True)
class _Slow:
    """Of tokenizer_config.json."""

    added_tokens_decoder: dict[Count, _Added] = field(default_factory=dict)


_FAST: RecordSchema[_Fast] = RecordSchema("a tokenizer", _Fast, limit=2**28)
_SLOW: RecordSchema[_Slow] = RecordSchema("the configuration of a tokenizer", _Slow)
_EXTRA: RecordSchema[dict[str, int]] = RecordSchema("a list of added tokens", dict[str, Count])


def added_tokens(folder: Path) -> dict[str, int]:
    """Tokens that were added to the folder's tokenizer, by text; empty if its files list none.

    Raises:
        RecordError: one of them is damaged; the message names the key.
    """
    fast, slow, extra = (folder / name for name in ("tokenizer.json", "tokenizer_config.json", "added_tokens.json"))
    tokens: dict[str, int] = {}
    if fast.is_file():
        tokens |= {entry.content: entry.id for entry in _FAST.read(fast).value.added_tokens}
    if slow.is_file():
        tokens |= {entry.content: number for number, entry in _SLOW.read(slow).value.added_tokens_decoder.items()}
    return tokens | (_EXTRA.read(extra).value if extra.is_file() else {})


def _from_release(release: dict[str, Any], folder: Path) -> dict[str, Any]:
    if all(release.get(entry) for entry in PARTS) and folder != Path() and not is_release(folder):
        raise UnsupportedModelError(
            f"{folder} is a VILA release, which is read from a local folder that holds {', '.join(PARTS.values())}: "
            f"download it whole (hf download {folder} --local-dir FOLDER) and pass that folder"
        )
    parts = {entry: _part(release, entry, folder / name) for entry, name in PARTS.items()}
    llm, vision, projector = parts["llm_cfg"], parts["vision_tower_cfg"], parts["mm_projector_cfg"]
    _check(release, llm, vision, projector)
    tower = internvit.settings(vision) if vision["model_type"] == internvit.RELEASED else _own(vision)
    image_token = max([llm["vocab_size"], *(number + 1 for number in added_tokens(folder / "llm").values())])
    dtype = str(release.get("model_dtype") or llm.get("torch_dtype") or "float32").removeprefix("torch.")
    config: dict[str, Any] = {
        "text_config": {**_own(llm), "vocab_size": image_token + 1, "dtype": dtype},
        "vision_config": {**tower, "dtype": dtype},
        "image_token_index": image_token,
        "vision_feature_layer": release.get("mm_vision_select_layer", -2),
        "vision_feature_select_strategy": FEATURES[vision["model_type"]][1],
        "tie_word_embeddings": llm.get("tie_word_embeddings", False),
        "dtype": dtype,
        "architectures": ["VilaForConditionalGeneration"],
    }
    side = (vision["image_size"] // vision["patch_size"] + 1) // 2
    return {**config, "image_seq_length": side * side}


def _part(release: dict[str, Any], entry: str, folder: Path) -> dict[str, Any]:
    """The folder's own file takes precedence, as in the release's code; its copy in the top-level file is used if there is no folder."""
    file = folder / "config.json"
    if folder.parent != Path() and file.is_file():
        found: dict[str, Any] = ANYTHING.read(file).raw
        return found
    copy = release.get(entry)
    if isinstance(copy, dict):
        return copy
    raise UnsupportedModelError(
        f"this 'llava_llama' configuration has {entry}={copy!r} and no {file}: only VILA1.5's layout is supported, with the folders "
        f"{', '.join(PARTS.values())}; pass the path of a complete local copy"
    )


def _own(config: dict[str, Any]) -> dict[str, Any]:
    """The configuration without obsolete entries that transformers now refuses or ignores."""
    generic = ("_name_or_path", "architectures", "torch_dtype", "transformers_version", "max_length", "min_length", "_attn_implementation")
    return {name: value for name, value in config.items() if name not in generic and value is not None}


def _check(release: dict[str, Any], llm: dict[str, Any], vision: dict[str, Any], projector: dict[str, Any]) -> None:
    for setting in ("s2", "dynamic_s2", "ps3"):
        if release.get(setting):
            raise UnsupportedModelError(f"{setting}=true: a tower that runs at several scales is not supported; use a VILA1.5 without it")
    if release.get("mm_use_im_start_end"):
        raise UnsupportedModelError("mm_use_im_start_end=true: start and end tokens around images are not supported; VILA1.5 has none")
    tower: Any = vision.get("model_type")
    wanted: dict[str, tuple[Any, tuple[str, ...]]] = {
        "image_aspect_ratio": (release.get("image_aspect_ratio", "resize"), ("resize",)),
        "mm_projector_cfg.mm_projector_type": (projector.get("mm_projector_type"), ("mlp_downsample",)),
        "vision_tower_cfg.model_type": (tower, tuple(FEATURES)),
        "mm_vision_select_feature": (release.get("mm_vision_select_feature", "patch"), FEATURES.get(tower, ())[:1]),
        "llm_cfg.model_type": (llm.get("model_type"), ("llama",)),
    }
    for setting, (found, known) in wanted.items():
        if found not in known:
            raise UnsupportedModelError(f"{setting}={found!r} is not supported in this VILA; supported: {', '.join(known)}")
