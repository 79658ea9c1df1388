"""Peak memory and time of `foveate.relevance` by length of the prompt, compared with storing the maps and with a plain backward pass.

The model has Llama's shape (hidden 512, 8 layers, 8 heads of which 4 are key heads, float32, random weights) after a tiny vision tower.
Each figure comes from its own process: on a CPU, the peak resident memory that Linux counted (VmHWM, reset before the
run) less the memory before the run; on CUDA the allocator's peak less what was allocated before.

* ours: `foveate.relevance` of one answer token, and of four.
* plain: the same forward with each layer checkpointed (torch.utils.checkpoint), frozen weights, and a backward pass to the embeddings.
* stored: eager attention with every map kept, their gradients, and the recursion over whole maps. Skipped if it would not fit.
"""

from __future__ import annotations

import ctypes
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from common import progress_bar, save
from rich.console import Console
from rich.table import Table
from torch import Tensor
from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

import foveate
from foveate.files.records import ANYTHING
from foveate.measure.facts import facts

LENGTHS = (700, 1600, 6400)
HIDDEN, LAYERS, HEADS, KEY_HEADS, VOCABULARY, IMAGE = 512, 8, 8, 4, 4096, 4095
WAYS = {"ours": 1, "ours, four answer tokens": 4, "plain": 1, "stored": 1}
LIMIT = 6 * 2**30
"""Bytes above which the stored maps are computed and not measured."""


def model_for(length: int, device: str) -> tuple[LlavaForConditionalGeneration, dict[str, Tensor]]:
    """A model and a prompt of `length` tokens, as many of them visual as make a square."""
    side = int((length - 16) ** 0.5)
    torch.manual_seed(0)
    tower = CLIPVisionConfig(
        hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=1, image_size=2 * side, patch_size=2
    )
    text = LlamaConfig(
        hidden_size=HIDDEN,
        intermediate_size=1408,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        num_key_value_heads=KEY_HEADS,
        vocab_size=VOCABULARY,
        max_position_embeddings=8192,
        eos_token_id=None,
    )
    config = LlavaConfig(vision_config=tower, text_config=text, image_token_index=IMAGE, image_seq_length=side**2, vision_feature_layer=-1)
    model = LlavaForConditionalGeneration(config).eval().to(device).requires_grad_(False)
    ids = torch.randint(10, 4000, (1, length))
    ids[0, 4 : 4 + side**2] = IMAGE
    pixels = torch.randn(1, 3, 2 * side, 2 * side)
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "pixel_values": pixels}
    return model, {name: value.to(device) for name, value in inputs.items()}


def run(way: str, model: LlavaForConditionalGeneration, inputs: dict[str, Tensor]) -> None:
    """Run it once."""
    if way.startswith("ours"):
        foveate.relevance(model, inputs, [[11, 12, 13, 14][: WAYS[way]]])
    elif way == "plain":
        plain(model, inputs)
    else:
        stored(model, inputs)


def plain(model: LlavaForConditionalGeneration, inputs: dict[str, Tensor]) -> None:
    """A checkpointed backward pass of one logit to the embeddings."""
    calls = []
    counting = model.model.language_model.layers[0].self_attn.register_forward_pre_hook(lambda *_: calls.append(0))
    model.train()  # there is no dropout in this model; checkpointing works in training mode only
    model.gradient_checkpointing_enable({"use_reentrant": False})
    model.enable_input_require_grads()
    value = model(**inputs, use_cache=False, logits_to_keep=1).logits[0, -1, 11]
    value.backward()
    counting.remove()
    assert len(calls) == 2, "the layers were not computed again, so this was no checkpointed backward"


def stored(model: LlavaForConditionalGeneration, inputs: dict[str, Tensor]) -> None:
    """The recursion over maps that eager attention keeps."""
    model.set_attn_implementation("eager")
    model.enable_input_require_grads()
    output = model(**inputs, use_cache=False, logits_to_keep=1, output_attentions=True)
    gradients = torch.autograd.grad(output.logits[0, -1, 11], output.attentions)
    relevance = torch.eye(inputs["input_ids"].shape[1], device=model.device)
    for attention, gradient in zip(output.attentions, gradients, strict=True):
        relevance = relevance + (attention[0] * gradient[0]).clamp(min=0).mean(0) @ relevance


def maps_bytes(length: int) -> int:
    """Bytes of all maps and their gradients."""
    return 2 * LAYERS * HEADS * length**2 * 4


def resident(name: str) -> int:
    """Bytes of this process, by a field of /proc/self/status."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name)) * 1024


def measured(way: str, length: int, device: str) -> dict[str, Any]:
    """Peak bytes and seconds of one run in this process, after a short prompt as warm-up."""
    run(way, *model_for(64, device))
    model, inputs = model_for(length, device)
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
    else:
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")
        before = resident("VmRSS")
    start = time.process_time() if device == "cpu" else time.perf_counter()
    run(way, model, inputs)
    if device == "cuda":
        torch.cuda.synchronize()
    seconds = (time.process_time() if device == "cpu" else time.perf_counter()) - start
    peak = torch.cuda.max_memory_allocated() if device == "cuda" else resident("VmHWM")
    return {"way": way, "length": length, "bytes": peak - before, "seconds": seconds}


def measure_apart(way: str, length: int, device: str) -> dict[str, Any]:
    """As `measured`, in its own process."""
    if way == "stored" and maps_bytes(length) > LIMIT:
        return {"way": way, "length": length, "bytes": None, "seconds": None, "maps_bytes": maps_bytes(length)}
    command = [sys.executable, __file__, "--way", way, "--length", str(length), "--device", device]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return {**ANYTHING.parse(done.stdout, "the output of the child").raw, "maps_bytes": maps_bytes(length)}


def table(rows: list[dict[str, Any]]) -> Table:
    """The figures for the terminal."""
    plain_of = {row["length"]: row for row in rows if row["way"] == "plain"}
    view = Table("way", "tokens", "peak", "of plain", "seconds", "of plain")
    for row in rows:
        base = plain_of[row["length"]]
        if row["bytes"] is None:
            view.add_row(row["way"], str(row["length"]), f"maps alone {row['maps_bytes'] / 2**20:.0f} MiB", "", "", "")
            continue
        ratios = f"{row['bytes'] / base['bytes']:.2f}", f"{row['seconds'] / base['seconds']:.2f}"
        view.add_row(row["way"], str(row["length"]), f"{row['bytes'] / 2**20:.0f} MiB", ratios[0], f"{row['seconds']:.2f}", ratios[1])
    return view


def main(
    way: Annotated[str | None, typer.Option(help="Measure this alone, in this process, and print it as JSON.")] = None,
    length: int = 700,
    device: str = "cuda" if torch.cuda.is_available() else "cpu",
    rounds: Annotated[int, typer.Option(min=1, help="Processes per figure; the medians count.")] = 3,
) -> None:
    """Measure everything and write benchmarks/results/relevance_memory.json."""
    if way is not None:
        print(json.dumps(measured(way, length, device)))
        return
    rows = []
    with progress_bar() as progress:
        task = progress.add_task("memory of relevance", total=len(LENGTHS) * len(WAYS) * rounds)
        for size in LENGTHS:
            for each in WAYS:
                found = []
                for _ in range(rounds):
                    found.append(measure_apart(each, size, device))
                    progress.advance(task)
                found.sort(key=lambda row: (row["bytes"] or 0, row["seconds"] or 0))
                middle = found[len(found) // 2]
                seconds = sorted(row["seconds"] or 0.0 for row in found)[len(found) // 2]
                rows.append({**middle, "seconds": seconds or None})
    Console().print(table(rows))
    model = {"hidden": HIDDEN, "layers": LAYERS, "heads": HEADS, "key_heads": KEY_HEADS, "dtype": "float32"}
    tool = "torch.cuda.max_memory_allocated" if device == "cuda" else "VmHWM of a fresh process"
    saved = save("relevance_memory", {"model": model, "rounds": rounds, "device": device, "tool": tool, "measurements": rows})
    Console().print(f"written to {saved.name}; measured on {facts()['processor']}")


if __name__ == "__main__":
    typer.run(main)
