"""A small network that tells from the first layer's attention which visual tokens will matter: `ConvCompressor`."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from foveate.errors import CompressorError, OptionError, RecordError
from foveate.explain.identity import ModelIdentity
from foveate.explain.network import CompressorConfig, ScoreNetwork, Sight
from foveate.files import write_whole
from foveate.records import Form, read_bytes

__all__ = ["DEMO", "FORMAT", "SETTINGS", "WEIGHTS", "ConvCompressor"]

FORMAT = 1
SETTINGS, WEIGHTS = "compressor.json", "compressor.safetensors"
DEMO = "demo"
"""The name of the compressor that comes with foveate, for the embedded model."""
_MOST_BYTES = 2**31


@dataclass(frozen=True)
class _Settings:
    """What compressor.json holds."""

    config: dict[str, Any]
    model: ModelIdentity
    labels: dict[str, Any]
    training: dict[str, Any]
    sha256: str


_FORM: Form[_Settings] = Form("the settings of a compressor", _Settings, {"format": FORMAT}, "copy or train it anew, or update foveate")


class ConvCompressor(nn.Module):
    """Predicts the relevance of visual tokens from the attention that the language model's first layer is about to pay them.

    Paper: "Task-Related Token Compression in Multimodal Large Language Models from an Explainability Perspective",
    https://arxiv.org/abs/2506.01097. `CompressorConfig(network="sequence", mean=True)` is its network.

    Args:
        config: the network's shape.
        model: the identity of the model whose attention it reads; see `foveate.explain.identity`.
        labels: how the labels were made that it learned from, JSON-able.
        training: how it was trained and how well it did, JSON-able.

    Raises:
        CompressorError: the model has another number of heads or another width than the network was made for.
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

    def forward(self, sights: Sequence[Sight]) -> list[Tensor]:
        """Predicted relevance of each image's tokens: per image (n,) float32, log-probabilities that sum to one over its tokens."""
        return [scores.log_softmax(0) for scores in self.network(sights)]

    def check(self, model: ModelIdentity) -> None:
        """See that a model is the one that this compressor was trained for.

        Raises:
            CompressorError: it is not; the message says what differs.
        """
        differences = model.differences(self.model)
        if differences:
            raise CompressorError(
                f"this compressor was trained for another model than the one to be compressed, which has {'; '.join(differences)}; "
                f"name a compressor of this model, train one (foveate labels, then foveate train), or 'untrained' if only speed matters"
            )

    def save_pretrained(self, folder: str | Path) -> Path:
        """Write compressor.safetensors and compressor.json into a folder, each whole or not at all.

        Raises:
            OSError: the folder cannot be made or written.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        weights = save({name: value.detach().cpu().contiguous() for name, value in self.network.state_dict().items()})
        settings = {
            "format": FORMAT,
            "config": self.config.to_dict(),
            "model": self.model.to_dict(),
            "labels": self.labels,
            "training": self.training_facts,
            "sha256": hashlib.sha256(weights).hexdigest(),
        }
        write_whole(folder / WEIGHTS, weights)
        write_whole(folder / SETTINGS, json.dumps(settings, indent=1, ensure_ascii=False) + "\n")
        return folder

    @classmethod
    def from_pretrained(cls, name: str | Path, *, revision: str | None = None) -> ConvCompressor:
        """Read what `save_pretrained` wrote, ready to predict.

        Args:
            name: a folder, a Hugging Face id, or "demo" for the one that comes with foveate.
            revision: branch, tag or commit on the hub.

        Raises:
            CompressorError: files are missing or damaged, or of a format that this version does not know.
        """
        settings_file, weights_file = _files(name, revision)
        try:
            settings, weights = _FORM.read(settings_file).value, read_bytes(weights_file, _MOST_BYTES)
        except RecordError as error:
            raise CompressorError(str(error)) from error
        if hashlib.sha256(weights).hexdigest() != settings.sha256:
            raise CompressorError(f"{weights_file} is damaged, or does not belong to the {SETTINGS} beside it; copy or train it anew")
        try:
            config, tensors = CompressorConfig.from_dict(settings.config), load(weights)
            _check_shapes(config, tensors)
            compressor = cls(config, settings.model, settings.labels, settings.training)
            compressor.network.load_state_dict(tensors)
        except (CompressorError, OptionError, RecordError, RuntimeError, SafetensorError) as error:
            raise CompressorError(f"{settings_file} and {WEIGHTS} make no compressor: {error}") from error
        return compressor.eval()


def _check_shapes(config: CompressorConfig, tensors: Mapping[str, Tensor]) -> None:
    """See that a file has the weights of a network, before memory is taken for one: settings can ask for any size."""
    with torch.device("meta"):
        wanted = {name: tuple(value.shape) for name, value in ScoreNetwork(config).state_dict().items()}
    found = {name: tuple(value.shape) for name, value in tensors.items()}
    differing = sorted(name for name in wanted.keys() | found.keys() if wanted.get(name) != found.get(name))
    if differing:
        name = differing[0]
        raise RecordError(f"config wants {name} of shape {wanted.get(name)}, and the weights have {found.get(name)}")


def _files(name: str | Path, revision: str | None) -> tuple[Path, Path]:
    """Where settings and weights lie, fetched from the hub if there is no such folder."""
    folder = Path(__file__).parents[1] / "demo" / "compressor" if name == DEMO else Path(name)
    if folder.exists() or name == DEMO or str(name).count("/") != 1 or str(name).startswith((".", "/", "~")):
        missing = [file for file in (SETTINGS, WEIGHTS) if not (folder / file).is_file()]
        if missing:
            where = "is no folder" if not folder.is_dir() else f"holds no {' and no '.join(missing)}"
            raise CompressorError(f"{folder} {where}; name a folder that `foveate train` wrote, or a Hugging Face id such as owner/name")
        return folder / SETTINGS, folder / WEIGHTS
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    try:
        settings, weights = (hf_hub_download(str(name), file, revision=revision) for file in (SETTINGS, WEIGHTS))
    except (HfHubHTTPError, HFValidationError, OSError, ValueError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CompressorError(f"{name} is no folder here, and no compressor came from the Hugging Face hub: {reason}") from error
    return Path(settings), Path(weights)
