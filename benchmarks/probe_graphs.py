"""What CUDA graphs after the cut cost and save on one card. One command, at most a minute; it writes nothing but its output.

python benchmarks/probe_graphs.py [--shape llava-1.5-7b] [--layers 32] [--seconds 60]
"""

from __future__ import annotations

import argparse
import copy
import gc
import statistics
import threading
import time
import traceback
from collections.abc import Callable
from typing import Any

import torch
import transformers
from torch import Tensor

import foveate
from foveate import FastV, TokenCarve
from foveate.engine.arguments import as_argument, cache_of
from foveate.engine.graphs import runner
from foveate.engine.standins import StandIns
from foveate.families import family_of
from foveate.measure.bench.prompts import random_prompt
from foveate.measure.bench.shapes import Scale, build, find_shape

CUDA = torch.device("cuda")
BEGUN = time.perf_counter()


def part(name: str, work: Callable[[], None], left: Callable[[], float]) -> None:
    """Run one part of the probe; an exception ends that part alone."""
    print(f"\n## {name} (at {time.perf_counter() - BEGUN:.1f} s)", flush=True)
    if left() < 0:
        print("left out: no time")
        return
    try:
        work()
    except Exception:
        traceback.print_exc()
        print("FAILED", flush=True)
    gc.collect()


def model_of(shape: str, dtype: torch.dtype, size: Scale, attention: str | None = None) -> tuple[Any, Any]:
    found = find_shape(shape).scaled(size)
    return build(found, device=CUDA, dtype=dtype, attention=attention), found


@torch.no_grad()
def steps(model: Any, inputs: dict[str, Tensor], count: int = 6) -> Tensor:
    """Logits (b, count, v) of a prompt's end and of the tokens after it, greedily."""
    output = model(**inputs, use_cache=True, logits_to_keep=1)
    found = [output.logits[:, -1].float()]
    for _ in range(count - 1):
        token = found[-1].argmax(-1)[:, None]
        output = model(input_ids=token, **as_argument(cache_of(output)), use_cache=True, logits_to_keep=1)
        found.append(output.logits[:, -1].float())
    return torch.stack(found, 1)


def compare(model: Any, inputs: dict[str, Tensor], method: Any, label: str, **options: Any) -> None:
    with foveate.compress(model, method, **options):
        expected = steps(model, inputs)
    with foveate.compress(model, method, graphs=True, **options) as handle:
        first, second = steps(model, inputs), steps(model, inputs)
        use = handle.graphs
    scale = expected.abs().max().item()
    print(
        f"{label:44} difference {(first - expected).abs().max().item():.2e} {(second - expected).abs().max().item():.2e} of {scale:.2f}, "
        f"same tokens {bool((first.argmax(-1) == expected.argmax(-1)).all())}, {use}"
    )


def same_logits() -> None:
    for shape, size in (("llava-1.5-7b", Scale(hidden=512, layers=8)), ("qwen2.5-vl-7b", Scale(hidden=512, layers=8))):
        for attention in ("sdpa", "eager") if shape.startswith("llava") else ("sdpa",):
            model, found = model_of(shape, torch.float32, size, attention)
            for after in (20, 40, 57):
                inputs = random_prompt(model, found.picture, before=20, after=after, batch=1, seed=after)
                compare(model, inputs, FastV(keep=64), f"{shape} float32 {attention} after={after}")
            inputs = random_prompt(model, found.picture, before=20, after=30, batch=2, seed=1)
            compare(model, inputs, TokenCarve(keep=32), f"{shape} float32 {attention} batch 2")
            compare(model, inputs, FastV(keep=32), f"{shape} float32 {attention} no trim", trim_early_layers=False)
            compare(model, inputs, FastV(keep=32, layer=0), f"{shape} float32 {attention} layer 0")
            inputs["attention_mask"][0, :7] = 0
            compare(model, inputs, FastV(keep=32), f"{shape} float32 {attention} rows of two lengths")


def fallbacks() -> None:
    model, found = model_of("llava-1.5-7b", torch.float32, Scale(hidden=512, layers=4))
    inputs = random_prompt(model, found.picture, before=20, after=20)
    with foveate.compress(model, FastV(keep=64), graphs=True) as handle:

        def tell(label: str, work: Callable[[], Any]) -> None:
            try:
                work()
                print(f"{label:24} {handle.graphs.reason}")
            except Exception as error:
                print(f"{label:24} raised {type(error).__name__}: {error}")

        with torch.no_grad():
            tell("plain", lambda: model(**inputs))
            tell("hidden states", lambda: model(**inputs, output_hidden_states=True))
            tell("plain after it", lambda: model(**inputs))
            with torch.autocast("cuda", torch.bfloat16):
                tell("autocast", lambda: model(**inputs))
            model.train()
            tell("training", lambda: model(**inputs))
            model.eval()
            hook = handle._schedule.layers[3].mlp.register_forward_hook(lambda *a: None)
            tell("hook", lambda: model(**inputs))
            hook.remove()
            cache = cache_of(model(**inputs))
            tell("second turn", lambda: model(**inputs, **as_argument(cache)))
            tell("many tokens", lambda: model(**random_prompt(model, found.picture, before=20, after=20, batch=32)))
        tell("gradients", lambda: model(**inputs))
        with torch.inference_mode():
            tell("inference mode", lambda: model(**inputs))
        with torch.no_grad():
            tell("no_grad after it", lambda: model(**inputs))
            other = copy.deepcopy(model)
            print("copy:", foveate.handle_of(other).graphs)
            other(**inputs)
            print("copy:", foveate.handle_of(other).graphs)
            before = model(**inputs).logits
            model.to("cpu").to(CUDA)
            after = model(**inputs).logits
            print("moved:", (before - after).abs().max().item(), handle.graphs)
            handle._schedule.layers[3].mlp.down_proj.weight.mul_(0.5)
            changed = model(**inputs).logits
            print("weights changed in place:", (before - changed).abs().max().item(), handle.graphs)
        print(handle.graphs)
    print("removed:", handle.graphs)


def waits() -> None:
    """No replay waits for the device, and threads on streams of their own do not disturb each other."""
    model, found = model_of("llava-1.5-7b", torch.float32, Scale(hidden=512, layers=8))
    prompts = [random_prompt(model, found.picture, before=20, after=20 + n, seed=n) for n in range(4)]
    with torch.no_grad(), foveate.compress(model, FastV(keep=64), graphs=True) as handle:
        graphed = handle._schedule.graphed
        alone = [steps(model, inputs, 4) for inputs in prompts]
        run = graphed.run

        def strict(*args: Any, **kwargs: Any) -> Tensor:
            torch.cuda.set_sync_debug_mode("error")
            try:
                return run(*args, **kwargs)
            finally:
                torch.cuda.set_sync_debug_mode("default")

        graphed.run = strict
        model(**prompts[0])
        del graphed.run
        print("a replay waits for nothing")
        worst = [0.0] * len(prompts)

        def work(number: int) -> None:
            with torch.no_grad(), torch.cuda.stream(torch.cuda.Stream()):
                for _ in range(5):
                    worst[number] = max(worst[number], (steps(model, prompts[number], 4) - alone[number]).abs().max().item())

        torch.cuda.synchronize()
        threads = [threading.Thread(target=work, args=(number,)) for number in range(len(prompts))]
        [thread.start() for thread in threads]
        [thread.join() for thread in threads]
        print("threads differ by", worst, handle.graphs)


def timed(call: Callable[[], Any]) -> tuple[float, float]:
    """Wall ms with nothing queued; and device ms with the host ahead, which is right where the call does not wait."""
    torch.cuda.synchronize()
    start = time.perf_counter()
    call()
    torch.cuda.synchronize()
    wall = (time.perf_counter() - start) * 1e3
    first, last = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    torch.cuda._sleep(100_000_000)
    first.record()
    call()
    last.record()
    torch.cuda.synchronize()
    return wall, first.elapsed_time(last)


def speed(shape: str, layers: int | None, rounds: int, left: Callable[[], float]) -> None:
    start = time.perf_counter()
    found = find_shape(shape)
    size = Scale() if layers is None else Scale(hidden=found.config["text_config"]["hidden_size"], layers=layers)
    model, found = model_of(shape, torch.bfloat16, size)
    torch.cuda.synchronize()
    print(f"built in {time.perf_counter() - start:.1f} s, {torch.cuda.memory_allocated() / 2**30:.1f} GiB")
    backbone = family_of(model).backbone(model)
    for batch in (1, 8):
        inputs = random_prompt(model, found.picture, before=36, after=40, batch=batch)
        with torch.no_grad():
            features = backbone.get_image_features(pixel_values=inputs["pixel_values"], return_dict=True)
        tower = StandIns(backbone)
        tower.put("get_image_features", lambda original, *args, features=features, **kwargs: features)
        prefills(model, inputs, batch, rounds, left)
        if batch == 1:
            padded(model, inputs)
        tower.remove()


def prefills(model: Any, inputs: dict[str, Tensor], batch: int, rounds: int, left: Callable[[], float]) -> None:
    def call() -> Tensor:
        with torch.no_grad():
            return model(**inputs, use_cache=True, logits_to_keep=1).logits

    variants: dict[str, tuple[Any, dict[str, Any]]] = {"full": (None, {})}
    for name, method in (("FastV", FastV(keep=128)), ("TokenCarve fast", TokenCarve(keep=128, information="fast"))):
        variants |= {name: (method, {}), f"{name}, graphs": (method, {"graphs": True})}
    walls: dict[str, list[float]] = {name: [] for name in variants}
    devices: dict[str, list[float]] = {name: [] for name in variants}
    logits: dict[str, Tensor] = {}
    for name, (method, options) in variants.items():
        if left() < 0:
            return print("no time left")
        handle = None if method is None else foveate.compress(model, method, **options)
        reserved = torch.cuda.memory_reserved()
        start = time.perf_counter()
        call()
        torch.cuda.synchronize()
        first = time.perf_counter() - start
        logits[name] = call().float()
        for _ in range(rounds):
            wall, device = timed(call)
            walls[name].append(wall)
            devices[name].append(device)
        if handle is not None:
            own = ""
            if handle.graphs:
                own = f", {handle.graphs}, reserved +{(torch.cuda.memory_reserved() - reserved) / 2**20:.0f} MiB"
                own += host_parts(handle, call)
            print(f"  {name}: first {first:.2f} s{own}; {handle.report.tokens_after} visual tokens")
            handle.remove()
    full = statistics.median(walls["full"])
    for name in variants:
        wall, device = statistics.median(walls[name]), statistics.median(devices[name])
        print(
            f"batch {batch} {name:24} wall {wall:7.2f} ms (min {min(walls[name]):6.2f}) device {device:7.2f} ms  speed-up {full / wall:.2f}"
        )
    for name in ("FastV", "TokenCarve fast"):
        difference = (logits[name] - logits[f"{name}, graphs"]).abs().max().item()
        print(f"batch {batch} {name}: logits differ by {difference:.3f} of {logits[name].abs().max().item():.3f}")


def host_parts(handle: Any, call: Callable[[], Any]) -> str:
    """The host's ms in the graph's own run and in looking at the layers, and the device's ms for one replay."""
    graphed = handle._schedule.graphed
    spent: dict[str, float] = {}
    run, look = graphed.run, graphed._watch.obstacle

    def clocked(name: str, work: Callable[..., Any]) -> Callable[..., Any]:
        def inner(*args: Any, **kwargs: Any) -> Any:
            start = time.perf_counter()
            try:
                return work(*args, **kwargs)
            finally:
                spent[name] = (time.perf_counter() - start) * 1e3

        return inner

    graphed.run, graphed._watch.obstacle = clocked("run", run), clocked("look", look)
    call()
    torch.cuda.synchronize()
    del graphed.run, graphed._watch.obstacle
    found = ""
    for captured in graphed._graphs.values():
        first, last = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        torch.cuda.synchronize()
        first.record()
        for _ in range(5):
            captured._replay()
        last.record()
        torch.cuda.synchronize()
        found += f", {captured._states.shape[1]} tokens {first.elapsed_time(last) / 5:.2f} ms a replay"
    return f", host run {spent.get('run', 0):.2f} ms of it look {spent.get('look', 0):.2f} ms{found}"


def padded(model: Any, inputs: dict[str, Tensor]) -> None:
    """What padding to a multiple costs: device ms of one replay for the same tokens under several steps."""
    before = runner.STEP
    try:
        for step in (1, 16, 32, 64, 128):
            runner.STEP = step
            with torch.no_grad(), foveate.compress(model, FastV(keep=128), graphs=True) as handle:
                model(**inputs, logits_to_keep=1)
                print(f"step {step}: {host_parts(handle, lambda: model(**inputs, logits_to_keep=1))}")
    finally:
        runner.STEP = before


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shape", default="llava-1.5-7b")
    parser.add_argument("--layers", type=int)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--seconds", type=float, default=60)
    asked = parser.parse_args()
    if not torch.cuda.is_available():
        raise SystemExit("no CUDA device")
    print(torch.__version__, transformers.__version__, torch.cuda.get_device_name())

    def left() -> float:
        return asked.seconds - 5 - (time.perf_counter() - BEGUN)

    part("logits, float32", same_logits, left)
    part("speed", lambda: speed(asked.shape, asked.layers, asked.rounds, left), left)
    part("what falls back", fallbacks, left)
    part("waits and threads", waits, left)


if __name__ == "__main__":
    main()
