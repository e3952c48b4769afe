#!/usr/bin/env python3
"""check.py FOLDER: transformers loads FOLDER, an export of the golden model, and finds the golden logits within 1e-4."""
import pathlib
import sys

import safetensors.torch
import torch
import transformers

golden = safetensors.torch.load_file(pathlib.Path(__file__).resolve().parent / "golden.safetensors")
model = transformers.MixtralForCausalLM.from_pretrained(sys.argv[1], dtype=torch.float32).eval()
with torch.no_grad():
    logits = model(golden["input_ids"].long(), use_cache=False).logits
worst = (logits - golden["logits"]).abs().max().item()
print(f"largest difference of a logit: {worst:.3g}")
sys.exit(worst > 1e-4)
