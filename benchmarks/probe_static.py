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


def report(model: Any, inputs: dict[str, torch.Tensor], new: int, modes: dict[str, dict[str, Any]], keep: int, deadline: float) -> None:
    """One line for each way of running."""
    streaming = inputs["input_ids"].shape[0] == 1
    for compressed in (False, True):
        reference = None
        for name, options in modes.items():
            label = f"{'compressed' if compressed else 'full':10s} {name:34s}"
            if time.perf_counter() > deadline:
                print(label, "skipped: out of time", flush=True)
                continue
            try:
                with foveate.compress(model, foveate.FastV(keep=keep)) if compressed else contextlib.nullcontext():
                    if not streaming:
                        raise ValueError("one row only")
                    step, whole, first, compiled, later, tokens = measure(model, inputs, new, options)
                reference = tokens if reference is None else reference
                same = int((tokens == reference)[:, -new:].sum())
                print(
                    f"{label} {step:7.3f} ms/token (median of steps) {whole:7.3f} (whole) first call {first:6.2f} s, "
                    f"graphs {compiled} + {later}, equal tokens {same}/{new}",
                    flush=True,
                )
            except Exception:
                print(label, "failed:", flush=True)
                traceback.print_exc()


def main() -> None:
    """Run all ways, in bfloat16 for times and in float32 for equality."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--hidden", type=int, default=4096)
    parser.add_argument("--new", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=55.0, help="start nothing new after this time")
    arguments = parser.parse_args()
    deadline = time.perf_counter() + arguments.seconds
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    print(torch.__version__, device, torch.cuda.get_device_name() if device.type == "cuda" else "", flush=True)

    def compiled(**options: Any) -> dict[str, Any]:
        config = CompileConfig(**options)
        config._compile_all_devices = True
        return {"cache_implementation": "static", "compile_config": config}

    eager = {"cache_implementation": "static", "disable_compile": True}
    modes = {"dynamic": {}, "static, eager": eager, "static, reduce-overhead": compiled()}
    if device.type == "cuda":
        modes["static, backend=cudagraphs"] = compiled(backend="cudagraphs", mode=None)
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    model = build(arguments.layers, arguments.hidden, dtype, device)
    print(f"-- {dtype}, {arguments.layers} layers of {arguments.hidden}, 652 tokens, FastV keeps 128 of 576", flush=True)
    report(model, prompt(1, device, dtype), arguments.new, modes, 128, deadline)
    del model
    torch._dynamo.reset()
    small = build(4, min(arguments.hidden, 256), torch.float32, device)
    print("-- torch.float32, 4 small layers: for equality", flush=True)
    report(small, prompt(1, device, torch.float32), arguments.new, modes, 128, deadline)


if __name__ == "__main__":
    main()
