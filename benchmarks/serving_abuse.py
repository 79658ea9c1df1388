"""A server of vLLM with compression under good and bad requests, all at once: no wrong answer, no crash, memory flat.

    python benchmarks/serving_abuse.py

runs where `foveate[vllm]` is installed. Every good request is first asked alone. Then requests go out in random order, 16 at a time: good
ones, and ones with files that are no images, truncated, or large, with addresses that do not answer or that the server must not open, with
wrong budgets and models, with prompts that are too long, and with answers that nobody reads to the end. Every good answer is compared with
the one given alone, and every bad request must be refused with the status expected of it. The memory of all the server's processes counts
after 1,000 requests, when caches are full, and over 1,000 more. Nothing here is made to harm an image decoder: large images are plain, and
within the decoder's own limit.

Writes benchmarks/results/serving_abuse.json. Fails if a good answer differs, a status is not the expected one, or the server ended.
"""

from __future__ import annotations

import base64
import json
import random
import tempfile
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import typer
from common import progress_bar, save
from PIL import Image
from servers import HOST, Server, picture, png, text

import foveate.demo
from foveate.methods.configuration import method_from_dict
from foveate.plugins.vllm.settings import ServingSettings
from foveate.plugins.vllm_export import export_vllm

OPTIONS = (
    "--enforce-eager",
    *("--max-model-len", "1024"),
    *("--max-num-seqs", "16"),
    # Small caches, which are full before memory counts. That of processed images must hold all images that are under way: vLLM keeps two
    # copies of it in step by the order of requests.
    *("--kv-cache-memory-bytes", str(2**27)),
    *("--dtype", "float32"),  # so that answers do not depend on which requests share a batch
    "--trust-request-mm-kwargs",
    *("--allowed-media-domains", HOST),
    *("--mm-processor-cache-gb", "0.1"),
)
LARGE = 6000
"""Pixels of a side of a large image."""
SHARE_GOOD = 0.6
WARM_UP = 1000
"""Requests of the same mixture before memory counts."""
FEATURE_CACHE_MIB = 8


@dataclass(frozen=True)
class Kind:
    """Requests of one kind.

    Attributes:
        name: of the kind.
        statuses: those that are right.
        content: of the message.
        options: of the request.
        read: chunks of the answer to read before the connection is closed; `None` for the whole answer.
    """

    name: str
    statuses: tuple[int, ...]
    content: Any
    options: dict[str, Any] = field(default_factory=dict)
    read: int | None = None


def good_requests(scenes: int = 12) -> list[Kind]:
    """Those that must be answered, always the same."""
    found = []
    for seed in range(scenes):
        scene = foveate.demo.scene(seed, split="held_out")
        image, other = picture(scene.image), picture(foveate.demo.scene(seed + scenes, split="held_out").image)
        first, second = (text(question.text) for question in scene.questions[:2])
        kinds = {
            "question": ([image, first], {}),
            "another question": ([image, second], {}),
            "text first": ([first, image, second], {}),
            "two images": ([image, other, first], {}),
            "own budget": ([image, first], {"mm_processor_kwargs": {"foveate_keep": 32 + seed}}),
            "no text": ([image], {}),
            "no image": ([first], {}),
        }
        found += [Kind(name, (200,), content, {"max_tokens": 12, **options}) for name, (content, options) in kinds.items()]
    return found


def bad_requests(closed: int) -> list[Kind]:
    """Those that must be refused, and those that nobody reads to the end.

    Args:
        closed: a port of this machine where nothing listens.
    """
    scene = foveate.demo.scene(99, split="held_out")
    image, question = picture(scene.image), text(scene.questions[0].text)
    file = png(scene.image)

    def url(address: str) -> dict[str, Any]:
        return {"type": "image_url", "image_url": {"url": address}}

    def data(content: bytes) -> dict[str, Any]:
        return url("data:image/png;base64," + base64.b64encode(content).decode())

    def keep(value: Any) -> dict[str, Any]:
        return {"mm_processor_kwargs": {"foveate_keep": value}}

    refused, unreachable = (400,), (400, 500)  # vLLM blames itself for files that it must not, or cannot, fetch
    return [
        Kind("truncated", refused, [data(file[: len(file) // 2]), question]),
        Kind("not an image", refused, [data(b"these bytes are text"), question]),
        Kind("not base64", refused, [url("data:image/png;base64,*"), question]),
        Kind("nothing listens", unreachable, [url(f"http://{HOST}:{closed}/a.png"), question]),
        Kind("another host", unreachable, [url("https://example.org/a.png"), question]),
        Kind("local file", unreachable, [url("file:///etc/hostname"), question]),
        Kind("wrong model", (404,), [image, question], {"model": "another"}),
        Kind("budget too large", refused, [image, question], keep(300)),
        Kind("budget of nothing", refused, [image, question], keep(0)),
        Kind("misspelt budget", refused, [image, question], {"mm_processor_kwargs": {"foveate_kept": 32}}),
        Kind("budget in words", refused, [image, question], keep("many")),
        Kind("too long", refused, [image, text("is there a red circle? " * 400)]),
        Kind("large image", (200,), [data(png(Image.new("RGB", (LARGE, LARGE), "white"))), question], {"max_tokens": 2}),
        Kind("cancelled", (200,), [image, question], {"max_tokens": 400, "ignore_eos": True, "stream": True}, read=3),
    ]


def send(server: Server, kind: Kind) -> tuple[int, str]:
    """The status, and what was answered."""
    if kind.read is None:
        status, body = server.ask(kind.content, **kind.options)
        return status, body["choices"][0]["message"]["content"] if status == 200 else str(body.get("error", body))[:300]
    body = {"model": server.name, "messages": [{"role": "user", "content": kind.content}], **kind.options}
    request = urllib.request.Request(f"{server.url}/v1/chat/completions", json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=600) as answer:
        for _ in range(kind.read):
            answer.readline()
        return answer.status, ""


class MemoryWatch:
    """Records the memory of a server while a block runs."""

    def __init__(self, server: Server, done: Callable[[], int], every: float = 1.0) -> None:
        self.server, self.done, self.every = server, done, every
        self.points: list[tuple[float, int, dict[str, int]]] = []
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._watch)

    def __enter__(self) -> MemoryWatch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()

    def _watch(self) -> None:
        start = time.monotonic()
        while not self._end.wait(self.every):
            self.points.append((time.monotonic() - start, self.done(), self.server.memory()))


def main(requests: int = 1000, concurrency: int = 16, seed: int = 0) -> None:
    """Measure, and write benchmarks/results/serving_abuse.json.

    Args:
        requests: how many, in all.
        concurrency: how many are under way at once.
        seed: of their order.
    """
    good = good_requests()
    with tempfile.TemporaryDirectory() as place, progress_bar() as progress:
        method = method_from_dict({"format": 1, "method": "tokencarve", "keep": 128})
        out = export_vllm("demo", Path(place) / "demo", ServingSettings(method, 256, FEATURE_CACHE_MIB))
        with Server(out, Path(place) / "server.log", OPTIONS) as server:
            server.wait()
            bad = bad_requests(closed=9)  # the port "discard", which nobody uses
            task = progress.add_task("requests", total=len(good) + WARM_UP + requests)
            alone = {}
            for kind in good:
                alone[id(kind)] = send(server, kind)
                progress.advance(task)
            draw = random.Random(seed)
            sent = [draw.choice(good) if draw.random() < SHARE_GOOD else draw.choice(bad) for _ in range(WARM_UP + requests)]
            answers: list[tuple[Kind, int, str]] = []

            def one(kind: Kind) -> None:
                try:
                    answers.append((kind, *send(server, kind)))
                except OSError as error:
                    answers.append((kind, 0, str(error)))
                progress.advance(task)

            with MemoryWatch(server, lambda: len(answers)) as watch, ThreadPoolExecutor(concurrency) as pool:
                list(pool.map(one, sent[:WARM_UP]))
                start = time.monotonic()
                list(pool.map(one, sent[WARM_UP:]))
            seconds = time.monotonic() - start
            still = [send(server, kind) == alone[id(kind)] for kind in good[:12]]
            processes, running = len(server.processes()), server.process.poll() is None
            left = server.metrics().get("vllm:num_requests_running", 0.0)
        status = server.stop()
        log = (Path(place) / "server.log").read_text(errors="replace")
    wrong = [kind.name for kind, code, said in answers if id(kind) in alone and (code, said) != alone[id(kind)]]
    unexpected = [f"{kind.name}: {code} {said}" for kind, code, said in answers if code not in kind.statuses]
    points = [(at, done, sum(sizes.values()), sizes) for at, done, sizes in watch.points]
    counted = [size for _, done, size, _ in points if done >= WARM_UP]
    half = len(counted) // 2
    results = {
        "requests": requests,
        "warm_up": WARM_UP,
        "concurrency": concurrency,
        "seconds": seconds,
        "kinds": dict(sorted(Counter(kind.name for kind in sent).items())),
        "good": sum(id(kind) in alone for kind in sent),
        "wrong_answers": wrong,
        "unexpected": unexpected[:20],
        "said": {kind.name: said for kind, code, said in answers if id(kind) not in alone},
        "answers_afterwards": all(still),
        "running": running,
        "requests_left": left,
        "processes": processes,
        "exit_status": status,
        "errors": [line[-300:] for line in log.splitlines() if "Error: " in line and "ValidationError" not in line][:20],
        "memory": {"first half": median(counted[:half]), "second half": median(counted[half:])},
        "memory_over_time": [[round(at, 1), done, size, sizes] for at, done, size, sizes in points[::5]],
        "options": OPTIONS,
    }
    save("serving_abuse", results)
    if wrong or unexpected or not all(still) or not running:
        typer.echo(f"{len(wrong)} wrong answers, {len(unexpected)} unexpected: {unexpected[:3]}", err=True)
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
