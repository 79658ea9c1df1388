"""LLaVA-1.5 under vLLM: what stays and what is answered, against transformers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch

pytest.importorskip("vllm", reason="vLLM is not installed")

import foveate
from foveate import demo
from foveate.methods.configuration import method_from_dict
from foveate.plan import Plan

FOLDER = demo.path()
SCENES = [demo.scene(seed, split="held_out") for seed in (11, 12, 13)]
QUESTIONS = ("what does the sign say?", "how many stars are there?", "is there a red circle?")
METHODS: dict[str, dict[str, Any]] = {
    "tokencarve": {"method": "tokencarve", "keep": 128},
    "tokencarve late": {"method": "tokencarve", "keep": 0.25, "layer": 4, "source": "attention_output"},
    "fastv": {"method": "fastv", "keep": 64},
    "explainer": {"method": "explainer", "keep": 128},
    "first layer": {"method": "firstlayerattention", "keep": 100},
    "pool": {"method": "pool", "keep": 128},
}


@dataclass
class Reference:
    """The same model in transformers."""

    model: Any
    processor: Any

    def inputs(self, prompt: str, image: Any) -> Any:
        """What the model takes."""
        return self.processor(images=image, text=prompt, return_tensors="pt")

    def plan(self, method: dict[str, Any], prompt: str, image: Any) -> Plan:
        """What foveate decides in the network."""
        with foveate.compress(self.model, method_from_dict({"format": 1, **method, "clamp": True})) as handle, torch.no_grad():
            self.model(**self.inputs(prompt, image))
            return handle.report.images[0].plan

    @torch.no_grad()
    def continued(self, prompt: str, image: Any, plan: Plan, tokens: int = 6) -> tuple[list[int], list[float]]:
        """Greedy tokens and their log-probabilities, from a sequence that was that short from the start."""
        inputs, model = self.inputs(prompt, image), self.model
        ids = inputs["input_ids"][0]
        features = model.get_image_features(pixel_values=inputs["pixel_values"])
        features = getattr(features, "pooler_output", features)[0]
        text = model.get_input_embeddings()(ids)
        first = int((ids == model.config.image_token_id).nonzero()[0])
        short = torch.cat([text[:first], plan.merge(features), text[first + len(plan) :]])[None]
        found, logs = [], []
        for _ in range(tokens):
            logits = model(inputs_embeds=short).logits[0, -1].log_softmax(-1)
            found.append(int(logits.argmax()))
            logs.append(float(logits.max()))
            short = torch.cat([short, model.get_input_embeddings()(torch.tensor([[found[-1]]]))], dim=1)
        return found, logs


@pytest.fixture(scope="module")
def served(serve: Any) -> Any:
    return serve(FOLDER, {"method": METHODS["tokencarve"]})


@pytest.fixture(scope="module")
def reference(served: Any) -> Reference:
    return Reference(demo.load(dtype=torch.float32)[0], served.processor)


def request_for(question: str, image: Any, **kwargs: Any) -> dict[str, Any]:
    found: dict[str, Any] = {"prompt": demo.prompt(question), "multi_modal_data": {"image": image}}
    return {**found, "mm_processor_kwargs": kwargs} if kwargs else found


@pytest.mark.parametrize("name", METHODS)
def test_the_choice_and_the_answer_are_those_of_transformers(name: str, served: Any, reference: Reference) -> None:
    served.use({"method": METHODS[name]})
    for scene, question in zip(SCENES, QUESTIONS, strict=True):
        (output,) = served.generate([request_for(question, scene.image)])
        (plan,) = served.plans
        served.forget()
        assert plan == reference.plan(METHODS[name], demo.prompt(question), scene.image)
        tokens, logs = reference.continued(demo.prompt(question), scene.image, plan)
        assert list(output.outputs[0].token_ids) == tokens
        found = [step[token].logprob for step, token in zip(output.outputs[0].logprobs, tokens, strict=True)]
        assert found == pytest.approx(logs, abs=1e-4)
