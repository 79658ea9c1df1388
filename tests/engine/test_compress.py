"""How the handle behaves: what it leaves alone, what it survives, and what it refuses."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from on_gpu import ROTARY_TOLERANCE, same_everywhere
from tiny import IMAGE, METHODS, SPARSE, TOKENS, Fixed, alone, batch, generate, keep_target, pixels, prompt, tiny_llava
from transformers import TextStreamer

import foveate
from foveate import FastV, FirstLayerAttention, Pool, PyramidDrop, Random, Report, TokenCarve, TowerAttention


@pytest.mark.parametrize("method", METHODS, ids=repr)
def test_every_method_keeps_its_budget_and_batches_equal_one_by_one(method: foveate.Method) -> None:
    # Selections flip on near-ties between batch sizes, so they are compared in float64.
    model = tiny_llava(dtype=torch.float64)
    rows = [prompt(3, "image", 5), prompt(2, "image", 9, "image", 2, seed=1), prompt(4, "image", 3, seed=2)]
    for padding in ("left", "right"):
        inputs = batch(rows, padding=padding)
        inputs["pixel_values"] = inputs["pixel_values"].double()
        with foveate.compress(model, method) as handle:
            together = generate(model, inputs)
            images = handle.report.images
            assert [image.tokens_after for image in images] == [6] * 4
            single = []
            for row in range(3):
                out = generate(model, alone(inputs, row))
                single += handle.report.images
                torch.testing.assert_close(torch.stack(together.logits, 1)[row], torch.stack(out.logits, 1)[0], atol=1e-8, rtol=1e-8)
            assert [image.plan.to_list() for image in images] == [image.plan.to_list() for image in single]


@pytest.mark.parametrize(
    "method",
    [
        *(FastV(keep=1.0, mass=0.5), TokenCarve(keep=0.9, mass=0.5), TowerAttention(keep=1.0, mass=0.6)),
        *(PyramidDrop(keep=4, mass=0.3), FirstLayerAttention(keep=1.0, mass=0.6, at_least=2)),
    ],
    ids=str,
)
def test_budgets_that_follow_the_images_are_those_of_single_runs(method: foveate.Method) -> None:
    model = tiny_llava(dtype=torch.float64)
    rows = [prompt(3, "image", 5), prompt(2, "image", 9, "image", 2, seed=1), prompt(4, "image", 3, seed=2)]
    for padding in ("left", "right"):
        inputs = batch(rows, padding=padding)
        inputs["pixel_values"] = inputs["pixel_values"].double()
        with foveate.compress(model, method) as handle:
            together = generate(model, inputs)
            images = handle.report.images
            single = []
            for row in range(3):
                out = generate(model, alone(inputs, row))
                single += handle.report.images
                torch.testing.assert_close(torch.stack(together.logits, 1)[row], torch.stack(out.logits, 1)[0], atol=1e-8, rtol=1e-8)
        assert [image.plan.to_list() for image in images] == [image.plan.to_list() for image in single]
        assert len({image.tokens_after for image in images}) > 1
        assert all(method.fewest(TOKENS) <= image.tokens_after <= method.budget(TOKENS) for image in images)


@pytest.mark.parametrize(
    "method",
    [TokenCarve(keep=1.0), FastV(keep=TOKENS), Random(keep=99, clamp=True), Pool(keep=1.0), Fixed(targets=(keep_target(range(TOKENS)),))],
    ids=repr,
)
@pytest.mark.parametrize("trim", [True, False])
def test_keeping_all_changes_nothing(method: foveate.Method, trim: bool) -> None:
    model, inputs = tiny_llava(), batch([prompt(3, "image", 5), prompt(2, "image", 9, seed=1)])
    full = generate(model, inputs)
    with foveate.compress(model, method, trim_early_layers=trim) as handle:
        same = generate(model, inputs)
        assert handle.report.tokens_after == 2 * TOKENS
    torch.testing.assert_close(torch.stack(same.logits), torch.stack(full.logits), atol=1e-5, rtol=1e-5)
    assert torch.equal(same.sequences, full.sequences)


def test_removal_restores_the_model() -> None:
    model, inputs = tiny_llava(), batch([prompt(3, "image", 5)])

    def fingerprint() -> list[Any]:
        modules = [(n, len(m._forward_hooks), len(m._forward_pre_hooks), sorted(m.__dict__)) for n, m in model.named_modules()]
        return [modules, [id(getattr(m, "config", None)) for m in model.modules()]]

    expected, before = model(**inputs).logits, fingerprint()
    handle = foveate.compress(model, TokenCarve(keep=4, source="attention_output"))
    assert model(**inputs).logits.shape[1] == 12
    handle.remove()
    handle.remove()
    assert fingerprint() == before
    assert torch.equal(model(**inputs).logits, expected)


def test_an_exception_in_the_middle_leaves_no_trace() -> None:
    model, inputs = tiny_llava(), batch([prompt(3, "image", 5)])
    with foveate.compress(model, TokenCarve(keep=4)) as handle:
        expected = model(**inputs).logits
        for layer in (1, 2, 3):
            hook = model.model.language_model.layers[layer].mlp.register_forward_pre_hook(lambda *_: 1 / 0)
            with pytest.raises(ZeroDivisionError):
                model(**inputs)
            hook.remove()
            config = model.model.language_model.config
            assert all(part.self_attn.config is config for part in model.model.language_model.layers)
            text = model(**batch([prompt(6)]))
            assert text.logits.shape[1] == 6
            assert not handle.report.images
            assert torch.equal(model(**inputs).logits, expected)


def test_a_model_may_be_compressed_where_another_device_is_the_default() -> None:
    with torch.device("meta"):
        handle = foveate.compress(tiny_llava(), FastV(keep=6))
    assert handle._schedule.placeholders.tolist() == [IMAGE]  # compared with token ids on the CPU in every prefill


def test_text_alone_is_untouched() -> None:
    model, inputs = tiny_llava(), batch([prompt(6), prompt(4, seed=1)])
    full = generate(model, inputs)
    with foveate.compress(model, TokenCarve(keep=4)) as handle:
        same = generate(model, inputs)
        assert handle.report == Report()
    assert torch.equal(torch.stack(same.logits), torch.stack(full.logits))


def test_two_generations_step_by_step_side_by_side() -> None:
    model = tiny_llava()
    inputs = [batch([prompt(3, "image", 5)]), batch([prompt(2, "image", 9, seed=1)], seed=1)]
    with foveate.compress(model, FastV(keep=4)), torch.no_grad():
        expected = [torch.stack(generate(model, i).logits, 1) for i in inputs]
        outs = [model(**i) for i in inputs]
        logits = [[out.logits[:, -1]] for out in outs]
        for _ in range(5):
            for index, out in enumerate(outs):
                last = logits[index][-1].clone()
                last[:, IMAGE] = -math.inf
                outs[index] = model(input_ids=last.argmax(-1, keepdim=True), past_key_values=out.past_key_values)
                logits[index].append(outs[index].logits[:, -1])
    for index in range(2):
        torch.testing.assert_close(torch.stack(logits[index], 1), expected[index], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("trim", [True, False])
def test_without_a_cache_every_step_is_a_fresh_prefill(trim: bool) -> None:
    model, inputs = tiny_llava(), batch([prompt(3, "image", 5), prompt(2, "image", 9, seed=1)])
    with foveate.compress(model, Fixed(targets=(SPARSE, keep_target([3]))), trim_early_layers=trim) as handle:
        out = generate(model, inputs, use_cache=False)
        assert handle.report.cache_bytes_before == handle.report.cache_bytes_after == 0
        assert [image.tokens_after for image in handle.report.images] == [5, 1]
        step = generate(
            model,
            {
                **inputs,
                "input_ids": out.sequences[:, :-1],
                "attention_mask": torch.cat([inputs["attention_mask"], torch.ones(2, 5, dtype=torch.long)], 1),
            },
            steps=1,
        )
    torch.testing.assert_close(step.logits[0], out.logits[-1], atol=1e-5, rtol=1e-5)


def test_sampling_depends_on_the_seed_alone() -> None:
    model, inputs = tiny_llava(), batch([prompt(3, "image", 5)])
    with foveate.compress(model, Random(keep=4)):
        draws = []
        for seed in (1, 1, 2):
            torch.manual_seed(seed)
            draws.append(model.generate(**inputs, max_new_tokens=12, do_sample=True).tolist())
    assert draws[0] == draws[1] != draws[2]


def test_returned_sequences_of_one_sample_share_their_plan() -> None:
    model, inputs = tiny_llava(), batch([prompt(3, "image", 5), prompt(2, "image", 9, seed=1)])
    with foveate.compress(model, TokenCarve(keep=4)) as handle:
        model.generate(**inputs, max_new_tokens=2, do_sample=True, num_return_sequences=3)
        plans = [image.plan for image in handle.report.images]
    assert plans[:3] == plans[:1] * 3
    assert plans[3:] == plans[3:4] * 3


def test_the_same_question_about_two_pictures_gets_two_plans() -> None:
    model, inputs = tiny_llava(), batch([prompt(3, "image", 5)] * 2)
    with foveate.compress(model, TokenCarve(keep=4)) as handle, torch.no_grad():
        model(**inputs)
        one, two = (image.plan for image in handle.report.images)
        for row, plan in enumerate((one, two)):
            model(**alone(inputs, row))
            assert handle.report.images[0].plan == plan
    assert one != two


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_runs_and_stays_near_float32(dtype: torch.dtype) -> None:
    inputs = batch([prompt(3, "image", 5)])
    plan = Fixed(targets=(SPARSE,))
    logits = []
    for kind in (torch.float32, dtype):
        model = tiny_llava(dtype=kind)
        with foveate.compress(model, plan), torch.no_grad():
            logits.append(model(**inputs | {"pixel_values": inputs["pixel_values"].to(kind)}).logits.float())
        for method in METHODS:
            with foveate.compress(model, method) as handle:
                model(**inputs | {"pixel_values": inputs["pixel_values"].to(kind)})
                assert handle.report.tokens_after == 6
    assert (logits[0] - logits[1]).abs().max() < 0.25


def test_hidden_states_and_streamers_come_through() -> None:
    model, inputs = tiny_llava(), batch([prompt(3, "image", 5)])
    with foveate.compress(model, FastV(keep=4)) as handle:
        out = model(**inputs, output_hidden_states=True)
        assert [state.shape[1] for state in out.hidden_states] == [24, 24, 24, 12, 12]
        assert handle.report.columns[0] == tuple(c for c in range(24) if not 3 <= c < 19 or c - 3 in handle.report.images[0].plan.kept)
        seen: list[int] = []

        class Streamer(TextStreamer):
            def __init__(self) -> None: ...

            def put(self, value: torch.Tensor) -> None:
                seen.extend(value.flatten().tolist())

            def end(self) -> None: ...

        ids = model.generate(**inputs, max_new_tokens=4, do_sample=False, streamer=Streamer())
        assert seen == ids[0].tolist()


def test_key_value_bytes_are_those_of_the_cache() -> None:
    model, inputs = tiny_llava(), batch([prompt(3, "image", 5)])
    for trim in (True, False):
        with torch.no_grad():
            full = model(**inputs).past_key_values
        with foveate.compress(model, FastV(keep=4), trim_early_layers=trim) as handle, torch.no_grad():
            short = model(**inputs).past_key_values
        for cache, said in ((full, handle.report.cache_bytes_before), (short, handle.report.cache_bytes_after)):
            assert said == sum(t.nbytes for layer in cache.layers for t in (layer.keys, layer.values))


def test_the_papers_layout_saves_what_the_reference_says() -> None:
    model = tiny_llava(layers=32, side=24)
    ids = [[5] * 36 + [IMAGE] * 576 + [6] * 40]
    inputs = {"input_ids": torch.tensor(ids), "attention_mask": torch.ones(1, 652, dtype=torch.long), "pixel_values": pixels(1, side=24)}
    for trim, saved in ((True, 0.687), (False, 0.644)):
        with foveate.compress(model, TokenCarve(keep=128), trim_early_layers=trim) as handle, torch.no_grad():
            model(**inputs)
        assert 1 - handle.report.cache_bytes_after / handle.report.cache_bytes_before == pytest.approx(saved, abs=5e-4)


def test_attention_implementation_may_change_under_the_handle() -> None:
    model, inputs = tiny_llava(attention="eager"), batch([prompt(3, "image", 5)])
    with foveate.compress(model, FastV(keep=4)) as handle, torch.no_grad():
        one = model(**inputs).logits
        kept = handle.report.images[0].plan
        model.set_attn_implementation("sdpa")
        two = model(**inputs).logits
        assert handle.report.images[0].plan == kept
        assert all(layer.self_attn.config._attn_implementation == "sdpa" for layer in model.model.language_model.layers)
    torch.testing.assert_close(one, two, atol=1e-5, rtol=1e-5)


def test_attention_rows_equal_eager_attention() -> None:
    model = tiny_llava(attention="eager")
    seen: list[torch.Tensor] = []

    class Spy(FastV):
        def plans(self, views):  # noqa: ANN001, ANN202
            seen.extend(view.last_attention for view in views)
            return super().plans(views)

    rows = [prompt(3, "image", 5), prompt(2, "image", 9, seed=1)]
    for padding in ("left", "right"):
        inputs = batch(rows, padding=padding)
        with torch.no_grad():
            maps = model(**inputs, output_attentions=True).attentions[1]
        seen.clear()
        with foveate.compress(model, Spy(keep=4)), torch.no_grad():
            model(**inputs)
        for row in range(2):
            last = int(inputs["attention_mask"][row].nonzero().max())
            visual = (inputs["input_ids"][row] == IMAGE).nonzero().squeeze(1)
            torch.testing.assert_close(seen[row], maps[row, :, last, visual].mean(0), atol=1e-7, rtol=1e-5)


def two_pictures() -> dict[str, Any]:
    inputs = batch([prompt(3, "image", 5), prompt(2, "image", 9, seed=1)])
    return {**inputs, "pixel_values": inputs["pixel_values"].double()}


def logits_and_plans(model: Any, method: foveate.Method) -> tuple[torch.Tensor, list[foveate.Plan]]:
    with foveate.compress(model, method) as handle:
        out = generate(model, {name: value.to(model.device) for name, value in two_pictures().items()})
        return torch.stack(out.logits).cpu(), [image.plan for image in handle.report.images]


@pytest.mark.gpu
@pytest.mark.parametrize("method", METHODS, ids=repr)
def test_a_gpu_gives_what_the_cpu_gives(method: foveate.Method) -> None:
    models = [tiny_llava(dtype=torch.float64).to(device) for device in ("cpu", "cuda")]
    (expected, plans), (logits, same) = (logits_and_plans(model, same_everywhere(method)) for model in models)
    assert plans == same
    torch.testing.assert_close(logits, expected, atol=ROTARY_TOLERANCE, rtol=ROTARY_TOLERANCE)


@pytest.mark.parametrize("method", METHODS, ids=repr)
def test_the_tolerance_on_a_gpu_is_what_one_rounding_of_the_rotary_tables_needs(method: foveate.Method) -> None:
    model, generator = tiny_llava(dtype=torch.float64), torch.Generator().manual_seed(0)
    expected, plans = logits_and_plans(model, method)

    def rounded(module: Any, args: Any, tables: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        signs = [torch.rand(table.shape, generator=generator, dtype=table.dtype) * 2 - 1 for table in tables]
        return tuple(table + sign * torch.finfo(torch.float32).eps for table, sign in zip(tables, signs, strict=True))

    model.model.language_model.rotary_emb.register_forward_hook(rounded)
    logits, same = logits_and_plans(model, method)
    assert plans == same
    assert ROTARY_TOLERANCE / 64 < float((logits - expected).abs().max()) < ROTARY_TOLERANCE
