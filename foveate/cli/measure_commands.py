"""What compression costs and saves."""

from __future__ import annotations

from pathlib import Path

import typer

from foveate.cli import bench_options
from foveate.cli.analysis_options import (
    AnalysedBudgets,
    AnalysedLayers,
    AnalysedMethods,
    AnalysedSamples,
    AnalysisBatch,
    AnalysisCut,
    AnalysisOut,
    AnalysisSeeds,
    Mixed,
    PageOut,
    PageRuns,
)
from foveate.cli.evaluation_options import (
    CompareResults,
    EvaluatedKeeps,
    EvaluatedMethods,
    IncludePaths,
    LongestAnswer,
    QuestionLimit,
    QuestionsAtOnce,
    RunOut,
    SuiteNames,
    TaskNames,
    VideoFrames,
)
from foveate.cli.options import (
    AsJson,
    Clamp,
    Device,
    Dtype,
    Layer,
    ModelName,
    Seed,
    Settings,
)

__all__ = ["app"]

app = typer.Typer()


@app.command("eval")
def eval_command(
    suite: SuiteNames = None,
    tasks: TaskNames = None,
    methods: EvaluatedMethods = "tokencarve,fastv,random",
    keep: EvaluatedKeeps = "192,128,64",
    limit: QuestionLimit = None,
    include_path: IncludePaths = None,
    model: ModelName = "demo",
    dtype: Dtype = "auto",
    device: Device = "auto",
    layer: Layer = None,
    seed: Seed = None,
    settings: Settings = None,
    clamp: Clamp = False,
    out: RunOut = Path("runs/eval"),
    batch_size: QuestionsAtOnce = 8,
    frames: VideoFrames = 8,
    max_new_tokens: LongestAnswer = None,
    compare: CompareResults = None,
    as_json: AsJson = False,
) -> None:
    """Evaluate methods on the tasks of lmms-eval, beside the full model and the model without the picture."""
    from foveate.cli import evaluating

    if compare is not None:
        evaluating.compare(*compare, as_json=as_json)
        return
    request = evaluating.Request(
        model=model,
        suites=tuple(suite or ()),
        tasks=tasks,
        methods=methods,
        keeps=keep,
        limit=limit,
        out=out,
        layer=layer,
        seed=seed,
        settings=tuple(settings or ()),
        clamp=clamp,
        batch_size=batch_size,
        frames=frames,
        max_new_tokens=max_new_tokens,
        dtype=dtype,
        device=device,
        include_paths=tuple(include_path or ()),
        as_json=as_json,
    )
    evaluating.evaluate(request)


@app.command("bench")
def bench_command(
    model: bench_options.BenchModel = "demo",
    scale: bench_options.Scale = None,
    image_size: bench_options.ImageSize = None,
    attention: bench_options.Attention = None,
    methods: bench_options.MethodNames = "tokencarve,fastv",
    keep: bench_options.Budgets = "192,128,64",
    layer: bench_options.BenchLayer = None,
    batch: bench_options.Rows = "1",
    prompt: bench_options.PromptLength = "76",
    new_tokens: bench_options.NewTokens = "1,16",
    repeats: bench_options.Repeats = 10,
    seed: bench_options.BenchSeed = 0,
    dtype: Dtype = "auto",
    device: Device = "auto",
    out: bench_options.BenchOut = None,
    plot: bench_options.PlotFile = None,
    compare: bench_options.CompareFiles = None,
    as_json: AsJson = False,
) -> None:
    """Measure what compression costs and saves, beside the full model and the ideal."""
    from foveate.cli import benching

    if compare is not None:
        benching.compare(*compare, as_json)
        return
    request = benching.Request(
        model=model,
        scale=scale,
        image_size=image_size,
        attention=attention,
        methods=methods,
        keep=keep,
        layer=layer,
        batch=batch,
        prompt=prompt,
        new_tokens=new_tokens,
        repeats=repeats,
        seed=seed,
        dtype=dtype,
        device=device,
        out=out,
        plot=plot,
        as_json=as_json,
    )
    benching.bench(request)


@app.command("analyse")
def analyse_command(
    out: AnalysisOut,
    model: ModelName = "demo",
    methods: AnalysedMethods = "tokencarve,fastv,pool,random,norm",
    keep: AnalysedBudgets = "576,384,288,192,144,128,96,64,32,16",
    samples: AnalysedSamples = 104,
    layer: AnalysisCut = 2,
    layers: AnalysedLayers = None,
    seeds: AnalysisSeeds = 3,
    batch: AnalysisBatch = 16,
    dtype: Dtype = "auto",
    device: Device = "auto",
    as_json: AsJson = False,
) -> None:
    """Measure whether the methods that keep more information keep more accuracy."""
    from foveate.cli.analysing import Analysis, analyse, whole_numbers, words

    chosen = None if layers is None else whole_numbers(layers)
    request = Analysis(model, words(methods), whole_numbers(keep), samples, layer, chosen, seeds, out, batch, dtype, device, as_json)
    analyse(request)


@app.command("report")
def report_command(runs: PageRuns, out: PageOut = None, mixed: Mixed = False) -> None:
    """Write one page with tables and pictures of what foveate eval, bench and analyse measured."""
    from foveate.cli.reporting import report

    report(runs, out, mixed=mixed)
