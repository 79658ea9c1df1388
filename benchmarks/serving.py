"""Servers of vLLM under load: the full model and compressed ones, asked in turn by vLLM's own load generator.

    python benchmarks/serving.py

runs where `foveate[vllm]` is installed and takes about a quarter of an hour on two cores. It makes a LLaVA of 29 M parameters with random
weights (or takes --model), exports it once for each method with 128 of 576 visual tokens, and starts one server for each, and one of stock
vLLM without the plugin. All servers are up at the same time, with one compute thread each, and wait while another one is asked.

Every round asks every server the same questions about the same scenes: at each concurrency with images that no server has seen, and once
about a few images that many questions share. Answers have 32 tokens. Ratios are formed within a round, against the full model, and the
results have their medians and quartiles. An answer of another length, or a prompt with other than the announced number of tokens, ends
the measurement.

benchmarks/results/serving.json is written after each round; `python benchmarks/tables.py` makes tables of it.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import typer
from common import progress_bar, save
from served_models import random_llava, shape
from servers import ENVIRONMENT, Server, picture, png, text

import foveate.demo
from foveate.files.writing import write_whole
from foveate.methods.configuration import method_from_dict
from foveate.plugins.vllm.settings import ServingSettings
from foveate.plugins.vllm_export import export_vllm

FULL, KEEP, NEW_TOKENS = "full", 128, 32
METHODS: dict[str, dict[str, Any]] = {
    "pool": {"method": "pool"},
    "explainer": {"method": "explainer", "compressor": "untrained"},
    "tokencarve": {"method": "tokencarve"},
    "fastv": {"method": "fastv"},
}
REQUESTS = {1: 6, 4: 12, 16: 32, 32: 64}
"""Requests at each concurrency."""
SHARED = "shared"
SHARED_IMAGES, SHARED_AT = 4, 16
OPTIONS = ("--enforce-eager", "--max-model-len", "1024", "--max-num-seqs", "32", "--kv-cache-memory-bytes", str(2**29))
MEASURES = ("requests_per_s", "tokens_per_s", "ttft_p50_ms", "ttft_p95_ms")
CACHES = {
    "prefix_hits": ("vllm:prefix_cache_hits_total", "vllm:prefix_cache_queries_total"),
    "processor_hits": ("vllm:mm_cache_hits_total", "vllm:mm_cache_queries_total"),
}


class Load:
    """Requests that are sent to every server: a file for vLLM's load generator.

    Args:
        name: of the file.
        folder: where files are made.
        seeds: of the scenes, one image each.
        questions: about each scene.
        concurrency: how many requests are under way at once.
        count: requests.
    """

    def __init__(self, name: str, folder: Path, seeds: Sequence[int], concurrency: int, count: int) -> None:
        self.name, self.concurrency, self.path = name, concurrency, folder / f"{name}.jsonl"
        lines = []
        each = -(-count // len(seeds))
        for seed in seeds:
            scene = foveate.demo.scene(seed)
            file = folder / f"{seed}.png"
            write_whole(file, png(scene.image))
            chosen = scene.questions[:each] if each > 1 else scene.questions[-1:]
            lines += [json.dumps({"prompt": question.text, "image_files": [str(file)]}) for question in chosen]
        self.count = min(count, len(lines))
        write_whole(self.path, "\n".join(lines[: self.count]) + "\n")


def run_load(server: Server, load: Load) -> dict[str, float]:
    """Ask one server, and return what was measured.

    Raises:
        RuntimeError: a request failed, or an answer has another length.
    """
    from vllm.benchmarks.serve import add_cli_args, main_async
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    parser = FlexibleArgumentParser()
    add_cli_args(parser)
    words = ["--backend", "openai-chat", "--endpoint", "/v1/chat/completions", "--base-url", server.url, "--model", server.name]
    words += ["--dataset-name", "custom_image", "--dataset-path", str(load.path), "--custom-ensure-client-side-data", "--disable-shuffle"]
    words += ["--num-prompts", str(load.count), "--max-concurrency", str(load.concurrency), "--custom-output-len", str(NEW_TOKENS)]
    words += ["--ignore-eos", "--temperature", "0", "--skip-tokenizer-init", "--disable-tqdm", "--save-detailed", "--no-oversample"]
    before = server.metrics()
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        found = asyncio.run(main_async(parser.parse_args(words)))
    after = server.metrics()
    errors = [error for error in found["errors"] if error]
    if errors or found["completed"] != load.count or set(found["output_lens"]) != {NEW_TOKENS}:
        raise RuntimeError(
            f"{server.folder.name}, {load.name}: {errors[:1] or sorted(set(found['output_lens']))}, of {load.count} requests"
        )
    times = sorted(found["ttfts"])
    measured = {
        "requests_per_s": found["request_throughput"],
        "tokens_per_s": found["output_throughput"],
        "ttft_p50_ms": median(times) * 1000,
        "ttft_p95_ms": (quantiles(times, n=20)[-1] if len(times) > 1 else times[0]) * 1000,
        "prompt_tokens": found["total_input_tokens"] / load.count,
    }
    for name, (hits, queries) in CACHES.items():
        asked = after.get(queries, 0.0) - before.get(queries, 0.0)
        measured[name] = (after.get(hits, 0.0) - before.get(hits, 0.0)) / asked if asked else 0.0
    return measured


def check_prompts(servers: dict[str, Server], keep: int, tokens: int) -> None:
    """Hold every server to the number of prompt tokens that it should have.

    Raises:
        RuntimeError: a server has another number.
    """
    scene = foveate.demo.scene(0)
    content = [picture(scene.image), text(scene.questions[0].text)]
    counts = {name: server.ask(content, max_tokens=1)[1]["usage"]["prompt_tokens"] for name, server in servers.items()}
    for name, count in counts.items():
        if name != FULL and counts[FULL] - count != tokens - keep:
            raise RuntimeError(f"a prompt has {count} tokens in {name} and {counts[FULL]} in full; it should be {tokens - keep} fewer")


def loads(folder: Path, number: int, concurrencies: Sequence[int], shared: bool) -> Iterator[Load]:
    """Those of one round, with images of its own."""
    seed = 10_000 * (number + 1)
    for concurrency in concurrencies:
        count = REQUESTS.get(concurrency, 2 * concurrency)
        yield Load(f"{concurrency}", folder, range(seed, seed + count), concurrency, count)
        seed += count
    if shared:
        yield Load(SHARED, folder, range(seed, seed + SHARED_IMAGES), SHARED_AT, REQUESTS[SHARED_AT])


def summarised(rounds: list[dict[str, dict[str, dict[str, float]]]]) -> dict[str, Any]:
    """For each load and server the median and quartiles of each measure, and of its ratio to the full model's in the same round."""
    found: dict[str, Any] = {}
    for load in rounds[0]:
        found[load] = {}
        for name in rounds[0][load]:
            cells: dict[str, Any] = {}
            for measure in rounds[0][load][name]:
                values = [each[load][name][measure] for each in rounds]
                cells[measure] = quartiles(values)
                if measure in MEASURES:
                    cells[f"{measure}_of_full"] = quartiles([each[load][name][measure] / each[load][FULL][measure] for each in rounds])
            found[load][name] = cells
    return found


def quartiles(values: Sequence[float]) -> list[float]:
    """The first quartile, the median and the third quartile."""
    if len(values) == 1:
        return [values[0]] * 3
    return list(quantiles(values, n=4, method="inclusive"))


def main(
    rounds: int = 4,
    methods: str = ",".join(METHODS),
    concurrencies: str = ",".join(map(str, REQUESTS)),
    model: Path | None = None,
    keep: int = KEEP,
    shared: bool = True,
    dtype: str = "bfloat16",
    compiled: bool = False,
    name: str = "serving",
) -> None:
    """Measure, and write benchmarks/results/serving.json.

    Args:
        rounds: how often every server is asked everything.
        methods: those that are measured besides the full model.
        concurrencies: numbers of requests under way at once.
        model: a folder with a model that stock vLLM serves too; by default one is made.
        keep: visual tokens of an image.
        shared: ask many questions about few images too.
        dtype: in which all servers compute; bfloat16 is slow on processors without instructions for it.
        compiled: let vLLM compile the model, which makes the start longer.
        name: of the file of results.
    """
    asked = [int(each) for each in concurrencies.split(",")]
    chosen = {each: METHODS[each] for each in methods.split(",")}
    options = [each for each in OPTIONS if not (compiled and each == "--enforce-eager")]
    options += ["--dtype", dtype]
    with tempfile.TemporaryDirectory() as place, ExitStack() as stack, progress_bar() as progress:
        folder = Path(place)
        source = model or random_llava(folder / FULL)
        facts = shape(source)
        servers = {FULL: stack.enter_context(Server(source, folder / f"{FULL}.log", options, plugin=False))}
        for label, settings in chosen.items():
            method = method_from_dict({"format": 1, **settings, "keep": keep})
            out = export_vllm(source, folder / label, ServingSettings(method))
            servers[label] = stack.enter_context(Server(out, folder / f"{label}.log", options))
        for server in servers.values():
            server.wait()
        check_prompts(servers, keep, facts["visual_tokens"])
        warm = Load("warm", folder, range(8), 4, 8)
        for server in servers.values():
            run_load(server, warm)
        results: dict[str, Any] = {
            "model": facts,
            "made": model is None,
            "keep": keep,
            "new_tokens": NEW_TOKENS,
            "dtype": dtype,
            "methods": chosen,
            "options": options,
            "variables": ENVIRONMENT,
            "requests": {},
            "shared": {"images": SHARED_IMAGES, "concurrency": SHARED_AT},
            "vllm": _version(),
        }
        done: list[dict[str, dict[str, dict[str, float]]]] = []
        task = progress.add_task("loads", total=rounds * (len(asked) + shared) * len(servers))
        for number in range(rounds):
            one: dict[str, dict[str, dict[str, float]]] = {}
            order = list(servers)[number % len(servers) :] + list(servers)[: number % len(servers)]
            for load in loads(folder, number, asked, shared):
                results["requests"][load.name] = load.count
                cells = {}
                for label in order:
                    cells[label] = run_load(servers[label], load)
                    progress.advance(task)
                one[load.name] = {label: cells[label] for label in servers}
            done.append(one)
            save(name, {**results, "load_average": os.getloadavg()[0], "rounds": done, "summary": summarised(done)})


def _version() -> str:
    import vllm

    return vllm.__version__


if __name__ == "__main__":
    typer.run(main)
