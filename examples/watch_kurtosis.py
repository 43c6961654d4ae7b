"""Excess kurtosis of two models while they train on the same batches: plain with AdamW, and OSP.

python examples/watch_kurtosis.py [STEPS]
"""

import sys

import torch
from transformers import LlamaConfig, LlamaForCausalLM

import osp

steps = int(sys.argv[1]) if len(sys.argv) > 1 else 200
shape = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
text = torch.tensor(list(b"the cat sees the dog and the dog sees the cat. " * 200)).long()


def train(name: str) -> None:
    torch.manual_seed(1)
    model = LlamaForCausalLM(LlamaConfig(vocab_size=256, **shape))
    if name == "osp":
        model = osp.convert(model, report=None)
        optimizer = osp.optim.Muon(osp.optim.param_groups(model, lr=5e-3))
    else:
        optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3, weight_decay=0.01)
    watch = osp.watch(model, every=max(1, steps // 5))
    starts = torch.Generator().manual_seed(2)
    for _ in range(steps):
        first = torch.randint(len(text) - 64, (8,), generator=starts)
        ids = torch.stack([text[i : i + 64] for i in first])
        loss = model(input_ids=ids, labels=ids).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if values := watch.take():
            kurtosis, largest = values["excess_kurtosis"], values["largest_activation"]
            print(f"{name:<4} step {values['step']:>4}: loss {loss.item():.3f}, ", end="")
            print(f"excess kurtosis {kurtosis:.3f}, largest activation {largest:.2f}")


for which in ("adam", "osp"):
    train(which)
