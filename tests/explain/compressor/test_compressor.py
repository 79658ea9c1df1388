"""The network: any sizes, no padding, no missing cell seen, its place in space and time; and its files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from compressors import NOBODY, in_two_files, untrained
from faults import killed_at
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from foveate import ConvCompressor
from foveate.errors import CompressorError, OptionError
from foveate.explain.compressor.compressor import SETTINGS, WEIGHTS
from foveate.explain.compressor.network import CompressorConfig, CompressorInput, ScoreNetwork
from foveate.explain.compressor.train import channels_of
from foveate.view import Grid

KINDS: list[dict[str, Any]] = [
    {"network": "grid"},
    {"network": "grid", "kernel": 5, "mean": True},
    {"network": "sequence", "mean": True, "logarithm": False},
    {"network": "sequence", "hidden": NOBODY.hidden, "projected": 4},
    {"network": "grid", "hidden": NOBODY.hidden, "projected": 4},
]
PARTS: list[tuple[Grid, ...]] = [((1, 5, 7),), ((3, 4, 4),), ((1, 4, 4), (1, 3, 5), (1, 4, 4)), ((1, 1, 1),)]
every_kind = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: "-".join(map(str, kind.values())))


def random_input(parts: tuple[Grid, ...], seed: int = 0) -> CompressorInput:
    n = sum(t * h * w for t, h, w in parts)
    draw = torch.Generator().manual_seed(seed)
    attention = (0.1 + torch.rand(NOBODY.heads, n, generator=draw)) / n
    return CompressorInput(attention, parts, torch.randn(n, NOBODY.hidden, generator=draw))


def predict(compressor: ConvCompressor, *inputs: CompressorInput) -> list[Tensor]:
    with torch.no_grad():
        return compressor(inputs)


@every_kind
def test_predictions_are_probabilities_over_all_tokens_of_an_image(kind: dict[str, Any]) -> None:
    for parts in PARTS:
        (found,) = predict(untrained(**kind), random_input(parts))
        assert found.shape == (sum(t * h * w for t, h, w in parts),)
        assert found.dtype == torch.float32
        torch.testing.assert_close(found.exp().sum(), torch.tensor(1.0))


@every_kind
def test_a_batch_of_any_shapes_is_its_images_one_by_one(kind: dict[str, Any]) -> None:
    compressor, inputs = untrained(**kind), [random_input(parts, seed) for seed, parts in enumerate([*PARTS, PARTS[0], PARTS[2]])]
    for together, own in zip(predict(compressor, *inputs), inputs, strict=True):
        torch.testing.assert_close(together, *predict(compressor, own), atol=1e-5, rtol=1e-5)


def test_the_crops_of_an_image_do_not_touch() -> None:
    compressor, own = untrained(), random_input(PARTS[2])
    moved = own.attention.clone()
    moved[:, 16:31] = moved[:, 16:31].flip(1)
    before, after = compressor.network([own])[0], compressor.network([CompressorInput(moved, own.parts)])[0]
    torch.testing.assert_close(before[:16], after[:16], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(before[31:], after[31:], atol=1e-5, rtol=1e-5)
    assert not torch.allclose(before[16:31], after[16:31], atol=1e-3)


def reach(compressor: ConvCompressor, parts: tuple[Grid, ...], cell: int) -> set[int]:
    """The cells whose input moves the score of one cell, standardisation left aside."""
    n = sum(t * h * w for t, h, w in parts)
    features = torch.randn(n, compressor.config.inputs, requires_grad=True)
    compressor.network._features = lambda _: features  # type: ignore[method-assign,assignment]
    compressor.network([random_input(parts)])[0][cell].backward()
    assert features.grad is not None
    return set(features.grad.abs().sum(1).nonzero().flatten().tolist())


def test_the_grid_network_looks_around_in_rows_columns_and_frames() -> None:
    near = {(t, h, w) for t in (0, 1) for h in (1, 2, 3) for w in (0, 1, 2)}
    seen = reach(untrained(channels=(4,)), ((3, 4, 4),), 0 * 16 + 2 * 4 + 1)
    assert seen == {t * 16 + h * 4 + w for t, h, w in near}


def test_the_sequence_network_looks_along_the_tokens_alone() -> None:
    assert reach(untrained(network="sequence", channels=(4,)), ((3, 4, 4),), 17) == {16, 17, 18}


def test_consecutive_frames_are_a_convolution_in_three_dimensions() -> None:
    network = ScoreNetwork(CompressorConfig(heads=3, channels=(4,), kernel=3, frames=5))
    block, states = network.blocks[0], torch.randn(2, 3, 4, 5, 6)
    torch.nn.init.normal_(block.depthwise)
    plain = torch.nn.functional.conv3d(states, block.depthwise[:, None], padding=(2, 1, 1), groups=3)
    wide = torch.nn.functional.conv2d(plain.transpose(1, 2).flatten(0, 1), block.pointwise.weight, block.pointwise.bias)
    expected = torch.nn.functional.gelu(block.norm(wide.movedim(1, -1))).movedim(-1, 1)
    torch.testing.assert_close(block(states.transpose(1, 2).flatten(0, 1), 4), expected, atol=1e-5, rtol=1e-5)


def test_what_only_images_have_taught_treats_frames_one_by_one() -> None:
    torch.manual_seed(0)
    network = ScoreNetwork(CompressorConfig(heads=NOBODY.heads, channels=(4, 8)))
    image, video = random_input(((1, 4, 4),)), random_input(((3, 4, 4),))
    network([image])[0].square().sum().backward()
    torch.optim.Adam(network.parameters(), lr=0.1).step()
    network._features = lambda own: own.attention.T  # type: ignore[method-assign,assignment]
    frames = [CompressorInput(video.attention[:, 16 * t : 16 * t + 16], ((1, 4, 4),)) for t in range(3)]
    torch.testing.assert_close(network([video])[0], torch.cat(network(frames)), atol=1e-5, rtol=1e-5)


@every_kind
def test_cells_that_are_missing_count_as_beyond_the_border(kind: dict[str, Any]) -> None:
    compressor, whole = untrained(**kind), random_input(((1, 6, 5),))
    assert whole.states is not None
    upper = torch.arange(20)
    rest = CompressorInput(whole.attention[:, :20], ((1, 6, 5),), whole.states[:20], upper)
    smaller = CompressorInput(whole.attention[:, :20], ((1, 4, 5),), whole.states[:20])
    torch.testing.assert_close(predict(compressor, rest)[0], predict(compressor, smaller)[0], atol=1e-5, rtol=1e-5)
    mixed = predict(compressor, whole, rest, random_input(((1, 6, 5),), 3))
    torch.testing.assert_close(mixed[1], predict(compressor, rest)[0], atol=1e-5, rtol=1e-5)


def test_where_all_cells_are_named_nothing_is_missing() -> None:
    compressor, whole = untrained(), random_input(PARTS[2])
    named = CompressorInput(whole.attention, whole.parts, whole.states, torch.arange(47))
    torch.testing.assert_close(predict(compressor, named)[0], predict(compressor, whole)[0], atol=1e-6, rtol=1e-6)


def test_the_scale_of_attention_does_not_matter() -> None:
    for kind in KINDS[:3]:
        own = random_input(PARTS[0])
        smaller = CompressorInput(own.attention / 8, own.parts, own.states)
        torch.testing.assert_close(*predict(untrained(**kind), own), *predict(untrained(**kind), smaller), atol=1e-3, rtol=1e-3)


def test_both_networks_are_of_the_published_size() -> None:
    published = CompressorConfig(heads=28, network="sequence", mean=True)
    ours = CompressorConfig(heads=28)
    sizes = [sum(value.numel() for value in ScoreNetwork(config).parameters()) for config in (published, ours)]
    assert all(0.17e6 < size < 0.2e6 for size in sizes), sizes
    assert channels_of(5) == published.channels == (32, 64, 128, 256, 512)
    for layers in (3, 7, 10):
        assert (len(channels_of(layers)), channels_of(layers)[0], channels_of(layers)[-1]) == (layers, 32, 512)
        assert list(channels_of(layers)) == sorted(channels_of(layers))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"network": "2d"}, "choose 'sequence' or 'grid'"),
        ({"kernel": 4}, "kernel=4 must be odd"),
        ({"frames": 0}, "frames=0 must be odd"),
        ({"channels": ()}, "must be positive"),
        ({"heads": 0}, "must be positive"),
    ],
)
def test_networks_that_cannot_be_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        CompressorConfig(**{"heads": 3, **options})


# Files.


@every_kind
def test_what_is_saved_is_read_again(kind: dict[str, Any], tmp_path: Path) -> None:
    compressor = untrained(**kind)
    compressor.labels = {"target": "logit"}
    compressor.training_facts = {"epoch": 3}
    read = ConvCompressor.from_pretrained(compressor.save_pretrained(tmp_path / "new" / "folder"))
    assert (read.config, read.model, read.labels, read.training_facts) == (compressor.config, NOBODY, {"target": "logit"}, {"epoch": 3})
    assert torch.equal(*predict(read, random_input(PARTS[2])), *predict(compressor, random_input(PARTS[2])))
    assert not read.training
    assert [file.name for file in (tmp_path / "new" / "folder").iterdir()] == [WEIGHTS]


def spoil(folder: Path, **changed: Any) -> None:
    """Change settings, `None` takes one out, in whichever file they are."""
    with safe_open(folder / WEIGHTS, "pt") as opened:
        header = opened.metadata()
        weights = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    settings = json.loads(header["foveate"] if header else (folder / SETTINGS).read_text())
    text = json.dumps({name: value for name, value in {**settings, **changed}.items() if value is not None})
    if header:
        (folder / WEIGHTS).write_bytes(save(weights, {"foveate": text}))
    else:
        (folder / SETTINGS).write_text(text)


def flip(file: Path) -> None:
    """Change the last byte of the weights."""
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)


def test_the_two_files_of_earlier_versions_are_read_and_replaced_by_one(tmp_path: Path) -> None:
    compressor = untrained()
    folder = in_two_files(compressor.save_pretrained(tmp_path))
    read = ConvCompressor.from_pretrained(folder)
    assert torch.equal(*predict(read, random_input(PARTS[2])), *predict(compressor, random_input(PARTS[2])))
    other = untrained(seed=1)
    other.save_pretrained(folder)
    assert [file.name for file in folder.iterdir()] == [WEIGHTS]
    assert torch.equal(*predict(ConvCompressor.from_pretrained(folder), random_input(PARTS[2])), *predict(other, random_input(PARTS[2])))


def test_a_kill_at_any_moment_of_saving_leaves_the_old_compressor_or_the_new_one(tmp_path: Path) -> None:
    old, new = untrained(), untrained(seed=1)
    (expected_old,), (expected_new,) = predict(old, random_input(PARTS[2])), predict(new, random_input(PARTS[2]))
    seen = []
    for form in (lambda folder: folder, in_two_files):
        for step in range(9):
            folder = form(old.save_pretrained(tmp_path / f"{form.__name__}-{step}"))
            if not killed_at(step, lambda folder=folder: new.save_pretrained(folder)):
                break
            (found,) = predict(ConvCompressor.from_pretrained(folder), random_input(PARTS[2]))
            seen.append(torch.equal(found, expected_new))
            assert seen[-1] or torch.equal(found, expected_old)
            new.save_pretrained(folder)
            assert [file.name for file in folder.iterdir()] == [WEIGHTS]
    assert {True, False} == set(seen)


BOTH = [
    (lambda folder: (folder / WEIGHTS).unlink(), f"holds no {WEIGHTS}"),
    (lambda folder: (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:-4]), "is damaged"),
    (lambda folder: (folder / WEIGHTS).write_bytes(b"nothing"), "is damaged"),
    (lambda folder: flip(folder / WEIGHTS), "is damaged"),
    (lambda folder: spoil(folder, format=9), "has format 9; this version of foveate reads format 1"),
    (lambda folder: spoil(folder, model=None), "model is missing"),
    (lambda folder: spoil(folder, config={"heads": 3, "depth": 1}), "depth: this version of foveate knows no such setting"),
    (lambda folder: spoil(folder, config={"heads": 3, "kernel": "x"}), "is not a valid compressor"),
    (lambda folder: spoil(folder, config={"heads": 3}), "is not a valid compressor"),
    (lambda folder: spoil(folder, model={"heads": 3}), r"model\.model_type is missing"),
]
TWO = [
    (lambda folder: (folder / SETTINGS).unlink(), f"holds no {SETTINGS}"),
    (lambda folder: (folder / SETTINGS).write_text("{"), "is not JSON"),
    (lambda folder: (folder / SETTINGS).write_bytes(b"\xff\xfe\x00"), "is not JSON"),
    (lambda folder: (folder / SETTINGS).write_text("[]"), "has format None"),
]


@pytest.mark.parametrize(
    ("form", "damage", "message"), [(f, *one) for f, cases in ((Path, BOTH), (in_two_files, BOTH + TWO)) for one in cases]
)
def test_files_that_make_no_compressor_are_refused(form: Any, damage: Any, message: str, tmp_path: Path) -> None:
    folder = form(untrained().save_pretrained(tmp_path))
    damage(folder)
    with pytest.raises(CompressorError, match=message):
        ConvCompressor.from_pretrained(folder)


@pytest.mark.parametrize("form", [Path, in_two_files])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused(form: Any, value: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compressor = untrained()
    with torch.no_grad():
        compressor.network.head.bias.fill_(value)
    with pytest.raises(CompressorError, match=r"head\.bias.*not finite"):
        compressor.check(NOBODY)
    with pytest.raises(CompressorError, match=r"head\.bias.*not finite"):
        compressor.save_pretrained(tmp_path)
    assert not list(tmp_path.iterdir())
    with monkeypatch.context() as patch:
        patch.setattr(ConvCompressor, "check_finite", lambda self: None)
        folder = form(compressor.save_pretrained(tmp_path))
    with pytest.raises(CompressorError, match=r"compressor\.safetensors: head\.bias.*not finite"):
        ConvCompressor.from_pretrained(folder)


def test_a_name_that_is_nothing_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(CompressorError, match=r"nowhere is not a folder; name a folder that `foveate train` wrote"):
        ConvCompressor.from_pretrained(tmp_path / "nowhere")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(CompressorError, match="no compressor could be downloaded from the Hugging Face hub"):
        ConvCompressor.from_pretrained("nobody/nothing")


def test_a_hub_id_is_fetched_file_by_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, asked = in_two_files(untrained().save_pretrained(tmp_path)), []

    def fetch(repo_id: str, filename: str, revision: str | None) -> str:
        asked.append((repo_id, filename, revision))
        return str(folder / filename)

    monkeypatch.setattr("huggingface_hub.hf_hub_download", fetch)
    assert ConvCompressor.from_pretrained("owner/name", revision="v1").model == NOBODY
    assert asked == [("owner/name", WEIGHTS, "v1"), ("owner/name", SETTINGS, "v1")]
    asked.clear()
    untrained().save_pretrained(folder)
    assert ConvCompressor.from_pretrained("owner/name", revision="v1").model == NOBODY
    assert asked == [("owner/name", WEIGHTS, "v1")]


def test_a_write_that_fails_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = untrained().save_pretrained(tmp_path)
    before = {file.name: file.read_bytes() for file in folder.iterdir()}

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", full)
    with pytest.raises(OSError, match="No space"):
        untrained(seed=1).save_pretrained(tmp_path)
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == before


def test_a_network_of_another_shape_than_the_model_is_refused() -> None:
    with pytest.raises(CompressorError, match="for 4 heads and states of 0 cannot read a model of 3 heads"):
        ConvCompressor(CompressorConfig(heads=4), NOBODY)
    with pytest.raises(CompressorError, match="states of 99 cannot read"):
        ConvCompressor(CompressorConfig(heads=3, hidden=99), NOBODY)
