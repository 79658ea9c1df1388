#!/usr/bin/env bash
# transformers 5.24.0, Qwen2-VL: a second picture on a key/value cache.
#
# Behaviour: a chat continues on the cache of its first turn, and the second turn brings another picture.
#   1. forward with the new ids, the new picture and its mm_token_type_ids: accepted, but the picture's tokens get positions of text, so the
#      logits are those of another prompt. No warning.
#   2. generate with the new ids alone: the same.
#   3. generate with all ids, as its documentation asks for, and the new picture: StopIteration, without a message.
#   4. generate with all ids and all pictures: refused, because the first picture's tokens are in the cache.
# Expected: the logits of the whole conversation in one forward (control 5: forward with explicit position_ids gives them), or an error that
#   names position_ids.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet torch==2.13.0
"$folder/venv/bin/python" -m pip install --quiet transformers==5.24.0
cat > "$folder/check.py" <<'PY'
import torch
import transformers
from transformers import Qwen2VLConfig, Qwen2VLForConditionalGeneration

torch.manual_seed(0)
IMAGE = 90
config = Qwen2VLConfig(
    text_config={
        "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
        "vocab_size": 96, "initializer_range": 0.3, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": None,
        "rope_parameters": {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 10000.0},
    },
    vision_config={
        "depth": 2, "num_heads": 4, "patch_size": 7, "spatial_merge_size": 2, "temporal_patch_size": 2, "embed_dim": 32, "hidden_size": 32,
        "initializer_range": 0.3,
    },
    image_token_id=IMAGE, video_token_id=91, vision_start_token_id=80, vision_end_token_id=81,
)
model = Qwen2VLForConditionalGeneration(config).eval()
grid = torch.tensor([[1, 4, 6]])
first, second = (torch.randn(24, 3 * 2 * 7 * 7) for _ in range(2))
one = torch.tensor([[2, 3, 4, 80, *[IMAGE] * 6, 81, 30, 31, 32]])
two = torch.tensor([[5, 6, 80, *[IMAGE] * 6, 81, 33, 34, 35]])
both = torch.cat([one, two], 1)


def kinds(ids):
    return (ids == IMAGE).long()


def shown(ids, pixels, grids):
    return {"input_ids": ids, "mm_token_type_ids": kinds(ids), "pixel_values": pixels, "image_grid_thw": grids}


@torch.no_grad()
def outcome(run):
    cache = model(**shown(one, first, grid)).past_key_values
    try:
        return float((run(cache) - whole).abs().max())
    except (StopIteration, ValueError) as error:
        return f"{type(error).__name__}({error})"


def generated(ids, pixels, grids, cache):
    out = model.generate(
        **shown(ids, pixels, grids), attention_mask=torch.ones_like(both), past_key_values=cache, max_new_tokens=1, do_sample=False,
        output_logits=True, return_dict_in_generate=True,
    )
    return out.logits[0]


with torch.no_grad():
    whole = model(**shown(both, torch.cat([first, second]), torch.cat([grid, grid]))).logits[:, -1]
positions, _ = model.model.get_rope_index(both, kinds(both), image_grid_thw=torch.cat([grid, grid]))
new = positions[..., one.shape[1]:]
found = {
    "1 forward, new ids": outcome(lambda cache: model(**shown(two, second, grid), past_key_values=cache).logits[:, -1]),
    "2 generate, new ids": outcome(lambda cache: generated(two, second, grid, cache)),
    "3 generate, all ids, new picture": outcome(lambda cache: generated(both, second, grid, cache)),
    "4 generate, all ids, all pictures": outcome(
        lambda cache: generated(both, torch.cat([first, second]), torch.cat([grid, grid]), cache)
    ),
    "5 forward, new ids, position_ids": outcome(
        lambda cache: model(**shown(two, second, grid), position_ids=new, past_key_values=cache).logits[:, -1]
    ),
}
print(f"transformers {transformers.__version__}; largest difference of the last logits from those of the whole conversation, or the error:")
for name, value in found.items():
    print(f"  {name}: {value}")
values = list(found.values())
assert values[0] > 1e-2 and values[1] > 1e-2, "new ids alone are right now, or refused"
assert values[2] == "StopIteration()", "generate with all ids says what is wrong now, or is right"
assert str(values[3]).startswith("ValueError"), "all pictures are taken now"
assert values[4] < 1e-4, "the control differs"
PY
"$folder/venv/bin/python" "$folder/check.py" 2> /dev/null
