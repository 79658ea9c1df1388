"""From a data set to a compressor."""

from __future__ import annotations

import typer

from foveate.cli import compressor_options
from foveate.cli.labels_options import (
    AnswerColumn,
    Data,
    DataSeed,
    Gradients,
    ImageColumn,
    KeepAll,
    LabelsOut,
    Limit,
    Match,
    QuestionColumn,
    SamplesAtOnce,
    Split,
    States,
    Subset,
    Target,
    VideoColumn,
)
from foveate.cli.options import (
    AsJson,
    Device,
    Dtype,
    FrameCount,
    MaxNewTokens,
    ModelName,
)

__all__ = ["app"]

app = typer.Typer()


@app.command("labels")
def labels_command(
    data: Data,
    out: LabelsOut,
    model: ModelName = "demo",
    split: Split = "train",
    subset: Subset = None,
    image_column: ImageColumn = None,
    video_column: VideoColumn = None,
    question_column: QuestionColumn = None,
    answer_column: AnswerColumn = None,
    limit: Limit = None,
    seed: DataSeed = None,
    batch: SamplesAtOnce = 1,
    keep_all: KeepAll = False,
    match: Match = "exact",
    states: States = False,
    gradients: Gradients = True,
    target: Target = "logit",
    max_new_tokens: MaxNewTokens = 64,
    frames: FrameCount = None,
    device: Device = "auto",
    dtype: Dtype = "auto",
) -> None:
    """Find out what the right answers to the questions of a data set rest on, for a compressor to learn from."""
    from foveate.cli.labelling import Labelling, labels

    labels(
        Labelling(
            data=data,
            out=out,
            model=model,
            split=split,
            subset=subset,
            image_column=image_column,
            video_column=video_column,
            question_column=question_column,
            answer_column=answer_column,
            limit=limit,
            seed=seed,
            batch=batch,
            keep_all=keep_all,
            match=match,
            states=states,
            gradients=gradients,
            target=target,
            max_new_tokens=max_new_tokens,
            frames=frames,
            device=device,
            dtype=dtype,
        )
    )


@app.command("train")
def train_compressor_command(
    labels: compressor_options.LabelsFolder,
    out: compressor_options.CompressorOut,
    network: compressor_options.Network = "grid",
    layers: compressor_options.LayerCount = 5,
    kernel: compressor_options.Kernel = 3,
    heads: compressor_options.Heads = "keep",
    values: compressor_options.Values = "log",
    states: compressor_options.WithStates = False,
    batch: compressor_options.Images = 128,
    epochs: compressor_options.Epochs = 100,
    rate: compressor_options.LearningRate = 1e-3,
    patience: compressor_options.Patience = 15,
    seed: compressor_options.NetworkSeed = 0,
    device: Device = "auto",
    as_json: AsJson = False,
) -> None:
    """Train a compressor on labels, or go on with a run that was stopped; on several devices with accelerate launch -m foveate."""
    from foveate.cli.compressor import recipe_of, train_compressor

    shape = {"layers": layers, "kernel": kernel, "states": states}
    course = {"batch": batch, "epochs": epochs, "rate": rate, "patience": patience, "seed": seed}
    train_compressor(labels, out, recipe_of(network, heads, values, **shape, **course), device, as_json)
