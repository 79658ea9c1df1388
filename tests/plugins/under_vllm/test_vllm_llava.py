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
from foveate.plugins.vllm.selection import logger

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
    "cdpruner": {"method": "cdpruner", "keep": 128, "centred": True},
    "mmtok": {"method": "mmtok", "keep": 64},
    "visionzip": {"method": "visionzip", "keep": 64},
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
        places = torch.arange(len(ids))  # kept tokens stay where they were
        places = torch.cat([places[:first], first + plan.kept, places[first + len(plan) :]])[None]
        found, logs = [], []
        for _ in range(tokens):
            logits = model(inputs_embeds=short, position_ids=places).logits[0, -1].log_softmax(-1)
            found.append(int(logits.argmax()))
            logs.append(float(logits.max()))
            short = torch.cat([short, model.get_input_embeddings()(torch.tensor([[found[-1]]]))], dim=1)
            places = torch.cat([places, places[:, -1:] + 1], dim=1)
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


def texts(outputs: list[Any]) -> list[list[int]]:
    return [list(output.outputs[0].token_ids) for output in outputs]


def two_images(question: str) -> dict[str, Any]:
    prompt = demo.prompt(question).replace("<image>\n", "<image>\n<image>\n")
    return {"prompt": prompt, "multi_modal_data": {"image": [SCENES[0].image, SCENES[1].image]}}


def test_each_of_two_images_is_judged_by_the_text_of_its_turn(served: Any, reference: Reference) -> None:
    served.use({"method": METHODS["tokencarve"]})
    served.generate([two_images(QUESTIONS[0])])
    alone = [reference.plan(METHODS["tokencarve"], demo.prompt(QUESTIONS[0]), scene.image) for scene in SCENES[:2]]
    assert served.plans == alone


def test_requests_of_a_mixed_batch_get_what_they_get_alone(served: Any) -> None:
    served.use({"method": METHODS["explainer"]})
    text = {"prompt": "look at the picture and answer briefly. USER: what is it? ASSISTANT:"}
    prompts = [
        request_for(QUESTIONS[0], SCENES[0].image),
        text,
        two_images(QUESTIONS[1]),
        request_for(QUESTIONS[1], SCENES[0].image, foveate_keep=16),
        request_for(QUESTIONS[1], SCENES[2].image),
    ]
    together = served.generate(prompts)
    alone = []
    for prompt in prompts:
        served.forget()
        alone += served.generate([prompt])
    assert texts(together) == texts(alone)
    assert [len(output.prompt_token_ids) for output in together] == [len(output.prompt_token_ids) for output in alone]


def test_a_prompt_has_as_many_placeholders_as_tokens_stay(served: Any) -> None:
    served.use({"method": METHODS["tokencarve"]})
    token = served.front.info.get_hf_config().image_token_index
    prompts = [request_for(QUESTIONS[0], SCENES[0].image, foveate_keep=keep) for keep in (128, 1, 77)]
    counts = [list(output.prompt_token_ids).count(token) for output in served.generate(prompts)]
    assert counts == [128, 1, 77]
    assert [plan.tokens_after for plan in served.plans] == counts


@pytest.mark.parametrize(
    ("method", "keep", "message"),
    [
        ("tokencarve", 129, "above the 128 that this server allows"),
        ("tokencarve", 0, "at least 1 token"),
        ("tokencarve", 0.5, "as this server counts"),
        ("tokencarve", "many", "keep='many'"),
        ("tokencarve late", 0.26, "above the 0.25 that this server allows"),
    ],
)
def test_a_budget_that_cannot_be_given_is_an_error_of_the_request(method: str, keep: Any, message: str, served: Any) -> None:
    served.use({"method": METHODS[method]})
    with pytest.raises(ValueError, match=message):
        served.generate([request_for(QUESTIONS[0], SCENES[0].image, foveate_keep=keep)])
    assert len(served.generate([request_for(QUESTIONS[0], SCENES[0].image)])) == 1  # the server lives


def test_a_prompt_beyond_the_last_position_is_refused(served: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    served.use({"method": METHODS["pool"]})
    config = served.front.info.get_hf_config().get_text_config()
    monkeypatch.setattr(config, "max_position_embeddings", 600)
    assert len(served.generate([request_for(QUESTIONS[0], SCENES[0].image)])) == 1
    with pytest.raises(ValueError, match="and the model has 600"):
        served.generate([two_images(QUESTIONS[0])])


def test_an_answer_stays_at_the_last_position(served: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    served.use({"method": METHODS["pool"]})
    seen: list[int] = []
    hook = served.model.language_model.model.layers[0].register_forward_pre_hook(lambda module, args: seen.append(int(args[0].max())))
    try:
        served.generate([request_for(QUESTIONS[0], SCENES[0].image)], new_tokens=4)
        first = seen[0]
        assert seen == [first, first + 1, first + 2, first + 3]
        seen.clear()
        monkeypatch.setattr(served.model, "_last_position", first + 1)
        served.forget()
        served.generate([request_for(QUESTIONS[0], SCENES[0].image)], new_tokens=4)
        assert seen == [first, first + 1, first + 1, first + 1]
    finally:
        hook.remove()


def test_no_request_passes_for_one_of_vllm_itself(served: Any) -> None:
    served.use({"method": METHODS["pool"]})
    with pytest.raises(ValueError, match="foveate_dummy is no option of a request"):
        served.generate([request_for(QUESTIONS[0], SCENES[0].image, foveate_dummy=True)])


def test_max_keep_allows_larger_budgets(served: Any) -> None:
    served.use({"method": METHODS["fastv"], "max_keep": 200})
    served.generate([request_for(QUESTIONS[0], SCENES[0].image, foveate_keep=200)])
    assert [plan.tokens_after for plan in served.plans] == [200]


def test_requests_without_a_question_or_pixels_are_refused(served: Any) -> None:
    served.use({"method": METHODS["explainer"]})
    with pytest.raises(ValueError, match="no text follows the last image"):
        served.generate([{"prompt": "USER: what is it? <image>", "multi_modal_data": {"image": SCENES[0].image}}])
    with pytest.raises(ValueError, match="placeholder"):
        served.generate([{"prompt": "USER: what is it? ASSISTANT:", "multi_modal_data": {"image": SCENES[0].image}}])
    served.use({"method": METHODS["pool"]})  # needs no question
    served.generate([{"prompt": "USER: what is it? <image>", "multi_modal_data": {"image": SCENES[0].image}}])


def test_a_second_question_about_an_image_does_not_run_the_tower_again(served: Any) -> None:
    served.use({"method": METHODS["tokencarve"]})
    runs: list[int] = []
    hook = served.model.vision_tower.register_forward_hook(lambda module, args, output: runs.append(len(args[0])))
    try:
        first, second = (served.generate([request_for(question, SCENES[0].image)]) for question in QUESTIONS[:2])
        assert runs == [1]
        assert len(served.plans) == 2
        assert served.plans[0] != served.plans[1]
        served.use({"method": METHODS["tokencarve"], "feature_cache_mib": 0})
        again = [served.generate([request_for(question, SCENES[0].image)]) for question in QUESTIONS[:2]]
        assert runs == [1, 1, 1]
    finally:
        hook.remove()
    assert [texts(each) for each in again] == [texts(first), texts(second)]


def test_kept_features_do_not_hold_the_batch_that_they_came_in(served: Any) -> None:
    served.use({"method": METHODS["pool"]})
    served.generate([request_for(QUESTIONS[0], scene.image) for scene in SCENES])
    kept = [served.model.foveate.features.get(key) for key in list(served.model.foveate.features._kept)]
    assert len(kept) == len(SCENES)
    assert all(features.rows.untyped_storage().nbytes() == features.size for features in kept)


@pytest.mark.parametrize("name", ["tokencarve", "explainer", "pool"])
def test_a_second_turn_reuses_the_first_with_its_image(name: str, served: Any) -> None:
    served.use({"method": METHODS[name]})
    (first,) = served.generate([request_for(QUESTIONS[0], SCENES[0].image)], new_tokens=2)
    assert len(served.plans) == 1
    chat = f"{demo.prompt(QUESTIONS[0])} {first.outputs[0].text} </s>USER: {QUESTIONS[1]} ASSISTANT:"
    (second,) = served.generate([{"prompt": chat, "multi_modal_data": {"image": SCENES[0].image}}])
    assert len(served.plans) == 1  # neither decided nor encoded again
    assert second.num_cached_tokens >= len(first.prompt_token_ids) // 32 * 32
    served.forget()
    (fresh,) = served.generate([{"prompt": chat, "multi_modal_data": {"image": SCENES[0].image}}])
    assert texts([second]) == texts([fresh])


def test_another_question_is_another_choice_and_no_prefix(served: Any) -> None:
    served.use({"method": METHODS["explainer"]})
    served.generate([request_for(QUESTIONS[0], SCENES[0].image)])
    (other,) = served.generate([request_for(QUESTIONS[1], SCENES[0].image)])
    assert len(served.plans) == 2
    assert other.num_cached_tokens < 64  # the text before the image at most
    served.use({"method": METHODS["pool"]})
    served.generate([request_for(QUESTIONS[0], SCENES[0].image)])
    (other,) = served.generate([request_for(QUESTIONS[1], SCENES[0].image)])
    assert len(served.plans) == 1  # what the method does not read changes nothing
    assert other.num_cached_tokens >= 128


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (None, "is missing"),
        ({"method": {"method": "tokencarf", "keep": 128}}, "did you mean"),
        ({"method": {"method": "tokencarve", "keep": 0}}, "at least 1"),
        ({"method": {"method": "tokencarve", "keep": 128}, "maxkeep": 4}, "maxkeep"),
        ({"method": {"method": "tokencarve", "keep": 128}, "max_keep": 64}, "smaller than"),
        ({"method": {"method": "tokencarve", "keep": 128, "layer": 9}}, "layer"),
        ({"method": {"method": "explainer", "keep": 128, "compressor": "no/such/folder"}}, "no/such/folder"),
    ],
)
def test_wrong_settings_stop_the_start(settings: Any, message: str, served: Any) -> None:
    with pytest.raises(foveate.errors.FoveateError, match=message):
        served.use(settings)
    served.use({"method": METHODS["pool"]})


def test_an_image_that_cannot_be_ranked_does_not_end_the_server(served: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    served.use({"method": METHODS["explainer"]})
    said: list[str] = []
    monkeypatch.setattr(logger, "error", lambda text, *args: said.append(text % args))
    ahead = served.model.foveate._ahead.run
    monkeypatch.setattr(
        served.model.foveate._ahead, "run", lambda *args: (ahead(*args)[0], {"head_attention": torch.full((6, 576), float("nan"))})
    )
    served.generate([request_for(QUESTIONS[0], SCENES[0].image)])
    assert [plan.tokens_after for plan in served.plans] == [128]
    assert "NaN" in said[0]


def test_chunks_that_end_inside_an_image_change_nothing(serve: Any, served: Any) -> None:
    served.use({"method": METHODS["tokencarve"]})
    prompts = [request_for(QUESTIONS[0], SCENES[0].image), request_for(QUESTIONS[1], SCENES[1].image)]
    whole = served.generate(prompts)
    chunked = serve(FOLDER, {"method": METHODS["tokencarve"]}, max_num_batched_tokens=160, enable_chunked_prefill=True, blocks=64)
    assert chunked.llm.llm_engine.vllm_config.scheduler_config.max_num_batched_tokens == 160
    assert texts(chunked.generate([two_images(QUESTIONS[0]), *prompts])[1:]) == texts(whole)


def test_compiled_code_and_other_dtypes_serve_the_same_tokens(serve: Any, served: Any) -> None:
    served.use({"method": METHODS["tokencarve"]})
    prompts = [request_for(question, scene.image) for question, scene in zip(QUESTIONS, SCENES, strict=True)]
    eager = served.generate(prompts)
    plans = served.plans
    compiled = serve(FOLDER, {"method": METHODS["tokencarve"]}, enforce_eager=False, blocks=64)
    assert compiled.llm.llm_engine.vllm_config.compilation_config.mode.name != "NONE"
    assert texts(compiled.generate(prompts)) == texts(eager)
    assert compiled.plans[-len(plans) :] == plans
