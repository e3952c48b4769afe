#!/usr/bin/env python3
"""Makes the golden files beside this script: a tiny, randomly initialised Mixtral, what it answers, and its gradients.

    python3 make.py        # needs torch and transformers; versions are written into golden.json

config.json, model.safetensors   the model as transformers saves it
golden.safetensors               input_ids, target [B, S], logits [B, S, V], gradients "grad.NAME" of the mean loss
golden.json                      loss, and the versions that made all this
"""
import json
import pathlib

import safetensors.torch
import torch
import transformers

here = pathlib.Path(__file__).resolve().parent
torch.manual_seed(11)
torch.use_deterministic_algorithms(True)
config = transformers.MixtralConfig(
    vocab_size=96, hidden_size=32, intermediate_size=40, num_hidden_layers=2, num_attention_heads=4,
    num_key_value_heads=2, num_local_experts=6, num_experts_per_tok=2, max_position_embeddings=64,
    rms_norm_eps=1e-6, rope_theta=5000.0, initializer_range=0.25, sliding_window=None,
    tie_word_embeddings=False, output_router_logits=False, attention_dropout=0.0)
model = transformers.MixtralForCausalLM(config).float().eval()
with torch.no_grad():  # norms that are not all ones, so that they are tested too
    for name, parameter in model.named_parameters():
        if "norm" in name:
            parameter.add_(0.3 * torch.randn_like(parameter))
model.save_pretrained(here)
(here / "generation_config.json").unlink(missing_ok=True)

tokens = torch.randint(0, config.vocab_size, (2, 25))
ids, target = tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous()
logits = model(ids, use_cache=False).logits
loss = torch.nn.functional.cross_entropy(logits.reshape(-1, config.vocab_size), target.reshape(-1))
loss.backward()

golden = {"input_ids": ids.to(torch.int32), "target": target.to(torch.int32), "logits": logits.detach().float()}
gradients = {name: p.grad for name, p in model.named_parameters()}
f = config.intermediate_size
for layer in range(config.num_hidden_layers):
    at = f"model.layers.{layer}"
    # transformers keeps experts fused in memory, as [E, 2F, H] and [E, H, F], and saves them one by one
    fused = gradients[f"{at}.mlp.experts.gate_up_proj"], gradients[f"{at}.mlp.experts.down_proj"]
    for e in (0, 3, 5):
        name = f"grad.{at}.block_sparse_moe.experts.{e}"
        golden[f"{name}.w1.weight"] = fused[0][e, :f].clone()
        golden[f"{name}.w3.weight"] = fused[0][e, f:].clone()
        golden[f"{name}.w2.weight"] = fused[1][e].clone()
    golden[f"grad.{at}.block_sparse_moe.gate.weight"] = gradients[f"{at}.mlp.gate.weight"]
    for name in ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj", "input_layernorm",
                 "post_attention_layernorm"):
        golden[f"grad.{at}.{name}.weight"] = gradients[f"{at}.{name}.weight"]
for name in ("model.embed_tokens.weight", "model.norm.weight", "lm_head.weight"):
    golden[f"grad.{name}"] = gradients[name]
safetensors.torch.save_file(golden, here / "golden.safetensors")
(here / "golden.json").write_text(json.dumps(
    {"loss": loss.item(), "torch": torch.__version__, "transformers": transformers.__version__}) + "\n")
