"""The base class of every method."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import Field, dataclass, fields
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from pydantic_core import PydanticSerializationError, to_jsonable_python
from torch import Tensor, nn

from foveate.devices import require
from foveate.errors import BudgetError, LayerError, MethodError, OptionError, UsageError
from foveate.plan import DROPPED, Plan
from foveate.printable import described
from foveate.view import View

if TYPE_CHECKING:
    from foveate.engine.identity import ModelIdentity

__all__ = ["METHOD_FORMAT", "SAVING", "Method", "brief", "keep_best", "ranking", "schedule_of"]

METHOD_FORMAT = 1
"""Version of a method's configuration as `Method.to_dict` writes it."""

SAVING = "saving"
"""Key of a field's metadata whose value says, as an instruction, how to save what the option holds if no file can."""


@dataclass(frozen=True)
class Method:
    """Decides which visual tokens stay. A method knows tensors, never a model; its fields are its whole configuration.

    A subclass overrides `score` (a ranking is enough) or `plan` (anything that a `Plan` can say).

    Args:
        keep: visual tokens that remain per image (int; for a video per frame, times frames), or the share of the tokens
            in view that remains (float in (0, 1]; rounded half up, at least one token).
        layer: the decoder layer that the method acts before; 0 is the language model's input.
        clamp: let an int `keep` above the number of tokens keep all of them, instead of raising an error.

    Raises:
        BudgetError: `keep` is zero, negative, NaN or a share above 1.
        LayerError: `layer` is negative or not an integer.
        OptionError: `clamp` is neither true nor false.
    """

    keep: int | float
    layer: int = 2
    clamp: bool = False

    name: ClassVar[str] = ""
    """Its name once it is registered: the class name in lower case, unless the class sets another."""

    exact: ClassVar[bool] = True
    """Whether a plan keeps exactly `budget` tokens, so that `tokens_after` can say how many. If not, it keeps at most that many."""

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        cls.name = cls.__dict__.get("name") or cls.__name__.lower()

    def __post_init__(self) -> None:
        for option in fields(self):
            value = getattr(self, option.name)
            if isinstance(value, np.generic):
                # Sweeps produce NumPy numbers; plain ones compare, print and go to JSON as expected.
                object.__setattr__(self, option.name, value.item())
        keep = self.keep
        if isinstance(keep, bool) or not isinstance(keep, int | float):
            raise BudgetError(f"keep={keep!r} must be an int (tokens per image) or a float in (0, 1] (share of the tokens)")
        if isinstance(keep, int) and keep < 1:
            raise BudgetError(f"keep={keep} must be at least 1 token per image; to use no image at all, omit it from the prompt")
        if isinstance(keep, float) and not (0 < keep <= 1):
            raise BudgetError(f"keep={keep} must be a share in (0, 1]; for a number of tokens pass an int, such as keep=128")
        if isinstance(self.layer, bool) or not isinstance(self.layer, int) or self.layer < 0:
            raise LayerError(f"layer={self.layer!r} must be an integer from 0 (the language model's input) upwards")
        if not isinstance(self.clamp, bool):
            raise OptionError(f"clamp={self.clamp!r} must be True or False")

    def __str__(self) -> str:
        """`keep` and the options that differ from their defaults, for people: `TokenCarve(keep=128)`."""
        changed = [f for f in fields(self) if f.repr and (f.name == "keep" or getattr(self, f.name) != f.default)]
        shown = [f"{f.name}={getattr(self, f.name)!r}" for f in changed]
        return f"{type(self).__name__}({', '.join(shown)})"

    @property
    def needs(self) -> frozenset[str]:
        """Names of the signals that the method reads from its view (see `foveate.view.SIGNALS`)."""
        return frozenset()

    def check(self, identify: Callable[[], ModelIdentity]) -> None:
        """Refuse a model that the method was not made for. `compress` calls this first.

        Load here what the method needs from disk, so that a failure comes before any work.

        Args:
            identify: returns the identity of the model. It reads weights, so call it only if the method needs it.

        Raises:
            FoveateError: a subclass of it that says what does not fit, and what would.
        """

    def budget(self, tokens: int, frames: int = 1) -> int:
        """How many of `tokens` visual tokens remain; for a video, `tokens` are those of all its `frames` frames.

        Raises:
            BudgetError: an int `keep` asks for more tokens than there are and `clamp` is false.
        """
        if isinstance(self.keep, float):
            return max(1, math.floor(self.keep * tokens + 0.5))
        asked = self.keep * frames
        if asked > tokens and not self.clamp:
            per_frame = f" (keep={self.keep} x {frames} frames)" if frames > 1 else ""
            error = BudgetError(
                f"keep={asked}{per_frame} asks for more visual tokens than the {tokens} that are there; "
                f"lower keep, pass a share such as keep=0.25, or pass clamp=True to keep all of them"
            )
            error.parameters = ("keep", "clamp")
            raise error
        return min(asked, tokens)

    def remaining(self, tokens: int, frames: int, whole: int) -> int:
        """As `budget`, for a method that must know how many tokens the image had before any method, `whole`; most need not.

        Raises:
            BudgetError: as `budget`.
        """
        return self.budget(tokens, frames)

    def stages(self, layers: int) -> tuple[Method, ...]:
        """The method in a model of so many decoder layers, as methods that act once each, in the order of their layers; most are one.

        Raises:
            LayerError: the model has no such layer.
        """
        return (self,)

    def score(self, view: View) -> Tensor:
        """Importance of each token, shape (n,). The `keep` highest stay; among equals, the lower index stays."""
        raise NotImplementedError(f"{type(self).__name__} must override score(view) or plan(view)")

    def plan(self, view: View) -> Plan:
        """Decide for one image. The default keeps the tokens with the highest `score`."""
        return self._ranked([view])[0]

    def _allowed(self, view: View) -> int:
        """How many tokens of a view remain."""
        return self.remaining(len(view), view.grid[0], view.whole)

    def _ranked(self, views: Sequence[View]) -> list[Plan]:
        budgets = [self._allowed(view) for view in views]
        return keep_best([self._checked(self.score(view), view) for view in views], budgets)

    def _checked(self, score: Tensor, view: View) -> Tensor:
        """The score, checked for what `score` promises.

        Raises:
            MethodError: it has another shape, or contains NaN.
        """
        tokens = len(view)
        if not isinstance(score, Tensor) or score.shape != (tokens,):
            found = f"a tensor of shape {tuple(score.shape)}" if isinstance(score, Tensor) else f"a {type(score).__name__}"
            raise MethodError(
                f"{brief(self)}: score() returned {found}, expected shape ({tokens},), one number per visual token of the view"
            )
        require((score == score).all(), lambda: self._not_a_number(score), [view])
        return score

    def _not_a_number(self, score: Tensor) -> MethodError:
        return MethodError(
            f"{brief(self)}: score() returned NaN for {int(score.isnan().sum())} of {len(score)} tokens, which cannot be ranked"
        )

    def plans(self, views: Sequence[View]) -> list[Plan]:
        """Decide for several images at once. Override it if a batch is faster; the default calls `plan` for each, if that is overridden."""
        return self._ranked(views) if type(self).plan is Method.plan else [self.plan(view) for view in views]

    def to_dict(self) -> dict[str, Any]:
        """The configuration as plain lists, numbers and strings; `foveate.methods.method_from_dict` is the inverse.

        Raises:
            OptionError: an option holds an object of this process, such as a tensor, and how to save it instead.
        """
        return {
            "format": METHOD_FORMAT,
            "method": self.name,
            **{option.name: self._plain(option) for option in fields(self) if option.init},
        }

    def to_json(self) -> str:
        """The configuration as one JSON document.

        Raises:
            OptionError: as `to_dict`.
        """
        return json.dumps(self.to_dict())

    def _plain(self, option: Field[Any]) -> Any:
        value = getattr(self, option.name)
        try:
            return to_jsonable_python(value)
        except (PydanticSerializationError, UnicodeDecodeError) as error:  # the latter of bytes
            way_out = option.metadata.get(SAVING, "use a plain value, such as a path")
            raise OptionError(
                f"{type(self).__name__} cannot be saved: {option.name} holds an object of this process "
                f"({type(value).__name__}), which no file can; {way_out}"
            ) from error

    @classmethod
    def summary(cls) -> str:
        """The first line of the docstring, for lists."""
        return next(iter((cls.__doc__ or "").strip().splitlines()), "")


def schedule_of(method: Any, caller: str) -> list[Method]:
    """A method, or several, as a list.

    Args:
        method: what a user passed.
        caller: the function that it was passed to, for messages.

    Raises:
        UsageError: it is neither a method nor a list of methods.
    """
    wanted = f"{caller} takes a Method or a non-empty list of them, such as TokenCarve(keep=128)"
    if isinstance(method, nn.Module):
        raise UsageError(f"{wanted}; the second argument is a model ({type(method).__name__}). Pass the model first, once")
    if isinstance(method, str):
        raise UsageError(f"{wanted}; got the name {method!r}. Make a method from it: foveate.parse_method({method + ':keep=128'!r})")
    schedule = list(method) if isinstance(method, Sequence) else [method]
    for each in schedule:
        if isinstance(each, type) and issubclass(each, Method):
            raise UsageError(f"{wanted}; got the class {each.__name__}. Make an instance: {each.__name__}(keep=128)")
    if not schedule or not all(isinstance(each, Method) for each in schedule):
        raise UsageError(f"{wanted}; got {described(method)}")
    return schedule


def brief(method: Method) -> str:
    """A method for messages, without its options if they are long."""
    text = str(method)
    return text if len(text) <= 200 else f"{type(method).__name__}(keep={method.keep!r}, ...)"


def ranking(score: Tensor) -> Tensor:
    """Indices (..., n) by descending score; ties in ascending order of index."""
    return torch.sort(score, descending=True, stable=True).indices


def keep_best(scores: Sequence[Tensor], budgets: Sequence[int]) -> list[Plan]:
    """Plans that keep the `budgets[i]` tokens with the highest of `scores[i]` (n,); ties go to the lower index. Never waits."""
    plans: dict[int, Plan] = {}
    groups: dict[tuple[int, int, torch.dtype, torch.device], list[int]] = {}
    for number, (score, budget) in enumerate(zip(scores, budgets, strict=True)):
        groups.setdefault((len(score), budget, score.dtype, score.device), []).append(number)
    for (tokens, budget, _, device), members in groups.items():
        kept = ranking(torch.stack([scores[number] for number in members]))[:, :budget]
        targets = torch.full((len(members), tokens), DROPPED, device=device).scatter_(1, kept, kept)
        plans.update((number, Plan.deferred(target, budget)) for number, target in zip(members, targets, strict=True))
    return [plans[number] for number in range(len(scores))]
