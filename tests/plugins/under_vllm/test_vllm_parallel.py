"""Tensor parallelism: heads are spread over processes, and the choice is that of all heads."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from serve_folder import serve_folder

pytest.importorskip("vllm", reason="vLLM is not installed")

from foveate import demo

CHILD = Path(__file__).with_name("tensor_parallel_child.py")
QUESTION, SEEDS = "what does the sign say?", (11, 12)


@pytest.mark.parametrize("method", [{"method": "tokencarve", "keep": 128}, {"method": "explainer", "keep": 128}])
def test_two_processes_serve_what_one_serves(method: dict[str, Any], serve: Any, tmp_path: Path) -> None:
    alone = serve(demo.path(), {"method": method}, blocks=64)
    prompts = [{"prompt": demo.prompt(QUESTION), "multi_modal_data": {"image": demo.scene(seed, split="held_out").image}} for seed in SEEDS]
    expected = alone.generate(prompts)
    folder = serve_folder(demo.path(), tmp_path / "model", {"method": method})
    environment = {**os.environ, "VLLM_ENABLE_V1_MULTIPROCESSING": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, str(CHILD), str(folder), "2", QUESTION, *map(str, SEEDS)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(next(line for line in done.stdout.splitlines() if line.startswith("FOUND ")).removeprefix("FOUND "))
    for output, (tokens, logs) in zip(expected, found, strict=True):
        assert list(output.outputs[0].token_ids) == tokens
        assert logs == pytest.approx(
            [step[token].logprob for step, token in zip(output.outputs[0].logprobs, tokens, strict=True)], abs=1e-4
        )
