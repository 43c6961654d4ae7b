"""A plain training loop with FSDP2: each rank orthogonalises its share of the matrices.

torchrun --nproc-per-node 2 examples/loop_fsdp2.py [STEPS]
"""

import os
import sys

import torch
import torch.distributed as dist
from torch.distributed.fsdp import fully_shard
from transformers import LlamaConfig, LlamaForCausalLM

import osp

steps = int(sys.argv[1]) if len(sys.argv) > 1 else 5
dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
device = torch.device("cpu")
if torch.cuda.is_available():
    device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
    torch.cuda.set_device(device)

torch.manual_seed(1)  # the same weights on every rank
shape = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
model = osp.convert(LlamaForCausalLM(LlamaConfig(vocab_size=256, **shape)), report=None).to(device)
for block in model.model.layers:
    fully_shard(block)
fully_shard(model)

groups = osp.optim.param_groups(model, lr=5e-3)
optimizer = osp.optim.Muon(groups)
if dist.get_rank() == 0:
    print(groups.table)
torch.manual_seed(2 + dist.get_rank())  # other data on every rank
for step in range(steps):
    ids = torch.randint(32, 64, (4, 32), device=device)
    loss = model(input_ids=ids, labels=ids).loss
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    count = optimizer.num_orthogonalised
    print(f"rank {dist.get_rank()} step {step}: loss {loss.item():.4f}, {count} matrices orthogonalised")
dist.destroy_process_group()
