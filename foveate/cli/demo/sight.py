"""The recipe of the embedded model with a pretrained decoder, on the command line."""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING

from foveate.cli import console
from foveate.errors import FoveateError, InputError, ParameterError

if TYPE_CHECKING:
    from foveate.cli.demo.train import TrainEmbedded

__all__ = ["SHAPE", "train_sight"]

SHAPE = "smollm2"
_TAKEN = ("out", "shape", "hours", "seed", "workers", "device")


def train_sight(request: TrainEmbedded) -> None:
    """Train; resumes a stopped run.

    Raises:
        ParameterError: an option is given that this recipe does not have.
        InputError: the folder cannot be used, or the device is not there.
    """
    for field in fields(request):
        if field.name not in _TAKEN and getattr(request, field.name) != field.default:
            raise ParameterError(f"the recipe of {SHAPE} has no {field.name}; it takes {', '.join(_TAKEN)}", field.name)
    from foveate.chat.models import find_device
    from foveate.recipe.smollm2.command import plan_for, train

    hours = request.training_hours or 0.0
    console.note(f"checkpoint and curve are in {request.out}; the same command resumes a stopped run")
    try:
        plan = plan_for(str(find_device(request.device)), hours * 3600, seed=request.seed, workers=request.workers)
        written = train(request.out, plan)
    except FoveateError:
        raise
    except (ValueError, OSError) as error:
        raise InputError(str(error)) from error
    console.put(f"written: {written}")
    console.put(f"build the model with it: foveate demo build --adapters {written}")
