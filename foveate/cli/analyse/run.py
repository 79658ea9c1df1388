"""Does information loss explain accuracy loss?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from foveate.cli import console
from foveate.cli.adapter import command_line
from foveate.cli.checks import model_label, write
from foveate.errors import BudgetError, InputError, LayerError
from foveate.files.writing import write_figure

if TYPE_CHECKING:
    from foveate.chat.models import Subject
    from foveate.cli.analyse.command import Analyse
    from foveate.measure.analysis.information_loss import AnalysisCell
    from foveate.measure.scenes import SceneQuestion

__all__ = ["analyse"]

FORMAT = 1
RESULTS, PICTURE = "information_loss.json", "information_loss.png"
_SHOWN = "effective_rank"


def analyse(request: Analyse) -> None:
    """Run the command.

    Raises:
        FoveateError: whatever is wrong with the request; earlier measurements stay.
    """
    if request.out.exists() and not request.out.is_dir():
        raise InputError(f"{request.out} is a file; name a folder for the results")
    if min(request.budgets) < 1:
        raise BudgetError(f"keep={min(request.budgets)} must be at least 1 token per image; raise --keep")
    from foveate.chat.models import load_model
    from foveate.files.locks import check_free, claimed_folder

    check_free(request.out)

    with console.spinner("getting ready"):
        from foveate.measure.analysis.information_loss import cells_of, questions, visual_tokens
        from foveate.measure.scenes import side_of

        # wrong names and numbers are refused before a model is loaded
        cells_of(
            request.names, [keep for keep in request.budgets if keep != max(request.budgets)] or [1], request.seeds, max(request.budgets)
        )
        subject = load_model(request.model, request.dtype, request.device, compress=True)
        asked = questions(request.samples, side_of(subject.processor))
        tokens = visual_tokens(subject.model, subject.processor, asked[0])
        wanted = cells_of(request.names, request.budgets, request.seeds, tokens)
        layers = _layers(subject.model, request.layer, request.measured_layers)
    with claimed_folder(request.out):
        document = _measure(request, subject, asked, wanted, layers)
        drawn = _draw(request.out, document)
    if request.as_json:
        console.put_json(document)
        return
    _print(document)
    console.put(f"written: {request.out / RESULTS}" + (f", {request.out / PICTURE}" if drawn else ""))


def _layers(model: Any, cut: int, layers: tuple[int, ...] | None) -> tuple[int, ...]:
    """The layers to measure at: those given, else the one before the cut, the one after it, one halfway, and the last."""
    from foveate.families import family_of
    from foveate.measure.analysis.kept_states import check_layers

    there = len(family_of(model).layers(model))
    if not 0 <= cut < there:
        raise LayerError(f"layer={cut}: this decoder has {there} layers, 0 to {there - 1}; choose another --layer")
    chosen = layers if layers is not None else tuple(sorted({max(cut - 1, 0), cut, (cut + there) // 2, there - 1}))
    check_layers(model, chosen)
    return chosen


def _measure(
    request: Analyse, subject: Subject, asked: list[SceneQuestion], wanted: list[AnalysisCell], layers: tuple[int, ...]
) -> dict[str, Any]:
    """All results of the folder, measured in this run or an earlier one."""
    from foveate.chat.processors import refusals_of
    from foveate.measure.analysis.information_loss import AnalysisFolder, measure_all
    from foveate.measure.analysis.results import analyse as conclude
    from foveate.measure.facts import facts
    from foveate.measure.scenes import digest
    from foveate.measure.store import write_json

    known = facts(subject.model)
    settings = {
        "model": known["model"]["fingerprint"],
        "dtype": subject.dtype,
        "questions": digest(asked),
        "layer": request.layer,
        "layers": list(layers),
    }
    done = AnalysisFolder(request.out, settings)
    steps = len(asked) * sum(cell.name not in done for cell in wanted)
    with refusals_of(subject.model), console.counting("questions", steps) as advance:
        options: dict[str, Any] = {"cut": request.layer, "layers": layers, "batch_size": request.batch, "progress": advance}
        results = {cell: done[cell.name] for cell in measure_all(subject.model, subject.processor, asked, wanted, done, **options)}
    document = {
        "format": FORMAT,
        "kind": "foveate analyse",
        "command": command_line("analyse", request, model=model_label(request.model), out="RUN"),
        "facts": known,
        "settings": settings,
        "questions": len(asked),
        "scenes": len({sample.seed for sample in asked}),
        "seeds": request.seeds,
        **conclude(results, asked, layers),
    }
    write_json(request.out / RESULTS, document)
    return document


def _draw(out: Path, document: dict[str, Any]) -> bool:
    """Draw the picture if matplotlib is installed; the results are written without it too."""
    try:
        from foveate.draw.information_loss import draw
    except ImportError:
        console.note("no picture was drawn, because matplotlib is not installed: pip install 'foveate[plots]'")
        return False
    write(out / PICTURE, "picture", lambda path: write_figure(path, draw(document)))
    return True


def _print(document: dict[str, Any]) -> None:
    scopes = ("cells", "equal_budget", "equal_question", "equal_draws")
    rows = []
    for entry in document["correlations"]:
        if entry["measure"] == _SHOWN:
            found = [_interval(entry[scope]["spearman"]) if scope in entry else "" for scope in scopes]
            rows.append([f"{entry['source'].replace('_', ' ')}, layer {entry['layer']}", *found])
    headers = ("effective rank of", "all cells", "equal budget", "equal question", "equal draws")
    console.put(f"{document['questions']} questions about {document['scenes']} scenes; Spearman's correlation with accuracy, 95 % interval")
    console.put_table(console.listing(headers, rows))


def _interval(found: dict[str, float | None]) -> str:
    if found["value"] is None:
        return "-"
    return f"{found['value']:+.2f} ({found['low']:+.2f} to {found['high']:+.2f})"
