"""What the tests of every mixture of experts do to a model of transformers."""

import torch
from family_cases import PROMPT, greedy
from test_families import assert_equals
from transformers import AutoModelForCausalLM


@torch.no_grad()
def put_random_weights(model):
    """Weights large enough that routing and attention are not uniform, sinks of both signs that take a good
    part of the attention, no gain 1 and no bias 0."""
    for name, parameter in model.named_parameters():
        if name.endswith(("mlp.gate.weight", "router.weight")):
            parameter.normal_(0.0, 0.5)
        elif name.endswith("sinks"):
            parameter.normal_(0.5, 1.5)
        elif name.endswith("bias"):
            parameter.normal_(0.0, 0.2)
        elif parameter.dim() > 1:
            parameter.normal_(0.0, 0.15)
        else:
            parameter.uniform_(0.5, 1.5)


@torch.no_grad()
def pair_experts(router):
    """Gives experts in pairs one row of the router: every choice of an odd number of them has a tie."""
    for tensor in router.parameters():
        tensor[1::2] = tensor[::2]


def assert_written_equals(model, folder, probe, steps=5, *isa, **how):
    """The logits of the model's folder are the model's, in a prompt and `steps` greedy tokens behind it."""
    model.save_pretrained(folder)
    tokens = greedy(model, PROMPT, steps)
    assert_equals(probe(folder, tokens, *isa, **how), model, tokens)


def assert_narrow_shards_are_exact(model, folder, probe):
    """bf16 in several files."""
    model.to(torch.bfloat16).save_pretrained(folder, max_shard_size="20KB")
    assert (folder / "model.safetensors.index.json").exists()
    read = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager"
    ).eval()
    tokens = greedy(read, PROMPT, 5)
    assert_equals(probe(folder, tokens), read, tokens)
