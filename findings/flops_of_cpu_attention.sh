#!/usr/bin/env bash
# torch 2.13.0, torch.utils.flop_counter: operations of fused attention.
#
# Behaviour: FlopCounterMode counts 0 operations for scaled_dot_product_attention on a CPU, without a warning: the operator that runs there,
#   _scaled_dot_product_flash_attention_for_cpu, has no formula. The same call on the meta device counts its two products.
# Expected: 4 b h q k d operations on both, or a warning that an operator is not counted.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet torch==2.13.0 numpy==2.4.6
cat > "$folder/check.py" <<'PY'
import torch
from torch.nn.functional import scaled_dot_product_attention
from torch.utils.flop_counter import FlopCounterMode

BATCH, HEADS, TOKENS, SIZE = 1, 8, 16, 32
EXPECTED = 4 * BATCH * HEADS * TOKENS * TOKENS * SIZE
print(f"torch {torch.__version__}; {HEADS} heads of {SIZE}, {TOKENS} tokens: {EXPECTED} operations are due")
counted = {}
for device in ("cpu", "meta"):
    states = torch.randn(BATCH, HEADS, TOKENS, SIZE, device=device)
    with FlopCounterMode(display=False) as counter:
        scaled_dot_product_attention(states, states, states)
    counted[device] = counter.get_total_flops()
    print(f"  FlopCounterMode on {device}: {counted[device]}")
assert counted == {"cpu": 0, "meta": EXPECTED}, "attention is counted alike now"
PY
"$folder/venv/bin/python" "$folder/check.py" 2> /dev/null
