"""What a served checkpoint says about compression: the key "foveate" of its config.json, or of --hf-overrides.

{"method": {"method": "tokencarve", "keep": 128}, "max_keep": 256, "feature_cache_mib": 128}
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from foveate.errors import BudgetError, OptionError, RecordError, UnsupportedError
from foveate.files.records import Amount, RecordSchema
from foveate.method import Method
from foveate.methods.configuration import method_from_dict, method_to_dict
from foveate.methods.explainer import Explainer
from foveate.methods.oracle import Oracle
from foveate.methods.pool import Pool
from foveate.methods.random import Random

__all__ = ["FEATURE_CACHE_MIB", "KEY", "ServingSettings"]

KEY = "foveate"
"""Where the settings stand in a configuration."""
FEATURE_CACHE_MIB = 128.0
_UNREAD = frozenset({"earlier_states", "keys", "next_attention", "queries", "question_embeddings", "question_keys"})
"""Signals of the decoder that no server reads."""


@dataclass(frozen=True)
class _Record:
    method: dict[str, Any]
    max_keep: int | float | None = None
    feature_cache_mib: Amount = FEATURE_CACHE_MIB


_SCHEMA: RecordSchema[_Record] = RecordSchema("the settings of a served model", _Record, remedy="write them with `foveate export vllm`")
_KEYS = ("method", "max_keep", "feature_cache_mib")


@dataclass(frozen=True)
class ServingSettings:
    """How a server compresses.

    Args:
        method: decides which visual tokens stay, at the language model's input. One of a later layer runs the layers before it ahead of
            the prefill. Whatever its `clamp`, an image that has fewer tokens than its budget keeps all of them.
        max_keep: the largest `keep` that a request may ask for, in the same unit as the method's; `None`: the method's own.
        feature_cache_mib: most MiB of vision features of recent images that stay in memory, per worker; 0 keeps none.

    Raises:
        UnsupportedError: the method is a schedule or acts in several stages, keeps a number of tokens that only the image decides, or needs
            what no server has.
        BudgetError: `max_keep` is no budget, of another unit than the method's `keep`, or smaller.
        OptionError: `feature_cache_mib` is negative or not finite.
    """

    method: Method
    max_keep: int | float | None = None
    feature_cache_mib: float = FEATURE_CACHE_MIB

    def __post_init__(self) -> None:
        if not isinstance(self.method, Method):
            raise UnsupportedError("a server takes one method, not a schedule: the prefill is as short as its first cut from the start")
        if not self.method.exact:
            raise UnsupportedError(f"how many tokens {self.method} keeps depends on the image; a server must know it from the image's size")
        if isinstance(self.method, Oracle):
            raise UnsupportedError("Oracle decides by relevance that is known beforehand, which a server does not have")
        if type(self.method).stages is not Method.stages:
            raise UnsupportedError(
                f"{self.method} acts in several stages, and the prefill of a server is as short as the first cut from the start; "
                "take a method that acts once, such as FastV or TokenCarve"
            )
        if unread := sorted(self.method.needs & _UNREAD):
            raise UnsupportedError(
                f"{self.method} needs {', '.join(unread)}, which no server reads; FastV and TokenCarve need attention, which it reads"
            )
        # Random and Pool read no layer, so nothing has to run ahead for them. Images that are smaller than the budget are no error.
        layer = 0 if isinstance(self.method, Random | Pool) else self.method.layer
        object.__setattr__(self, "method", replace(self.method, layer=layer, clamp=True))
        size = self.feature_cache_mib
        if isinstance(size, bool) or not isinstance(size, int | float) or not 0 <= size < float("inf"):
            raise OptionError(f"feature_cache_mib={size!r} must be a number of MiB from 0 upwards; 0 keeps no features")
        most = self.most
        if type(most.keep) is not type(self.method.keep):
            raise BudgetError(f"max_keep={self.max_keep!r} must be of the same unit as keep={self.method.keep!r}: tokens (int) or a share")
        if most.keep < self.method.keep:
            raise BudgetError(f"max_keep={self.max_keep!r} is smaller than keep={self.method.keep!r}; raise it or leave it out")

    @property
    def most(self) -> Method:
        """The method with the largest budget that a request may ask for."""
        return self.method if self.max_keep is None else replace(self.method, keep=self._in_unit(self.max_keep))

    def _in_unit(self, keep: Any) -> Any:
        """The budget, with 1 as a share where the method counts in shares: JSON has one kind of number."""
        return 1.0 if isinstance(self.method.keep, float) and type(keep) is int and keep == 1 else keep

    def asked(self, keep: Any) -> Method:
        """The method of a request, with the `keep` that it asks for; `None` asks for the server's.

        Raises:
            BudgetError: it is no budget, of another unit than the server's, or above `max_keep`.
        """
        if keep is None:
            return self.method
        method = replace(self.method, keep=self._in_unit(keep))
        if type(method.keep) is not type(self.method.keep):
            unit = "tokens per image (int)" if isinstance(self.method.keep, int) else "a share of the tokens (float)"
            raise BudgetError(f"keep={keep!r} of this request must be {unit}, as this server counts")
        limit = self.most.keep
        if method.keep > limit:
            raise BudgetError(
                f"keep={keep!r} of this request is above the {limit!r} that this server allows; ask for less, or raise its max_keep"
            )
        return method

    def to_dict(self) -> dict[str, Any]:
        """As config.json holds them; `from_dict` is the inverse."""
        data: dict[str, Any] = {"method": method_to_dict(self.method), "feature_cache_mib": self.feature_cache_mib}
        return data if self.max_keep is None else {**data, "max_keep": self.max_keep}

    @classmethod
    def from_dict(cls, data: Any, folder: str | Path | None = None) -> ServingSettings:
        """Read settings.

        Args:
            data: the value of the key "foveate".
            folder: the checkpoint's folder; a compressor's relative path is one in it.

        Raises:
            RecordError: the settings are missing or unknown, or the method is no method.
            FoveateError: as the class.
        """
        where = f'the key "{KEY}" of the model\'s configuration'
        if data is None:
            raise RecordError(
                f"{where} is missing, so it is unknown how to compress; serve a folder that `foveate export vllm` wrote, or give it "
                f'in --hf-overrides: {{"{KEY}": {{"method": {{"method": "tokencarve", "keep": 128}}}}}}'
            )
        record = _SCHEMA.of(dict(data) if isinstance(data, Mapping) else data, where).value
        unknown = sorted(set(data) - set(_KEYS))
        if unknown:
            raise RecordError(f"{where} has {', '.join(unknown)}, which it does not know; its keys are {', '.join(_KEYS)}")
        method = method_from_dict({"format": 1, **record.method})
        if not isinstance(method, Method):
            raise UnsupportedError("a server takes one method, not a schedule: the prefill is as short as its first cut from the start")
        return cls(_placed(method, folder), record.max_keep, record.feature_cache_mib)


def _placed(method: Method, folder: str | Path | None) -> Method:
    """The method with its compressor's path made absolute, if that is one in the checkpoint's folder."""
    name = getattr(method, "compressor", None)
    if folder is None or not isinstance(method, Explainer) or not isinstance(name, str) or Path(name).is_absolute():
        return method
    inside = Path(folder) / name
    if not inside.is_dir():
        return method
    return replace(method, compressor=str(inside))
