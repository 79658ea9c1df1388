"""Train a compressor on labels, in one process or several: `train`."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from torch.optim import Adam
from torch.utils.data import DataLoader

from foveate.engine.identity import ModelIdentity
from foveate.errors import InputError, OptionError, RecordError, TrainingError
from foveate.explain.compressor.compressor import ConvCompressor
from foveate.explain.compressor.measures import Quality, divergence, quality, target
from foveate.explain.compressor.network import CompressorConfig
from foveate.explain.compressor.training_data import LabelDataset, LabelledImage
from foveate.files.checkpoints.finite import not_finite
from foveate.files.processes import by_the_first, claimed_by_the_first
from foveate.files.records import Count, Number, RecordSchema, brief, read_tensors
from foveate.files.writing import write_error, write_made

__all__ = ["TrainingProgress", "CompressorRecipe", "TrainingResult", "channels_of", "train"]

CHECKPOINT = "checkpoint.pt"
LOGS = "logs"


@dataclass(frozen=True)
class CompressorRecipe:
    """Everything that a run depends on, apart from its labels.

    Args:
        network: "grid" or "sequence", see `CompressorConfig`.
        layers: number of separable convolutions; five have the paper's 32, 64, 128, 256 and 512 channels, and any other number goes from
            32 to 512 in equal ratios.
        kernel: width of the convolutions.
        mean: average the attention heads before the network.
        logarithm: take the logarithm of attention first.
        states: let the network read the tokens' states, too.
        batch: images per step, over all processes.
        epochs: most epochs.
        rate: initial learning rate; it decays to zero along a cosine.
        patience: stop after this many epochs without a better validation loss.
        validation: share of the samples that is held out.
        seed: for the weights and the order of the images.

    Raises:
        OptionError: a value outside its range.
    """

    network: Literal["sequence", "grid"] = "grid"
    layers: int = 5
    kernel: int = 3
    mean: bool = False
    logarithm: bool = True
    states: bool = False
    batch: int = 128
    epochs: int = 100
    rate: float = 1e-3
    patience: int = 15
    validation: float = 0.1
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("layers", "batch", "epochs", "patience"):
            if getattr(self, name) < 1:
                raise OptionError(f"{name}={getattr(self, name)} must be at least 1")
        if not self.rate > 0 or not 0 < self.validation < 1:
            raise OptionError(f"rate={self.rate} must be above 0, and validation={self.validation} a share between 0 and 1")

    def config(self, model: ModelIdentity) -> CompressorConfig:
        """The network for a model."""
        return CompressorConfig(
            heads=model.heads,
            network=self.network,
            channels=channels_of(self.layers),
            kernel=self.kernel,
            mean=self.mean,
            logarithm=self.logarithm,
            hidden=model.hidden if self.states else 0,
        )


def channels_of(layers: int) -> tuple[int, ...]:
    """Channels from 32 to 512 in equal ratios, to the nearest multiple of 8; one layer has 512."""
    return tuple(round(32 * 16 ** (step / (layers - 1)) / 8) * 8 for step in range(layers)) if layers > 1 else (512,)


@dataclass(frozen=True)
class TrainingProgress:
    """How far a run is: `step` of `steps` in an epoch, the loss of that step, and the last validation."""

    epoch: int
    epochs: int
    step: int
    steps: int
    loss: float
    quality: Quality | None


@dataclass(frozen=True)
class TrainingResult:
    """The result of a run.

    Attributes:
        folder: the compressor's folder.
        best: its quality on the held-out samples.
        epoch: the epoch of its weights, from 1.
        epochs: how many epochs were run.
    """

    folder: Path
    best: Quality
    epoch: int
    epochs: int


@dataclass
class _State:
    """What a checkpoint keeps besides weights and optimiser. Orders are drawn from seed and epoch, so no generator needs to be saved."""

    epoch: Count = 0
    best_epoch: Count = 0
    best: list[Number] = field(default_factory=list)
    history: list[dict[str, Number]] = field(default_factory=list)

    def __post_init__(self) -> None:
        wanted = [own.name for own in fields(Quality)]
        if len(self.best) != (len(wanted) if self.best_epoch else 0) or self.best_epoch > self.epoch:
            raise ValueError(f"best has {len(self.best)} figures of epoch {self.best_epoch}, and {self.epoch} epochs were run")
        if len(self.history) != self.epoch or any(name not in entry for entry in self.history for name in wanted):
            raise ValueError(f"history should have {', '.join(wanted)} of each of the {self.epoch} epochs")


@dataclass(frozen=True)
class CheckpointRecord:
    """The content of a checkpoint apart from tensors."""

    run: dict[str, Any]
    state: _State


_SCHEMA: RecordSchema[CheckpointRecord] = RecordSchema(
    "a checkpoint of foveate train", CheckpointRecord, remedy="remove the folder, or name another"
)


def read_checkpoint(path: Path) -> tuple[CheckpointRecord, dict[str, Any]]:
    """Read a checkpoint: how far the run came, and the whole content.

    Raises:
        RecordError: it is damaged.
    """
    content = read_tensors(path)
    if not isinstance(content, dict):
        raise _SCHEMA.refusal(str(path), f"it holds {type(content).__name__}, not a dictionary")
    return _SCHEMA.of({name: content[name] for name in ("run", "state") if name in content}, str(path)).value, content


def train(
    labels: Path,
    out: Path,
    recipe: CompressorRecipe | None = None,
    *,
    cpu: bool = False,
    watch: Callable[[TrainingProgress], None] = lambda _: None,
) -> TrainingResult:
    """Train a compressor, or resume a run that was stopped; on a CPU the same recipe gives the same bits, stopped or not.

    Under `accelerate launch` the processes share each batch.

    Args:
        labels: a folder that `foveate labels` wrote.
        out: the folder for the compressor with the best validation loss so far, the checkpoint, and TensorBoard's logs.
        recipe: the settings; the defaults if `None`.
        cpu: do not use accelerators.
        watch: called after every step, on the main process.

    Raises:
        InputError: the labels are missing, too few or not finite, the folder holds another run, or packages are not installed.
        TrainingError: the loss or the weights are no longer finite; the result of earlier epochs is kept.
        BusyError: another run is writing to the folder.
        WriteError: the folder cannot be written.
    """
    if out.exists() and not out.is_dir():
        raise InputError(f"{out} is a file; name a folder for the compressor and its checkpoint")
    try:
        import accelerate  # noqa: F401
        import datasets  # noqa: F401
        import tensorboard  # noqa: F401
    except ImportError as error:
        raise InputError(f"training needs {error.name}, which is not installed: pip install 'foveate[explain]'") from error
    return _Run(labels, out, recipe or CompressorRecipe(), cpu, watch).run()


class _Run:
    """One process's share of a run."""

    def __init__(self, labels: Path, out: Path, recipe: CompressorRecipe, cpu: bool, watch: Callable[[TrainingProgress], None]) -> None:
        from accelerate import Accelerator

        self.recipe, self.out = recipe, out
        self.accelerator = Accelerator(cpu=cpu, log_with="tensorboard", project_dir=str(out))
        self.watch = watch if self.accelerator.is_main_process else lambda _: None
        with self.accelerator.main_process_first():
            self.labels = LabelDataset(labels, recipe.states)
        self.training, self.validation = self.labels.split(recipe.validation)
        model = self.labels.info.model
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(recipe.seed)
            self.compressor = ConvCompressor(recipe.config(model), model, self.labels.info.to_dict())
        self.network: Any = None
        self.optimiser: Any = Adam(self.compressor.parameters(), lr=recipe.rate)
        self.state = _State()

    def run(self) -> TrainingResult:
        """Run epoch after epoch, until all are done or validation stops improving, in a locked folder."""
        with claimed_by_the_first(self.accelerator, self.out):
            self._resume()
            return self._run()

    def _run(self) -> TrainingResult:
        self.network, self.optimiser = self.accelerator.prepare(self.compressor, self.optimiser)
        while self.state.epoch < self.recipe.epochs and self.state.epoch - self.state.best_epoch < self.recipe.patience:
            self._keep(self._train(), self._validate())
        self._log()
        best = Quality.from_tensor(torch.tensor(self.state.best, dtype=torch.float64))
        return TrainingResult(self.out, best, self.state.best_epoch, self.state.epoch)

    def _train(self) -> float:
        """Run one epoch and return its mean loss."""
        batches = self._batches()
        total = torch.zeros((), dtype=torch.float64, device=self.accelerator.device)
        self.network.train()
        own = [self._mine(batch) or batch[:1] for batch in batches]
        for step, rows in enumerate(DataLoader(self.labels, batch_sampler=own, collate_fn=list)):
            share = bool(self._mine(batches[step])) / len(batches[step])
            for group in self.optimiser.param_groups:
                group["lr"] = self.recipe.rate * _cosine((self.state.epoch + step / len(batches)) / self.recipe.epochs)
            self.optimiser.zero_grad()
            loss = self._loss(rows) * share
            # Gradients are averaged over the processes, but the batch's loss is a sum over them.
            self.accelerator.backward(loss * self.accelerator.num_processes)
            self.optimiser.step()
            whole = self.accelerator.reduce(loss.detach())
            total += whole
            if not math.isfinite(reached := float(whole)):
                raise self._diverged(f"the loss is {reached} in step {step + 1} of {len(batches)}")
            self.watch(TrainingProgress(self.state.epoch + 1, self.recipe.epochs, step + 1, len(batches), reached, self._last()))
        return float(total / len(batches))

    def _diverged(self, what: str) -> TrainingError:
        kept = f"holds the compressor of epoch {self.state.best_epoch}" if self.state.best_epoch else "holds no compressor yet"
        return TrainingError(
            f"training stopped in epoch {self.state.epoch + 1}, because {what}; {self.out} {kept}. Use a rate below "
            f"{self.recipe.rate}, and another folder"
        )

    def _loss(self, rows: Sequence[LabelledImage]) -> Tensor:
        """The sum of the loss over some images."""
        rows = [row.to(self.accelerator.device) for row in rows]
        predicted = self.network([row.inputs for row in rows])
        return torch.stack([divergence(target(row.relevance), own) for row, own in zip(rows, predicted, strict=True)]).sum()

    def _validate(self) -> Quality:
        spoiled = not_finite(self.compressor.state_dict())
        if spoiled:
            raise self._diverged(f"{len(spoiled)} tensors of weights, {spoiled[0]} first, are not finite after its last step")
        self.network.eval()
        total = torch.zeros(len(fields(Quality)), dtype=torch.float64)
        with torch.no_grad():
            for place in self._mine(self.validation):
                row = self.labels[place].to(self.accelerator.device)
                (predicted,) = self.compressor([row.inputs])
                total += quality(predicted, row.relevance).to_tensor() if bool(predicted.isfinite().all()) else math.nan
        whole: Tensor = self.accelerator.reduce(total.to(self.accelerator.device))
        found = Quality.from_tensor(whole / len(self.validation))
        if not math.isfinite(found.loss):
            raise self._diverged(f"the validation loss is {found.loss}")
        return found

    def _batches(self) -> list[list[int]]:
        """The indices of each step's images, over all processes."""
        generator = torch.Generator().manual_seed(self.recipe.seed * 1_000_003 + self.state.epoch)
        order = torch.randperm(len(self.training), generator=generator)
        return [[self.training[place] for place in part.tolist()] for part in order.split(self.recipe.batch)]

    def _mine(self, places: list[int]) -> list[int]:
        return places[self.accelerator.process_index :: self.accelerator.num_processes]

    def _last(self) -> Quality | None:
        return Quality(**{own.name: self.state.history[-1][own.name] for own in fields(Quality)}) if self.state.history else None

    def _keep(self, loss: float, found: Quality) -> None:
        """Save after an epoch: the compressor if it is the best so far, then the checkpoint."""
        self.state.epoch += 1
        self.state.history.append({"epoch": self.state.epoch, "training_loss": loss, **found.to_dict()})
        better = not self.state.best or found.loss < self.state.best[0]
        if better:
            self.state.best, self.state.best_epoch = found.to_tensor().tolist(), self.state.epoch

        def keep() -> None:
            if better:
                self.compressor.training_facts = self._facts(found)
                self.compressor.save_pretrained(self.out)
            self._save()

        by_the_first(self.accelerator, keep)
        self._log({"training loss": loss, **found.to_dict()})

    def _log(self, figures: dict[str, float] | None = None) -> None:
        """Log figures to TensorBoard, or close its log; opened late, because its thread prints a traceback if the disk is full."""
        try:
            if figures is None:
                self.accelerator.end_training()
                return
            if not self.accelerator.trackers:
                self.accelerator.init_trackers(LOGS)
            self.accelerator.log(figures, step=self.state.epoch)
        except OSError as error:
            raise write_error(self.out / LOGS, error) from error

    def _facts(self, found: Quality) -> dict[str, Any]:
        images = {"training": len(self.training), "validation": len(self.validation)}
        return {"recipe": asdict(self.recipe), "images": images, "epoch": self.state.epoch, "validation": found.to_dict()}

    def _save(self) -> None:
        content = {
            "run": self._fingerprint(),
            "state": asdict(self.state),
            "network": self.compressor.state_dict(),
            "optimiser": self.optimiser.state_dict(),
        }
        write_made(self.out / CHECKPOINT, lambda buffer: torch.save(content, buffer))

    def _resume(self) -> None:
        path = self.out / CHECKPOINT
        if not path.is_file():
            return
        kept, content = read_checkpoint(path)
        now = self._fingerprint()
        differing = [f"{name} {now[name]} instead of {brief(kept.run.get(name))}" for name in now if now[name] != kept.run.get(name)]
        if differing:
            raise InputError(f"{self.out} holds a run with another recipe or other labels ({'; '.join(differing)}); name another folder")
        spoiled = not_finite(content["network"])
        if spoiled:
            raise InputError(f"{path} holds weights that are not finite ({', '.join(spoiled)}); remove the folder, or name another")
        try:
            self.compressor.load_state_dict(content["network"])
            self.optimiser.load_state_dict(content["optimiser"])
        except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:  # what torch raises for states of other shapes
            reason = str(error).partition("\n")[0]
            raise RecordError(f"{path} is damaged: its network or optimiser does not match ({reason}); {_SCHEMA.remedy}") from error
        self.state = kept.state

    def _fingerprint(self) -> dict[str, Any]:
        """What must be unchanged for a run to resume."""
        rows = hashlib.sha256("\n".join(self.labels.ids).encode()).hexdigest()[:16]
        return {**asdict(self.recipe), "images": len(self.labels), "hash of the images' names": rows}


def _cosine(progress: float) -> float:
    return 0.5 * (1 + math.cos(math.pi * progress))
