#!/usr/bin/env bash
# transformers 5.24.0 with gguf 0.17.1: a model that was loaded with gguf_file cannot be saved, although nothing in it is quantised.
#
# Behaviour: from_pretrained(gguf_file=...) gives a model whose weights are all float32, here of a file that holds nothing but float32. Its
#   save_pretrained raises ValueError: "The model is quantized with gguf and is not serializable". A model of the same class that takes the
#   same weights as a state_dict is saved.
# Expected: it is saved. transformers' page about GGUF says that a model is dequantised when it is loaded, to be fine-tuned, and shows
#   model.save_pretrained("directory") as the next step.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cat > "$folder/check.py" <<'PY'
import sys
from pathlib import Path

import numpy as np
import torch
import transformers
from gguf import GGUFWriter
from transformers import AutoModelForCausalLM, LlamaForCausalLM

folder = Path(sys.argv[1])
writer = GGUFWriter(str(folder / "tiny.gguf"), "llama")
for name, value in {
    "context_length": 64, "embedding_length": 32, "block_count": 1, "feed_forward_length": 64, "head_count": 4, "head_count_kv": 2,
    "layer_norm_rms_eps": 1e-5, "rope_dimension_count": 8, "rope_freq_base": 10000.0, "vocab_size": 16,
}.items():
    getattr(writer, f"add_{name}")(value)
writer.add_tokenizer_model("llama")
writer.add_token_list([f"<{number}>" for number in range(16)])
writer.add_token_scores([0.0] * 16)
writer.add_token_types([1] * 16)
shapes = {"token_embd": (16, 32), "output_norm": (32,), "output": (16, 32)}
shapes |= {f"blk.0.{name}": (32,) for name in ("attn_norm", "ffn_norm")}
shapes |= {"blk.0.attn_q": (32, 32), "blk.0.attn_k": (16, 32), "blk.0.attn_v": (16, 32), "blk.0.attn_output": (32, 32)}
shapes |= {"blk.0.ffn_gate": (64, 32), "blk.0.ffn_up": (64, 32), "blk.0.ffn_down": (32, 64)}
rng = np.random.default_rng(0)
for name, shape in shapes.items():
    writer.add_tensor(f"{name}.weight", rng.standard_normal(shape).astype(np.float32))
writer.write_header_to_file()
writer.write_kv_data_to_file()
writer.write_tensors_to_file()
writer.close()

model = AutoModelForCausalLM.from_pretrained(folder, gguf_file="tiny.gguf")
print(f"transformers {transformers.__version__}: {type(model).__name__}, weights in {', '.join({str(w.dtype) for w in model.parameters()})}")
assert {weight.dtype for weight in model.parameters()} == {torch.float32}
try:
    model.save_pretrained(folder / "saved")
except ValueError as error:
    print(f"save_pretrained: {str(error).partition(' - ')[0]}")
    assert "quantized with gguf" in str(error)
else:
    raise SystemExit("it can be saved now")
fresh = LlamaForCausalLM(type(model.config)(**{k: v for k, v in model.config.to_dict().items() if k != "quantization_config"}))
fresh.load_state_dict(model.state_dict())
fresh.save_pretrained(folder / "fresh")
print("a copy of the same weights in a fresh model: saved")
PY
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet torch==2.13.0 numpy==2.4.6
"$folder/venv/bin/python" -m pip install --quiet transformers==5.24.0 gguf==0.17.1 accelerate==1.15.0
"$folder/venv/bin/python" "$folder/check.py" "$folder" 2> "$folder/errors" || { tail -3 "$folder/errors"; exit 1; }
