"""The content of a checkpoint's folder or hub repository, inspected before anything is loaded."""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from foveate.errors import CheckpointError

__all__ = ["CONFIG", "Checkpoint", "Weights", "find_checkpoint", "read_json", "some"]

CONFIG, ADAPTER, GENERATION = "config.json", "adapter_config.json", "generation_config.json"
_WHOLE = ("model.safetensors", "pytorch_model.bin")
_INDEX = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
_LARGEST = 64 * 2**20
"""Most bytes of a JSON file. The largest index of published weights has about 10 MB."""

_OLD_FORMAT = b"l\xfc\x9cF\xf9 j\xa8P\x19"
_WAY_OUT = "copy or download the model again"


@dataclass(frozen=True)
class Weights:
    """The weight files of a checkpoint, or of a part of it.

    Attributes:
        tensors: how many there are; `None` if only reading everything would tell.
        bytes: of all files together; `None` if an index does not say.
    """

    tensors: int | None
    bytes: int | None

    def __add__(self, other: Weights) -> Weights:
        return Weights(_sum(self.tensors, other.tensors), _sum(self.bytes, other.bytes))


@dataclass(frozen=True)
class Checkpoint:
    """A model's files, in a folder or on the Hugging Face hub.

    Attributes:
        name: as the user gave it, for messages.
        source: the argument for `from_pretrained`: the path of an existing folder, or the id on the hub.
    """

    name: str
    source: str

    @property
    def folder(self) -> Path | None:
        """The folder, unless the files come from the hub."""
        return Path(self.source) if os.path.isdir(self.source) else None

    def file(self, name: str) -> Path | None:
        """One of the files, downloaded if it is on the hub; `None` if the checkpoint has no file of that name.

        Raises:
            CheckpointError: the hub has no such model for this user, or cannot be reached for the first file.
        """
        from huggingface_hub import hf_hub_download
        from huggingface_hub.errors import EntryNotFoundError, GatedRepoError, LocalEntryNotFoundError, RepositoryNotFoundError

        if self.folder is not None:
            return self.folder / name if (self.folder / name).is_file() else None
        try:
            return Path(hf_hub_download(self.source, name))
        except LocalEntryNotFoundError as error:
            if name != CONFIG:  # a cached model needs no more than it has
                return None
            raise CheckpointError(
                f"{self.name} is not a local folder, and the Hugging Face hub cannot be reached to download it; pass demo, or a folder"
            ) from error
        except EntryNotFoundError:
            return None
        except GatedRepoError as error:
            raise CheckpointError(
                f"{self.name} is closed: accept its terms on https://huggingface.co/{self.source}, then run hf auth login"
            ) from error
        except RepositoryNotFoundError as error:
            raise CheckpointError(
                f"{self.name} is not a local folder, and the Hugging Face hub has no such model, or it is private (hf auth login)"
            ) from error

    def json(self, name: str) -> dict[str, Any] | None:
        """One of the files as a JSON object; `None` if there is none.

        Raises:
            CheckpointError: it is damaged; see `file`.
        """
        path = self.file(name)
        return None if path is None else read_json(path)

    def config(self) -> dict[str, Any]:
        """The configuration as it was written.

        Raises:
            CheckpointError: it is missing or damaged, the checkpoint is an adapter, or needs code of its own.
        """
        config = self.json(CONFIG)
        self._refuse_adapter()
        if config is None:
            raise CheckpointError(f"{self.name} has no {CONFIG}, so it holds no transformers model{self._instead()}; {_WAY_OUT}")
        if not isinstance(config.get("model_type"), str):
            self.refuse_code(config)
            raise CheckpointError(f"{self.name}: {CONFIG} has model_type={config.get('model_type')!r}, not the name of a model type")
        return config

    def refuse_code(self, settings: Mapping[str, Any]) -> None:
        """Refuse settings that name classes defined by the checkpoint itself.

        Raises:
            CheckpointError: they do.
        """
        own = settings.get("auto_map")
        if not own:
            return
        named = some([str(value) for value in own.values()]) if isinstance(own, dict) else repr(own)
        raise CheckpointError(
            f"{self.name} needs code that it ships itself (auto_map: {named}), which foveate never runs, and this version of "
            f"transformers has no such class; take a checkpoint in transformers' own format, often called -hf"
        )

    def weights(self) -> Weights:
        """The content of the weight files, from their headers.

        Raises:
            CheckpointError: files are missing or damaged.
        """
        for whole, index in zip(_WHOLE, _INDEX, strict=True):
            single = self.file(whole)
            if single is not None:
                return look_into(single)
            listing = self.file(index)
            if listing is not None:
                return self._shards(listing)
        expected = " or ".join(_WHOLE)
        raise CheckpointError(f"{self.name} has no weights: expected {expected}, whole or in shards with their index{self._instead()}")

    def _shards(self, index: Path) -> Weights:
        entries = read_json(index).get("weight_map")
        if not isinstance(entries, dict) or not entries or not all(isinstance(name, str) for name in entries.values()):
            raise CheckpointError(f"{index} is damaged: its weight_map names no files of tensors; {_WAY_OUT}")
        names = sorted(set(entries.values()))
        # an index is untrusted data: it may not lead out of its folder
        astray = [name for name in names if Path(name).name != name]
        if astray:
            raise CheckpointError(f"{index} names {some(astray)}, which is not next to it; a shard must be in the folder of its index")
        if self.folder is None:  # transformers inspects what is not downloaded yet
            facts = read_json(index).get("metadata")
            size = facts.get("total_size") if isinstance(facts, dict) else None
            return Weights(len(entries), size if isinstance(size, int) else None)
        missing = [name for name in names if not (index.parent / name).is_file()]
        if missing:
            raise CheckpointError(
                f"{index} names {len(missing)} of {len(names)} files that are not next to it ({some(missing)}); copy or download them, too"
            )
        found = Weights(0, 0)
        for name in names:
            found += look_into(index.parent / name)
        return found

    def _refuse_adapter(self) -> None:
        adapter = self.json(ADAPTER)
        if adapter is None:
            return
        base = adapter.get("base_model_name_or_path") or "a model that it does not name"
        raise CheckpointError(
            f"{self.name} is a PEFT adapter for {base} ({ADAPTER}), not a whole model: pass {base}, or load both with peft, "
            f"merge_and_unload, and save the model together with its processor"
        )

    def _instead(self) -> str:
        """Other files that may be what the user meant."""
        if self.folder is None:
            return ""
        kinds = (".gguf", ".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".json")
        found = [file.name for file in self.folder.iterdir() if file.suffix in kinds]
        names = sorted(found, key=lambda name: (name.endswith(".json"), name))
        return f" (there is {some(names)})" if names else " (the folder has none of its files)"


def find_checkpoint(name: str, folder: Path | None = None) -> Checkpoint:
    """Find the files of a model.

    Args:
        name: a folder, or an id on the Hugging Face hub.
        folder: where they are, if the name is one of foveate's own.

    Raises:
        CheckpointError: there is no such folder, and the name cannot be an id.
    """
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

    if folder is not None:
        return Checkpoint(name, str(folder))
    path = os.path.expanduser(name)
    if os.path.isdir(path):  # unlike Path.is_dir, does not raise for names that no file can have
        return Checkpoint(name, os.path.normpath(path))
    if os.path.isfile(path):
        raise CheckpointError(f"{name} is a file, and a model is a folder of files; pass the folder that contains it")
    if not name.strip() or name.startswith((".", "/", "~")):
        raise CheckpointError(f"no such model folder: {name!r}; pass demo, a folder or a Hugging Face id")
    try:
        validate_repo_id(name)
    except HFValidationError as error:
        raise CheckpointError(
            f"no such model folder: {name!r}, and no Hugging Face id looks like that; pass demo, a folder or an id"
        ) from error
    return Checkpoint(name, name)


def read_json(path: Path) -> dict[str, Any]:
    """An object from a JSON file.

    Raises:
        CheckpointError: it is not one, or cannot be read.
    """
    try:
        if path.stat().st_size > _LARGEST:
            raise CheckpointError(
                f"{path} has {path.stat().st_size / 2**20:.0f} MiB, more than the {_LARGEST // 2**20} MiB that settings may have"
            )
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise CheckpointError(f"{path} is damaged: it is not UTF-8 text; {_WAY_OUT}") from error
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror or error}") from error
    if not text.strip():
        raise CheckpointError(f"{path} is empty; {_WAY_OUT}")
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        reason = "it is nested too deeply" if isinstance(error, RecursionError) else f"it is not JSON ({error})"
        raise CheckpointError(f"{path} is damaged: {reason}; {_WAY_OUT}") from error
    if not isinstance(found, dict):
        raise CheckpointError(f"{path} is damaged: it holds a {type(found).__name__} where settings by name belong; {_WAY_OUT}")
    return found


def look_into(file: Path) -> Weights:
    """The content of a weight file, from its header alone.

    Raises:
        CheckpointError: it is damaged or cut off.
    """
    from safetensors import SafetensorError, safe_open

    size, tensors = file.stat().st_size, None
    try:
        if file.suffix == ".safetensors":
            with safe_open(file, framework="pt") as opened:
                tensors = len(opened.keys())
        elif zipfile.is_zipfile(file):
            with zipfile.ZipFile(file) as archive:
                tensors = sum("/data/" in name for name in archive.namelist())
        else:
            _check_old_format(file)
    except (SafetensorError, zipfile.BadZipFile, OSError) as error:
        raise CheckpointError(f"{file} is damaged or cut off ({error}); {_WAY_OUT}") from error
    return Weights(tensors, size)


def _sum(one: int | None, other: int | None) -> int | None:
    return None if one is None or other is None else one + other


def _check_old_format(file: Path) -> None:
    """Refuse anything but PyTorch files; the older ones begin with a magic number of their own."""
    with file.open("rb") as opened:
        if _OLD_FORMAT not in opened.read(64):
            raise CheckpointError(f"{file} is damaged or cut off (it is not a PyTorch file); {_WAY_OUT}")


def some(names: list[str], most: int = 3) -> str:
    """The first few of a list, and how many more there are."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
