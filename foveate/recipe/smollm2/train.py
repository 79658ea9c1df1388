"""Train the model with a pretrained decoder: one command, any device, paced by the clock, resumable.

    python -m foveate.recipe.smollm2.train OUT --luggage PARTS [PARTS ...] --seconds 270 --workers 15      # on a GPU
    python -m foveate.recipe.smollm2.train OUT --luggage PARTS --seconds 10800 --tokens 2000 --workers 1      # on a CPU

`PARTS` are folders that `travel` filled. OUT receives `adapters.safetensors` (projector and adapters, renewed every half minute),
`curve.jsonl` and `results.json`. A killed run resumes from its checkpoint when it is started again with the same folders.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import CLIPVisionModel, LlamaForCausalLM

from foveate.demo.scenes.labels import GRID
from foveate.errors import FoveateError, TrainingError
from foveate.files.checkpoints.finite import not_finite
from foveate.files.records import read_tensors
from foveate.files.writing import append_line, make_folder, write_made, write_whole
from foveate.recipe.smollm2.adapt import SMALL_PICTURES, WHOLE_SCENES, Anchor, Clock, Guard, Learner, Syllabus, Texts, orders
from foveate.recipe.smollm2.align import Targets, fit, joined, thinned
from foveate.recipe.smollm2.artefact import ADAPTERS, TrainedAdapters
from foveate.recipe.smollm2.attention import Masks
from foveate.recipe.smollm2.drawers import Drawers, warm
from foveate.recipe.smollm2.judge import judge, table
from foveate.recipe.smollm2.language import Words, build_tokenizer
from foveate.recipe.smollm2.lessons import LAYOUTS, PackedLesson, draw_labelled, draw_lesson, lesson_of
from foveate.recipe.smollm2.model import Seer, llava_config, with_adapters
from foveate.recipe.smollm2.quantised import decoder_config
from foveate.recipe.smollm2.texts import answers, is_right
from foveate.recipe.smollm2.travel import Luggage, read_parts, unpack

CHECKPOINT = "checkpoint.pt"
HELD_OUT_SEED = 9


@dataclass(frozen=True)
class SightPlan:
    """How to train.

    Attributes:
        seconds: all of it, from `begun` on, the final evaluation included.
        device: where to compute.
        workers: processes that draw; 0 draws in this one.
        tokens: about how many a step has.
        align: seconds for the gradients of the first phase.
        labelled: whole scenes that the first phase draws; as many patches again are windows.
        judging: seconds kept for the evaluation at the end.
        scenes: held-out pictures in that evaluation, of each size.
        watched: held-out pictures that are asked every `every` seconds: whole scenes, or small ones where no scenes are learned.
        every: seconds between checkpoints.
        log: seconds between lines of the curve.
        rank: of the adapters.
        seed: of weights and scenes.
        half: compute in bfloat16.
        whole: learn whole scenes at last, instead of small pictures.
    """

    seconds: float
    device: str
    workers: int
    tokens: int
    align: float
    labelled: int
    judging: float
    scenes: int
    watched: int
    every: float
    log: float
    rank: int
    seed: int
    half: bool
    whole: bool

    @property
    def syllabus(self) -> Syllabus:
        """What is learned when."""
        return WHOLE_SCENES if self.whole else SMALL_PICTURES


class SightRun:
    """A run of the recipe.

    Args:
        out: folder of the results.
        state: folder of the checkpoint, and of what the drawers read.
        luggage: see `travel`.
        plan: how to train.
        begun: when the run was begun, in seconds since the epoch.
    """

    def __init__(self, out: Path, state: Path, luggage: Luggage, plan: SightPlan, begun: float) -> None:
        self.out, self.state, self.luggage, self.plan, self.begun = make_folder(out), make_folder(state), luggage, plan, begun
        self.device = torch.device(plan.device)
        self.words = Words(luggage.tokenizer)
        self.config = decoder_config()
        self.results: dict[str, Any] = {"plan": asdict(plan), "device": self._device_name()}
        write_whole(state / "tokenizer.json", luggage.tokenizer)
        write_made(state / "pictures.npz", lambda buffer: np.savez(buffer, **luggage.pictures))
        self.drawers = Drawers(plan.workers, state / "tokenizer.json", state / "pictures.npz")

    def train(self) -> dict[str, Any]:
        """Both phases and the evaluation.

        Raises:
            TrainingError: the trained weights are no longer finite.
            WriteError: a result cannot be written.
        """
        try:
            labelled = [self.drawers.submit(order) for order in self._labelled()]
            watched = [self.drawers.submit(order) for order in self._held_out(self._side, self.plan.watched, HELD_OUT_SEED)]
            seer = self._seer()
            self._note("ready", kernels=self._choose(seer))
            learner = Learner(seer, Texts(self.luggage.texts["train"], self.words, self.device, self.plan.tokens), self.plan.syllabus)
            spent = self._resumed(learner)
            if not spent:
                self._align(seer, labelled)
            arrays = self.drawers.submit((draw_labelled, ((self.plan.seed, 6), 16, 8)))()
            pixels, positions = (torch.from_numpy(arrays[name]).to(self.device) for name in ("pixels", "positions"))
            learner.anchor = Anchor(seer.projector, seer.seen(pixels, positions))
            self._adapt(learner, spent, [lesson_of(drawn()) for drawn in watched])
            self._finish(learner)
        finally:
            self.drawers.close()
        return self.results

    @property
    def _side(self) -> int:
        """Patches per side of the pictures that are asked during training."""
        return GRID if self.plan.whole else self.plan.syllabus.frame

    def _device_name(self) -> str:
        return torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else "cpu"

    def _note(self, what: str, **figures: Any) -> None:
        """Add a line to the curve, and show it."""
        line = json.dumps({"what": what, "clock": round(time.time() - self.begun, 1), **figures})
        append_line(self.out / "curve.jsonl", line)
        print(line, flush=True)

    def _seer(self) -> Seer:
        torch.manual_seed(self.plan.seed)
        tower = CLIPVisionModel(llava_config(self.config, 0).vision_config)
        known = tower.state_dict()
        tower.load_state_dict({name: weight for name, weight in self.luggage.tower.items() if name in known})
        seer = Seer(tower.eval(), self.luggage.decoder, self.config, self.plan.rank, (self.words.before, self.words.between)).to(
            self.device
        )
        seer.compute_in(torch.bfloat16 if self.plan.half else torch.float32)
        seer.merges = self.device.type != "cpu"
        return seer

    def _choose(self, seer: Seer) -> dict[str, float]:
        several, prompt = [], len(self.words.before) + len(self.words.between)
        for side, layout in reversed(LAYOUTS.items()):
            shared = prompt + side * side
            batch = max(1, round(self.plan.tokens / (shared + layout.strip)))
            segments = torch.arange(layout.strip, device=self.device).div(16, rounding_mode="floor").expand(batch, -1)
            several.append(Masks(segments, shared, seer.compute))
        return seer.attend.choose(several, int(self.config.num_attention_heads), int(self.config.head_dim), seer.compute)

    def _labelled(self) -> Iterator[Any]:
        for index in range(-(-self.plan.labelled // 8)):
            yield draw_labelled, ((self.plan.seed, 3, index), 8, 24)
            yield draw_labelled, ((self.plan.seed, 4, index), 36, 8)
            yield draw_labelled, ((self.plan.seed, 5, index), 16, 12)

    def _held_out(self, side: int, count: int, seed: int) -> Iterator[Any]:
        batch = max(2, round(self.plan.tokens / (25 + side * side + LAYOUTS[side].strip)))
        for index in range(-(-count // batch)):
            yield draw_lesson, ((seed, side, index), "held_out", batch, side, self.plan.syllabus.frame)

    def _align(self, seer: Seer, labelled: Sequence[Any]) -> None:
        parts = []
        for drawn in labelled:
            arrays = drawn()
            pixels, positions, labels = (torch.from_numpy(arrays[name]).to(self.device) for name in ("pixels", "positions", "labels"))
            parts.append(thinned(seer.seen(pixels, positions), labels))
        seen = joined(parts)
        self._note("labelled", patches=len(seen.states))
        targets = Targets(seer.embeddings, self.words, seen)
        self.results["alignment"] = fit(seer.projector, targets, seen, self.plan.align)
        self._note("aligned", **{name: round(value, 4) for name, value in self.results["alignment"].items()})

    def _resumed(self, learner: Learner) -> float:
        """Seconds that earlier runs spent in the second phase."""
        path = self.state / CHECKPOINT
        if not path.exists():
            return 0.0
        state = read_tensors(path)
        learner.resume(state)
        self._note("resumed", step=learner.step, seconds=state["elapsed"])
        return float(state["elapsed"])

    def _adapt(self, learner: Learner, spent: float, watched: Sequence[PackedLesson]) -> None:
        left = self.plan.seconds - self.plan.judging - (time.time() - self.begun)
        clock = Clock(spent + max(0.0, left), spent)
        prompt = len(self.words.before) + len(self.words.between)
        coming = orders(clock, self.plan.syllabus, self.plan.seed, learner.step, self.plan.tokens, prompt)
        logged = saved = time.monotonic()
        guard = Guard(learner)
        questions, step = learner.questions, learner.step
        for arrays in self.drawers.stream(coming, ahead=2 * self.plan.workers):
            if (progress := clock.progress) >= 1:
                break
            lesson = lesson_of(arrays)
            learner.learn(lesson if self.plan.whole else lesson.trimmed(), progress)
            now = time.monotonic()
            if now - logged >= self.plan.log or learner.step == step + 1:
                rates = {"questions_per_second": round((learner.questions - questions) / (now - logged), 1)}
                figures = {"progress": round(progress, 4), "questions": learner.questions, "pieces": learner.pieces}
                found = learner.ledger.figures()
                self._note("step", step=learner.step, **figures, **rates, **found)
                if guard.restored(found["loss"]):
                    self._note("restored", step=learner.step, factor=guard.factor)
                logged, questions = now, learner.questions
            if now - saved >= self.plan.every:
                self._save(learner, clock)
                self._note("held_out", step=learner.step, **judge(learner.seer, watched, self._side, varied=False))
                saved = time.monotonic()
        self._save(learner, clock)
        self._note("adapted", step=learner.step, questions=learner.questions, seconds=round(clock.elapsed, 1))
        self.results |= {"steps": learner.step, "questions_seen": learner.questions, "seconds_adapting": round(clock.elapsed, 1)}

    def _save(self, learner: Learner, clock: Clock) -> None:
        """Write checkpoint and artefact, each whole or not at all.

        Raises:
            TrainingError: the weights are no longer finite; the last checkpoint stays.
        """
        trained = {name: weight.detach() for name, weight in learner.seer.trained().items()}
        if spoiled := not_finite(trained):
            raise TrainingError(f"{len(spoiled)} tensors of weights, {spoiled[0]} first, are not finite; the last checkpoint stays")
        state = {**learner.state(), "elapsed": clock.elapsed}
        write_made(self.state / CHECKPOINT, lambda buffer: torch.save(state, buffer))
        self._write_adapters(learner)

    def _finish(self, learner: Learner) -> None:
        """Measure what is shipped: the weights as rounded to bfloat16."""
        seer = learner.seer
        for weight in seer.trained().values():
            weight.data.copy_(weight.detach().to(torch.bfloat16))
        sizes = ((24, "scenes"), (12, "small_pictures"), (8, "windows"))
        for side, name in sizes if self.plan.whole else sizes[1:]:
            drawn = [self.drawers.submit(order) for order in self._held_out(side, self.plan.scenes, HELD_OUT_SEED + 1)]
            self.results[name] = judge(seer, [lesson_of(lesson()) for lesson in drawn], side)
            self._note(name, **self.results[name])
            print(table(self.results[name]), flush=True)
            self._write()
        self.results["texts"] = self._texts(seer)
        self._note("texts", right=self.results["texts"]["right"], before=self.results["texts"]["before"])
        self._write()
        self._write_adapters(learner)

    def _write_adapters(self, learner: Learner) -> None:
        side = GRID if self.plan.whole else self.plan.syllabus.frame
        results = {name: found for name, found in self.results.items() if name != "texts"}
        texts = self.results.get("texts")
        if texts is not None:
            results["texts"] = {"right": texts["right"], "before": texts["before"], "asked": len(texts["answers"])}
        TrainedAdapters(learner.seer.trained(), side, learner.step, results).write(self.out / ADAPTERS)

    def _write(self) -> None:
        write_whole(self.out / "results.json", json.dumps(self.results, indent=1))

    @torch.no_grad()
    def _texts(self, seer: Seer) -> dict[str, Any]:
        """Questions about no picture, asked through the stock model with the adapters merged."""
        trained = {name: weight.detach().cpu() for name, weight in seer.trained().items()}
        model = LlamaForCausalLM(self.config)
        model.model.load_state_dict(with_adapters(self.luggage.decoder, trained))
        model.tie_weights()
        model.to(self.device).eval()
        test = self.luggage.texts["test"]
        given = answers(model, build_tokenizer(self.luggage.tokenizer), [entry["question"] for entry in test], batch=len(test))
        pairs = [
            {**entry, "after": after, "right_after": is_right(after, entry["words"])} for entry, after in zip(test, given, strict=True)
        ]
        return {"before": sum(pair["right"] for pair in pairs), "right": sum(pair["right_after"] for pair in pairs), "answers": pairs}


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line of `python -m foveate.recipe.smollm2.train`."""
    cuda = torch.cuda.is_available()
    parser = argparse.ArgumentParser(prog="python -m foveate.recipe.smollm2.train", description="Teach SmolLM2 to see.")
    parser.add_argument("out", type=Path, help="folder for the results")
    parser.add_argument("--luggage", type=Path, nargs="+", required=True, help="folders with the parts that travel packed")
    parser.add_argument("--state", type=Path, help="folder for the checkpoint; the results' by default")
    parser.add_argument("--seconds", type=float, required=True, help="time for everything")
    parser.add_argument("--begun", type=float, default=time.time(), help="when that time began, in seconds since the epoch; now by default")
    parser.add_argument("--device", default="cuda" if cuda else "cpu")
    parser.add_argument("--workers", type=int, default=0, help="processes that draw")
    parser.add_argument("--tokens", type=int, default=16000 if cuda else 2000, help="tokens per step")
    parser.add_argument("--align", type=float, default=12.0, help="seconds for the gradients of the first phase")
    parser.add_argument("--labelled", type=int, default=1200 if cuda else 64, help="whole scenes for the first phase")
    parser.add_argument("--judging", type=float, default=24.0, help="seconds for the evaluation at the end")
    parser.add_argument("--scenes", type=int, default=480 if cuda else 16, help="held-out pictures of each size in it")
    parser.add_argument("--watched", type=int, default=96 if cuda else 4, help="held-out scenes that are asked during training")
    parser.add_argument("--every", type=float, default=30.0, help="seconds between checkpoints")
    parser.add_argument("--log", type=float, default=5.0, help="seconds between lines of the curve")
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--small", dest="whole", action="store_false", default=cuda, help="learn small pictures only, as on a CPU")
    options = vars(parser.parse_args(arguments))
    out, state, folders, begun = (options.pop(name) for name in ("out", "state", "luggage", "begun"))
    torch.set_float32_matmul_precision("high")
    if options["workers"]:
        warm()
    try:
        luggage = unpack(read_parts(folders))
        SightRun(out, state or out, luggage, SightPlan(**options, half=options["device"].startswith("cuda")), begun).train()
    except FoveateError as error:
        raise SystemExit(f"error: {error}") from error


if __name__ == "__main__":
    main()
