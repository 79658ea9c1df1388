#!/usr/bin/env bash
# transformers 5.16.0 and 5.24.0, generate with an image: where the vision tower runs.
#
# Behaviour: in 5.16.0 the tower runs inside the model's first forward, which is given pixel_values. In 5.24.0 generate runs the tower before
#   that forward, which is given mm_encoder_outputs and no pixel_values. A plain forward is given pixel_values in both.
# Expected: what a hook, a wrapper or a timer around the model's forward sees of one call does not change with a minor version. A prefill
#   timed around the first forward loses the whole vision tower on the way; a hook that looks for pixel_values finds no picture.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cat > "$folder/check.py" <<'PY'
import sys

import torch
import transformers
from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

torch.manual_seed(0)
IMAGE = 95
tower = CLIPVisionConfig(hidden_size=32, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2, image_size=28, patch_size=14)
text = LlamaConfig(
    vocab_size=96, hidden_size=32, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2, pad_token_id=0, eos_token_id=None
)
model = LlavaForConditionalGeneration(LlavaConfig(vision_config=tower, text_config=text, image_token_id=IMAGE, vision_feature_layer=-2)).eval()
prompt = {"input_ids": torch.tensor([[1, *[IMAGE] * 4, 5, 6]]), "pixel_values": torch.randn(1, 3, 28, 28)}
events = []


def before(module, args, kwargs):
    events.append("forward begins with " + (" and ".join(n for n in ("pixel_values", "mm_encoder_outputs") if kwargs.get(n) is not None) or "text"))


model.register_forward_pre_hook(before, with_kwargs=True)
model.register_forward_hook(lambda *_: events.append("forward ends"))
model.model.vision_tower.register_forward_hook(lambda *_: events.append("tower runs"))
found = {}
for name, call in {"generate": lambda: model.generate(**prompt, max_new_tokens=1, do_sample=False), "forward": lambda: model(**prompt)}.items():
    events.clear()
    call()
    found[name] = list(events)
    print(f"transformers {transformers.__version__}, {name}: {', '.join(events)}")
inside = ["forward begins with pixel_values", "tower runs", "forward ends"]
ahead = ["tower runs", "forward begins with mm_encoder_outputs", "forward ends"]
assert found["forward"] == inside
assert found["generate"] == (inside if sys.argv[1] == "inside" else ahead), "the tower runs elsewhere now"
PY
for case in 5.16.0:inside 5.24.0:ahead; do
  python3 -m venv --clear "$folder/venv"
  "$folder/venv/bin/python" -m pip install --quiet torch==2.13.0 numpy==2.4.6
  "$folder/venv/bin/python" -m pip install --quiet "transformers==${case%:*}"
  "$folder/venv/bin/python" "$folder/check.py" "${case#*:}" 2> /dev/null
done
