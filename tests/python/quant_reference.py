"""Fake quantization of a Llama in plain PyTorch, written from docs/numerics.md and independent of osp.

Grids on tensors, and a forward pass with round-to-nearest weights, activations and KV cache.
"""

import torch
from torch.nn import functional as F


def symmetric(x: torch.Tensor, bits: int, search: bool):
    """Codes and scale per row; the clipping search sums |error|^2.4 in fp64."""
    top = 2 ** (bits - 1) - 1

    def codes_for(scale):
        return torch.clamp(torch.round(x / scale[:, None]), -top - 1, top)

    absmax = x.abs().max(dim=1).values
    absmax = torch.where(absmax < 1e-30, 1e-5, absmax)  # rows of zeros
    scale = absmax / top
    best = torch.full_like(scale, float("inf"), dtype=torch.float64)
    for i in range(80 if search else 0):
        candidate = absmax * (1 - i / 100) / top
        error = (codes_for(candidate) * candidate[:, None] - x).abs().pow(2.4).double().sum(dim=1)
        better = error < best
        best = torch.where(better, error, best)
        scale = torch.where(better, candidate, scale)
    return codes_for(scale), scale[:, None]


def asymmetric(x: torch.Tensor, bits: int, group: int, contains_zero: bool):
    """Codes, scale and zero of groups along the last dimension: shapes [.., columns / group, group or 1]."""
    top = 2**bits - 1
    groups = x.reshape(-1, x.shape[-1] // group, group)
    low, high = groups.min(dim=-1, keepdim=True).values, groups.max(dim=-1, keepdim=True).values
    stretch = torch.full_like(low, contains_zero, dtype=torch.bool) | ((high - low) / top == 0)
    low = torch.where(stretch, low.clamp(max=0), low)
    high = torch.where(stretch, high.clamp(min=0), high)
    nothing = (high - low) / top == 0
    low, high = torch.where(nothing, -1.0, low), torch.where(nothing, 1.0, high)
    scale = (high - low) / top
    zero = torch.round(-low / scale)
    return torch.clamp(torch.round(groups / scale) + zero, 0, top), scale, zero


def fake_symmetric(x, bits, search=True):
    codes, scale = symmetric(x, bits, search)
    return codes * scale


def fake_asymmetric(x, bits, group, contains_zero):
    codes, scale, zero = asymmetric(x, bits, group, contains_zero)
    return (scale * (codes - zero)).reshape(x.shape)


def hadamard_matrix(size: int) -> torch.Tensor:
    matrix = torch.ones(1, 1)
    while matrix.shape[0] < size:
        matrix = torch.cat([torch.cat([matrix, matrix], 1), torch.cat([matrix, -matrix], 1)], 0)
    return matrix


def hadamard(x: torch.Tensor) -> torch.Tensor:
    """Rounds of sums and differences at distances 1, 2, 4 …, then one division by sqrt(size)."""
    size, columns = x.shape[-1], list(x.unbind(-1))
    distance = 1
    while distance < size:
        for i in range(size):
            if i & distance == 0:
                a, b = columns[i], columns[i + distance]
                columns[i], columns[i + distance] = a + b, a - b
        distance *= 2
    return torch.stack(columns, -1) / size**0.5


def quantized_logits(
    weights, shape, tokens, weight_bits=16, activation_bits=16, cache_bits=16, down_hadamard=False,
    rounded=("attention_input", "attention_output", "mlp_input", "mlp_product"), last_states=None,
):  # fmt: skip
    """Logits [B,T,V] of a plain Llama under osp's names.

    down_hadamard: the input of the down projection is turned by a Hadamard matrix, its weight as well.
    rounded: the inputs of linear layers that are rounded to activation_bits.
    last_states: a list that gets the residual stream behind the last block, [B,T,D].
    """

    def linear(x, name):
        w = weights[name]
        return x @ (fake_symmetric(w, weight_bits) if weight_bits < 16 else w).T

    def activation(x, point, group=None):
        if activation_bits == 16 or point not in rounded:
            return x
        return fake_asymmetric(x, activation_bits, group or x.shape[-1], contains_zero=group is None)

    def norm(x, name):
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + shape.norm_eps) * weights[name]

    def rotated(x):
        half = shape.head_size // 2
        frequency = shape.rope_theta ** (-torch.arange(half, dtype=torch.float64) / half)
        angle = torch.arange(x.shape[2], dtype=torch.float64)[:, None] * frequency
        cos, sin = angle.cos().float(), angle.sin().float()
        a, b = x[..., :half], x[..., half:]
        return torch.cat([a * cos - b * sin, b * cos + a * sin], -1)

    batch, length = tokens.shape

    def heads(x):
        return x.reshape(batch, length, -1, shape.head_size).transpose(1, 2)

    x = weights["model.embed_tokens.weight"][tokens]
    for layer in range(shape.layers):
        block = f"model.layers.{layer}."
        h = activation(norm(x, block + "input_layernorm.weight"), "attention_input")
        q = rotated(heads(linear(h, block + "self_attn.q_proj.weight")))
        k = rotated(heads(linear(h, block + "self_attn.k_proj.weight")))
        v = heads(linear(h, block + "self_attn.v_proj.weight"))
        if cache_bits < 16:
            q = hadamard(q)
            k = fake_asymmetric(hadamard(k), cache_bits, shape.head_size, contains_zero=True)
            v = fake_asymmetric(v, cache_bits, shape.head_size, contains_zero=False)
        repeat = shape.heads // shape.kv_heads
        k, v = k.repeat_interleave(repeat, 1), v.repeat_interleave(repeat, 1)
        logits = q @ k.transpose(-1, -2) * shape.head_size**-0.5
        future = torch.ones(length, length, dtype=torch.bool).triu(1)
        mixed = logits.masked_fill(future, float("-inf")).softmax(-1) @ v
        mixed = mixed.transpose(1, 2).reshape(batch, length, -1)
        mixed = activation(mixed, "attention_output", shape.head_size)
        x = x + linear(mixed, block + "self_attn.o_proj.weight")
        h = activation(norm(x, block + "post_attention_layernorm.weight"), "mlp_input")
        gate, up = linear(h, block + "mlp.gate_proj.weight"), linear(h, block + "mlp.up_proj.weight")
        product = hadamard(F.silu(gate) * up) if down_hadamard else F.silu(gate) * up
        x = x + linear(activation(product, "mlp_product"), block + "mlp.down_proj.weight")
    if last_states is not None:
        last_states.append(x)
    return norm(x, "model.norm.weight") @ weights["lm_head.weight"].T
