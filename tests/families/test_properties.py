"""Any prompt at all: compressed equals masked, or foveate refuses it with reason. Never another value, never another error.

Hypothesis draws mixtures of text, pictures and videos, paddings, budgets, layers, turns and beams. More cases than CI's:
`FOVEATE_PROPERTY_EXAMPLES=2000 pytest tests/families/test_properties.py`.
"""

from __future__ import annotations

import functools
import inspect
import os
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from cases import CASES
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st
from oracle import Prompt, prompt, truth
from torch import Tensor
from transformers.models.llava.modeling_llava import LlavaModel
from zoo import Case, known

import foveate
from foveate import FastV, Method, Pool, Random, TokenCarve
from foveate.errors import BudgetError, FoveateError, InputError
from foveate.families import family_of

EXAMPLES = int(os.environ.get("FOVEATE_PROPERTY_EXAMPLES", "30"))
TYPES = ("idefics3", "internvl", "llava", "llava_next", "llava_onevision", "qwen2_vl", "qwen3_vl")
MODELS = {case.model_type: case for case in CASES if case.model_type in TYPES and not case.variant and known(case.model_type)}
HANDS_OVER = "mm_encoder_outputs" in inspect.signature(LlavaModel.forward).parameters
"""Whether `generate` encodes ahead. Where it does not, it gives the copies that beams make the wrong ones of several images."""
METHODS = {"FastV": FastV, "TokenCarve": TokenCarve, "Random": Random, "Pool": Pool}


@functools.cache
def model_of(model_type: str) -> Any:
    return MODELS[model_type].build()


@dataclass(frozen=True)
class Run:
    """One drawn prompt, and the way it is run."""

    model_type: str
    rows: tuple[tuple[str | int, ...], ...]
    padding: str
    method: Method
    trim: bool
    steps: int
    beams: int
    turn: int

    @property
    def case(self) -> Case:
        return MODELS[self.model_type]

    def prompt(self) -> Prompt:
        """Pictures differ from each other; numbers are lengths of text."""
        made = {"image": self.case.image, "several": self.case.several or self.case.image, "video": self.case.video}
        seeds = iter(range(99))
        rows = [[part if isinstance(part, int) else made[part](next(seeds)) for part in row] for row in self.rows]
        return prompt(self.case, rows, padding=self.padding)

    def reason(self, asked: Prompt) -> type[FoveateError] | None:
        """Why foveate may refuse it: more tokens than there are, or a row that ends with a picture that loses tokens."""
        for places, pieces, mask in zip(asked.columns, asked.pieces, asked.inputs["attention_mask"], strict=True):
            last = int(mask.nonzero()[-1])
            for place, piece in zip(places, pieces, strict=True):
                frames = piece.parts[0][0] if len(piece.parts) == 1 else 1
                try:
                    leaves = self.method.budget(len(place), frames) < len(place)
                except BudgetError:
                    return BudgetError
                if leaves and last in place:
                    return InputError
        return None


@st.composite
def rows_of(draw: st.DrawFn, case: Case) -> tuple[str | int, ...]:
    row: list[str | int] = [draw(st.integers(0, 3))]
    kinds = draw(st.sampled_from([[], ["image"], ["image"], ["several", "several"], ["video"] if case.video else ["image"]]))
    for kind in kinds:
        row += [kind, draw(st.sampled_from([0, 1, 2, 3, 5]))]
    return tuple(row) if kinds or row[0] else (2,)


@st.composite
def runs(draw: st.DrawFn) -> Run:
    model_type = draw(st.sampled_from(sorted(MODELS)))
    name = draw(st.sampled_from(sorted(METHODS)))
    keep = draw(st.one_of(st.integers(1, 24), st.floats(0.01, 1.0)))
    layer = draw(st.integers(1 if name == "TokenCarve" else 0, 3))
    return Run(
        model_type,
        tuple(draw(st.lists(rows_of(MODELS[model_type]), min_size=1, max_size=3))),
        draw(st.sampled_from(["left", "right"])),
        METHODS[name](keep=keep, layer=layer, clamp=draw(st.booleans())),
        draw(st.booleans()),
        draw(st.integers(1, 3)),
        draw(st.sampled_from([1, 1, 1, 2])) if HANDS_OVER else 1,
        draw(st.sampled_from([0, 0, 1, 3])),
    )


def generate(model: Any, steps: int, **options: Any) -> Any:
    more = {"do_sample": False, "output_logits": True, "output_scores": True, "return_dict_in_generate": True, "length_penalty": 0.0}
    return model.generate(**more, **options, max_new_tokens=steps)


@settings(max_examples=EXAMPLES, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(run=runs())
@torch.no_grad()
def test_compressed_equals_masked_or_is_refused_with_reason(run: Run) -> None:
    model, asked = model_of(run.model_type), run.prompt()
    reason = run.reason(asked)
    with foveate.compress(model, run.method, trim_early_layers=run.trim) as handle:
        if reason is not None:
            event(f"refused: {reason.__name__}")
            with pytest.raises(reason):
                generate(model, run.steps, **asked.inputs, num_beams=run.beams)
            return
        out = generate(model, run.steps, **asked.inputs, num_beams=run.beams)
        plans = {(image.row // run.beams, image.position): image.plan for image in handle.report.images}
        event(f"{run.model_type}, {run.beams} beam(s), {'no picture' if not plans else 'pictures'}")
        later = second_turn(model, run, asked, out) if run.turn and run.beams == 1 and run.padding == "left" else None
    check(run, model, asked, plans, out)
    if later is not None:
        full = expected(run, model, asked, plans, later.sequences)
        torch.testing.assert_close(torch.stack(later.logits, 1), full[:, -3:-1], atol=2e-4, rtol=2e-4)


def second_turn(model: Any, run: Run, asked: Prompt, out: Any) -> Any:
    """More text on the cache of the first turn, and two tokens of an answer."""
    rows, width = len(out.sequences), asked.inputs["input_ids"].shape[1]
    text = torch.randint(2, 60, (rows, run.turn), generator=torch.Generator().manual_seed(run.turn))
    ids = torch.cat([out.sequences, text], 1)
    mask = torch.cat([asked.inputs["attention_mask"], torch.ones(rows, ids.shape[1] - width, dtype=torch.long)], 1)
    return generate(model, 2, input_ids=ids, attention_mask=mask, past_key_values=out.past_key_values)


def expected(run: Run, model: Any, asked: Prompt, plans: dict[tuple[int, int], foveate.Plan], sequences: Tensor) -> Tensor:
    return truth(run.case, model, family_of(model), asked, sequences, run.method.layer, trim=run.trim, made=plans)


def check(run: Run, model: Any, asked: Prompt, plans: dict[tuple[int, int], foveate.Plan], out: Any) -> None:
    width = asked.inputs["input_ids"].shape[1]
    last = (asked.inputs["attention_mask"] * torch.arange(1, width + 1)).argmax(1)
    if not plans:  # text alone runs as without foveate: transformers answers from the last column, padding or not
        last = torch.full_like(last, width - 1)
    full = expected(run, model, asked, plans, out.sequences)
    logits = torch.cat([full[torch.arange(len(last)), last][:, None], full[:, width:-1]], 1)
    if run.beams == 1:
        torch.testing.assert_close(torch.stack(out.logits, 1), logits, atol=2e-4, rtol=2e-4)
        return
    # What a beam scores is the sum of its tokens' log-probabilities.
    taken = logits.log_softmax(-1).gather(2, out.sequences[:, width:, None])[..., 0].sum(1)
    torch.testing.assert_close(out.sequences_scores, taken, atol=2e-4, rtol=2e-4)
