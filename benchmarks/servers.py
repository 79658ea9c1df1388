"""Servers of vLLM for the benchmarks: the folders they serve, starting and stopping them, asking them, and what they report."""

from __future__ import annotations

import base64
import contextlib
import io
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

from PIL import Image

from foveate.errors import InputError, RecordError
from foveate.files.records import ANYTHING, read_text

ROOT = Path(__file__).parent.parent
HOST = "127.0.0.1"
LONGEST_START = 900.0
"""Seconds that a server may take to start."""
ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
    "HF_HUB_OFFLINE": "1",
}


class Server:
    """One `vllm serve` on the loopback interface, as a context manager; it ends with all its processes when the block does.

    Args:
        folder: what to serve.
        log: file for what the server writes.
        options: further options of `vllm serve`.
        plugin: whether vLLM loads foveate's plugin; without it, this is stock vLLM.
    """

    def __init__(self, folder: Path, log: Path, options: Sequence[str] = (), *, plugin: bool = True) -> None:
        self.folder, self.log, self.port = folder, log, _free_port()
        command = [str(Path(sys.executable).with_name("vllm")), "serve", str(folder), "--host", HOST, "--port", str(self.port), *options]
        environment = {**os.environ, **ENVIRONMENT, "PYTHONPATH": str(ROOT)}
        for name in ("VLLM_ENABLE_V1_MULTIPROCESSING", "VLLM_CPU_KVCACHE_SPACE"):
            environment.pop(name, None)
        if not plugin:
            environment["VLLM_PLUGINS"] = ""
        out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        try:
            # A session of its own, so that everything that the server starts can be found and ended.
            self.process = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT, env=environment, start_new_session=True)
        finally:
            os.close(out)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://{HOST}:{self.port}"

    @property
    def name(self) -> str:
        """The name of its model."""
        return str(self.folder)

    def wait(self) -> None:
        """Wait until it answers.

        Raises:
            RuntimeError: it ended, or took too long; the message has the end of its log.
        """
        end = time.monotonic() + LONGEST_START
        while time.monotonic() < end and self.process.poll() is None:
            try:
                with urllib.request.urlopen(f"{self.url}/health", timeout=5):
                    return
            except (urllib.error.URLError, OSError):
                time.sleep(0.5)
        raise RuntimeError(f"the server of {self.folder} did not start:\n{self.log.read_text(errors='replace')[-4000:]}")

    def stop(self) -> int:
        """End it, and whatever it started; the exit status of the server."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(60)
        for process in self.processes():
            os.kill(process, signal.SIGKILL)
        return self.process.wait()

    def processes(self) -> list[int]:
        """The ids of its processes that run, its own first."""
        found = []
        for place in Path("/proc").glob("[0-9]*"):
            try:
                fields = (place / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue  # it ended meanwhile
            if int(fields[3]) == self.process.pid and fields[0] != "Z":
                found.append(int(place.name))
        return sorted(found, key=lambda each: (each != self.process.pid, each))

    def memory(self) -> dict[str, int]:
        """Bytes that its processes hold in memory, by their names; what several share is counted in each."""
        sizes: dict[str, int] = {}
        for process in self.processes():
            try:
                pages, name = read_text(f"/proc/{process}/statm").split()[1], read_text(f"/proc/{process}/comm").strip()
            except InputError:
                continue  # it ended meanwhile
            sizes[name] = sizes.get(name, 0) + int(pages) * os.sysconf("SC_PAGE_SIZE")
        return sizes

    def metrics(self) -> dict[str, float]:
        """The totals of its counters, by name."""
        with urllib.request.urlopen(f"{self.url}/metrics", timeout=30) as answer:
            text = answer.read().decode()
        totals: dict[str, float] = {}
        for name, value in re.findall(r"^(vllm:\w+)(?:\{.*\})? ([-+.\deE]+)$", text, re.MULTILINE):
            totals[name] = totals.get(name, 0.0) + float(value)
        return totals

    def ask(self, content: Any, **options: Any) -> tuple[int, dict[str, Any]]:
        """Send one chat message, and return the status and the body of the answer."""
        body = {"model": self.name, "temperature": 0, "messages": [{"role": "user", "content": content}], **options}
        return post(f"{self.url}/v1/chat/completions", body)


def post(url: str, body: dict[str, Any], timeout: float = 300) -> tuple[int, dict[str, Any]]:
    """Send JSON, and return the status and the body of the answer."""
    request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=timeout) as answer:
            return answer.status, ANYTHING.parse(answer.read(), url).raw
    except urllib.error.HTTPError as error:
        text = error.read().decode(errors="replace")
        try:
            return error.code, ANYTHING.parse(text, url).raw
        except RecordError:
            return error.code, {"error": {"message": text}}


def picture(image: Image.Image) -> dict[str, Any]:
    """An image as a part of a message."""
    return {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{base64.b64encode(png(image)).decode()}"}}


def text(words: str) -> dict[str, Any]:
    """Text as a part of a message."""
    return {"type": "text", "text": words}


def png(image: Image.Image) -> bytes:
    """A file of an image."""
    out = io.BytesIO()
    image.save(out, "PNG")
    return out.getvalue()


def _free_port() -> int:
    with socket.socket() as listening:
        listening.bind((HOST, 0))
        return int(listening.getsockname()[1])
