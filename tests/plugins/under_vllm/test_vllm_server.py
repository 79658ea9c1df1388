"""One real server, exported, started and asked as a newcomer does, and then asked for what it must refuse."""

from __future__ import annotations

import base64
import http.client
import importlib
import json
import shlex
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

pytest.importorskip("vllm", reason="vLLM is not installed")

from foveate import demo

BENCHMARKS = Path(__file__).parents[3] / "benchmarks"
HOST = "127.0.0.1"
SCENE = demo.scene(11, split="held_out")
OTHER = demo.scene(12, split="held_out")
QUESTION = next(each for each in SCENE.questions if each.family == "word")
"""Small servers read words right."""


@dataclass
class Running:
    """A server, and how to ask it.

    Attributes:
        server: of benchmarks/servers.py.
        tools: that module.
    """

    server: Any
    tools: Any

    def image(self, scene: Any = SCENE) -> dict[str, Any]:
        return self.tools.picture(scene.image)

    def text(self, words: str = QUESTION.text) -> dict[str, Any]:
        return self.tools.text(words)

    def ask(self, content: list[Any], **options: Any) -> tuple[str, int]:
        """The answer, and how many tokens the prompt has."""
        status, body = self.server.ask(content, **{"max_tokens": 8, "add_special_tokens": True, **options})
        assert status == 200, body
        return body["choices"][0]["message"]["content"].strip(), body["usage"]["prompt_tokens"]

    def refusal(self, content: list[Any], **options: Any) -> tuple[int, str]:
        """The status and the message of a request that the server refuses."""
        status, body = self.server.ask(content, **{"max_tokens": 8, **options})
        assert status != 200, body
        return status, body["error"]["message"]

    def keep(self, value: Any) -> dict[str, Any]:
        return {"mm_processor_kwargs": {"foveate_keep": value}}


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("server")
    out = folder / "out"
    words = ["export", "vllm", "demo", str(out), "--method", "tokencarve", "--keep", "128", "--max-keep", "256", "--json"]
    printed = json.loads(subprocess.run([sys.executable, "-m", "foveate", *words], check=True, capture_output=True, text=True).stdout)
    start = shlex.split(printed["commands"][0])
    assert start[:7] == ["vllm", "serve", str(out), "--host", HOST, "--port", "8000"]
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(BENCHMARKS))
        tools = importlib.import_module("servers")
        # Besides what was printed: no compilation, and an allow-list for addresses of images.
        options = [
            *start[7:],
            "--enforce-eager",
            "--kv-cache-memory-bytes",
            str(2**29),
            "--dtype",
            "float32",
            "--allowed-media-domains",
            HOST,
        ]
        with tools.Server(out, folder / "log", options) as server:
            server.wait()
            yield Running(server, tools)
            assert server.process.poll() is None


def test_a_question_about_an_image_is_answered_with_128_visual_tokens(running: Running) -> None:
    answer, tokens = running.ask([running.image(), running.text()])
    assert answer == QUESTION.answer
    without, short = running.ask([running.text()])
    assert 128 <= tokens - short <= 130  # and a newline
    assert without != answer


def test_text_before_the_image_changes_nothing_where_the_template_puts_images_first(running: Running) -> None:
    assert running.ask([running.text(), running.image()]) == running.ask([running.image(), running.text()])


def test_each_of_several_images_has_128_tokens(running: Running) -> None:
    one, two, three = (running.ask([running.image(each) for each in (SCENE, OTHER, SCENE)[:n]] + [running.text()])[1] for n in (1, 2, 3))
    assert two - one == three - two
    assert 128 <= two - one <= 130


def test_a_stream_gives_the_same_answer(running: Running) -> None:
    whole, _ = running.ask([running.image(), running.text()])
    lines = list(streamed(running, {"max_tokens": 8, "add_special_tokens": True}))
    said = "".join(json.loads(line)["choices"][0]["delta"].get("content") or "" for line in lines if line != "[DONE]")
    assert lines[-1] == "[DONE]"
    assert said.strip() == whole


def test_a_request_has_a_budget_of_its_own(running: Running) -> None:
    counts = [running.ask([running.image(), running.text()], **running.keep(value))[1] for value in (32, 128, 256)]
    assert [count - counts[0] for count in counts] == [0, 96, 224]


@pytest.mark.parametrize(
    ("value", "words"),
    [(257, "keep=257 of this request is above the 256"), (0, "keep"), ("many", "'many'"), (0.5, "tokens per image"), ([1], "[1]")],
)
def test_a_wrong_budget_is_refused(running: Running, value: Any, words: str) -> None:
    status, message = running.refusal([running.image(), running.text()], **running.keep(value))
    assert status == 400
    assert words in message


def test_a_misspelt_budget_is_refused(running: Running) -> None:
    status, message = running.refusal([running.image(), running.text()], mm_processor_kwargs={"foveate_kept": 32})
    assert status == 400
    assert "foveate_kept is no option of a request; its budget is foveate_keep" in message


def test_what_is_no_image_is_refused(running: Running) -> None:
    file = running.tools.png(SCENE.image)
    for content in (b"these bytes are text", file[: len(file) // 2], b""):
        address = "data:image/png;base64," + base64.b64encode(content).decode()
        status, _ = running.refusal([{"type": "image_url", "image_url": {"url": address}}, running.text()])
        assert status == 400


def test_a_large_plain_image_is_answered(running: Running) -> None:
    large = running.tools.picture(Image.new("RGB", (6000, 4000), "white"))
    assert running.ask([large, running.text()])[1] == running.ask([running.image(), running.text()])[1]


def test_images_come_from_allowed_addresses_alone(running: Running, tmp_path: Path) -> None:
    SCENE.image.save(tmp_path / "image.png")

    def from_address(address: str) -> list[Any]:
        return [{"type": "image_url", "image_url": {"url": address}}, running.text()]

    web = ThreadingHTTPServer((HOST, 0), partial(SimpleHTTPRequestHandler, directory=str(tmp_path)))
    thread = threading.Thread(target=web.serve_forever)
    thread.start()
    try:
        place = f"http://{HOST}:{web.server_port}"
        assert running.ask(from_address(f"{place}/image.png")) == running.ask([running.image(), running.text()])
        assert running.refusal(from_address(f"{place}/none.png"))[0] >= 400
    finally:
        web.shutdown()
        thread.join()
        web.server_close()
    # vLLM answers 500 to some of these, which says that the fault is its own; what matters is that it fetches nothing, and goes on.
    assert "connect" in running.refusal(from_address(f"{place}/image.png"))[1].lower()  # nothing listens there any more
    assert "allowed" in running.refusal(from_address("https://example.org/image.png"))[1]
    assert "allowed-local-media-path" in running.refusal(from_address((tmp_path / "image.png").as_uri()))[1]


def test_another_model_and_a_prompt_that_is_too_long_are_refused(running: Running) -> None:
    assert running.refusal([running.image(), running.text()], model="another")[0] == 404
    assert running.refusal([running.image(), running.text("is there a red circle? " * 800)])[0] == 400


def test_the_server_answers_after_a_stream_that_nobody_reads_to_the_end(running: Running) -> None:
    lines = streamed(running, {"max_tokens": 1000, "ignore_eos": True})
    next(lines)
    lines.close()
    end = time.monotonic() + 60
    while running.server.metrics()["vllm:num_requests_running"] and time.monotonic() < end:
        time.sleep(0.2)
    assert running.server.metrics()["vllm:num_requests_running"] == 0
    assert running.ask([running.image(), running.text()])[0] == QUESTION.answer


def streamed(running: Running, options: dict[str, Any]) -> Iterator[str]:
    """What a streamed answer consists of; closing the iterator closes the connection."""
    message = {"role": "user", "content": [running.image(), running.text()]}
    body = json.dumps({"model": running.server.name, "temperature": 0, "messages": [message], "stream": True, **options})
    connection = http.client.HTTPConnection(HOST, running.server.port, timeout=120)
    try:
        connection.request("POST", "/v1/chat/completions", body, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        assert answer.status == 200
        for line in answer:
            if line.startswith(b"data: "):
                yield line.decode().removeprefix("data: ").strip()
    finally:
        connection.close()
