"""Try ways to compute fast information scores on an accelerator: agreement with the exact ones, time, waits, graph capture.

python benchmarks/probe_information.py out.json             # on CUDA, some 40 seconds
python benchmarks/probe_information.py out.json --small     # small sizes, also on a CPU
"""

from __future__ import annotations

import json
import math
import statistics
import sys
import time
import traceback
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from foveate.methods import information_contribution
from foveate.methods.information import _draw, _rest, _sixteen_bits

try:
    import triton
    import triton.language as tl
except ImportError:
    triton = None

CUDA = torch.cuda.is_available()
DEVICE = torch.device("cuda" if CUDA else "cpu")
C2, C1 = 0.5, 1.6
LIMIT = 36
START = time.perf_counter()
RESULT: dict[str, Any] = {"micro": [], "agreement": [], "times": [], "capture": {}, "errors": []}


if triton is not None:

    @triton.jit
    def _solve_kernel(m_ptr, v_ptr, s_ptr, c2, c1, R: tl.constexpr, ITERS: tl.constexpr, PRECISION: tl.constexpr):  # noqa: ANN001, ANN202, N803
        base = tl.program_id(0) * R * R
        i = tl.arange(0, R)
        places = base + i[:, None] * R + i[None, :]
        same = i[:, None] == i[None, :]
        eye = tl.where(same, 1.0, 0.0)
        m = tl.load(m_ptr + places)
        v = eye
        for _ in range(ITERS):
            a = tl.dot(tl.trans(m), m, input_precision=PRECISION)
            diagonal = tl.where(same, a, 0.0)
            u = tl.sum(diagonal, axis=0)[None, :] - tl.sum(diagonal, axis=1)[:, None]
            sign = tl.where((u > 0) | ((u == 0) & (i[None, :] > i[:, None])), 2.0, -2.0)
            t = tl.where(same, 0.0, sign * a / (tl.abs(u) + tl.sqrt(u * u + 4 * a * a) + 1e-30))
            k = t * (1 - 0.2146 * t * t)
            row = tl.maximum(tl.maximum(tl.sqrt(tl.sum(k * k, axis=1)) / c2, tl.sum(tl.abs(k), axis=1) / c1), 1.0)
            column = tl.maximum(tl.maximum(tl.sqrt(tl.sum(k * k, axis=0)) / c2, tl.sum(tl.abs(k), axis=0) / c1), 1.0)
            k = k / tl.maximum(row[:, None], column[None, :])
            x = eye + k + 0.5 * tl.dot(k, k, input_precision=PRECISION)
            v = tl.dot(v, x, input_precision=PRECISION)
            w = tl.dot(tl.trans(v), v, input_precision=PRECISION)
            v = tl.dot(v, 1.5 * eye - 0.5 * w, input_precision=PRECISION)
            m = tl.dot(tl.load(m_ptr + places), v, input_precision=PRECISION)
        tl.store(v_ptr + places, v)
        tl.store(s_ptr + tl.program_id(0) * R + i, tl.sqrt(tl.sum(m * m, axis=0)))

    @triton.jit
    def _norms_kernel(a_ptr, n_ptr, c2, c1, r, R: tl.constexpr):  # noqa: ANN001, ANN202, N803
        b, i = tl.program_id(0), tl.program_id(1)
        j = tl.arange(0, R)
        inside = j < r
        a = tl.load(a_ptr + (b * r + i) * r + j, mask=inside, other=0.0)
        u = tl.load(a_ptr + (b * r + j) * r + j, mask=inside, other=0.0) - tl.load(a_ptr + (b * r + i) * r + i)
        t = tl.where(j == i, 0.0, 2 * a / (tl.abs(u) + tl.sqrt(u * u + 4 * a * a) + 1e-30))
        k = t * (1 - 0.2146 * t * t)
        n = tl.maximum(tl.maximum(tl.sqrt(tl.sum(k * k)) / c2, tl.sum(tl.abs(k)) / c1), 1.0)
        tl.store(n_ptr + b * r + i, n)

    @triton.jit
    def _generator_kernel(a_ptr, n_ptr, k_ptr, x_ptr, r, R: tl.constexpr):  # noqa: ANN001, ANN202, N803
        b, i = tl.program_id(0), tl.program_id(1)
        j = tl.arange(0, R)
        inside = j < r
        a = tl.load(a_ptr + (b * r + i) * r + j, mask=inside, other=0.0)
        u = tl.load(a_ptr + (b * r + j) * r + j, mask=inside, other=0.0) - tl.load(a_ptr + (b * r + i) * r + i)
        sign = tl.where((u > 0) | ((u == 0) & (j > i)), 2.0, -2.0)
        t = tl.where(j == i, 0.0, sign * a / (tl.abs(u) + tl.sqrt(u * u + 4 * a * a) + 1e-30))
        k = t * (1 - 0.2146 * t * t)
        k = k / tl.maximum(tl.load(n_ptr + b * r + i), tl.load(n_ptr + b * r + j, mask=inside, other=1.0))
        tl.store(k_ptr + (b * r + i) * r + j, k, mask=inside)
        tl.store(x_ptr + (b * r + i) * r + j, tl.where(j == i, 1.0, k), mask=inside)

    @triton.jit
    def _factor_kernel(g_ptr, l_ptr, w_ptr, R: tl.constexpr):  # noqa: ANN001, ANN202, N803
        base = tl.program_id(0) * R * R
        i = tl.arange(0, R)
        rows, columns = i[:, None], i[None, :]
        places = base + rows * R + columns
        same = rows == columns
        a = tl.load(g_ptr + places)
        trace = tl.sum(tl.sum(tl.where(same, a, 0.0), axis=0), axis=0)
        a = tl.where(same, a + 1e-13 * trace + 1e-100, a)
        w = tl.where(same, 1.0, 0.0).to(tl.float64)
        for j in range(R):
            left = tl.sum(tl.where(columns == j, a, 0.0), axis=1)
            top = tl.sum(tl.where(rows == j, a, 0.0), axis=0)
            scale = 1 / tl.sqrt(tl.sum(tl.where(i == j, top, 0.0), axis=0))
            tl.store(l_ptr + base + i * R + j, tl.where(i >= j, left * scale, 0.0))
            row = tl.sum(tl.where(rows == j, w, 0.0), axis=0) * scale
            below = tl.where(i > j, left * scale, 0.0)
            beside = tl.where(i > j, top * scale, 0.0)
            w = tl.where(rows == j, row[None, :], w - below[:, None] * row[None, :])
            a = a - below[:, None] * beside[None, :]
        tl.store(w_ptr + places, w)


def solve_plain(m0: Tensor, iterations: int) -> tuple[Tensor, Tensor]:
    """Rotation (b, r, r) that makes the columns of m0 orthogonal, and their lengths (b, r); products only."""
    r = m0.shape[-1]
    eye, tie = constants(r, m0.device)
    m, v = m0, None
    for _ in range(iterations):
        a = m.mT @ m
        d = a.diagonal(dim1=-2, dim2=-1)
        k = torch.atan(2 * a / (d.unsqueeze(-2) - d.unsqueeze(-1) + tie))
        n = torch.maximum(torch.linalg.vector_norm(k, dim=-1) * (1 / C2), torch.linalg.vector_norm(k, ord=1, dim=-1) * (1 / C1)).clamp(
            min=2
        )
        k = k / torch.maximum(n.unsqueeze(-1), n.unsqueeze(-2))
        x = torch.baddbmm(eye + k, k, k, alpha=0.5)
        v = x if v is None else v @ x
        v = v @ torch.baddbmm(1.5 * eye.expand_as(v), v.mT, v, alpha=-0.5)
        m = m0 @ v
    return v, torch.linalg.vector_norm(m, dim=-2)


def solve_fused(m0: Tensor, iterations: int) -> tuple[Tensor, Tensor]:
    """As solve_plain, with the elementwise work of an iteration in two kernels."""
    b, r = m0.shape[:2]
    m0 = m0.contiguous()
    eye, _ = constants(r, m0.device)
    half = (1.5 * eye).expand_as(m0).contiguous()
    m, v = m0, None
    k, x, n = torch.empty_like(m0), torch.empty_like(m0), m0.new_empty(b, r)
    width = triton.next_power_of_2(r)
    for _ in range(iterations):
        a = m.mT @ m
        _norms_kernel[(b, r)](a, n, C2, C1, r, R=width, num_warps=1)
        _generator_kernel[(b, r)](a, n, k, x, r, R=width, num_warps=1)
        y = torch.baddbmm(x, k, k, alpha=0.5)
        v = y if v is None else v @ y
        v = v @ torch.baddbmm(half, v.mT, v, alpha=-0.5)
        m = m0 @ v
    return v, torch.linalg.vector_norm(m, dim=-2)


def solve_kernel(precision: str, warps: int) -> Callable[[Tensor, int], tuple[Tensor, Tensor]]:
    """As solve_plain, in one kernel."""

    def solve(m0: Tensor, iterations: int) -> tuple[Tensor, Tensor]:
        b, r = m0.shape[:2]
        m0 = m0.contiguous()
        v, s = torch.empty_like(m0), m0.new_empty(b, r)
        _solve_kernel[(b,)](m0, v, s, C2, C1, R=r, ITERS=iterations, PRECISION=precision, num_warps=warps)
        return v, s

    return solve


def solve_eigh(m0: Tensor, iterations: int) -> tuple[Tensor, Tensor]:
    values, v = torch.linalg.eigh(m0.double().mT @ m0.double())
    return v.float(), values.clamp(min=0).sqrt().float()


_CONSTANTS: dict[tuple[int, torch.device], tuple[Tensor, Tensor]] = {}


def constants(r: int, device: torch.device) -> tuple[Tensor, Tensor]:
    if (r, device) not in _CONSTANTS:
        i = torch.arange(r)
        tie = torch.sign(i[None, :] - i[:, None]).float() * 1e-30
        tie.fill_diagonal_(math.inf)
        _CONSTANTS[r, device] = torch.eye(r).to(device), tie.to(device)
    return _CONSTANTS[r, device]


_SMALL: dict[tuple[int, torch.device], Tensor] = {}


def gram_of(columns: Tensor) -> Tensor:
    """Float64 Gram matrix (b, r, r) of columns (b, n, r), shifted so that it can be factored."""
    r = columns.shape[-1]
    if (r, columns.device) not in _SMALL:
        _SMALL[r, columns.device] = torch.eye(r, dtype=torch.float64).to(columns.device)
    eye = _SMALL[r, columns.device]
    gram = columns.mT @ columns
    trace = gram.diagonal(dim1=-2, dim2=-1).sum(-1)
    return torch.addcmul(gram, eye, (trace * 1e-13 + 1e-100)[:, None, None])


def factor_torch(columns: Tensor) -> tuple[Tensor, Tensor | None]:
    return torch.linalg.cholesky_ex(gram_of(columns)).L, None


def factor_triton(columns: Tensor) -> tuple[Tensor, Tensor | None]:
    gram = columns.mT @ columns
    lower, inverse = torch.empty_like(gram), torch.empty_like(gram)
    r = gram.shape[-1]
    _factor_kernel[(len(gram),)](gram, lower, inverse, R=r, num_warps=8 if r <= 64 else 16)
    return lower, inverse


def orthonormal(columns: Tensor, factor: Callable) -> Tensor:
    columns = columns.double()
    lower, inverse = factor(columns)
    if inverse is None:
        return torch.linalg.solve_triangular(lower.mT, columns, upper=True, left=False).float()
    return (columns @ inverse.mT).float()


def candidate(rank: int, passes: int, iterations: int, solve: Callable, factor: Callable, twice: bool = True) -> Callable[[Tensor], Tensor]:
    """Scores (b, n) of states (b, n, d)."""

    def scores(states: Tensor) -> Tensor:
        states = states.float()
        n, d = states.shape[1:]
        full = min(n, d)
        r = min(rank, full)
        basis = orthonormal(states @ _draw(d, r, states.device), factor)
        for _ in range(passes):
            basis = orthonormal(states @ (basis.mT @ states).mT, factor)
        if twice:
            basis = orthonormal(basis, factor)
        rows = basis.mT @ states
        lower, _ = factor(rows.mT.double())
        m = lower.mT
        scale = lower.square().sum(-1).amax(-1).sqrt()[:, None, None]
        v, s = solve((m / scale).float(), iterations)
        found = ((basis @ v).abs() @ (s * scale[:, 0].float()).unsqueeze(-1)).squeeze(-1).double()
        if r < full:
            found = found + _rest(torch.baddbmm(states, basis, rows, alpha=-1), full - r)
        return _sixteen_bits(found)

    return scores


class Graphed:
    """A function of one tensor as a CUDA graph."""

    def __init__(self, call: Callable[[Tensor], Tensor], example: Tensor) -> None:
        self.held = example.clone()
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(2):
                call(self.held)
        torch.cuda.current_stream().wait_stream(stream)
        self.graph = torch.cuda.CUDAGraph()
        start = time.perf_counter()
        with torch.cuda.graph(self.graph, capture_error_mode="thread_local"):
            self.out = call(self.held)
        torch.cuda.synchronize()
        self.capture_ms = 1e3 * (time.perf_counter() - start)

    def __call__(self, states: Tensor) -> Tensor:
        self.held.copy_(states)
        self.graph.replay()
        return self.out.clone()


def sync() -> None:
    if CUDA:
        torch.cuda.synchronize()


def clock(call: Callable[[], object], rounds: int = 12) -> dict[str, float]:
    """Medians in ms: host (until the call returns), wall (until the device is done), device (events around back-to-back calls)."""
    first = time.perf_counter()
    call()
    sync()
    first = time.perf_counter() - first
    call()
    sync()
    host, wall = [], []
    for _ in range(rounds if first < 1 else 2):
        start = time.perf_counter()
        call()
        host.append(time.perf_counter() - start)
        sync()
        wall.append(time.perf_counter() - start)
    row = {
        "first": round(1e3 * first, 1),
        "host": round(1e3 * statistics.median(host), 3),
        "wall": round(1e3 * statistics.median(wall), 3),
    }
    if CUDA:
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        for _ in range(10):
            call()
        end.record()
        sync()
        row["events"] = round(begin.elapsed_time(end) / 10, 3)
    return row


def waits(call: Callable[[], object]) -> str:
    """Whether a call makes the host wait."""
    if not CUDA:
        return "-"
    torch.cuda.set_sync_debug_mode("error")
    try:
        call()
    except RuntimeError as error:
        return f"WAITS: {str(error)[:80]}"
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return "no"


def attempt(what: str, call: Callable[[], Any]) -> Any:
    """The result, or None with the error noted."""
    try:
        return call()
    except Exception as error:
        RESULT["errors"].append({"what": what, "error": repr(error)[:600], "trace": traceback.format_exc()[-1500:]})
        print(f"FAILED {what}: {type(error).__name__}: {str(error)[:200]}", flush=True)
        if CUDA:
            attempt_sync = torch.cuda.synchronize
            try:
                attempt_sync()
            except Exception as worse:
                print(f"  and the device is unusable: {worse}")
        return None


def late() -> bool:
    """Whether nothing new should be started."""
    return time.perf_counter() - START > LIMIT


def save() -> None:
    RESULT["seconds"] = round(time.perf_counter() - START, 1)
    with open(sys.argv[1], "w") as file:
        json.dump(RESULT, file, indent=1)


def spectrum(b: int, n: int, d: int, kind: str) -> Tensor:
    """States (b, n, d) bfloat16: columns that decay like k^-0.7, singular values 1/k, none; "massive": huge rows and columns."""
    generator = torch.Generator().manual_seed(0)
    states = torch.randn(b, n, d, generator=generator)
    k = torch.arange(1, d + 1).float()
    if kind == "decay":
        states = states * k**-0.7
    elif kind == "massive":
        states = states * k**-0.5
        states[:, 5] *= 3000
        states[:, :, 7] *= 500
    elif kind == "power 1":
        rank = min(n, d)
        left = torch.linalg.qr(states[..., :rank].to(DEVICE)).Q
        right = torch.linalg.qr(torch.randn(d, rank, generator=generator).to(DEVICE)).Q
        states = (left * torch.arange(1, rank + 1, device=DEVICE).float() ** -1.0) @ right.mT
    return states.to(DEVICE, torch.bfloat16)


def overlap(first: Tensor, second: Tensor, k: int) -> float:
    return round(len(set(first.topk(k).indices.tolist()) & set(second.topk(k).indices.tolist())) / k, 3)


def main() -> None:
    small = "--small" in sys.argv or not CUDA
    n, d, long_n, long_d = (72, 96, 120, 80) if small else (576, 4096, 6400, 3584)
    ranks = (16, 32) if small else (64, 128, 256)
    torch.manual_seed(0)
    RESULT["device"] = torch.cuda.get_device_name() if CUDA else "cpu"
    RESULT["torch"], RESULT["triton"] = torch.__version__, getattr(triton, "__version__", None)
    kernels = triton is not None and (CUDA or "--interpret" in sys.argv)

    # The kernels against plain operations, at their own sizes.
    def check_solver(name: str, solve: Callable, r: int, iterations: int = 16) -> None:
        g = torch.Generator().manual_seed(1)
        m0 = torch.randn(3, r, r, generator=g) * torch.arange(1, r + 1).float()[:, None] ** -0.7
        m0 = torch.linalg.cholesky(m0.double() @ m0.double().mT).mT
        m0 = (m0 / torch.linalg.vector_norm(m0, dim=-2).amax(-1)[:, None, None]).float().to(DEVICE)
        start = time.perf_counter()
        v, s = solve(m0, iterations)
        sync()
        compile_s = time.perf_counter() - start
        a = (m0 @ v).double()
        size = torch.linalg.vector_norm(a, dim=-2)
        cosine = (a.mT @ a) / size[:, :, None] / size[:, None, :] - torch.eye(r, device=DEVICE)
        unit = (v.double().mT @ v.double() - torch.eye(r, device=DEVICE)).abs().amax()
        truth = torch.linalg.svdvals(m0.double())
        off = ((s.double().sort(descending=True).values - truth) / truth).abs().amax()
        row = {
            "solver": name,
            "r": r,
            "first_s": round(compile_s, 2),
            "max_cosine": f"{float(cosine.abs().amax()):.1e}",
            "unit": f"{float(unit):.1e}",
            "values": f"{float(off):.1e}",
        }
        RESULT.setdefault("solvers", []).append(row)
        print(row, flush=True)

    attempt("solver plain 64", lambda: check_solver("plain", solve_plain, 64))
    attempt("solver plain 128", lambda: check_solver("plain", solve_plain, 128))
    if kernels:
        attempt("solver fused 64", lambda: check_solver("fused", solve_fused, 64))
        attempt("solver fused 128", lambda: check_solver("fused", solve_fused, 128))

    def check_factor() -> None:
        x = spectrum(3, n, 64, "decay").double()
        start = time.perf_counter()
        lower, inverse = factor_triton(x)
        sync()
        expected = torch.linalg.cholesky(gram_of(x))
        unit = inverse @ expected - torch.eye(64, device=DEVICE, dtype=torch.float64)
        error = float((lower - expected).abs().amax() / expected.abs().amax())
        print("factor kernel: first", round(time.perf_counter() - start, 2), "s, error", error, "inverse", float(unit.abs().amax()))
        RESULT["factor"] = [error, float(unit.abs().amax())]

    save()

    # What the parts cost.
    def micro(name: str, call: Callable[[], object]) -> None:
        if late():
            return
        row = attempt(name, lambda: clock(call, 8))
        if row is not None:
            row = {"op": name, **row, "waits": attempt(name, lambda: waits(call))}
            if CUDA:

                def captured() -> str:
                    graph = torch.cuda.CUDAGraph()
                    with torch.cuda.graph(graph, capture_error_mode="thread_local"):
                        call()
                    graph.replay()
                    sync()
                    row["graph"] = clock(graph.replay, 8)["events"]
                    return "yes"

                row["capture"] = attempt(f"capture {name}", captured) or "NO"
            RESULT["micro"].append(row)
            print(row, flush=True)

    for b in (1, 8):
        x = spectrum(b, n, d, "decay").float()
        for r in ranks:
            columns = torch.randn(b, n, r, device=DEVICE, dtype=torch.float64)
            gram = gram_of(columns)
            lower = torch.linalg.cholesky(gram)
            micro(f"b{b} r{r} cholesky_ex f64", lambda gram=gram: torch.linalg.cholesky_ex(gram).L)
            micro(
                f"b{b} r{r} solve_triangular f64", lambda f=lower, c=columns: torch.linalg.solve_triangular(f.mT, c, upper=True, left=False)
            )
            narrow = columns.float()
            micro(f"b{b} r{r} A^T B f32", lambda x=x, c=narrow: c.mT @ x)
            micro(f"b{b} r{r} gram f64", lambda c=columns: c.mT @ c)
            m0 = (lower / lower.abs().amax()).mT.float()
            if r < 256:
                micro(f"b{b} r{r} solver plain x16", lambda m=m0: solve_plain(m, 16))
            if kernels:
                micro(f"b{b} r{r} solver fused x16", lambda m=m0: solve_fused(m, 16))
        micro(f"b{b} rest", lambda x=x: _rest(x, 448))
        micro(f"b{b} to float32", lambda x=x: x.bfloat16().float())
        if CUDA:
            halves = x.bfloat16()
            micro(f"b{b} gram bf16 to f32", lambda h=halves: torch.bmm(h, h.mT, out_dtype=torch.float32))
            thin = torch.randn(b, n, 128, device=DEVICE).bfloat16()
            micro(f"b{b} A^T B bf16 to f32 r128", lambda h=halves, t=thin: torch.bmm(t.mT, h, out_dtype=torch.float32))
        micro(f"b{b} gram f32", lambda x=x: x @ x.mT)
    rows = torch.randn(2, n // 6, d, device=DEVICE)
    micro(
        "cosine f64",
        lambda: torch.nn.functional.normalize(rows[0].double(), dim=1) @ torch.nn.functional.normalize(rows[1].double(), dim=1).mT,
    )
    rows6 = torch.randn(2, long_n // 5, long_d, device=DEVICE)
    micro(
        "cosine f64 long",
        lambda: torch.nn.functional.normalize(rows6[0].double(), dim=1) @ torch.nn.functional.normalize(rows6[1].double(), dim=1).mT,
    )
    micro("cosine f32 long", lambda: torch.nn.functional.normalize(rows6[0], dim=1) @ torch.nn.functional.normalize(rows6[1], dim=1).mT)
    values = torch.randn(8, n, device=DEVICE)
    micro("stable argsort", lambda: values.argsort(dim=1, descending=True, stable=True))
    save()

    # Candidates.
    solvers: dict[str, Callable] = {"plain": solve_plain}
    if kernels:
        solvers["fused"] = solve_fused
    candidates: dict[str, Callable[[Tensor], Tensor]] = {"today": lambda x: information_contribution(x, "fast")}
    candidates["eigh 64/2"] = candidate(64, 2, 0, solve_eigh, factor_torch)
    for name, solve in solvers.items():
        candidates[f"{name} 64/2 x14"] = candidate(64, 2, 14, solve, factor_torch)
        candidates[f"{name} 128/1 x16"] = candidate(128, 1, 16, solve, factor_torch)
        candidates[f"{name} 128/1 x14 once"] = candidate(128, 1, 14, solve, factor_torch, twice=False)
        if not small:
            candidates[f"{name} 192/1 x16"] = candidate(192, 1, 16, solve, factor_torch)
            candidates[f"{name} 256/1 x16"] = candidate(256, 1, 16, solve, factor_torch)
    best = 2 * n // 9, n // 9
    states = {kind: spectrum(2, n, d, kind) for kind in ("decay", "power 1", "flat", "massive")}
    truth = {kind: information_contribution(x.cpu()) for kind, x in states.items()}

    def agreement(name: str, call: Callable) -> None:
        row: dict[str, Any] = {"name": name}
        for kind, x in states.items():
            found = call(x).cpu()
            row[kind] = [round(statistics.mean(overlap(f, t, k) for f, t in zip(found, truth[kind], strict=True)), 3) for k in best]
        RESULT["agreement"].append(row)
        print(row, flush=True)

    def timed(name: str, call: Callable, x: Tensor, kind: str) -> None:
        row = {"size": list(x.shape), "kind": kind, "name": name, **clock(lambda: call(x), 7)}
        row["waits"] = waits(lambda: call(x))
        if CUDA and not row["waits"].startswith("WAITS"):

            def graphed() -> bool:
                graph = Graphed(call, x)
                row["graph"] = clock(lambda: graph(x), 7)
                row["capture_ms"] = round(graph.capture_ms, 1)
                row["equal"] = bool(torch.equal(graph(x), call(x)))
                return True

            row["captured"] = attempt(f"graph {name} {list(x.shape)}", graphed) or False
        RESULT["times"].append(row)
        print(row, flush=True)

    def inputs(size: tuple[int, int, int], kind: str) -> Tensor:
        x = torch.randn(size, device=DEVICE)
        return (x if kind == "flat" else x * torch.arange(1, size[2] + 1, device=DEVICE).float() ** -0.7).bfloat16()

    def judge(chosen: dict[str, Callable[[Tensor], Tensor]], sizes: list[tuple[tuple[int, int, int], str]]) -> None:
        for name, call in chosen.items():
            if late():
                return
            attempt(f"agreement {name}", lambda name=name, call=call: agreement(name, call))
        for size, kind in sizes:
            x = inputs(size, kind)
            for name, call in chosen.items():
                if not late():
                    attempt(f"time {name} {size}", lambda name=name, call=call, x=x, kind=kind: timed(name, call, x, kind))
            save()

    sizes = [((1, n, d), "decay"), ((8, n, d), "decay"), ((1, long_n, long_d), "decay"), ((1, n, d), "flat")]
    judge(candidates, sizes[:3])
    judge({name: candidates[name] for name in list(candidates)[:3]}, sizes[3:])
    for b in (1, 8):
        x = inputs((b, n, d), "decay")
        attempt(f"time exact {b}", lambda x=x: print("exact", list(x.shape), clock(lambda: information_contribution(x), 2), flush=True))
    save()

    # Last, because they may take long to compile.
    if kernels and CUDA:
        r64 = inputs((8, 576, 64), "decay")
        if not late():
            attempt("factor kernel", check_factor)
            for b in (1, 8):
                micro(f"b{b} r64 factor kernel", lambda b=b: factor_triton(r64[:b].double()))
        for r, precision, warps in ((64, "tf32x3", 4), (64, "tf32x3", 8), (64, "ieee", 8), (128, "tf32x3", 8), (128, "tf32x3", 16)):
            if late():
                break
            name, solve = f"kernel {precision} w{warps}", solve_kernel(precision, warps)
            attempt(f"solver {name} {r}", lambda: check_solver(name, solve, r))  # noqa: B023
            m0 = torch.randn(8, r, r, device=DEVICE) / r
            for b in (1, 8):
                micro(f"b{b} r{r} solver {name} x16", lambda b=b: solve(m0[:b], 16))  # noqa: B023
            chosen = {f"{name} {r}": candidate(r, 2 if r == 64 else 1, 14, solve, factor_torch)}
            if r == 64 and warps == 4:
                chosen[f"{name} 64 factor"] = candidate(64, 2, 14, solve, factor_triton)
            judge(chosen, sizes[:2])
            save()
    print(f"{len(RESULT['errors'])} failures, {time.perf_counter() - START:.0f} s")
    save()


if __name__ == "__main__":
    main()
