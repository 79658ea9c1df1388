"""Explainer: a small trained network predicts, at the language model's input, which tokens the answer will rest on."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from foveate.engine.identity import ModelIdentity
from foveate.errors import CompressorError, OptionError
from foveate.explain.compressor.compressor import EMBEDDED_COMPRESSOR, WEIGHTS, ConvCompressor
from foveate.explain.compressor.network import CompressorConfig, CompressorInput
from foveate.method import SAVING
from foveate.methods._attention import check_attention
from foveate.methods._first_layer import check_layer, check_question
from foveate.methods.mass import MassMethod
from foveate.methods.registry import register
from foveate.plan import Plan
from foveate.view import View

__all__ = ["UNTRAINED", "Explainer"]

UNTRAINED = "untrained"
"""The name of a compressor with random weights."""


@register
@dataclass(frozen=True)
class Explainer(MassMethod):
    """Keeps the tokens that a small network, trained for this model, predicts to be relevant, before the language model runs.

    Paper: "Task-Related Token Compression in Multimodal Large Language Models from an Explainability Perspective",
    https://arxiv.org/abs/2506.01097. The network sees the attention that decoder layer 0 is about to pay the visual tokens, one row per
    head, averaged over the text after the last visual token: the question and what the chat template adds. If the question comes
    before the image, only the template's words after the image are used. A prompt that ends with a visual token is refused, because no
    text attends to the image. Among equal predictions, the lower index stays.

    Args:
        keep: visual tokens that remain per image (int) or the share of them (float), as in `Method`.
        layer: 0, because the network's input comes from there.
        clamp: as in `Method`.
        compressor: what `foveate train` wrote: a folder, a Hugging Face id, "demo" for the embedded model's, or a `ConvCompressor`.
            "untrained" is a network with random weights for any model, to measure the cost of choosing; what it keeps means nothing.
        mass: as in `MassMethod`: share of the predicted relevance that the kept tokens hold, at most `keep` of them; `None` keeps
            exactly `keep`.
        at_least: as in `MassMethod`: the fewest tokens that `mass` keeps.

    Raises:
        LayerError: `layer` is not 0.
        OptionError: `compressor` is none of these.
        CompressorError: in `compress`: the compressor is missing, damaged, or was trained for another model.
    """

    keep: int | float = 0.5
    layer: int = 0
    compressor: str | Path | ConvCompressor = field(
        default=EMBEDDED_COMPRESSOR, metadata={SAVING: "write it with its save_pretrained(folder), and pass that folder as compressor"}
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        check_layer(self)
        if not isinstance(self.compressor, str | Path | ConvCompressor) or not str(self.compressor):
            raise OptionError(
                f"compressor={self.compressor!r} must be a folder, a Hugging Face id, 'demo', 'untrained', or a ConvCompressor"
            )
        if isinstance(self.compressor, Path):
            object.__setattr__(self, "compressor", str(self.compressor))  # one form, so that a configuration equals its copy

    @property
    def needs(self) -> frozenset[str]:
        """The attention of the question tokens, one row per head."""
        return frozenset({"head_attention"})

    def check(self, identify: Callable[[], ModelIdentity]) -> None:
        """Load the compressor, and check that it was trained for the model."""
        if self.compressor != UNTRAINED:
            self._network().check(identify())

    def score(self, view: View) -> Tensor:
        """The predicted log-probability of each token, shape (n,)."""
        return self._all_scores([view])[0]

    def plan(self, view: View) -> Plan:
        """Decide for one image."""
        return self.plans([view])[0]

    def plans(self, views: Sequence[View]) -> list[Plan]:
        """Decide for several images, whose scores are computed together on an accelerator."""
        return self._best(views, self._all_scores(views))

    def importance(self, scores: Tensor) -> Tensor:
        """The predicted shares of the image's relevance."""
        return scores.double().softmax(-1)

    def _all_scores(self, views: Sequence[View]) -> list[Tensor]:
        if not views:
            return []
        check_question(views)
        network, device = self._network(len(views[0].signal("head_attention"))), views[0].states.device
        inputs = [_network_input(view, network) for view in views]
        # A CPU gains nothing from a batch.
        batches = [[each] for each in inputs] if device.type == "cpu" else [inputs]
        with torch.no_grad(), torch.autocast(device.type, enabled=False):
            if any(parameter.device != device for parameter in network.parameters()):  # `to` takes long where there is nothing to do
                network.to(device)
            return [scores for batch in batches for scores in network(batch)]

    def _network(self, heads: int = 1) -> ConvCompressor:
        if isinstance(self.compressor, ConvCompressor):
            return self.compressor.eval()
        if self.compressor == UNTRAINED:
            return _untrained(heads)
        return _loaded(str(self.compressor), _stamp(self.compressor))


def _network_input(view: View, network: ConvCompressor) -> CompressorInput:
    attention = check_attention(view.signal("head_attention"), [view], "head_attention")
    if len(attention) != network.config.heads:
        raise CompressorError(f"head_attention has {len(attention)} heads, and the compressor was made for {network.config.heads}")
    return CompressorInput(attention, view.parts, view.states if network.config.hidden else None, view.index)


def _stamp(name: str | Path) -> int:
    """A number that changes with the weights in a folder, so that a compressor that was trained again is read again."""
    file = Path(name) / WEIGHTS
    return file.stat().st_mtime_ns if file.is_file() else 0


@functools.lru_cache(maxsize=4)
def _untrained(heads: int) -> ConvCompressor:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        no_model = ModelIdentity(UNTRAINED, UNTRAINED, hidden=0, layers=0, heads=heads, vocabulary=0, weights=None)
        return ConvCompressor(CompressorConfig(heads), no_model).eval()


@functools.lru_cache(maxsize=4)
def _loaded(name: str, stamp: int) -> ConvCompressor:
    return ConvCompressor.from_pretrained(name)
