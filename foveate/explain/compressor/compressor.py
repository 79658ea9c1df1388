"""A small network that predicts from the first layer's attention which visual tokens will matter: `ConvCompressor`."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from foveate.engine.identity import ModelIdentity
from foveate.errors import CompressorError, OptionError, RecordError
from foveate.explain.compressor.network import CompressorConfig, CompressorInput, ScoreNetwork
from foveate.files.checkpoints.finite import not_finite
from foveate.files.records import RecordSchema, check_regular, read_bytes
from foveate.files.writing import make_folder, write_whole

__all__ = ["EMBEDDED_COMPRESSOR", "COMPRESSOR_FORMAT", "SETTINGS", "WEIGHTS", "ConvCompressor"]

COMPRESSOR_FORMAT = 1
_HEADER = "foveate"
WEIGHTS = "compressor.safetensors"
"""The file name of a compressor; the file's header holds the settings."""
SETTINGS = "compressor.json"
"""The file of settings that earlier versions wrote next to the weights."""
EMBEDDED_COMPRESSOR = "demo"
"""The name of the compressor that is shipped with foveate, for the embedded model."""
_MOST_BYTES = 2**31


@dataclass(frozen=True)
class _Settings:
    """The content of compressor.json, or of the header."""

    config: dict[str, Any]
    model: ModelIdentity
    labels: dict[str, Any]
    training: dict[str, Any]
    sha256: str


_SCHEMA: RecordSchema[_Settings] = RecordSchema(
    "the settings of a compressor", _Settings, {"format": COMPRESSOR_FORMAT}, "copy or train it again, or update foveate"
)


class ConvCompressor(nn.Module):
    """Predicts the relevance of visual tokens from the attention that the language model's first layer is about to pay to them.

    Paper: "Task-Related Token Compression in Multimodal Large Language Models from an Explainability Perspective",
    https://arxiv.org/abs/2506.01097. `CompressorConfig(network="sequence", mean=True)` is its network.

    Args:
        config: the network's shape.
        model: the identity of the model whose attention it reads; see `foveate.engine.identity`.
        labels: how its training labels were made, JSON-serialisable.
        training: how it was trained and how well it did, JSON-serialisable.

    Raises:
        CompressorError: the model's number of heads or width differs from what the network was made for.
    """

    def __init__(
        self,
        config: CompressorConfig,
        model: ModelIdentity,
        labels: Mapping[str, Any] | None = None,
        training: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        if config.heads != model.heads or config.hidden not in (0, model.hidden):
            raise CompressorError(
                f"a network for {config.heads} heads and states of {config.hidden} cannot read a model of {model.heads} heads and width "
                f"{model.hidden}; make its configuration from the model's identity"
            )
        self.config, self.model = config, model
        self.labels, self.training_facts = dict(labels or {}), dict(training or {})
        self.network = ScoreNetwork(config)

    def __repr__(self) -> str:
        count = sum(value.numel() for value in self.parameters())
        return f"ConvCompressor({self.config.network}, {count} parameters, for {self.model.model_type})"

    def forward(self, images: Sequence[CompressorInput]) -> list[Tensor]:
        """Predicted relevance: per image (n,) float32, log-probabilities over its tokens."""
        return [scores.log_softmax(0) for scores in self.network(images)]

    def check(self, model: ModelIdentity) -> None:
        """Check that this compressor is usable, and that it was trained for the given model.

        Raises:
            CompressorError: its weights are not finite, or it was trained for another model; the message says what differs.
        """
        self.check_finite()
        differences = model.differences(self.model)
        if differences:
            raise CompressorError(
                f"this compressor was trained for another model than the one to be compressed, which has {'; '.join(differences)}; "
                f"name a compressor of this model, train one (foveate labels, then foveate train), or 'untrained' if only speed matters"
            )

    def check_finite(self) -> None:
        """Check that no weight is NaN or infinite.

        Raises:
            CompressorError: one is; the message names its tensor.
        """
        spoiled = not_finite(self.network.state_dict())
        if spoiled:
            raise CompressorError(f"{', '.join(spoiled)} of this compressor: not finite, so it cannot rank tokens; train it again")

    def save_pretrained(self, folder: str | Path) -> Path:
        """Write compressor.safetensors into a folder, with the settings in its header; a kill leaves the old file or the new one.

        Raises:
            CompressorError: a weight is NaN or infinite.
            WriteError: the folder cannot be created or written.
        """
        self.check_finite()
        folder = make_folder(folder)
        weights = {name: value.detach().cpu().contiguous() for name, value in self.network.state_dict().items()}
        settings = {
            "format": COMPRESSOR_FORMAT,
            "config": self.config.to_dict(),
            "model": self.model.to_dict(),
            "labels": self.labels,
            "training": self.training_facts,
            "sha256": _digest(weights),
        }
        write_whole(folder / WEIGHTS, save(weights, {_HEADER: json.dumps(settings, ensure_ascii=False)}))
        (folder / SETTINGS).unlink(missing_ok=True)  # of an earlier version's compressor
        return folder

    @classmethod
    def from_pretrained(cls, name: str | Path, *, revision: str | None = None) -> ConvCompressor:
        """Read what `save_pretrained` wrote, or the two files of earlier versions, ready to predict.

        Args:
            name: a folder, a Hugging Face id, or "demo" for the one that is shipped with foveate.
            revision: branch, tag or commit on the hub.

        Raises:
            CompressorError: files are missing, damaged, in a format that this version does not know, or hold weights that are not finite.
        """
        file = _file(name, WEIGHTS, revision)
        weights, header = _weights(file)
        origin = file if header is not None else _file(name, SETTINGS, revision)
        try:
            settings = (_SCHEMA.read(origin) if header is None else _SCHEMA.parse(header, str(file))).value
            found = _digest(weights) if header is not None else hashlib.sha256(read_bytes(file, _MOST_BYTES)).hexdigest()
        except RecordError as error:
            raise CompressorError(str(error)) from error
        if found != settings.sha256:
            also = f", or does not belong to the {SETTINGS} next to it" if header is None else ""
            raise CompressorError(f"{file} is damaged{also}; copy or train it again")
        try:
            config = CompressorConfig.from_dict(settings.config)
            _check_shapes(config, weights)
            compressor = cls(config, settings.model, settings.labels, settings.training)
            compressor.network.load_state_dict(weights)
        except (CompressorError, OptionError, RecordError, RuntimeError) as error:
            raise CompressorError(f"{origin} is not a valid compressor: {error}") from error
        try:
            compressor.check_finite()
        except CompressorError as error:
            raise CompressorError(f"{file}: {error}") from error
        return compressor.eval()


def _check_shapes(config: CompressorConfig, tensors: Mapping[str, Tensor]) -> None:
    """Check that a file has the weights of a network before memory is allocated for it: settings can ask for any size."""
    with torch.device("meta"):
        wanted = {name: tuple(value.shape) for name, value in ScoreNetwork(config).state_dict().items()}
    found = {name: tuple(value.shape) for name, value in tensors.items()}
    differing = sorted(name for name in wanted.keys() | found.keys() if wanted.get(name) != found.get(name))
    if differing:
        name = differing[0]
        raise RecordError(f"config wants {name} of shape {wanted.get(name)}, and the weights have {found.get(name)}")


def _file(name: str | Path, file: str, revision: str | None) -> Path:
    """The path of one of a compressor's files, downloaded from the hub if there is no such folder."""
    folder = Path(__file__).parents[2] / "demo" / "compressor" if name == EMBEDDED_COMPRESSOR else Path(name)
    if folder.exists() or name == EMBEDDED_COMPRESSOR or str(name).count("/") != 1 or str(name).startswith((".", "/", "~")):
        if not (folder / file).is_file():
            where = "is not a folder" if not folder.is_dir() else f"holds no {file}"
            raise CompressorError(f"{folder} {where}; name a folder that `foveate train` wrote, or a Hugging Face id such as owner/name")
        return folder / file
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    try:
        return Path(hf_hub_download(str(name), file, revision=revision))
    except (HfHubHTTPError, HFValidationError, OSError, ValueError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CompressorError(
            f"{name} is not a local folder, and no compressor could be downloaded from the Hugging Face hub: {reason}"
        ) from error


def _weights(file: Path) -> tuple[dict[str, Tensor], bytes | None]:
    """The tensors of a file, and the settings in its header; `None` if those are in a separate file."""
    try:
        check_regular(file)
        with safe_open(file, framework="pt") as opened:
            header = (opened.metadata() or {}).get(_HEADER)
            return {name: opened.get_tensor(name) for name in opened.keys()}, None if header is None else header.encode()  # noqa: SIM118
    except SafetensorError as error:
        raise CompressorError(f"{file} is damaged: {error}; copy or train it again") from error
    except RecordError as error:
        raise CompressorError(str(error)) from error
    except OSError as error:
        raise CompressorError(f"{file} cannot be read: {error.strerror or error}") from error


def _digest(weights: Mapping[str, Tensor]) -> str:
    """A hash over names, shapes, types and values."""
    found = hashlib.sha256()
    for name, value in sorted(weights.items()):
        found.update(f"{name} {value.dtype} {list(value.shape)}".encode())
        found.update(value.flatten().view(torch.uint8).numpy().tobytes())
    return found.hexdigest()
