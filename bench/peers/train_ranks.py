"""Trains the model of train_torch.py as one of several ranks in PyTorch: the peers of `osp bench ranks`.

`--way` is how the ranks share the work:
  ddp          DistributedDataParallel, gradients in fp32; torch.optim.Muon on every rank
  ddp-bf16     the same with PyTorch's bf16_compress_hook: half of the bytes
  fsdp2        fully_shard of every block (bf16 weights, gradients summed in fp32); torch.optim.Muon
  muon-fsdp2   fully_shard with the package muon-fsdp2's optimizer (`pip install muon-fsdp2==0.3.0`)
Each rank is a process that torchrun or bench/ranks_launch.py has started. Prints one JSON object:
step_seconds and cpu_seconds (of all threads) of the median step, sent_bytes of its network interface in a
mean step (null on the loopback interface), peak_memory_bytes, loss, versions.
"""

import argparse
import json
import os
import platform
import resource
import statistics
import time

import torch
import torch.distributed as dist
from train_torch import SIZES, Model, make_optimizers, train_step


def sent_bytes():
    """Bytes that this process's network has sent; None on the loopback interface, which is everyone's."""
    interface = os.environ.get("GLOO_SOCKET_IFNAME", "lo")
    if interface == "lo":
        return None
    with open("/proc/self/net/dev") as file:
        for line in file:
            name, _, numbers = line.partition(":")
            if name.strip() == interface:
                return int(numbers.split()[8])
    raise RuntimeError(f"no network interface {interface}")


def shard(model):
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
    for block in model.blocks:
        fully_shard(block, mp_policy=policy)
    fully_shard(model, mp_policy=policy)


def optimizers_of_package(model):
    """muon-fsdp2's one optimizer for both kinds, with the settings of make_optimizers."""
    from muon_fsdp2 import Muon

    tables = {id(model.embedding.weight), id(model.head.weight)}
    kinds = {True: [], False: []}
    for parameter in model.parameters():
        kinds[parameter.ndim == 2 and id(parameter) not in tables].append(parameter)
    muon = dict(params=kinds[True], lr=3e-3, weight_decay=0.01, use_muon=True, rms_scale=True)
    adam = dict(params=kinds[False], lr=3e-3, weight_decay=0.01, use_muon=False, betas=(0.9, 0.95), eps=1e-8)
    return [Muon([muon, adam])], kinds[False]


def prepare(way, model, mode):
    """(what is called in a step, optimizers, clipped parameters)"""
    if way.startswith("ddp"):
        from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import bf16_compress_hook
        from torch.nn.parallel import DistributedDataParallel

        optimizers, clipped = make_optimizers(model)
        called = DistributedDataParallel(model, gradient_as_bucket_view=True)
        if way == "ddp-bf16":
            called.register_comm_hook(None, bf16_compress_hook)
    else:
        shard(model)
        optimizers, clipped = optimizers_of_package(model) if way == "muon-fsdp2" else make_optimizers(model)
        called = model
    return torch.compile(called) if mode == "compile" else called, optimizers, clipped


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--way", choices=["ddp", "ddp-bf16", "fsdp2", "muon-fsdp2"], default="ddp-bf16")
    parser.add_argument("--mode", choices=["eager", "compile"], default="eager")
    parser.add_argument("--model", choices=SIZES, default="demo")
    parser.add_argument("--batch-tokens", type=int, default=8192, help="of all ranks together")
    parser.add_argument("--steps", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    dist.init_process_group("gloo")
    size = SIZES[options.model]
    torch.manual_seed(1)
    model, optimizers, clipped = prepare(options.way, Model(**size), options.mode)
    torch.manual_seed(1 + dist.get_rank())
    sequences = options.batch_tokens // size["context"] // dist.get_world_size()
    seconds, cpu_seconds = [], []
    sent, loss = None, 0.0
    for step in range(options.steps + 1):  # the first is not counted
        batch = torch.randint(size["vocabulary"], (sequences, size["context"] + 1))
        dist.barrier()
        if step == 1:
            sent = sent_bytes()
        start, cpu_start = time.perf_counter(), time.process_time()
        loss = train_step(model, optimizers, clipped, batch, 1)
        if step > 0:
            seconds.append(time.perf_counter() - start)
            cpu_seconds.append(time.process_time() - cpu_start)
    result = {
        "step_seconds": statistics.median(seconds),
        "cpu_seconds": statistics.median(cpu_seconds),
        "sent_bytes": None if sent is None else (sent_bytes() - sent) / options.steps,
        "peak_memory_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "loss": loss,
        "versions": {"torch": torch.__version__, "python": platform.python_version()},
    }
    dist.barrier()
    print(json.dumps(result), flush=True)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
