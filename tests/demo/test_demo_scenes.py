"""The scenes of the embedded model."""

from __future__ import annotations

import re
from collections import Counter
from functools import cache

import numpy as np
import pytest

pytest.importorskip("sklearn")

from foveate.demo.model.language import build_tokenizer
from foveate.demo.scenes import VERSION, backgrounds, scene
from foveate.demo.scenes.drawing import LONGEST, SHORTEST, WORDS, under
from foveate.demo.scenes.glyphs import ALPHABET, glyph
from foveate.demo.scenes.labels import CLASSES, GRID, IGNORED, patch_labels
from foveate.demo.scenes.questions import FAMILIES, LONGEST_DESCRIPTION, phrase
from foveate.measure.scenes import BALANCED, SceneQuestion, balanced, digest

DIGEST = "29c21a29272b25fdc97e2fcd289ed7a1e9a42581bfb28b7461b3cc3d8470c59a"  # of version 2


@cache
def evaluation_set() -> list[SceneQuestion]:
    return balanced()


def test_the_evaluation_set_is_the_published_one() -> None:
    assert VERSION == 2
    assert digest(evaluation_set()) == DIGEST


def test_the_evaluation_set_is_balanced_over_families_and_difficulty() -> None:
    asked = evaluation_set()
    assert Counter(sample.question.family for sample in asked) == dict.fromkeys(FAMILIES, BALANCED)
    assert len(asked) >= 2000
    tags = Counter(tag for sample in asked for tag in sample.question.tags)
    assert min(tags["small"], tags["large"], tags["sparse"], tags["crowded"]) > 0.3 * len(asked)
    assert Counter((sample.seed, sample.question.family) for sample in asked).most_common(1)[0][1] == 1


def test_yes_is_about_as_frequent_as_no() -> None:
    for family in ("presence", "comparison"):
        answers = Counter(sample.question.answer for sample in evaluation_set() if sample.question.family == family)
        assert set(answers) == {"yes", "no"}
        assert 0.4 < answers["yes"] / answers.total() < 0.6, family


def test_the_evaluation_set_never_shows_a_word_of_the_training_scenes() -> None:
    assert not set(WORDS["train"]) & set(WORDS["held_out"])
    for sample in evaluation_set():
        if sample.question.family == "word":
            assert sample.question.answer.upper() not in WORDS["train"]


def test_a_hop_leads_from_a_sign_to_what_lies_under_it_or_back() -> None:
    ways = Counter()
    for seed in range(120):
        shown = scene(seed, "held_out")
        for question in shown.questions:
            if question.family != "hop":
                continue
            back = "above" in question.text
            ways[back] += 1
            signs = [item for item in shown.items if item.kind == "sign"]
            if back:
                assert question.answer in {sign.text.lower() for sign in signs}
            else:
                below = [item for sign in signs for item in under(sign, shown.items)]
                assert question.answer in {look for item in below for look in (item.colour, item.shape)}
    assert min(ways.values()) > 5


def test_a_description_names_everything_from_left_to_right_in_one_sentence() -> None:
    tokenizer = build_tokenizer()
    lengths = []
    for seed in range(60):
        shown = scene(seed, "held_out")
        for question in shown.questions:
            if question.family == "description":
                things = re.split(r", | and ", question.answer.rstrip("."))
                assert len(things) == len(shown.items)
                assert things == [phrase(item) for item in sorted(shown.items, key=lambda item: item.centre[0])]
                lengths.append(len(tokenizer(question.answer, add_special_tokens=False).input_ids))
    assert min(lengths) >= 15
    assert 40 < max(lengths) <= LONGEST_DESCRIPTION + 1


def test_a_seed_always_gives_the_same_scene() -> None:
    one, again, other = scene(5), scene(5), scene(6)
    assert one.image.tobytes() == again.image.tobytes()
    assert one.questions == again.questions
    assert one.image.tobytes() != other.image.tobytes()


def test_training_and_held_out_scenes_share_no_photograph_and_no_digit() -> None:
    train, held_out = backgrounds.digits("train")[0], backgrounds.digits("held_out")[0]
    seen = {ink.tobytes() for ink in train}
    assert len(train) + len(held_out) == 1797
    assert not any(ink.tobytes() in seen for ink in held_out)
    for part, columns in (("train", 420), ("held_out", 220)):
        views = backgrounds.photographs(part)  # type: ignore[arg-type]
        assert {round(view.shape[1] / view.shape[0] * 427) for view in views} <= {columns - 1, columns, columns + 1}


def test_the_same_seed_is_another_scene_in_the_other_split() -> None:
    assert scene(5, "train").image.tobytes() != scene(5, "held_out").image.tobytes()


def test_an_answer_that_something_is_there_comes_with_the_patches_that_show_it() -> None:
    for seed in range(30):
        for question in scene(seed, "held_out").questions:
            nothing = (question.family, question.answer) in {("presence", "no"), ("count", "0")}
            assert question.relevant.shape == (GRID, GRID)
            assert question.relevant.any() != nothing, question


def test_what_must_be_read_is_small() -> None:
    shares = [question.relevant.mean() for seed in range(40) for question in scene(seed).questions if question.family in ("word", "number")]
    assert shares
    assert max(shares) < 0.05


def test_bad_seeds_and_splits_are_refused() -> None:
    with pytest.raises(ValueError, match="validation"):
        scene(0, "validation")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="-1"):
        scene(-1)


def test_every_glyph_is_different_and_others_are_refused() -> None:
    assert len({glyph(character).tobytes() for character in ALPHABET}) == 36
    for wrong in ("a", "", "AB"):
        with pytest.raises(ValueError, match="glyph"):
            glyph(wrong)


def test_signs_carry_three_to_six_characters_of_the_alphabet() -> None:
    for words in WORDS.values():
        assert len(set(words)) == len(words)
        assert all(SHORTEST <= len(word) <= LONGEST and set(word) <= set(ALPHABET) for word in words)
    texts = [item.text for seed in range(80) for item in scene(seed).items if item.kind == "sign"]
    assert {len(text) for text in texts} == set(range(SHORTEST, LONGEST + 1))


def test_patch_labels_spell_a_sign_from_left_to_right() -> None:
    items = next(items for seed in range(9) for items in [scene(seed).items] if items[0].text.isalpha())
    labels, centres = patch_labels(items[:1], GRID)
    columns = {name: labels[:, place] for place, name in enumerate(CLASSES)}
    on_sign = columns["kind"] == CLASSES["kind"] - 2
    spelled = {int(i): ALPHABET[c] for i, c in zip(columns["index"][on_sign], columns["character"][on_sign], strict=True)}
    assert "".join(spelled[index] for index in sorted(spelled)) == items[0].text
    assert (columns["character"][~on_sign] == IGNORED).all()
    assert np.isnan(centres[~on_sign]).all()
    assert not np.isnan(centres[on_sign]).any()
