"""A valid file of every kind that foveate reads, each with what reads it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as parquet
import results_made_up
import torch
from compressors import in_two_files

from foveate.engine.identity import ModelIdentity
from foveate.explain.compressor import train as compressor_train
from foveate.explain.compressor.compressor import SETTINGS, ConvCompressor
from foveate.explain.compressor.network import CompressorConfig
from foveate.explain.labels import label_files as labels_format
from foveate.explain.labels.label_files import Counts, LabelsInfo, ShardWriter
from foveate.explain.relevance.result import ImageRelevance, Relevance
from foveate.families.vila.configuration import added_tokens
from foveate.measure.analysis.information_loss import AnalysisCell, AnalysisFolder
from foveate.measure.bench.records import Run
from foveate.measure.evaluation.comparison import read_results
from foveate.measure.evaluation.results import gather
from foveate.measure.evaluation.runs import RunFolder, Setting
from foveate.measure.reporting.inputs import read_inputs
from foveate.measure.result_forms import digest
from foveate.plan import Plan
from foveate.recipe import card, loop
from foveate.recipe import train as demo_train
from foveate.report import ImageReport, Report, Stage

MODEL = ModelIdentity("llava", "llama", 32, 4, 3, 99, "abc")


@dataclass(frozen=True)
class Record:
    """One kind of file.

    Attributes:
        path: of a valid one.
        text: its content.
        read: what foveate reads from it, as plain values that can be compared with those of the file.
        write: put a text into the file, if writing it is not enough.
    """

    path: Path
    text: str
    read: Callable[[], Any]
    write: Callable[[str], Any]

    @classmethod
    def of(cls, path: Path, data: Any, read: Callable[[Path], Any], write: Callable[[str], Any] | None = None) -> Record:
        """From the values in the file."""
        text = json.dumps(data)
        return cls(path, text, lambda: read(path), write or (lambda changed: path.write_text(changed, encoding="utf-8")))


def records(folder: Path) -> Iterator[tuple[str, Record]]:
    """All kinds by name, in a folder of their own each."""
    makers = {name.removeprefix("_make_"): make for name, make in globals().items() if name.startswith("_make_")}
    for name, make in makers.items():
        place = folder / name
        place.mkdir()
        yield name, make(place)


def report() -> Report:
    first = Plan.from_list([0, 0, 2, 3, -1, 5, 6, 7])
    later = Plan.from_list([0, 1, -1, 3, 3, 5])
    stages = (Stage("FastV(keep=6)", 2, first), Stage("Pool(keep=4)", 3, later))
    whole = ImageReport(0, 0, (1, 2, 4), first.then(later), stages)
    video = ImageReport(1, 0, (2, 2, 2), Plan.identity(8), (), ((1, 2, 2), (1, 2, 2)), "video")
    return Report((whole, video), 4096, 1024, 0.25, ((0, 1, 4), (-1, 0, 2)))


def _make_report(folder: Path) -> Record:
    return Record.of(folder / "report.json", report().to_dict(), lambda path: Report.load(path).to_dict())


def _make_relevance(folder: Path) -> Record:
    image = ImageRelevance(0, 0, (1, 2, 3), torch.tensor([[0.5, 0, 1, 2, 3, 4], [1, 2, 0.25, 4, 5, 6]]), ((1, 1, 3), (1, 1, 3)))
    found = Relevance((image,), (torch.tensor([4, 5]), torch.tensor([6])))
    return Record.of(folder / "relevance.json", found.to_dict(), lambda path: Relevance.load(path).to_dict())


def _make_compressor(folder: Path) -> Record:
    torch.manual_seed(0)
    config = CompressorConfig(heads=3, channels=(4, 4))
    ConvCompressor(config, MODEL, {"target": "logit"}, {"epoch": 1}).save_pretrained(folder)

    def read(path: Path) -> Any:
        made = ConvCompressor.from_pretrained(path.parent)
        return {"config": made.config.to_dict(), "model": made.model.to_dict(), "labels": made.labels, "training": made.training_facts}

    in_two_files(folder)
    return Record.of(folder / SETTINGS, json.loads((folder / SETTINGS).read_text()), read)


def _make_bench(folder: Path) -> Record:
    path = results_made_up.speed(folder / "bench.json")
    data = json.loads(path.read_text())
    for row in data["groups"][0]["rows"]:
        row["memory"] = {"tool": "VmHWM", "before": 100, "peak": 300, "added": 200}
        row["flops"] = {"tower": 10, "prefill": 20}
        del row["figures"]
    return Record.of(path, data, lambda path: json.loads(json.dumps(asdict(Run.load(path)))))


def _page(path: Path) -> Any:
    (found,) = read_inputs([path])
    return found.data


def _make_results(folder: Path) -> Record:
    path = results_made_up.evaluation(folder) / "results.json"
    data = json.loads(path.read_text())
    for tasks in data["results"].values():
        for task, figures in list(tasks.items()):
            figures["samples"], figures["questions"] = figures["samples"][:2], 2
            if task != "foveate_pope":
                del tasks[task]
    return Record.of(path, data, _page)


def _make_compared(folder: Path) -> Record:
    made = _make_results(folder)
    return Record.of(made.path, json.loads(made.text), lambda path: read_results(str(path))[0])


def _make_analysis(folder: Path) -> Record:
    path = results_made_up.analysis(folder) / "information_loss.json"
    return Record.of(path, json.loads(path.read_text()), _page)


def _make_cell(folder: Path) -> Record:
    runs = RunFolder(folder / "run", {})
    full, blind = Setting("full"), Setting("blind")
    samples = [{"id": f"a {n}", "answer": "yes", "target": "no", "score": 0.5 * n} for n in range(2)]
    took = {"tokens_at_the_cut": 16.0, "mean_tokens_over_layers": 20.5, "method_seconds": 0.0, "seconds": 0.5, "input_tokens": 20}
    data = digest([("a 0", "no"), ("a 1", "no")])
    more = {"facts": {"model": {"fingerprint": "f"}}, "method": None, "batch_size": 8, "metrics": {"a": 0.25}}
    cell = {"score": 0.25, "questions": 2, "data": data, **took, **more, "samples": samples}
    runs.keep(full, "task", cell)
    runs.keep(blind, "task", cell)

    def read(path: Path) -> Any:
        found = runs.done(full, "task")
        assert found is not None
        gather({"full": {"task": found}, "blind": {"task": runs.done(blind, "task") or {}}}, {})
        return found

    return Record.of(folder / "run" / "cells" / "full" / "task.json", cell, read)


def _make_run(folder: Path) -> Record:
    settings = {"model": "demo", "limit": 2, "options": ["a=1"], "nested": {"deep": [1, 2]}}
    path = folder / "run.json"
    (folder / "cells").mkdir()
    (folder / "cells" / "task.json").write_text("{}")  # settings bind a run that has finished something

    def read(path: Path) -> Any:
        RunFolder(folder, settings)
        return {"format": 1, **settings}

    return Record.of(path, {"format": 1, **settings}, read)


def _make_analysed_cell(folder: Path) -> Record:
    cells, cell = AnalysisFolder(folder / "run", {"layers": [2]}), AnalysisCell("pool", 64).name
    cells[cell] = made = {"right": "010", "tokens": 64.0, "information": {"a": [1.0, 2.0, 3.5], "b": [0.0, 0.5, 1.0]}}
    return Record.of(folder / "run" / "cells" / "pool-64.json", made, lambda path: cells[cell])


def _info() -> LabelsInfo:
    return LabelsInfo(MODEL, "demo", "logit", True, False, {"samples": 3}, {"match": "exact"}, 2, {"torch": "2"}, Counts(3, 2, 1, 0, 2))


def _make_labels(folder: Path) -> Record:
    return Record.of(folder / "labels.json", _info().to_dict(), lambda path: labels_format.read_info(folder).to_dict())


def _make_shard(folder: Path) -> Record:
    with ShardWriter(folder, 0, states=False) as shard:
        shard.answered_wrong("0001")
        shard.skip("0002", "no picture")
    path = labels_format.shard_path(folder, 0)
    table = parquet.read_table(path)
    footer = json.loads((parquet.read_metadata(path).metadata or {})[b"foveate"])

    def write(text: str) -> None:
        parquet.write_table(table.replace_schema_metadata({"foveate": text}), path)

    return Record.of(path, footer, lambda path: json.loads(json.dumps(asdict(labels_format.read_summary(path)))), write)


def _make_training_state(folder: Path) -> Record:
    figures = {"loss": 0.5, "overlap_50": 0.75, "overlap_25": 0.5, "rank_correlation": 0.25}
    history = [{"epoch": 1, "training_loss": 0.75, **figures}]
    data = {"run": {"seed": 0}, "state": {"epoch": 1, "best_epoch": 1, "best": list(figures.values()), "history": history}}
    return Record.of(
        folder / "checkpoint.pt", data, lambda path: asdict(compressor_train.read_checkpoint(path)[0]), _tensors(folder / "checkpoint.pt")
    )


def _make_demo_checkpoint(folder: Path) -> Record:
    path = folder / "tower.pt"
    data = {"masters": {}, "optimiser": [], "figures": {"loss": 0.5}, "step": 7, "elapsed": 1.5}

    def read(path: Path) -> Any:
        return asdict(loop.checkpoint(path)[0])

    return Record.of(path, data, read, _tensors(path))


def _tensors(path: Path) -> Callable[[str], None]:
    """Write the values of a JSON text as `torch.save` would; anything else stays text."""

    def write(text: str) -> None:
        try:
            content = json.loads(text)
        except (ValueError, RecursionError):
            path.write_text(text)
        else:
            torch.save(content, path)

    return write


def _make_demo_recipe(folder: Path) -> Record:
    data = asdict(demo_train.Recipe(steps=(2, 3)))
    return Record.of(folder / "recipe.json", data, lambda path: json.loads(json.dumps(asdict(demo_train.recipe_of(folder)))))


def _make_demo_figures(folder: Path) -> Record:
    score = {"all": {"right": 1, "count": 2, "low": 0.1, "high": 0.9}}
    data: dict[str, Any] = {"version": 2, "digest": "d", "each": 1, "scenes": 2, "named_things": 0.5, "chance": {"all": 0.5}, "recall": {}}
    data |= {"full": score, "without_image": score, "cut": score}
    return Record.of(folder / "figures.json", data, lambda path: card._FIGURES_SCHEMA.read(path).raw)


def _make_demo_log(folder: Path) -> Record:
    data = {"phase": "tower", "step": 50, "seconds": 2.5, "loss": 0.5, "scene_colour": 0.25}

    def read(path: Path) -> Any:
        list(card._training(path))
        return loop.LOG.parse(path.read_text(), str(path)).raw

    return Record.of(folder / "log.jsonl", data, read)


def _make_added_tokens(folder: Path) -> Record:
    data = {"added_tokens": [{"content": "<image>", "id": 7, "special": True}, {"content": "<s>", "id": 1}]}
    return Record.of(folder / "tokenizer.json", data, lambda path: {"ids": added_tokens(folder)})
