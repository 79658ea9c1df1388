"""Ways in which a model's folder is damaged: each changes a good copy, and says what the refusal must name."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

Damage = Callable[[Path], None]
WEIGHTS = "model.safetensors"


@dataclass(frozen=True)
class Case:
    """One way, and the words that the one line must have."""

    damage: Damage
    words: tuple[str, ...]


def tensors(change: Callable[[dict[str, torch.Tensor]], None]) -> Damage:
    """Weights that were changed."""

    def damage(folder: Path) -> None:
        state = load_file(folder / WEIGHTS)
        change(state)
        save_file(state, folder / WEIGHTS, metadata={"format": "pt"})

    return damage


def setting(file: str, path: str, value: Any) -> Damage:
    """One setting of a JSON file, by its path; `None` takes it away."""

    def damage(folder: Path) -> None:
        data = json.loads((folder / file).read_text()) if (folder / file).exists() else {}
        *parts, last = path.split("/")
        inner = data
        for part in parts:
            inner = inner.setdefault(part, {})
        inner.pop(last, None)
        if value is not None:
            inner[last] = value
        (folder / file).write_text(json.dumps(data))

    return damage


def content(file: str, text: str | bytes | None) -> Damage:
    """A file with another content; `None` takes it away."""

    def damage(folder: Path) -> None:
        (folder / file).unlink(missing_ok=True)
        if text is not None:
            (folder / file).write_bytes(text if isinstance(text, bytes) else text.encode())

    return damage


def every(*damages: Damage) -> Damage:
    """Several at once."""

    def damage(folder: Path) -> None:
        for one in damages:
            one(folder)

    return damage


def cut(file: str, share: float) -> Damage:
    """A file of which only the beginning is there."""

    def damage(folder: Path) -> None:
        whole = (folder / file).read_bytes()
        (folder / file).write_bytes(whole[: int(len(whole) * share)])

    return damage


def sharded(folder: Path) -> None:
    """The same weights in two shards with their index."""
    state = load_file(folder / WEIGHTS)
    names = sorted(state)
    shards = {"model-00001-of-00002.safetensors": names[::2], "model-00002-of-00002.safetensors": names[1::2]}
    for shard, own in shards.items():
        save_file({name: state[name] for name in own}, folder / shard, metadata={"format": "pt"})
    index = {
        "metadata": {"total_size": sum(value.numel() * 4 for value in state.values())},
        "weight_map": {name: shard for shard, own in shards.items() for name in own},
    }
    (folder / f"{WEIGHTS}.index.json").write_text(json.dumps(index))
    (folder / WEIGHTS).unlink()


def pickled(folder: Path) -> None:
    """The same weights as PyTorch's own file, which holds tensors only."""
    torch.save(load_file(folder / WEIGHTS), folder / "pytorch_model.bin")
    (folder / WEIGHTS).unlink()


class Thing:
    """Something that is no tensor and harmless to load."""


def pickled_with_more(folder: Path) -> None:
    pickled(folder)
    torch.save({**torch.load(folder / "pytorch_model.bin"), "thing": Thing()}, folder / "pytorch_model.bin")


def empty(folder: Path) -> None:
    """Nothing at all."""
    shutil.rmtree(folder)
    folder.mkdir()


def drop(count: int) -> Damage:
    """Without some of the weights."""

    def change(state: dict[str, torch.Tensor]) -> None:
        for name in sorted(state)[:count]:
            del state[name]

    return tensors(change)


def _left_over(state: dict[str, torch.Tensor]) -> None:
    for number in range(5):
        state[f"model.extra.{number}.weight"] = torch.zeros(2)


def _other_shape(state: dict[str, torch.Tensor]) -> None:
    state[_named(state, "linear_1.weight")] = torch.zeros(32, 16)


def _no_number(state: dict[str, torch.Tensor]) -> None:
    state[_named(state, "linear_1.weight")][3, 4] = float("nan")


def _infinite(state: dict[str, torch.Tensor]) -> None:
    state[_named(state, "linear_1.weight")][0, 0] = float("-inf")


def _named(state: dict[str, torch.Tensor], end: str) -> str:
    return next(name for name in state if name.endswith(end))


CODE = {"AutoConfig": "own.OwnConfig", "AutoModelForImageTextToText": "own.OwnModel"}
TEXT, VISION = "text_config", "vision_config"
HARMLESS_CODE = "raise RuntimeError('code of the checkpoint was run')\n"

CASES: dict[str, Case] = {
    "weights: some are missing": Case(drop(20), ("do not fit", "missing 20 of 82 tensors", "and 17 more")),
    "weights: some are left over": Case(tensors(_left_over), ("do not fit", "left over 5", "extra.0.weight", "and 2 more")),
    "weights: of another shape": Case(tensors(_other_shape), ("do not fit", "linear_1.weight", "32 x 16", "32 x 32")),
    "weights: not a number": Case(tensors(_no_number), ("linear_1.weight", "not finite")),
    "weights: infinite": Case(tensors(_infinite), ("linear_1.weight", "not finite")),
    "weights: no file": Case(content(WEIGHTS, None), ("no weights", "model.safetensors")),
    "weights: empty file": Case(content(WEIGHTS, b""), ("damaged or cut off",)),
    "weights: cut off": Case(cut(WEIGHTS, 0.5), ("damaged or cut off",)),
    "weights: cut off in the header": Case(cut(WEIGHTS, 0.01), ("damaged or cut off",)),
    "weights: header is no JSON": Case(content(WEIGHTS, b"\x10" + bytes(7) + b"x" * 100), ("damaged or cut off",)),
    "weights: header of absurd length": Case(content(WEIGHTS, b"\xff" * 8 + b"x" * 100), ("damaged or cut off",)),
    "weights: a folder in the place of the file": Case(
        every(content(WEIGHTS, None), lambda folder: (folder / WEIGHTS).mkdir()), ("no weights",)
    ),
    "weights: only those of another format": Case(
        every(content(WEIGHTS, None), content("model.gguf", b"GGUF")), ("no weights", "model.gguf")
    ),
    "shards: one is missing": Case(every(sharded, content("model-00002-of-00002.safetensors", None)), ("1 of 2", "model-00002")),
    "shards: one is cut off": Case(every(sharded, cut("model-00001-of-00002.safetensors", 0.5)), ("damaged or cut off", "model-00001")),
    "shards: index is empty": Case(every(sharded, content(f"{WEIGHTS}.index.json", "")), ("index.json", "empty")),
    "shards: index is no JSON": Case(every(sharded, content(f"{WEIGHTS}.index.json", "{")), ("index.json", "damaged")),
    "shards: index without a map": Case(every(sharded, setting(f"{WEIGHTS}.index.json", "weight_map", None)), ("weight_map",)),
    "shards: index leads out of the folder": Case(
        every(sharded, setting(f"{WEIGHTS}.index.json", "weight_map/x", "../x.safetensors")), ("../x.safetensors", "next to")
    ),
    "pickle: more than tensors": Case(pickled_with_more, ("more than tensors", "could run")),
    "pickle: cut off": Case(every(pickled, cut("pytorch_model.bin", 0.5)), ("pytorch_model.bin", "damaged")),
    "pickle: some other file": Case(
        every(content(WEIGHTS, None), content("pytorch_model.bin", b"hello")), ("pytorch_model.bin", "damaged")
    ),
    "config: no file": Case(content("config.json", None), ("has no config.json",)),
    "config: empty": Case(content("config.json", ""), ("config.json", "empty")),
    "config: no JSON": Case(content("config.json", "{'a': 1}"), ("config.json", "not JSON")),
    "config: not text": Case(content("config.json", b"\xff\xfe\x00"), ("config.json", "UTF-8")),
    "config: a list": Case(content("config.json", "[]"), ("config.json", "list")),
    "config: nested deeply": Case(content("config.json", "[" * 20000), ("config.json", "damaged")),
    "config: no model_type": Case(setting("config.json", "model_type", None), ("model_type=None",)),
    "config: model_type is a number": Case(setting("config.json", "model_type", 3), ("model_type=3",)),
    "config: unknown model_type": Case(setting("config.json", "model_type", "lava"), ("'lava'", "does not know")),
    "config: dtype nonsense": Case(setting("config.json", "dtype", "float99"), ("float99",)),
    "config: dtype of whole numbers": Case(setting("config.json", "dtype", "int8"), ("dtype", "int8")),
    "config: a part is a number": Case(setting("config.json", TEXT, 5), ("text_config",)),
    "config: a million layers": Case(setting("config.json", f"{TEXT}/num_hidden_layers", 1_000_000), ("num_hidden_layers=1000000",)),
    "config: more layers than tensors": Case(
        setting("config.json", f"{TEXT}/num_hidden_layers", 5_000), ("num_hidden_layers=5000", "tensors")
    ),
    "config: a million tower layers": Case(
        setting("config.json", f"{VISION}/num_hidden_layers", 1_000_000), ("num_hidden_layers=1000000",)
    ),
    "config: more layers than were saved": Case(setting("config.json", f"{TEXT}/num_hidden_layers", 5), ("do not fit", "layers.4")),
    "config: fewer layers than were saved": Case(
        setting("config.json", f"{TEXT}/num_hidden_layers", 3), ("do not fit", "left over", "layers.3")
    ),
    "config: negative layers": Case(setting("config.json", f"{TEXT}/num_hidden_layers", -1), ("num_hidden_layers=-1",)),
    "config: layers are words": Case(setting("config.json", f"{TEXT}/num_hidden_layers", "many"), ("num_hidden_layers",)),
    "config: absurd width": Case(setting("config.json", f"{TEXT}/hidden_size", 10**7), ("do not belong together",)),
    "config: absurd middle width": Case(setting("config.json", f"{TEXT}/intermediate_size", 10**12), ("do not belong together",)),
    "config: absurd vocabulary": Case(setting("config.json", f"{TEXT}/vocab_size", 10**11), ("do not belong together",)),
    "config: absurd image": Case(setting("config.json", f"{VISION}/image_size", 10**7), ("do not belong together",)),
    "config: patch larger than the image": Case(setting("config.json", f"{VISION}/patch_size", 100), ("do not fit",)),
    "config: patch of nothing": Case(setting("config.json", f"{VISION}/patch_size", 0), ("config.json",)),
    "config: no heads": Case(setting("config.json", f"{TEXT}/num_attention_heads", 0), ("cannot load", "ZeroDivisionError")),
    "config: width that the heads do not divide": Case(setting("config.json", f"{TEXT}/num_attention_heads", 5), ("cannot load",)),
    "config: unknown activation": Case(setting("config.json", f"{TEXT}/hidden_act", "magic"), ("magic",)),
    "config: image token beyond the vocabulary": Case(
        setting("config.json", "image_token_id", 99_999), ("image_token_id=99999", "vocabulary")
    ),
    "config: image token negative": Case(setting("config.json", "image_token_id", -1), ("image_token_id=-1", "vocabulary")),
    "config: image token of a word": Case(setting("config.json", "image_token_id", 7), ("stands for an image", "7")),
    "code: a kind of its own": Case(
        every(setting("config.json", "model_type", "own"), setting("config.json", "auto_map", CODE), content("own.py", HARMLESS_CODE)),
        ("code that it ships itself", "never runs"),
    ),
    "code: no kind": Case(
        every(setting("config.json", "model_type", None), setting("config.json", "auto_map", CODE), content("own.py", HARMLESS_CODE)),
        ("code that it ships itself", "never runs"),
    ),
    "code: processor of its own": Case(
        every(
            setting("processor_config.json", "processor_class", "OwnProcessor"),
            setting("processor_config.json", "auto_map", {"AutoProcessor": "own.OwnProcessor"}),
            setting("tokenizer_config.json", "processor_class", None),
            content("own.py", HARMLESS_CODE),
        ),
        ("code that it ships itself", "never runs"),
    ),
    "generation: no JSON": Case(content("generation_config.json", "nonsense"), ("generation_config.json", "damaged")),
    "generation: end is a word": Case(setting("generation_config.json", "eos_token_id", "stop"), ("eos_token_id='stop'",)),
    "generation: filling is a share": Case(setting("generation_config.json", "pad_token_id", 0.5), ("pad_token_id=0.5",)),
    "tokenizer: no file": Case(
        every(content("tokenizer.json", None), content("tokenizer_config.json", None)), ("no tokenizer (tokenizer.json)",)
    ),
    "tokenizer: no vocabulary": Case(content("tokenizer.json", None), ("no tokenizer (tokenizer.json)",)),
    "tokenizer: damaged": Case(content("tokenizer.json", "{"), ("tokenizer.json", "damaged")),
    "tokenizer: of another model": Case(setting("config.json", f"{TEXT}/vocab_size", 8), ("do not fit",)),
    "tokenizer: settings are no JSON": Case(content("tokenizer_config.json", "{"), ("tokenizer_config.json", "damaged")),
    "processor: no file": Case(content("processor_config.json", None), ("no image processor (preprocessor_config.json)",)),
    "processor: no JSON": Case(content("processor_config.json", "{"), ("processor_config.json", "damaged")),
    "processor: a list": Case(content("processor_config.json", "[1]"), ("processor_config.json", "list")),
    "processor: unknown class": Case(setting("processor_config.json", "processor_class", "NoSuchProcessor"), ("processor",)),
    "processor: absurd size": Case(
        setting("processor_config.json", "image_processor/crop_size", {"height": 10**9, "width": 10**9}),
        ("crop_size", "1000000000", "16384"),
    ),
    "processor: colours without numbers": Case(
        setting("processor_config.json", "image_processor/image_mean", ["red"]), ("LlavaProcessor fails on", "160 x 100", "mean")
    ),
    "processor: patches of nothing": Case(setting("processor_config.json", "patch_size", 0), ("LlavaProcessor", "fails on")),
    "processor: another picture size": Case(
        every(
            setting("processor_config.json", "image_processor/crop_size", {"height": 42, "width": 42}),
            setting("processor_config.json", "image_processor/size", {"shortest_edge": 42}),
        ),
        ("LlavaForConditionalGeneration refuses", "42"),
    ),
    "template: no such syntax": Case(content("chat_template.jinja", "{% for %}"), ("chat template", "fails on")),
    "template: not text": Case(content("chat_template.jinja", b"\xff\xfe{{ messages }}"), ("processor", "UnicodeDecodeError")),
    "template: refuses": Case(content("chat_template.jinja", "{{ raise_exception('say please') }}"), ("chat template", "say please")),
    "template: nests for ever": Case(
        content("chat_template.jinja", "{% macro f(n) %}{{ f(n + 1) }}{% endmacro %}{{ f(0) }}"), ("chat template", "recursion")
    ),
    "template: without a picture": Case(content("chat_template.jinja", "USER: what ? ASSISTANT:"), ("LlavaProcessor",)),
    "adapter: alone": Case(
        every(
            content("config.json", None),
            content(WEIGHTS, None),
            content("adapter_config.json", json.dumps({"base_model_name_or_path": "llava-hf/llava-1.5-7b-hf"})),
        ),
        ("PEFT adapter for llava-hf/llava-1.5-7b-hf",),
    ),
    "adapter: beside a model": Case(
        content("adapter_config.json", json.dumps({"base_model_name_or_path": "llava-hf/llava-1.5-7b-hf"})), ("PEFT adapter",)
    ),
    "folder: empty": Case(empty, ("has no config.json",)),
}
"""Damaged folders. Each must be refused in one line."""

GOOD: dict[str, Damage] = {
    "as it is": lambda folder: None,
    "shards": sharded,
    "pickle": pickled,
    "code beside a kind that transformers knows": every(setting("config.json", "auto_map", CODE), content("own.py", HARMLESS_CODE)),
    "no generation settings": content("generation_config.json", None),
    "tensors that transformers computes": tensors(
        lambda state: state.update({"model.vision_tower.embeddings.position_ids": torch.arange(37)[None]})
    ),
    "rotary tables of old versions": tensors(
        lambda state: state.update({f"model.language_model.layers.{n}.self_attn.rotary_emb.inv_freq": torch.ones(4) for n in range(4)})
    ),
    "a template": content(
        "chat_template.jinja",
        "{% for message in messages %}USER: {% for part in message['content'] %}{% if part['type'] == 'image' %}<image>\n"
        "{% else %}{{ part['text'] }}{% endif %}{% endfor %}{% endfor %} ASSISTANT:",
    ),
}
"""Other folders of the same model. Each must answer as it does."""
