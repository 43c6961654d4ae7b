"""Trains the OSP model in PyTorch, eager or compiled, as a careful user would: the peer of `osp bench train`.

`--mode` is eager, compile (the default of torch.compile) or max-autotune; `--micro-batches` cuts the batch
into parts whose gradients are added. Same model, batch and precision: bf16 autocast over fp32 weights,
scaled_dot_product_attention, torch.optim.Muon (match_rms_adamw) on hidden matrices and EmbProj, fused AdamW
on embedding, head and gains. Prints one JSON object: tokens_per_s, cpu_seconds (of all threads) and
page_faults of the median step, peak_memory_bytes, loss, parameters, versions.
"""

import argparse
import json
import platform
import resource
import statistics
import time

import torch
import torch.nn.functional as F
from torch import nn

SIZES = {
    "demo": dict(layers=6, width=256, heads=4, context=256, vocabulary=4096),
    "50m": dict(layers=12, width=512, heads=8, context=512, vocabulary=10240),
    "125m": dict(layers=12, width=768, heads=12, context=1024, vocabulary=32768),
    "1.4b-4-layers": dict(layers=4, width=2048, heads=16, context=2048, vocabulary=32768),
}


class SSNorm(nn.Module):
    """RMSNorm with one scalar gain, in fp32."""

    def __init__(self, eps=1e-5):
        super().__init__()
        self.gain = nn.Parameter(torch.ones(1))
        self.eps = eps

    def forward(self, x):
        normalised = F.rms_norm(x.float(), (x.size(-1),), eps=self.eps)
        return (normalised * self.gain).to(x.dtype)


def rope_tables(context, head_size, theta=10000.0):
    rates = theta ** (-torch.arange(0, head_size, 2, dtype=torch.float64) / head_size)
    angles = torch.outer(torch.arange(context, dtype=torch.float64), rates)
    return angles.cos().bfloat16(), angles.sin().bfloat16()


def rotate(x, cos, sin):
    """Half-split rotation of [B, H, T, K]."""
    a, b = x.chunk(2, dim=-1)
    return torch.cat((a * cos - b * sin, b * cos + a * sin), dim=-1)


class Block(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        inner = (8 * width // 3 + 127) // 128 * 128
        self.heads = heads
        self.attention_norm, self.mlp_norm = SSNorm(), SSNorm()
        self.q, self.k, self.v, self.o = (nn.Linear(width, width, bias=False) for _ in range(4))
        self.gate, self.up = (nn.Linear(width, inner, bias=False) for _ in range(2))
        self.down = nn.Linear(inner, width, bias=False)

    def forward(self, x, cos, sin):
        B, T, D = x.shape
        h = self.attention_norm(x)
        q, k, v = (p(h).view(B, T, self.heads, -1).transpose(1, 2) for p in (self.q, self.k, self.v))
        attended = F.scaled_dot_product_attention(rotate(q, cos, sin), rotate(k, cos, sin), v, is_causal=True)
        x = x + self.o(attended.transpose(1, 2).reshape(B, T, D))
        h = self.mlp_norm(x)
        return x + self.down(F.silu(self.gate(h)) * self.up(h))


class Model(nn.Module):
    def __init__(self, layers, width, heads, context, vocabulary):
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, width)
        self.input_projection = nn.Linear(width, width, bias=False)
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(layers))
        self.norm = SSNorm()
        self.output_projection = nn.Linear(width, width, bias=False)
        self.head = nn.Linear(width, vocabulary, bias=False)
        cos, sin = rope_tables(context, width // heads)
        self.register_buffer("cos", cos, persistent=False)
        self.register_buffer("sin", sin, persistent=False)
        for parameter in self.parameters():
            if parameter.ndim == 2:
                nn.init.normal_(parameter, std=0.02)
        nn.init.orthogonal_(self.input_projection.weight)
        nn.init.orthogonal_(self.output_projection.weight)

    def forward(self, tokens, targets):
        x = self.input_projection(self.embedding(tokens))
        for block in self.blocks:
            x = block(x, self.cos, self.sin)
        logits = self.head(self.output_projection(self.norm(x)))
        return F.cross_entropy(logits.view(-1, logits.size(-1)), targets.view(-1))


def make_optimizers(model):
    tables = {id(model.embedding.weight), id(model.head.weight)}
    matrices, others = [], []
    for parameter in model.parameters():
        is_matrix = parameter.ndim == 2 and id(parameter) not in tables
        (matrices if is_matrix else others).append(parameter)
    return [
        torch.optim.Muon(matrices, lr=3e-3, weight_decay=0.01, momentum=0.95, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(others, lr=3e-3, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.01, fused=True),
    ], others


def train_step(model, optimizers, clipped, batch, parts):
    total = 0.0
    for part in batch.chunk(parts):
        with torch.autocast(batch.device.type, dtype=torch.bfloat16):
            loss = model(part[:, :-1].contiguous(), part[:, 1:].contiguous()) / parts
        loss.backward()
        total += loss.item()  # waits for the device
    torch.nn.utils.clip_grad_norm_(clipped, 1.0, foreach=True)
    for optimizer in optimizers:
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    return total


def page_faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", choices=SIZES, default="demo")
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--context", type=int, default=0, help="0: the model's own")
    parser.add_argument("--mode", choices=["eager", "compile", "max-autotune"], default="eager")
    parser.add_argument("--micro-batches", type=int, default=1)
    parser.add_argument("--batch-tokens", type=int, default=8192)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    options = parser.parse_args()
    if options.threads > 0:
        torch.set_num_threads(options.threads)
    torch.manual_seed(1)
    size = dict(SIZES[options.model])
    if options.context > 0:
        size["context"] = options.context
    model = Model(**size).to(options.device)
    optimizers, clipped = make_optimizers(model)
    if options.mode != "eager":
        model = torch.compile(model, mode="default" if options.mode == "compile" else options.mode)
    seconds, cpu_seconds, faults = [], [], []
    loss = 0.0
    for step in range(options.steps + 1):  # the first is not counted
        shape = (options.batch_tokens // size["context"], size["context"] + 1)
        batch = torch.randint(size["vocabulary"], shape).to(options.device)
        start, cpu_start, faults_start = time.perf_counter(), time.process_time(), page_faults()
        loss = train_step(model, optimizers, clipped, batch, options.micro_batches)
        if options.device == "cuda":
            torch.cuda.synchronize()
        if step > 0:
            seconds.append(time.perf_counter() - start)
            cpu_seconds.append(time.process_time() - cpu_start)
            faults.append(page_faults() - faults_start)
    print(
        json.dumps(
            {
                "tokens_per_s": options.batch_tokens / statistics.median(seconds),
                "cpu_seconds": statistics.median(cpu_seconds),
                "page_faults": statistics.median(faults),
                "peak_memory_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
                "loss": loss,
                "parameters": sum(p.numel() for p in model.parameters()),
                "versions": {"torch": torch.__version__, "python": platform.python_version()},
            }
        )
    )


if __name__ == "__main__":
    main()
