"""Time decoding on dynamic and static caches, eager and compiled, on the accelerator that is at hand.

A decoder in the shape of LLaVA-1.5-7B with fewer layers and random weights, built on the device. Prints one line per way of running:
milliseconds per token, seconds of the first call, compilations, and whether the tokens equal those of the dynamic, uncompiled run.

    python benchmarks/probe_static.py --layers 8 --new 32
"""

from __future__ import annotations

import argparse
import contextlib
import time
import traceback
from typing import Any

import torch
from transformers import CLIPVisionConfig, CompileConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

import foveate

IMAGE, SIDE = 31_999, 24


def build(layers: int, hidden: int, dtype: torch.dtype, device: torch.device) -> Any:
    """A random LLaVA with 576 visual tokens; its tower is small, because only decoding is timed."""
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(
            hidden_size=128, intermediate_size=256, num_hidden_layers=2, num_attention_heads=4, image_size=14 * SIDE, patch_size=14
        ),
        text_config=LlamaConfig(
            hidden_size=hidden,
            intermediate_size=hidden * 43 // 16,
            num_hidden_layers=layers,
            num_attention_heads=max(1, hidden // 128),
            num_key_value_heads=max(1, hidden // 128),
            vocab_size=32_064,
            max_position_embeddings=4096,
            eos_token_id=None,
        ),
        image_token_id=IMAGE,
        image_seq_length=SIDE * SIDE,
    )
    torch.manual_seed(0)
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device):
            model = LlavaForConditionalGeneration(config).eval()
    finally:
        torch.set_default_dtype(before)
    with torch.no_grad():  # far from uniform attention, and logits that rounding does not reorder
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(0, 1.4 * parameter[0].numel() ** -0.5)
    model.generation_config.pad_token_id = 0
    model.generation_config.eos_token_id = None
    model.generation_config.suppress_tokens = [IMAGE]
    return model


def prompt(rows: int, device: torch.device, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """36 tokens of text, a picture, 40 tokens of text."""
    ids = torch.randint(2, 30_000, (rows, 36 + SIDE * SIDE + 40), generator=torch.Generator().manual_seed(1))
    ids[:, 36 : 36 + SIDE * SIDE] = IMAGE
    pixels = torch.randn(rows, 3, 14 * SIDE, 14 * SIDE, generator=torch.Generator().manual_seed(2))
    return {
        "input_ids": ids.to(device),
        "attention_mask": torch.ones_like(ids).to(device),
        "pixel_values": pixels.to(device, dtype),
    }


class Steps:
    """Notes the time after every step."""

    def __init__(self, device: torch.device) -> None:
        self.device, self.times = device, []

    def put(self, value: torch.Tensor) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        self.times.append(time.perf_counter())

    def end(self) -> None:
        pass


def graphs() -> int:
    """Graphs that Dynamo has compiled so far."""
    return int(torch._dynamo.utils.counters["stats"]["unique_graphs"])


def measure(model: Any, inputs: dict[str, torch.Tensor], new: int, options: dict[str, Any]) -> tuple[float, float, float, int, int, Any]:
    """Milliseconds per token (streamed, and as a whole), seconds of the first call, graphs of the first and of later calls, tokens."""
    call = {"max_new_tokens": new, "do_sample": False, **options}
    start, before = time.perf_counter(), graphs()
    model.generate(**inputs, **call)
    if inputs["input_ids"].is_cuda:
        torch.cuda.synchronize()
    first, compiled = time.perf_counter() - start, graphs() - before
    for _ in range(2):  # graphs are recorded in the second call
        model.generate(**inputs, **call)
    steps = Steps(inputs["input_ids"].device)
    model.generate(**inputs, **call, streamer=steps)
    gaps = sorted(b - a for a, b in zip(steps.times[2:], steps.times[3:], strict=False))
    start = time.perf_counter()
    tokens = model.generate(**inputs, **call)
    whole = time.perf_counter() - start
    start = time.perf_counter()
    model.generate(**inputs, **call | {"max_new_tokens": 1})
    whole -= time.perf_counter() - start
    return 1e3 * gaps[len(gaps) // 2], 1e3 * whole / (new - 1), first, compiled, graphs() - before - compiled, tokens


class Table:
    """Runs ways of decoding one prompt, one line each, until the time is over."""

    def __init__(self, model: Any, inputs: dict[str, torch.Tensor], new: int, deadline: float) -> None:
        self.model, self.inputs, self.new, self.deadline = model, inputs, new, deadline
        self.reference: dict[bool, torch.Tensor] = {}

    def line(self, name: str, options: dict[str, Any], compressed: bool) -> None:
        """Measure and print; an exception is printed too, and the next way follows."""
        label = f"{'compressed' if compressed else 'full':10s} {name:28s}"
        if time.perf_counter() > self.deadline:
            print(label, "skipped: out of time", flush=True)
            return
        try:
            with foveate.compress(self.model, foveate.FastV(keep=128)) if compressed else contextlib.nullcontext():
                step, whole, first, compiled, later, tokens = measure(self.model, self.inputs, self.new, options)
            tokens = tokens[:, -self.new :]
            reference = self.reference.setdefault(compressed, tokens)
            print(
                f"{label} {step:7.3f} ms/token (median of steps) {whole:7.3f} (whole), first call {first:6.2f} s, graphs {compiled} + {later}, "
                f"equal tokens {int((tokens == reference).sum())}/{self.new}, {self.deadline - time.perf_counter():.0f} s left",
                flush=True,
            )
        except Exception:
            print(label, "failed:", flush=True)
            traceback.print_exc()


def compiled(**options: Any) -> dict[str, Any]:
    """Options of `generate` that compile the decoding step, on a CPU too."""
    config = CompileConfig(**options)
    config._compile_all_devices = True
    return {"cache_implementation": "static", "compile_config": config}


def main() -> None:
    """Equality in float32 on a small model, then times in bfloat16; what compiles longest comes last."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--hidden", type=int, default=4096)
    parser.add_argument("--new", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=50.0, help="start nothing new after this time")
    arguments = parser.parse_args()
    deadline = time.perf_counter() + arguments.seconds
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    print(torch.__version__, device, torch.cuda.get_device_name() if device.type == "cuda" else "", flush=True)
    eager = {"cache_implementation": "static", "disable_compile": True}
    fast = compiled(backend="cudagraphs" if device.type == "cuda" else "aot_eager", mode=None)

    print("-- torch.float32, 4 small layers: for equality", flush=True)
    small = Table(
        build(4, min(arguments.hidden, 256), torch.float32, device), prompt(1, device, torch.float32), arguments.new, deadline
    )
    for compressed in (True, False):
        for name, options in {"dynamic": {}, "static, eager": eager, "static, cudagraphs": fast}.items():
            small.line(name, options, compressed)

    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    print(f"-- {dtype}, {arguments.layers} layers of {arguments.hidden}, 652 tokens, FastV keeps 128 of 576", flush=True)
    large = Table(build(arguments.layers, arguments.hidden, dtype, device), prompt(1, device, dtype), arguments.new, deadline)
    for name, options in {"dynamic": {}, "static, eager": eager, "static, cudagraphs": fast, "static, reduce-overhead": compiled()}.items():
        for compressed in (True, False):
            large.line(name, options, compressed)
    print("-- torch.float32, 4 small layers, inductor", flush=True)
    small.line("static, reduce-overhead", compiled(), True)


if __name__ == "__main__":
    main()
