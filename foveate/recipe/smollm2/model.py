"""The model with a pretrained decoder, and the module that trains it: projector and low-rank adapters, many questions in one pass."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import CLIPVisionConfig, CLIPVisionModel, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

from foveate.demo.model.architecture import configuration, tower_states
from foveate.demo.scenes.labels import GRID, PATCH
from foveate.recipe.smollm2.attention import Attend, Masks, Rotation, grouped
from foveate.recipe.smollm2.lessons import PackedLesson
from foveate.recipe.tower import normalise, to_patches

PARTS = {
    "q": "self_attn.q_proj",
    "k": "self_attn.k_proj",
    "v": "self_attn.v_proj",
    "o": "self_attn.o_proj",
    "gate": "mlp.gate_proj",
    "up": "mlp.up_proj",
    "down": "mlp.down_proj",
}
TOGETHER = (("q", "k", "v"), ("o",), ("gate", "up"), ("down",))
"""Linear layers that read the same states are computed as one."""
SCALE = 2.0  # of an adapter's product


@dataclass(frozen=True)
class MergedLinear:
    """Linear layers that read the same states, computed as one; the adapters are part of the weight (outputs, inputs)."""

    weight: Tensor
    outputs: tuple[int, ...]

    def __call__(self, states: Tensor) -> tuple[Tensor, ...]:
        """The outputs of each."""
        return functional.linear(states, self.weight).split(self.outputs, -1)


@dataclass(frozen=True)
class AdaptedLinear:
    """Linear layers that read the same states, with low-rank products beside their frozen weights, which get no gradient.

    On a CPU this is several times faster than merging, which has to compute the gradients of whole weights.
    """

    weights: tuple[Tensor, ...]
    downs: tuple[Tensor, ...]
    ups: tuple[Tensor, ...]

    def __call__(self, states: Tensor) -> tuple[Tensor, ...]:
        """The outputs of each."""
        rows = states.flatten(0, -2)
        parts = zip(self.weights, self.downs, self.ups, strict=True)
        found = (torch.addmm(rows @ weight.T, rows @ down.T, up.T, alpha=SCALE) for weight, down, up in parts)
        return tuple(part.unflatten(0, states.shape[:-1]) for part in found)


LayerLinears = tuple[MergedLinear | AdaptedLinear, ...]
"""The linear layers of a decoder layer, in the order of `TOGETHER`."""


def llava_config(decoder: LlamaConfig, image_token: int, side: int = GRID) -> LlavaConfig:
    """The configuration of the model whose pictures have `side` patches per side."""
    tower: CLIPVisionConfig = configuration(8, 0).vision_config
    tower.image_size = side * PATCH
    return LlavaConfig(
        vision_config=tower,
        text_config=decoder,
        image_token_index=image_token,
        vision_feature_layer=-1,
        vision_feature_select_strategy="default",
        image_seq_length=side * side,
        tie_word_embeddings=True,
    )


def assemble(
    decoder: dict[str, Tensor],
    config: LlamaConfig,
    tower: dict[str, Tensor],
    projector: dict[str, Tensor],
    image_token: int,
    side: int = GRID,
) -> LlavaForConditionalGeneration:
    """The stock model from the states of its parts, in float32.

    Args:
        decoder: the state of a `LlamaModel`, the adapters merged into it.
        config: its configuration.
        tower: the state of the tower, with positions for a whole scene.
        projector: the state of the projector.
        image_token: the id of the placeholder.
        side: patches per side of a picture; a smaller one has the middle of the tower's positions.
    """
    model = LlavaForConditionalGeneration(llava_config(config, image_token, side)).float()
    name = "embeddings.position_embedding.weight"
    lines = torch.arange(side) + (GRID - side) // 2
    rows = torch.cat([torch.zeros(1, dtype=torch.long), 1 + (lines[:, None] * GRID + lines).flatten()])
    _fill(model.model.vision_tower, {**tower, name: tower[name][rows]})
    _fill(model.model.multi_modal_projector, projector)
    _fill(model.model.language_model, decoder)
    model.tie_weights()
    return model.eval()


def with_adapters(decoder: dict[str, Tensor], trained: dict[str, Tensor]) -> dict[str, Tensor]:
    """The state of the decoder with the adapters of a run merged into it, in float32."""
    state = dict(decoder)
    for part, name in PARTS.items():
        up, down = trained[f"up.{part}"].float(), trained[f"down.{part}"].float()
        for layer in range(len(up)):
            key = f"layers.{layer}.{name}.weight"
            state[key] = torch.addmm(decoder[key], up[layer], down[layer], alpha=SCALE)
    return state


def projector_of(trained: dict[str, Tensor]) -> dict[str, Tensor]:
    """The state of the projector among what a run trained, in float32."""
    return {name.removeprefix("projector."): weight.float() for name, weight in trained.items() if name.startswith("projector.")}


def _fill(module: nn.Module, state: dict[str, Tensor]) -> None:
    own = module.state_dict()
    module.load_state_dict({key: value for key, value in state.items() if key in own or not key.endswith("position_ids")})


class Projector(nn.Module):
    """The projector, under the names that the stock model has for it."""

    def __init__(self, seen: int, width: int) -> None:
        super().__init__()
        self.linear_1, self.linear_2 = nn.Linear(seen, width), nn.Linear(width, width)

    def hidden(self, seen: Tensor) -> Tensor:
        """The states (..., width) between the two layers, in the precision of the tower's states."""
        return functional.gelu(functional.linear(seen, self.linear_1.weight.to(seen.dtype), self.linear_1.bias.to(seen.dtype)))

    def forward(self, seen: Tensor) -> Tensor:
        """Visual tokens (..., width)."""
        return functional.linear(self.hidden(seen), self.linear_2.weight.to(seen.dtype), self.linear_2.bias.to(seen.dtype))


class Seer(nn.Module):
    """The frozen tower and decoder, with what is trained between and on them.

    Args:
        tower: the trained tower, frozen.
        decoder: the state of the decoder.
        config: its configuration.
        rank: of the adapters.
        prompt: ids before the picture, and between it and the question.
    """

    input_layernorm: Tensor
    post_attention_layernorm: Tensor
    last_norm: Tensor
    embeddings: Tensor
    words: Tensor
    norms: Tensor
    before: Tensor
    between: Tensor

    def __init__(
        self,
        tower: CLIPVisionModel,
        decoder: dict[str, Tensor],
        config: LlamaConfig,
        rank: int,
        prompt: tuple[tuple[int, ...], tuple[int, ...]],
    ) -> None:
        super().__init__()
        self.config = config
        self.tower = tower.requires_grad_(False)
        self.projector = Projector(tower.config.hidden_size, int(config.hidden_size))
        self.down, self.up = nn.ParameterDict(), nn.ParameterDict()
        for part, name in PARTS.items():
            weight = torch.stack([decoder[f"layers.{layer}.{name}.weight"] for layer in range(config.num_hidden_layers)])
            self.register_buffer(f"base_{part}", weight.float(), persistent=False)
            outputs, inputs = weight.shape[1:]
            start = torch.empty(len(weight), rank, inputs).uniform_(-1, 1) * inputs**-0.5
            self.down[part], self.up[part] = nn.Parameter(start), nn.Parameter(torch.zeros(len(weight), outputs, rank))
        for norm in ("input_layernorm", "post_attention_layernorm"):
            stacked = torch.stack([decoder[f"layers.{layer}.{norm}.weight"] for layer in range(config.num_hidden_layers)])
            self.register_buffer(norm, stacked.float(), persistent=False)
        self.register_buffer("last_norm", decoder["norm.weight"].float(), persistent=False)
        self.register_buffer("embeddings", decoder["embed_tokens.weight"].float(), persistent=False)
        self.register_buffer("before", torch.tensor(prompt[0]), persistent=False)
        self.register_buffer("between", torch.tensor(prompt[1]), persistent=False)
        self.compute = torch.float32
        self.merges = True
        self.attend = Attend()

    def compute_in(self, dtype: torch.dtype) -> None:
        """Let the decoder compute in another precision; the tower's, the trained and the decoder's own weights stay in float32."""
        self.compute = dtype
        self.register_buffer("words", self.embeddings.to(dtype), persistent=False)
        self.register_buffer("norms", torch.stack([self.input_layernorm, self.post_attention_layernorm]).to(dtype), persistent=False)

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return self.before.device

    def trained(self) -> dict[str, Tensor]:
        """What training changes, by name."""
        return {name: weight for name, weight in self.named_parameters() if weight.requires_grad}

    def layers(self) -> list[LayerLinears]:
        """The linear layers of each decoder layer, in the precision of the computation."""
        groups = [self._merged_group(group) if self.merges else self._adapted_group(group) for group in TOGETHER]
        return list(zip(*groups, strict=True))

    def _merged_group(self, group: tuple[str, ...]) -> list[MergedLinear]:
        merged = [torch.baddbmm(getattr(self, f"base_{part}"), self.up[part], self.down[part], alpha=SCALE) for part in group]
        stack = torch.cat(merged, dim=1) if len(group) > 1 else merged[0]
        return [MergedLinear(weight, tuple(part.shape[1] for part in merged)) for weight in stack.to(self.compute).unbind()]

    def _adapted_group(self, group: tuple[str, ...]) -> list[AdaptedLinear]:
        stacks = ([getattr(self, f"base_{part}") for part in group], [self.down[part] for part in group], [self.up[part] for part in group])
        columns = (zip(*(tensor.to(self.compute).unbind() for tensor in tensors), strict=True) for tensors in stacks)
        return [AdaptedLinear(*parts) for parts in zip(*columns, strict=True)]

    @torch.no_grad()
    def seen(self, pixels: Tensor, positions: Tensor) -> Tensor:
        """The tower's states (b, n, hidden) for pixels (b, height, width, 3) in 8 bits."""
        return tower_states(self.tower, normalise(cut(pixels), torch.float32), positions).to(self.compute)

    def embed(self, ids: Tensor) -> Tensor:
        """The embeddings of token ids."""
        return functional.embedding(ids, self.words)

    def rotation(self, places: Tensor) -> Rotation:
        """Cosines and sines (b, 1, s, head size) at rotary positions (b, s)."""
        theta, size = float(self.config.rope_parameters["rope_theta"]), int(self.config.head_dim)
        rates = theta ** -(torch.arange(0, size, 2, device=places.device, dtype=torch.float32) / size)
        angles = (places[..., None].float() * rates).repeat(1, 1, 2)[:, None]
        return Rotation(angles.cos().to(self.compute), angles.sin().to(self.compute))

    def run(
        self,
        states: Tensor,
        turn: Rotation,
        attention: Callable[[Tensor, Tensor, Tensor], Tensor],
        layers: Sequence[LayerLinears],
        start: int = 0,
    ) -> Tensor:
        """Run decoder layers; `start` is the number of the first of them, and `attention` mixes values for queries and keys."""
        heads, size = int(self.config.num_attention_heads), int(self.config.head_dim)
        groups, epsilon = heads // int(self.config.num_key_value_heads), float(self.config.rms_norm_eps)
        for index, (together, out, wide, narrow) in enumerate(layers):
            first, second = self.norms[0, start + index], self.norms[1, start + index]
            normed = functional.rms_norm(states, states.shape[-1:], first, epsilon)
            query, key, value = (part.unflatten(-1, (-1, size)).transpose(1, 2) for part in together(normed))
            mixed = attention(turn(query), grouped(turn(key), groups), grouped(value, groups))
            states = states + out(mixed.transpose(1, 2).flatten(2))[0]
            normed = functional.rms_norm(states, states.shape[-1:], second, epsilon)
            gate, up = wide(normed)
            states = states + narrow(functional.silu(gate) * up)[0]
        return states

    def logits(self, states: Tensor) -> Tensor:
        """Logits of every word for the decoder's last states."""
        normed = functional.rms_norm(states, states.shape[-1:], self.last_norm.to(states.dtype), float(self.config.rms_norm_eps))
        return functional.linear(normed, self.words)

    def forward(self, lesson: PackedLesson, visual: Tensor, kept: Kept | None = None) -> Tensor:
        """Logits (b, r, vocabulary) of a lesson's rows.

        Args:
            lesson: on the device of this module.
            visual: (b, n, width) its visual tokens.
            kept: visual tokens that remain from a layer on; all of them by default.
        """
        batch, first = len(visual), len(self.before)
        shared = [self.embed(self.before).expand(batch, -1, -1), visual, self.embed(self.between).expand(batch, -1, -1)]
        counted = first + lesson.counted[:, None]
        head = torch.arange(first, device=visual.device).expand(batch, -1)
        tail = counted + torch.arange(len(self.between), device=visual.device)
        places = torch.cat([head, first + lesson.places, tail, counted + len(self.between) + lesson.offsets], dim=1)
        states = torch.cat([*shared, self.embed(lesson.tokens)], dim=1)
        masks = Masks(lesson.segments, states.shape[1] - lesson.tokens.shape[1], self.compute)
        turn, layers = self.rotation(places), self.layers()
        if kept is None:
            states = self.run(states, turn, self.attend.over(masks), layers)
        else:
            states = self.run(states, turn, self.attend.over(masks), layers[: kept.layer])
            index = kept.columns(first, visual.shape[1], states.shape[1])
            states, turn = states.gather(1, index[..., None].expand(-1, -1, states.shape[-1])), turn.at(index)
            masks = Masks(lesson.segments, states.shape[1] - lesson.tokens.shape[1], self.compute)
            states = self.run(states, turn, self.attend.over(masks), layers[kept.layer :], kept.layer)
        rows = states.shape[1] - lesson.tokens.shape[1] + lesson.rows
        return self.logits(states.gather(1, rows[..., None].expand(-1, -1, states.shape[-1])))

    def read(self, tokens: Tensor) -> Tensor:
        """Last states (b, s, width) of texts without a picture, padded on the right."""
        places = torch.arange(tokens.shape[1], device=tokens.device).expand(len(tokens), -1)
        return self.run(self.embed(tokens), self.rotation(places), self.attend.causal, self.layers())


@dataclass(frozen=True)
class Kept:
    """Which visual tokens (b, k) remain, in order, and the layer before which the others are dropped."""

    layer: int
    index: Tensor

    def columns(self, first: int, visual: int, length: int) -> Tensor:
        """The columns (b, s) of the whole sequence that remain."""
        around = [torch.arange(start, stop, device=self.index.device) for start, stop in ((0, first), (first + visual, length))]
        before, after = (part.expand(len(self.index), -1) for part in around)
        return torch.cat([before, first + self.index, after], dim=1)


def cut(pixels: Tensor) -> Tensor:
    """Cut pictures (b, height, width, 3) into patches (b, n, 588), as `to_patches` does, on their device."""
    if pixels.device.type == "cpu":
        return to_patches(pixels.numpy())
    batch, height, width = pixels.shape[:3]
    parts = pixels.view(batch, height // PATCH, PATCH, width // PATCH, PATCH, 3).permute(0, 1, 3, 5, 2, 4)
    return parts.reshape(batch, -1, 3 * PATCH * PATCH)
