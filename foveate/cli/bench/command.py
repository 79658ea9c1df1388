"""The options of `foveate bench`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar

from foveate.cli.adapter import UNRECORDED, Renamed, option
from foveate.cli.checks import LARGEST_SEED
from foveate.cli.options import COMPRESSION, MEASUREMENT, MODEL, OUTPUT, CutOption, JsonOption, ModelOptions

__all__ = ["Bench"]


@dataclass(frozen=True, kw_only=True)
class Bench(ModelOptions, CutOption, JsonOption):
    """Measure what compression costs and saves, beside the full model and the ideal."""

    IDENTIFYING: ClassVar = (
        *("model", "scale", "image_size", "attention", "methods", "keep"),
        *("layer", "prompt", "new_tokens", "seed", "dtype", "device"),
    )
    """What decides what is measured: a run resumes only with the same. Batch sizes and repeats may grow."""
    ADDING: ClassVar = ("static", "compile", "compiled_layers")
    """Switches that add rows; results name those that were given."""

    model: Annotated[
        str, option("demo or another embedded model, a folder, a Hugging Face id, or shape:NAME for random weights.", "NAME", MODEL)
    ] = "demo"
    scale: Annotated[str | None, option("Make a shape smaller: a factor, or hidden size and layers (1024/16).", "S", MODEL)] = None
    image_size: Annotated[str | None, option("Pixels, 672 or WIDTHxHEIGHT, if the vision tower takes any size.", "N", MODEL)] = None
    attention: Annotated[
        str | None, option("Attention implementation, as transformers names it; by default the model's.", "NAME", MODEL)
    ] = None
    methods: Annotated[
        str,
        option(
            "Names, separated by commas; their options after colons: tokencarve:information=fast. none measures the full model alone.",
            "NAME,...",
            COMPRESSION,
        ),
    ] = "tokencarve,fastv"
    keep: Annotated[str, option("Budgets: visual tokens to keep (128), or shares (0.25).", "N|SHARE,...", COMPRESSION)] = "192,128,64"
    batch: Annotated[str, option("Batch sizes, separated by commas.", "N,...", MEASUREMENT), Renamed("--batch-size")] = "1"
    prompt: Annotated[str, option("Text tokens, in all or before and after the image.", "N|N+N", MEASUREMENT)] = "76"
    new_tokens: Annotated[str, option("Output lengths, separated by commas; only the longest runs.", "N,...", MEASUREMENT)] = "1,16"
    repeats: Annotated[int, option("Rounds, in each of which everything runs once.", "N", MEASUREMENT, min=1), Renamed("--repeat")] = 10
    static: Annotated[
        bool, option("Add rows that generate decodes, with a growing and with a static cache.", panel=MEASUREMENT, name="--static")
    ] = False
    compile: Annotated[
        bool, option("Add rows that generate decodes, with a growing cache and by a compiled step.", panel=MEASUREMENT, name="--compile")
    ] = False
    compiled_layers: Annotated[
        bool, option("Add a row per method with compiled layers after its cut.", panel=MEASUREMENT, name="--compiled-layers")
    ] = False
    host_overhead: Annotated[
        bool,
        option("Also measure what the methods cost the host, on a tiny model of 32 layers.", panel=MEASUREMENT, name="--host-overhead"),
    ] = False
    seed: Annotated[int, option("Seed of weights, words and pixels.", "N", MEASUREMENT, min=0, max=LARGEST_SEED)] = 0
    out: Annotated[Path | None, option("File of results (JSON), saved after every round; resumes a run.", "FILE", OUTPUT)] = None
    plot: Annotated[Path | None, option("Draw times and key/value bytes, as PNG, SVG or PDF.", "FILE", OUTPUT), UNRECORDED] = None
    compare: Annotated[
        tuple[Path, Path] | None, option("Measure nothing; compare two results, if that is fair.", "FILE FILE", OUTPUT), UNRECORDED
    ] = None

    def run(self) -> None:
        """See `foveate.cli.bench.run`."""
        from foveate.cli.bench.run import bench, compare

        if self.compare is not None:
            compare(*self.compare, as_json=self.as_json)
        else:
            bench(self)
