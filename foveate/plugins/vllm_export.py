"""A model's folder as vLLM serves it with compression: the model's own files, and a configuration that says how to compress.

Imports nothing of vLLM, so a checkpoint can be exported where vLLM is not installed.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from foveate.chat.models import checkpoint_of
from foveate.demo.model.shapes import own_processor
from foveate.engine.identity import ModelIdentity
from foveate.errors import BudgetError, CheckpointError, InputError, LayerError, UnsupportedModelError
from foveate.explain.compressor.compressor import ConvCompressor
from foveate.files.checkpoints import Checkpoint, load_config
from foveate.files.checkpoints.files import CONFIG
from foveate.files.writing import whole_folder, write_whole
from foveate.method import Method
from foveate.methods.explainer import UNTRAINED, Explainer
from foveate.plugins.vllm.architectures import ARCHITECTURES, served
from foveate.plugins.vllm.settings import KEY, ServingSettings

__all__ = ["COMPRESSOR", "export_vllm"]

COMPRESSOR = "compressor"
"""The folder of a compressor in an exported one."""

_CODE_OR_PICKLE = (".py", ".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".h5", ".msgpack")
"""Files that could run code when they are read, or hold the weights again; a served folder has none of them."""
_TEMPLATES = "additional_chat_templates"
_WEIGHTS = ("model.safetensors", "model.safetensors.index.json")
_PROCESSORS = ("processor_config.json", "preprocessor_config.json")


def export_vllm(model: str | Path, out: str | Path, settings: ServingSettings, *, copy: bool = False) -> Path:
    """Write a folder that `vllm serve` serves with compression, completely or not at all.

    config.json is the model's, with the served architecture and with the settings under the key "foveate". Every other file that lies
    directly in the model's folder is linked by its absolute path, and so are the additional chat templates. Code and pickled weights
    are omitted. A compressor is always copied, as safetensors.

    Args:
        model: "demo" or another embedded model, a folder, or an id on the Hugging Face hub, which is downloaded.
        out: the folder to write; it must not exist, or be empty.
        settings: how to compress.
        copy: copy the files instead of linking them, so that the folder can be moved to another machine.

    Returns:
        the folder.

    Raises:
        InputError: the model is not available, damaged, or has no weights as safetensors, or the folder cannot be written there.
        UnsupportedModelError: the plugin does not serve this architecture, or vLLM does not have its processor.
        BudgetError, LayerError: the method does not fit the model.
        OptionError, MethodError, CompressorError: the method or its compressor cannot be saved, or was trained for another model.
        WriteError: writing failed; there is no folder then.
    """
    place = _place(Path(out))
    checkpoint = checkpoint_of(str(model))
    config = checkpoint.config()
    config["architectures"] = [_architecture(checkpoint.name, config)]
    read = load_config(checkpoint)
    _check_method(settings, config, read)
    settings, compressor = _with_own_compressor(settings, read)
    config[KEY] = settings.to_dict()
    files = _files(checkpoint, place)
    with whole_folder(place) as folder:
        for name, source in files.items():
            (folder / name).parent.mkdir(exist_ok=True)
            if copy:
                shutil.copyfile(source, folder / name)
            else:
                (folder / name).symlink_to(source)
        if compressor is not None:
            compressor.save_pretrained(folder / COMPRESSOR)
        write_whole(folder / CONFIG, json.dumps(config, indent=2) + "\n")
    return place


def _place(out: Path) -> Path:
    """Where the folder will be.

    Raises:
        InputError: something is there, or the place cannot be.
    """
    try:
        out = out.expanduser().resolve()
        if out.exists() and not out.is_dir():
            raise InputError(f"cannot write a folder to {out}: it is a file; name another place")
        if out.is_dir() and any(out.iterdir()):
            raise InputError(f"{out} is not empty; name a folder that does not exist yet, or an empty one")
        if not out.parent.is_dir():
            raise InputError(f"cannot write a folder to {out}: there is no folder {out.parent}; create it first")
    except (OSError, ValueError, RuntimeError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"cannot write a folder to {str(out)!r:.200}: {getattr(error, 'strerror', None) or error}") from error
    return out


def _architecture(name: str, config: Mapping[str, Any]) -> str:
    named = config.get("architectures")
    if not isinstance(named, list) or not named or not isinstance(named[0], str):
        raise CheckpointError(f'{name}: {CONFIG} names no class of a model under "architectures"; save it with transformers again')
    try:
        return served(named[0])
    except KeyError as error:
        known = ", ".join(ARCHITECTURES)
        raise UnsupportedModelError(f"{name} is a {named[0]}, which the vLLM plugin does not serve; it serves {known}") from error


def _check_method(settings: ServingSettings, written: Mapping[str, Any], config: Any) -> None:
    """Refuse a method that does not fit the model.

    Raises:
        LayerError: the decoder has no such layer.
        BudgetError: an image has fewer tokens, where their number is known.
    """
    method, layers = settings.method, config.get_text_config().num_hidden_layers
    if method.layer >= layers:
        raise LayerError(f"{method}: layer={method.layer}, but the decoder's last layer is {layers - 1}; choose a layer below {layers}")
    tokens = _tokens(written)
    if tokens is None:
        return
    for name, keep in {"keep": method.keep, "max_keep": settings.most.keep}.items():
        if isinstance(keep, int) and keep > tokens:
            error = BudgetError(f"{name}={keep} is above the {tokens} visual tokens that every image has in this model; lower it")
            error.parameters = (name,)
            raise error


def _tokens(written: Mapping[str, Any]) -> int | None:
    """Visual tokens of every image; `None` where that depends on the image, or the configuration does not say it in two places."""
    stated, vision = written.get("image_seq_length"), written.get("vision_config")
    if "image_grid_pinpoints" in written or not isinstance(stated, int) or not isinstance(vision, dict):
        return None
    side, patch = vision.get("image_size"), vision.get("patch_size")
    known = isinstance(side, int) and isinstance(patch, int) and patch > 0 and (side // patch) ** 2 == stated
    return stated if known else None


def _with_own_compressor(settings: ServingSettings, config: Any) -> tuple[ServingSettings, ConvCompressor | None]:
    """The settings with a compressor that lies in the exported folder, and that compressor.

    Raises:
        CompressorError: it is missing or damaged, or was trained for another model.
    """
    method: Method = settings.method
    if not isinstance(method, Explainer) or method.compressor == UNTRAINED:
        return settings, None
    given = method.compressor
    compressor = given if isinstance(given, ConvCompressor) else ConvCompressor.from_pretrained(given)
    compressor.check(_identity(config))
    compressor.check_finite()
    return replace(settings, method=replace(method, compressor=COMPRESSOR)), compressor


def _identity(config: Any) -> ModelIdentity:
    """What a configuration says of a model's identity; the server, which has the weights, compares those too."""
    text = config.get_text_config()
    return ModelIdentity(
        model_type=config.model_type,
        decoder_type=text.model_type,
        hidden=text.hidden_size,
        layers=text.num_hidden_layers,
        heads=text.num_attention_heads,
        vocabulary=text.vocab_size,
        weights=None,
    )


def _files(checkpoint: Checkpoint, place: Path) -> dict[str, Path]:
    """The files of a model that the exported folder has besides config.json, by their names there.

    Raises:
        CheckpointError: files are missing or damaged, or the folder to write lies in the model's.
    """
    folder = (checkpoint.folder or _downloaded(checkpoint)).resolve()
    if place.is_relative_to(folder):
        raise InputError(f"{place} lies in the folder of the model, {folder}; name a place outside it")
    _check_weights(Checkpoint(checkpoint.name, str(folder)))
    found = {}
    for path in sorted([*folder.iterdir(), *(folder / _TEMPLATES).glob("*")]):
        name = path.relative_to(folder).as_posix()
        if name == CONFIG or path.name.startswith(".") or path.suffix in _CODE_OR_PICKLE or path.is_dir():
            continue
        if not path.is_file():
            raise CheckpointError(f"{path} is no regular file, or a broken link; copy or download the model again")
        found[name] = path.resolve()
    return found


def _check_weights(checkpoint: Checkpoint) -> None:
    """Refuse a folder that vLLM could not serve, or only by unpickling.

    Raises:
        CheckpointError: it has no weights as safetensors, or they are damaged, or there is no processor.
        UnsupportedModelError: its processor is one of foveate's.
    """
    if not any(checkpoint.file(name) for name in _WEIGHTS):
        raise CheckpointError(
            f"{checkpoint.name} has no weights as safetensors ({' or '.join(_WEIGHTS)}), and a served folder has no pickled ones; load it "
            f"with transformers, and save it with save_pretrained"
        )
    checkpoint.weights()
    if not any(checkpoint.file(name) for name in _PROCESSORS):
        raise CheckpointError(f"{checkpoint.name} has no processor ({' or '.join(_PROCESSORS)}); save the model's own into its folder")
    if checkpoint.folder is not None and own_processor(checkpoint.folder) is not None:
        raise UnsupportedModelError(f"{checkpoint.name} has a processor of foveate's own, which vLLM does not have; serve demo instead")


def _downloaded(checkpoint: Checkpoint) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError

    try:
        return Path(snapshot_download(checkpoint.source, ignore_patterns=[f"*{suffix}" for suffix in _CODE_OR_PICKLE]))
    except (HfHubHTTPError, OSError, ValueError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(f"{checkpoint.name} cannot be downloaded from the Hugging Face hub: {reason}") from error
