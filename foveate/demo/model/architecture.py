"""The embedded model: a CLIP-style tower over 24 by 24 patches, a projector, and a Llama decoder."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import (
    AutoProcessor,
    AutoTokenizer,
    CLIPVisionConfig,
    CLIPVisionModel,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
)
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from foveate.demo.model.language import IMAGE_TOKEN, build_processor, vocabulary
from foveate.demo.model.packed import stock_rotation
from foveate.demo.model.shape import EmbeddedShape, kind_of
from foveate.demo.scenes.labels import GRID, PATCH
from foveate.files.checkpoints import load_folder, pretrained
from foveate.files.checkpoints.pillow import on_pillow


def configuration(vocabulary: int, image_token: int, *, hidden: int = 192, tower_layers: int = 6, layers: int = 8) -> LlavaConfig:
    """The configuration of the embedded model, or of a narrower one for tests."""
    tower = CLIPVisionConfig(
        hidden_size=hidden,
        intermediate_size=4 * hidden,
        num_hidden_layers=tower_layers,
        num_attention_heads=hidden // 32,
        image_size=GRID * PATCH,
        patch_size=PATCH,
        hidden_act="gelu",
        projection_dim=hidden,
    )
    text = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=hidden,
        intermediate_size=8 * hidden // 3,
        num_hidden_layers=layers,
        num_attention_heads=hidden // 32,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
    )
    return LlavaConfig(
        vision_config=tower,
        text_config=text,
        image_token_index=image_token,
        vision_feature_layer=-1,
        vision_feature_select_strategy="default",
        image_seq_length=GRID * GRID,
        tie_word_embeddings=True,
    )


def build(configuration: LlavaConfig, seed: int) -> LlavaForConditionalGeneration:
    """A freshly initialised model, in float32 and reproducible from `seed`.

    Linear layers are initialised by their fan-in (the usual 0.02 is too small at width 192), position embeddings as sines and cosines of
    row and column, and patch embeddings as the smoothest cosine patterns of a patch.
    """
    torch.manual_seed(seed)
    model = LlavaForConditionalGeneration(configuration).float()
    fan_in(model, last=("out_proj.weight", "fc2.weight", "o_proj.weight", "down_proj.weight"))
    tower = model.model.vision_tower
    assert isinstance(tower, CLIPVisionModel)
    embeddings = tower.embeddings
    embeddings.position_embedding.weight.data[1:] = sine_positions(configuration.vision_config.hidden_size)
    embeddings.position_embedding.weight.data[0] = 0
    embeddings.patch_embedding.weight.data = cosine_patches(configuration.vision_config.hidden_size)
    nn.init.normal_(model.get_input_embeddings().weight, std=configuration.text_config.hidden_size**-0.5)
    return model


def fan_in(model: nn.Module, last: tuple[str, ...]) -> None:
    """Initialise linear layers by their fan-in; those whose names end in one of `last`, which write into the residual, at half of it."""
    for module in model.modules():
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=module.in_features**-0.5)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    for name, weight in model.named_parameters():
        if name.endswith(last):
            weight.data.mul_(0.5)


def sine_positions(width: int) -> Tensor:
    """Sine-cosine embeddings (576, width) of the patches' rows and columns, with half the width for each."""
    frequencies = math.pi / GRID * 2 ** torch.linspace(0, math.log2(GRID), width // 4)
    angles = torch.arange(GRID)[:, None] * frequencies
    line = torch.cat([angles.sin(), angles.cos()], dim=1)
    rows = line[:, None].expand(GRID, GRID, -1)
    columns = line[None, :].expand(GRID, GRID, -1)
    return 0.7 * torch.cat([rows, columns], dim=-1).reshape(GRID * GRID, -1)


def cosine_patches(width: int) -> Tensor:
    """Orthonormal patterns (width, 3, 14, 14): two thirds for brightness, one third for colour, smoothest first."""
    line = torch.cos(math.pi / PATCH * (torch.arange(PATCH) + 0.5)[None] * torch.arange(PATCH)[:, None])
    line = line / line.norm(dim=1, keepdim=True)
    patterns = torch.einsum("iy,jx->ijyx", line, line).reshape(-1, PATCH, PATCH)
    order = torch.argsort((torch.arange(PATCH)[:, None] + torch.arange(PATCH)).reshape(-1), stable=True)
    patterns = patterns[order]
    tints = torch.linalg.qr(torch.tensor([[1.0, 1.0, 0.0], [1.0, -1.0, 1.0], [1.0, 0.0, -1.0]]))[0].T
    share = width // 6
    counts = (width - 2 * share, share, share)
    parts = [tint[None, :, None, None] * patterns[:count, None] for tint, count in zip(tints, counts, strict=True)]
    return torch.cat(parts)


def tower_states(tower: CLIPVisionModel, patches: Tensor, positions: Tensor) -> Tensor:
    """States (b, n, hidden) after the tower's last layer, for any set of patches; equal to the stock forward for all 576.

    Args:
        patches: (b, n, 588) normalised pixels.
        positions: (b, n) indices in the 24 by 24 grid.
    """
    embeddings = tower.embeddings
    weight = embeddings.patch_embedding.weight
    states = functional.linear(patches, weight.view(weight.shape[0], -1))
    states = states + functional.embedding(positions + 1, embeddings.position_embedding.weight)
    first = embeddings.class_embedding + embeddings.position_embedding.weight[0]
    states = torch.cat([first.expand(len(states), 1, -1), states], dim=1)
    states = tower.pre_layrnorm(states)
    for layer in tower.encoder.layers:
        states = layer(states, None)
    return states[:, 1:]


@torch.no_grad()
def calibrate(projector: nn.Module, seen: Tensor) -> None:
    """Initialise the projector as if the tower's channels had mean 0 and standard deviation 1, which they are far from.

    Args:
        projector: two linear layers, changed in place.
        seen: (b, n, hidden) states of a few images.
    """
    mean, spread = seen.float().mean((0, 1)), seen.float().std((0, 1)) + 1e-6
    first = projector.linear_1
    assert isinstance(first, nn.Linear)
    first.weight.div_(spread)
    first.bias.sub_(first.weight @ mean)


def known_words(state: dict[str, Tensor], names: tuple[str, ...], folder: Path, words: dict[str, int], own: dict[str, Tensor]) -> None:
    """Carry rows of earlier embeddings over by their words, so that a vocabulary may grow.

    Args:
        state: earlier weights, changed in place.
        names: the names of the embeddings in `state` and `own`.
        folder: the folder of the earlier tokenizer.
        words: the current vocabulary.
        own: current weights; new words keep their rows from here.
    """
    earlier: dict[str, int] = pretrained(AutoTokenizer, folder, local_files_only=True).get_vocab()
    pairs = [(earlier[token], index) for token, index in words.items() if token in earlier]
    before, after = (list(part) for part in zip(*pairs, strict=True))
    for name in names:
        state[name] = own[name].index_copy(0, torch.tensor(after), state[name][before])


class EmbeddedLlava(EmbeddedShape):
    """The default shape: pictures of one size, and one visual token per patch."""

    name = "llava"

    def build(self, *, hidden: int, tower_layers: int, layers: int, seed: int) -> LlavaForConditionalGeneration:
        """See `EmbeddedShape.build`."""
        shape = configuration(len(vocabulary()), vocabulary()[IMAGE_TOKEN], hidden=hidden, tower_layers=tower_layers, layers=layers)
        return build(shape, seed)

    def processor(self, folder: Path | None = None) -> LlavaProcessor:
        """See `EmbeddedShape.processor`."""
        if folder is None:
            return build_processor()
        return on_pillow(pretrained(AutoProcessor, folder, local_files_only=True), CLIPImageProcessorPil)  # type: ignore[no-any-return]

    def tower(self, model: LlavaForConditionalGeneration) -> CLIPVisionModel:
        """See `EmbeddedShape.tower`."""
        tower = model.model.vision_tower
        assert isinstance(tower, CLIPVisionModel)
        return tower

    def projector(self, model: LlavaForConditionalGeneration) -> nn.Module:
        """See `EmbeddedShape.projector`."""
        return model.model.multi_modal_projector

    def states(self, tower: CLIPVisionModel, patches: Tensor, positions: Tensor) -> Tensor:
        """See `EmbeddedShape.states`."""
        return tower_states(tower, patches, positions)

    def features(self, tower: CLIPVisionModel, patches: Tensor, positions: Tensor) -> Tensor:
        """See `EmbeddedShape.features`; the projector comes later."""
        return self.states(tower, patches, positions)

    def project(self, projector: nn.Module, states: Tensor) -> Tensor:
        """See `EmbeddedShape.project`."""
        tokens: Tensor = projector(states)
        return tokens

    def places(self, positions: Tensor) -> tuple[Tensor, int]:
        """See `EmbeddedShape.places`: a window's patches keep their positions in a whole scene, and so does what follows."""
        return positions, GRID * GRID

    def rotation(self, decoder: Any, states: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
        """See `EmbeddedShape.rotation`."""
        return stock_rotation(decoder, states, positions)

    def earlier(self, folder: Path, own: dict[str, Tensor]) -> dict[str, Tensor]:
        """See `EmbeddedShape.earlier`."""
        kind = kind_of(folder)
        if kind != "llava":
            raise ValueError(
                f"{folder} holds a {kind!r} model, which has another shape and cannot be converted to this one; give the weights of a llava"
            )
        state = load_folder(folder, torch.float32).state_dict()
        known_words(state, ("model.language_model.embed_tokens.weight", "lm_head.weight"), folder, vocabulary(), own)
        return state

    def spare(self, tower: CLIPVisionModel) -> None:
        """See `EmbeddedShape.spare`: the last norm does not contribute to the states of patches."""
        tower.post_layernorm.requires_grad_(False)

    def calibrate(self, projector: nn.Module, seen: Tensor) -> None:
        """See `EmbeddedShape.calibrate`."""
        calibrate(projector, seen)
