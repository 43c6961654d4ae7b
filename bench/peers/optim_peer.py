"""PyTorch's optimizers on random banks: the peers of `osp bench optim`.

    optim_peer.py torch-muon|batched-muon|fused-adamw|package-muon 12x768x768,… --steps N [--updates FILE]

Banks are COUNTxROWSxCOLS; every matrix is a parameter of its own, fp32, as in a model. `torch-muon` is
torch.optim.Muon, which works matrix by matrix; `batched-muon` is the same with all matrices at once:
those of one shape are stacked and orthogonalised together by batched bf16 products; `fused-adamw` is
torch.optim.AdamW(fused=True). `package-muon` is osp.optim.Muon, the Python package's own, for
scripts/measure.sh.

`--updates` is a file of osp bench optim --updates: this program takes the same first step from its gradients.
Prints one JSON object: seconds and cpu_seconds (of the median step; of all threads), bytes (weights and
state), startup_seconds (from the start of this process to the first step), peak_memory_bytes; with --updates
also, for the matrix with the largest difference, largest_difference (osp's update from this program's,
relative Frobenius norm), and error and peer_error (osp's and this program's error from the same iteration in
fp32).
"""

import argparse
import json
import os
import resource
import statistics
import sys
import time
from collections import defaultdict
from pathlib import Path

import torch

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
LR, DECAY, MOMENTUM = 3e-3, 0.01, 0.95


def newton_schulz(x):
    """Five steps on a stack [count, rows, cols] in its own type, norm included."""
    a, b, c = COEFFICIENTS
    tall = x.size(-2) > x.size(-1)
    x = x.mT if tall else x
    x = x / x.norm(dim=(-2, -1), keepdim=True).clamp(min=1e-7)
    for _ in range(5):
        gram = torch.bmm(x, x.mT)
        polynomial = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
        x = torch.baddbmm(x, polynomial, x, beta=a)
    return x.mT if tall else x


class BatchedMuon(torch.optim.Optimizer):
    """Muon (Nesterov, scale 0.2 sqrt(max(rows, cols))) on stacks of equal shapes."""

    def __init__(self, parameters, lr, weight_decay, momentum):
        super().__init__(parameters, dict(lr=lr, weight_decay=weight_decay, momentum=momentum))
        self.stacks = defaultdict(list)
        for parameter in self.param_groups[0]["params"]:
            self.stacks[parameter.shape].append(parameter)
            self.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)

    @torch.no_grad()
    def step(self):
        group = self.param_groups[0]
        lr, beta = group["lr"], group["momentum"]
        for shape, parameters in self.stacks.items():
            gradients = [p.grad for p in parameters]
            buffers = [self.state[p]["momentum_buffer"] for p in parameters]
            torch._foreach_lerp_(buffers, gradients, 1 - beta)
            updates = torch.stack(torch._foreach_lerp(gradients, buffers, beta)).bfloat16()
            updates = newton_schulz(updates).float()
            torch._foreach_mul_(parameters, 1 - lr * group["weight_decay"])
            scale = 0.2 * max(shape) ** 0.5
            torch._foreach_add_(parameters, list(updates.unbind()), alpha=-lr * scale)


def make_optimizer(kind, parameters, lr=LR, weight_decay=DECAY):
    if kind == "fused-adamw":
        return torch.optim.AdamW(
            parameters, lr=lr, betas=(0.9, 0.95), eps=1e-8, weight_decay=weight_decay, fused=True
        )
    if kind == "package-muon":
        sys.path.insert(0, str(Path(__file__).parents[2] / "python"))
        import osp.optim

        return osp.optim.Muon(parameters, lr, momentum=MOMENTUM, weight_decay=weight_decay)
    if kind == "batched-muon":
        return BatchedMuon(parameters, lr=lr, weight_decay=weight_decay, momentum=MOMENTUM)
    return torch.optim.Muon(
        parameters, lr=lr, weight_decay=weight_decay, momentum=MOMENTUM, adjust_lr_fn="match_rms_adamw"
    )


def compare_updates(kind, path):
    from safetensors.torch import load_file

    tensors = load_file(path)
    result = {"largest_difference": 0.0, "error": 0.0, "peer_error": 0.0}
    for i in range(len(tensors) // 2):
        gradient, ours = tensors[f"gradient.{i}"], tensors[f"weight.{i}"]
        parameter = torch.nn.Parameter(torch.zeros_like(gradient))
        parameter.grad = gradient
        make_optimizer(kind, [parameter], lr=1.0, weight_decay=0.0).step()
        theirs = parameter.detach()
        exact = newton_schulz(gradient[None])[0].mul_(-0.2 * max(gradient.shape) ** 0.5)
        for key, x, y in (
            ("largest_difference", ours, theirs),
            ("error", ours, exact),
            ("peer_error", theirs, exact),
        ):
            result[key] = max(result[key], (torch.linalg.norm(x - y) / torch.linalg.norm(y)).item())
    return result


def seconds_since_process_start():
    ticks = int(Path("/proc/self/stat").read_text().rsplit(")", 1)[1].split()[19])
    return time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")


def state_bytes(optimizer, parameters):
    tensors = list(parameters)
    for parameter in parameters:
        tensors += [t for t in optimizer.state[parameter].values() if torch.is_tensor(t)]
    return sum(t.numel() * t.element_size() for t in tensors)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("kind", choices=["torch-muon", "batched-muon", "fused-adamw", "package-muon"])
    parser.add_argument("banks")
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--updates")
    options = parser.parse_args()
    if options.threads > 0:
        torch.set_num_threads(options.threads)
    torch.manual_seed(1)
    banks = [tuple(int(n) for n in bank.split("x")) for bank in options.banks.split(",")]
    parameters = [torch.nn.Parameter(torch.zeros(r, c)) for count, r, c in banks for _ in range(count)]
    optimizer = make_optimizer(options.kind, parameters)
    startup_seconds = seconds_since_process_start()
    for parameter in parameters:
        parameter.grad = torch.randn_like(parameter)
        torch.nn.init.normal_(parameter, std=0.02)
    seconds, cpu_seconds = [], []
    for step in range(options.steps + 1):  # the first is not counted
        start, cpu_start = time.perf_counter(), time.process_time()
        optimizer.step()
        if step > 0:
            seconds.append(time.perf_counter() - start)
            cpu_seconds.append(time.process_time() - cpu_start)
    result = {
        "seconds": statistics.median(seconds),
        "cpu_seconds": statistics.median(cpu_seconds),
        "bytes": state_bytes(optimizer, parameters),
        "startup_seconds": startup_seconds,
        "peak_memory_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }
    if options.updates:
        result |= compare_updates(options.kind, options.updates)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
