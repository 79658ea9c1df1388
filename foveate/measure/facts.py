"""What figures depend on, for every file of results: versions, machine and weights, without host names and paths."""

from __future__ import annotations

import datetime
import hashlib
import os
import platform
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import nn

from foveate.version import __version__

__all__ = ["attention", "describe", "differences", "facts", "fingerprint"]

SAMPLES = 1024
"""Values of each tensor that enter the fingerprint."""

_VARYING = ("date",)


def facts(model: nn.Module | None = None) -> dict[str, Any]:
    """Versions, machine and, if given, the model, as plain values for JSON.

    Args:
        model: a loaded transformers model.

    Returns:
        a dictionary with the keys "date", "foveate", "python", "torch", "transformers", "system", "processor", "cores", "threads",
        "accelerator" and "cuda" (both `None` without one), and "model" (`None`, or what `describe` returns).
    """
    cuda = torch.cuda.is_available()
    return {
        "date": datetime.date.today().isoformat(),
        "foveate": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "system": f"{platform.system()} {platform.machine()}",
        "processor": _processor(),
        "cores": _cores(),
        "threads": torch.get_num_threads(),
        "accelerator": torch.cuda.get_device_name() if cuda else None,
        "cuda": torch.version.cuda if cuda else None,
        "model": None if model is None else describe(model),
    }


def describe(model: nn.Module) -> dict[str, Any]:
    """Class, size, precision, device, attention kernel, revision and fingerprint of a loaded model.

    "attention" has the implementation of each part; "sdpa_backends" the kernels that torch may choose from on CUDA, `None` elsewhere.
    """
    config: Any = model.config
    first = next(model.parameters())
    return {
        "class": type(model).__name__,
        "model_type": config.model_type,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "bytes": sum(parameter.nbytes for parameter in model.parameters()),
        "dtype": str(first.dtype).removeprefix("torch."),
        "device": first.device.type,
        "attention": attention(config),
        "sdpa_backends": _sdpa_backends() if first.device.type == "cuda" else None,
        "revision": getattr(config, "_commit_hash", None),
        "fingerprint": fingerprint(model),
    }


def attention(config: Any) -> dict[str, str]:
    """The attention implementation of the text decoder and of every other part of a model, by part."""
    parts = {"text": config.get_text_config()}
    parts |= {
        name.removesuffix("_config"): getattr(config, name, None) for name in getattr(config, "sub_configs", {}) if "text" not in name
    }
    return {name: str(part._attn_implementation) for name, part in parts.items() if getattr(part, "_attn_implementation", None)}


def fingerprint(model: nn.Module) -> str:
    """SHA-256 over the name, the shape and evenly spaced values of each parameter, in hexadecimal.

    Values are taken as float32, so that weights stored in bfloat16 have one fingerprint in either precision. A sample of values is enough
    to distinguish checkpoints and fine-tuned versions, and is quick even for a large model.
    """
    digest = hashlib.sha256()
    for name, parameter in model.named_parameters():
        flat = parameter.detach().flatten()
        step = max(1, flat.numel() // SAMPLES)
        digest.update(f"{name} {tuple(parameter.shape)}".encode())
        digest.update(flat[::step][:SAMPLES].float().cpu().numpy().tobytes())
    return digest.hexdigest()


def differences(one: dict[str, Any], other: dict[str, Any]) -> list[str]:
    """The facts in which two runs differ, the date aside, as "name: one, other"."""
    one, other = _flat(one), _flat(other)
    names = [name for name in {**one, **other} if name not in _VARYING]
    return [f"{name}: {one.get(name)!s:.80}, {other.get(name)!s:.80}" for name in names if one.get(name) != other.get(name)]


def _flat(facts: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in facts.items() if name != "model"} | (facts.get("model") or {})


def _sdpa_backends() -> list[str]:
    backends: Any = torch.backends.cuda
    names = {"flash": "flash_sdp", "memory efficient": "mem_efficient_sdp", "cudnn": "cudnn_sdp", "math": "math_sdp"}
    return [name for name, setting in names.items() if getattr(backends, f"{setting}_enabled", lambda: False)()]


def _processor() -> str:
    listing = Path("/proc/cpuinfo")
    if listing.exists():
        for line in listing.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def _cores() -> int | None:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
