"""Answers of the embedded model served by vLLM, against foveate on transformers: the same held-out questions, asked over HTTP.

    python benchmarks/serving_accuracy.py

runs where `foveate[vllm]` is installed. A server is asked twice: as the chat endpoint of vLLM writes the prompt, and with
"add_special_tokens", which adds the token that begins a sequence, as transformers' processor does. Only the second prompt equals the one
that foveate on transformers, and the model's training, have. Writes benchmarks/results/serving_accuracy.json after each method.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
import typer
from common import progress_bar, save
from served_models import wrapped
from servers import Server, picture, text

import foveate
import foveate.demo
from foveate.measure.scenes import SceneAnswer, SceneQuestion, balanced, digest, evaluate, wilson
from foveate.measure.statistics import mcnemar
from foveate.methods.configuration import method_from_dict
from foveate.plugins.vllm.settings import ServingSettings
from foveate.plugins.vllm_export import export_vllm

FULL = "full"
# vLLM would end answers after the 16 tokens that the checkpoint's generation_config.json names; transformers is asked for more too.
OPTIONS = ("--enforce-eager", "--max-model-len", "1024", "--kv-cache-memory-bytes", str(2**29), "--generation-config", "vllm")
LONGEST = 62
"""Tokens of an answer, as in `foveate.measure.scenes.evaluate`."""


def on_transformers(asked: Sequence[SceneQuestion], name: str, keep: int, dtype: torch.dtype) -> list[SceneAnswer]:
    """Answers of foveate on transformers."""
    model, processor = foveate.demo.load(dtype=dtype)
    method = None if name == FULL else method_from_dict({"format": 1, "method": name, "keep": keep})
    with nullcontext() if method is None else foveate.compress(model, method):
        return evaluate(model, processor, asked, batch_size=8)


def over_http(server: Server, asked: Sequence[SceneQuestion], concurrency: int, begin: bool) -> list[SceneAnswer]:
    """Answers of a server.

    Args:
        server: the server.
        asked: the questions.
        concurrency: how many are asked at once.
        begin: ask for the token that begins a sequence.

    Raises:
        RuntimeError: a question is refused.
    """

    def answer(sample: SceneQuestion) -> SceneAnswer:
        content = [picture(sample.image), text(sample.question.text)]
        status, body = server.ask(content, max_tokens=LONGEST, add_special_tokens=begin)
        if status != 200:
            raise RuntimeError(f"status {status}: {body}")
        given = body["choices"][0]["message"]["content"].strip()
        question = sample.question
        return SceneAnswer(sample.seed, question.family, question.text, question.answer, given, question.tags)

    with ThreadPoolExecutor(concurrency) as pool:
        return list(pool.map(answer, asked))


def compared(ours: Sequence[SceneAnswer], served: Sequence[SceneAnswer]) -> dict[str, Any]:
    """Accuracy of a server, and how its answers differ from those of transformers."""
    lost = sum(a.right and not b.right for a, b in zip(ours, served, strict=True))
    won = sum(b.right and not a.right for a, b in zip(ours, served, strict=True))
    score = wilson(sum(each.right for each in served), len(served))
    return {
        "share": score.share,
        "low": score.low,
        "high": score.high,
        "different": sum(a.given != b.given for a, b in zip(ours, served, strict=True)),
        "lost": lost,
        "won": won,
        "mcnemar_p": mcnemar(lost, won),
    }


def main(
    each: int = 20, methods: str = f"{FULL},tokencarve,explainer", keep: int = 128, dtype: str = "float32", concurrency: int = 4
) -> None:
    """Measure, and write benchmarks/results/serving_accuracy.json.

    Args:
        each: held-out questions of each family.
        methods: those that are served; "full" is stock vLLM.
        keep: visual tokens of an image.
        dtype: of the server and of the model in transformers.
        concurrency: questions that are asked at once.
    """
    asked = balanced(each)
    results: dict[str, Any] = {"each": each, "questions": len(asked), "digest": digest(asked), "keep": keep, "dtype": dtype, "methods": {}}
    with tempfile.TemporaryDirectory() as place, progress_bar() as progress:
        task = progress.add_task("methods", total=len(methods.split(",")))
        for name in methods.split(","):
            out = Path(place) / name
            if name == FULL:
                wrapped(foveate.demo.path(), out)
            else:
                export_vllm("demo", out, ServingSettings(method_from_dict({"format": 1, "method": name, "keep": keep})))
            log = Path(place) / f"{name}.log"
            with Server(out, log, [*OPTIONS, "--dtype", dtype], plugin=name != FULL) as server:
                ours = on_transformers(asked, name, keep, getattr(torch, dtype))
                server.wait()
                served = {begin: over_http(server, asked, concurrency, begin) for begin in (True, False)}
            score = wilson(sum(answer.right for answer in ours), len(ours))
            results["methods"][name] = {
                "transformers": {"share": score.share, "low": score.low, "high": score.high},
                "vllm": compared(ours, served[True]),
                "vllm, no first token": compared(ours, served[False]),
            }
            save("serving_accuracy", results)
            progress.advance(task)


if __name__ == "__main__":
    typer.run(main)
