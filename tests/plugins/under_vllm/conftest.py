"""Engines of vLLM in this process, and transformers beside them. Everything here is skipped where vLLM is not installed."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from serve_folder import serve_folder

if find_spec("vllm"):  # elsewhere other tests run in this process, and nothing may change for them
    os.environ.update(
        VLLM_ENABLE_V1_MULTIPROCESSING="0",  # so that the model can be looked at
        VLLM_CPU_KVCACHE_SPACE="1",
        VLLM_CPU_OMP_THREADS_BIND="nobind",
        VLLM_NO_USAGE_STATS="1",
        VLLM_LOGGING_LEVEL="WARNING",
        DO_NOT_TRACK="1",
        HF_HUB_OFFLINE="1",
    )


class Served:
    """An engine, and what it decided.

    Args:
        folder: a checkpoint.
        out: where the folder that is served is made.
        settings: the value of the key "foveate"; `None` serves the stock model.
        options: of `vllm.LLM`.
    """

    def __init__(self, folder: Path, out: Path, settings: dict[str, Any] | None, **options: Any) -> None:
        from vllm import LLM

        self.folder = serve_folder(folder, out, settings)
        given = {"max_model_len": 1024, "max_num_seqs": 8, "block_size": 32, "enforce_eager": True, "dtype": "float32", **options}
        self.llm = LLM(str(self.folder), num_gpu_blocks_override=given.pop("blocks", 256), **given)

    @property
    def model(self) -> Any:
        """The served model."""
        return self.llm.llm_engine.model_executor.driver_worker.worker.model_runner.model

    @property
    def front(self) -> Any:
        """The multimodal processor of the server's front."""
        return self.llm.llm_engine.renderer.get_mm_processor()

    @property
    def processor(self) -> Any:
        """That of transformers, as vLLM made it."""
        return self.front.info.get_hf_processor()

    def use(self, settings: dict[str, Any]) -> None:
        """Start over with other settings, as a server that was started with them."""
        from foveate.plugins.vllm.selection import Selector

        front, model = self.front, self.model
        config = self.llm.llm_engine.vllm_config
        for each in (front.info.get_hf_config(), config.model_config.hf_config):
            each.foveate = settings
        front.__init__(front.info, front.dummy_inputs)
        model.foveate = Selector(model, model.architecture, config)
        model.foveate.prepare()
        self.forget()

    @property
    def plans(self) -> list[Any]:
        """The plans since the last call of `forget`."""
        return list(self.model.foveate.plans)

    def forget(self) -> None:
        """Empty every cache, so that the next request is decided anew."""
        self.llm.reset_prefix_cache()
        self.llm.llm_engine.reset_mm_cache()
        self.llm.llm_engine.engine_core.reset_encoder_cache()
        self.model.foveate.plans.clear()
        self.model.foveate.features.clear()

    def generate(self, prompts: Sequence[dict[str, Any]], new_tokens: int = 6, logprobs: int | None = 3) -> list[Any]:
        """Greedy completions."""
        from vllm import SamplingParams

        greedy = SamplingParams(max_tokens=new_tokens, temperature=0, logprobs=logprobs, ignore_eos=True)
        return list(self.llm.generate(list(prompts), greedy, use_tqdm=False))

    def close(self) -> None:
        """Free the memory."""
        self.llm.llm_engine.engine_core.shutdown()
        del self.llm
        gc.collect()


@pytest.fixture(scope="module")
def serve(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Served]]:
    """Makes engines, which end with the module."""
    made: list[Served] = []

    def make(folder: Path, settings: dict[str, Any] | None, **options: Any) -> Served:
        made.append(Served(folder, tmp_path_factory.mktemp("served") / "model", settings, **options))
        return made[-1]

    yield make
    for each in made:
        each.close()
