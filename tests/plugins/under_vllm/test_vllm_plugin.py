"""How vLLM finds the plugin."""

from __future__ import annotations

from importlib.metadata import entry_points

import pytest

pytest.importorskip("vllm", reason="vLLM is not installed")

import vllm

from foveate.plugins.vllm import register
from foveate.plugins.vllm.architectures import ARCHITECTURES, PREFIX


def test_the_entry_point_registers_every_served_architecture() -> None:
    (found,) = entry_points(group="vllm.general_plugins", name="foveate")
    assert found.load() is register
    register()
    register()  # vLLM may call it several times in one process
    assert {PREFIX + stock for stock in ARCHITECTURES} <= set(vllm.ModelRegistry.get_supported_archs())
    assert set(ARCHITECTURES) <= set(vllm.ModelRegistry.get_supported_archs())  # the stock ones are as they were


@pytest.mark.parametrize(("version", "warns"), [("0.32.0+cpu", False), ("0.33.1", False), ("0.31.2", True), ("0.34.0rc1", True)])
def test_another_version_is_named_at_the_start(version: str, warns: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    logger = vllm.logger.init_logger("foveate.plugins.vllm")
    monkeypatch.setattr(logger, "warning", lambda text, *args: said.append(text % args))
    monkeypatch.setattr(vllm, "__version__", version)
    register()
    assert len(said) == warns
    assert all(version in line and ">=0.32,<0.34" in line for line in said)
