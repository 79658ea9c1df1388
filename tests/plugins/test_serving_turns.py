"""The text around an image of a chat, how it travels with the image, and the features that stay in memory."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from words import word_tokenizer

from foveate.families.kit.layout import Layout, MediaKind
from foveate.plugins.vllm.features import FeatureCache, Features
from foveate.plugins.vllm.requests import ItemRequest, field_name
from foveate.plugins.vllm.turns import Turn, answer_marker, turns

IMAGE, VIDEO = 90, 91
KINDS: dict[int, MediaKind] = {IMAGE: "image", VIDEO: "video"}
MARKER = (7, 8)
BEGIN = 5


# Turns.

TEXTS = st.lists(st.integers(10, 19), max_size=4)
PARTS = st.lists(TEXTS | st.sampled_from([[IMAGE], [VIDEO]]), max_size=5)
CHATS = st.lists(st.tuples(PARTS, TEXTS), min_size=1, max_size=3)
"""For each turn what the user wrote and showed, and the answer."""


def flat(parts: list[list[int]]) -> list[int]:
    return [token for part in parts for token in part]


def text_of(tokens: list[int]) -> tuple[int, ...]:
    return tuple(token for token in tokens if token not in KINDS)


@given(CHATS)
def test_an_image_has_the_text_before_it_and_the_rest_of_its_turn(chat: list[tuple[list[list[int]], list[int]]]) -> None:
    prompt: list[int] = []
    expected: dict[MediaKind, list[Turn]] = {"image": [], "video": []}
    for parts, answer in chat:
        asked = flat(parts)
        last = max((place for place, token in enumerate(asked) if token in KINDS), default=-1)
        for place, token in enumerate(asked):
            if token in KINDS:
                own = Turn(text_of(prompt + asked[:place]), (*text_of(asked[place + 1 :]), *MARKER), len(asked) - last - 1 + len(MARKER))
                expected[KINDS[token]].append(own)
        prompt += [*asked, *MARKER, *answer]
    assert turns(prompt, KINDS, MARKER) == expected


@given(CHATS, CHATS)
def test_a_chat_that_continues_leaves_earlier_turns_as_they_were(chat: Any, more: Any) -> None:
    def written(chat: Any) -> list[int]:
        return flat([[*flat(parts), *MARKER, *answer] for parts, answer in chat])

    first, both = turns(written(chat), KINDS, MARKER), turns(written(chat) + written(more), KINDS, MARKER)
    for kind, own in first.items():
        assert both[kind][: len(own)] == own


def test_without_a_marker_a_turn_ends_with_the_prompt() -> None:
    prompt = [1, IMAGE, 2, *MARKER, 3, IMAGE, 4]
    assert turns(prompt, KINDS, ())["image"] == [Turn((1,), (2, 7, 8, 3, 4), 1), Turn((1, 2, 7, 8, 3), (4,), 1)]


def test_a_marker_in_the_text_before_an_image_ends_no_turn() -> None:
    assert turns([*MARKER, 1, IMAGE, 2, 3, *MARKER], KINDS, MARKER)["image"] == [Turn((7, 8, 1), (2, 3, 7, 8), 4)]


def test_a_marker_in_the_question_ends_the_turn_there() -> None:
    assert turns([IMAGE, 2, *MARKER, 3, *MARKER], KINDS, MARKER)["image"] == [Turn((), (2, 7, 8), 3)]


def test_half_a_marker_is_text() -> None:
    assert turns([IMAGE, 7, 2, 8, 7], KINDS, MARKER)["image"] == [Turn((), (7, 2, 8, 7), 4)]


def test_a_marker_directly_after_an_image_is_its_question() -> None:
    assert turns([1, IMAGE, *MARKER], KINDS, MARKER)["image"] == [Turn((1,), (7, 8), 2)]


def test_nothing_after_the_last_image_is_no_question() -> None:
    assert turns([1, IMAGE, 2, VIDEO], KINDS, MARKER) == {"image": [Turn((1,), (2,), 0)], "video": [Turn((1, 2), (), 0)]}


def test_text_alone_has_no_turns() -> None:
    assert turns([1, 2, 3], KINDS, MARKER) == {"image": [], "video": []}
    assert turns([], {IMAGE: "image"}, MARKER) == {"image": []}


# Where an answer begins.

PLAIN = (
    "{% for message in messages %}{{ message['role'] }} : {{ message['content'] }} {% endfor %}"
    "{% if add_generation_prompt %}assistant :{% endif %}"
)
PARTS_ONLY = (
    "{% for message in messages %}{{ message['role'] }} : {% for part in message['content'] %}{{ part['text'] + ' ' }}{% endfor %}"
    "{% endfor %}{% if add_generation_prompt %}assistant :{% endif %}"
)
WORDS = ["<unk>", "user", "assistant", ":", "x"]
TEMPLATES: dict[str, tuple[str, tuple[int, ...]]] = {
    "text": (PLAIN, (2, 3)),
    "parts": (PARTS_ONLY, (2, 3)),
    "nothing for an answer": (PLAIN.partition("{% if")[0], ()),
    "another beginning": ("{% if add_generation_prompt %}assistant{% endif %} user : x", ()),
    "no text of the user": ("user :{% if add_generation_prompt %} assistant :{% endif %}", ()),
    "broken": ("{{ raise_exception('never') }}", ()),
}


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_template_says_where_an_answer_begins(name: str) -> None:
    template, expected = TEMPLATES[name]
    assert answer_marker(word_tokenizer(WORDS), template) == expected


def test_a_tokenizer_has_a_template_of_its_own_or_none() -> None:
    tokenizer = word_tokenizer(WORDS)
    assert answer_marker(tokenizer) == ()
    tokenizer.chat_template = PLAIN
    assert answer_marker(tokenizer) == (2, 3)


# Requests.

IDS = st.lists(st.integers(0, 2**31), max_size=6).map(tuple)
TURNS = st.builds(lambda before, after, share: Turn(before, after, int(share * len(after))), IDS, IDS, st.floats(0, 1))
KEYS = st.binary(min_size=32, max_size=32)
REQUESTS = st.builds(ItemRequest, KEYS, st.integers(1, 2**31) | st.floats(1e-9, 1.0), st.none() | TURNS)


@given(st.lists(REQUESTS, min_size=1, max_size=4))
def test_requests_arrive_as_they_were_sent(sent: list[ItemRequest]) -> None:
    arrived = ItemRequest.unpack_all([request.pack() for request in sent])
    assert arrived == sent
    assert [type(request.keep) for request in arrived] == [type(request.keep) for request in sent]


@given(REQUESTS)
def test_requests_of_one_length_may_arrive_stacked(sent: ItemRequest) -> None:
    assert ItemRequest.unpack_all(torch.stack([sent.pack()] * 3)) == [sent] * 3


@given(REQUESTS, REQUESTS)
def test_a_digest_differs_where_requests_differ(one: ItemRequest, other: ItemRequest) -> None:
    assert (one.digest == other.digest) == (one == other and type(one.keep) is type(other.keep))


ONE = ItemRequest(bytes(range(32)), 9, Turn((1, 2), (3, 4, 5), 2))
OTHERS = [
    ItemRequest(bytes(range(1, 33)), 9, ONE.turn),
    ItemRequest(ONE.key, 8, ONE.turn),
    ItemRequest(ONE.key, 9),
    ItemRequest(ONE.key, 9, Turn((1,), (2, 3, 4, 5), 2)),
    ItemRequest(ONE.key, 9, Turn((1, 2), (3, 4, 5), 1)),
    ItemRequest(ONE.key, 9, Turn((1, 2), (3, 4, 6), 2)),
]


def test_each_part_of_a_request_counts() -> None:
    assert len({request.digest for request in (ONE, *OTHERS)}) == 1 + len(OTHERS)
    assert ItemRequest(ONE.key, 1).digest != ItemRequest(ONE.key, 1.0).digest


def test_a_fingerprint_is_that_of_the_image_whatever_is_asked() -> None:
    assert {request.fingerprint for request in OTHERS[1:]} == {ONE.fingerprint}
    assert OTHERS[0].fingerprint != ONE.fingerprint


def test_requests_of_images_and_of_videos_travel_apart() -> None:
    assert field_name("image") != field_name("video")


# Features.


def features(floats: int) -> Features:
    return Features(torch.zeros(floats, 1), Layout(((1, 1, floats),)))


def test_features_have_a_size_with_their_signals() -> None:
    assert Features(torch.zeros(6, 4), Layout(((1, 2, 3),)), {"tower_attention": torch.zeros(6)}).size == 4 * (24 + 6)


def test_the_features_that_were_used_last_stay() -> None:
    cache, known = FeatureCache(8 * 4), {key: features(3) for key in (b"a", b"b", b"c")}
    cache.put(b"a", known[b"a"])
    cache.put(b"b", known[b"b"])
    assert cache.get(b"a") is known[b"a"]
    cache.put(b"c", known[b"c"])
    assert cache.get(b"b") is None
    assert cache.get(b"a") is known[b"a"]
    assert cache.get(b"c") is known[b"c"]
    assert (cache.hits, cache.misses, len(cache), cache.size) == (3, 1, 2, 24)


def test_features_that_are_too_large_push_nothing_out() -> None:
    cache = FeatureCache(16)
    cache.put(b"a", features(4))
    cache.put(b"b", features(5))
    assert cache.get(b"b") is None
    assert cache.get(b"a") is not None


def test_features_that_come_again_count_once() -> None:
    cache = FeatureCache(40)
    cache.put(b"a", features(4))
    cache.put(b"a", features(6))
    assert (len(cache), cache.size) == (1, 24)


def test_a_cache_of_no_bytes_keeps_nothing() -> None:
    cache = FeatureCache(0)
    cache.put(b"a", features(1))
    assert (len(cache), cache.size) == (0, 0)


def test_a_cleared_cache_is_empty() -> None:
    cache = FeatureCache(40)
    cache.put(b"a", features(4))
    cache.clear()
    assert (len(cache), cache.size, cache.get(b"a")) == (0, 0, None)


@given(st.integers(0, 20), st.lists(st.tuples(st.sampled_from("abcd"), st.integers(0, 8)), max_size=30))
def test_a_cache_holds_the_longest_run_of_recent_features_that_fits(limit: int, steps: list[tuple[str, int]]) -> None:
    """A step of no floats looks a key up."""
    cache, recent = FeatureCache(4 * limit), dict[str, int]()
    for name, floats in steps:
        if floats:
            cache.put(name.encode(), features(floats))
            if floats <= limit:
                recent.pop(name, None)
                recent[name] = floats
                while sum(recent.values()) > limit:
                    del recent[next(iter(recent))]
        else:
            assert (cache.get(name.encode()) is not None) == (name in recent)
            if name in recent:
                recent[name] = recent.pop(name)
        assert cache.size == 4 * sum(recent.values()) <= 4 * limit
        assert len(cache) == len(recent)


def test_what_the_front_shares_with_the_worker_imports_nothing_of_vllm() -> None:
    code = (
        "import sys; from foveate.plugins.vllm import architectures, features, requests, settings, turns; "
        "print(any(name.partition('.')[0] == 'vllm' for name in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
