"""AWQ, GPTQ, GPTAQ and Qronos for a plain Llama from end to end, in fp64 PyTorch and independent of osp.

Own windows (Python's random), own forward passes, own Hessians, own rounding. Written from the papers and
the public code of the methods:

GPTQ     H = 2/n Σ x̃ x̃ᵀ over inputs x̃ of the model that is quantized so far; damping 0.01 of the mean
         diagonal; U upper triangular with H⁻¹ = UᵀU; column by column e = (w − q)/U_ii, w_j −= e U_ij.
GPTAQ    adds w_j += w_i P_ij, P = α triu(D Uᵀ, 1) U, D = 2/n Σ (x − x̃) x̃ᵀ, x of the original model, α 0.25.
Qronos   columns by falling H_ii; damping 1e-3 of the largest eigenvalue; the first column is rounded and the
         others replaced by the least-squares solution of  min ‖X w − X̃ v‖²  given it; then as GPTQ.
AWQ      s = m^r / sqrt(max · min), m the mean |x|, r the best of 0 … 19/20 by the squared error of the
         layers' output; folded into what makes x; then the limits of v, o, gate, up and down are searched
         over 1 − i/20, i < 10; rounding to nearest without a clipping search.

Columns are rounded one at a time, without blocks; inverses are formed and factorized anew.
"""

import random

import torch
from torch.nn import functional as F

GROUPS = [
    ["self_attn.k_proj", "self_attn.v_proj", "self_attn.q_proj"],
    ["self_attn.o_proj"],
    ["mlp.up_proj", "mlp.gate_proj"],
    ["mlp.down_proj"],
]


def windows_of(tokens, count, length):
    """Starts as the reference draws them: random.seed(0), randint(0, n − length − 1)."""
    draw = random.Random(0)
    starts = [draw.randint(0, len(tokens) - length - 1) for _ in range(count)]
    return torch.tensor([tokens[s : s + length] for s in starts])


def norm(x, weight, eps):
    return x / torch.sqrt(x.square().mean(-1, keepdim=True) + eps) * weight


def attention(shape, q, k, v):
    batch, length = q.shape[:2]

    def heads(x):
        return x.reshape(batch, length, -1, shape.head_size).transpose(1, 2)

    def turned(x):
        half = shape.head_size // 2
        angle = torch.arange(length, dtype=torch.float64)[:, None] * shape.rope_theta ** (
            -torch.arange(half, dtype=torch.float64) / half
        )
        a, b = x[..., :half], x[..., half:]
        return torch.cat([a * angle.cos() - b * angle.sin(), b * angle.cos() + a * angle.sin()], -1)

    q, k, v = turned(heads(q)), turned(heads(k)), heads(v)
    repeat = shape.heads // shape.kv_heads
    k, v = k.repeat_interleave(repeat, 1), v.repeat_interleave(repeat, 1)
    future = torch.ones(length, length, dtype=torch.bool).triu(1)
    scores = (q @ k.transpose(2, 3) / shape.head_size**0.5).masked_fill(future, float("-inf"))
    return (scores.softmax(-1) @ v).transpose(1, 2).reshape(batch, length, -1)


def block(shape, w, layer, x):
    """(output, inputs of the four groups) of a block with weights `w`."""
    name = f"model.layers.{layer}."
    inputs = [norm(x, w[name + "input_layernorm.weight"], shape.norm_eps)]
    q, k, v = (inputs[0] @ w[f"{name}self_attn.{p}_proj.weight"].T for p in "qkv")
    inputs.append(attention(shape, q, k, v))
    x = x + inputs[1] @ w[name + "self_attn.o_proj.weight"].T
    inputs.append(norm(x, w[name + "post_attention_layernorm.weight"], shape.norm_eps))
    gate, up = (inputs[2] @ w[f"{name}mlp.{p}_proj.weight"].T for p in ("gate", "up"))
    inputs.append(F.silu(gate) * up)
    return x + inputs[3] @ w[name + "mlp.down_proj.weight"].T, inputs


# ---- grids: symmetric, 4 bits, one scale a row ----------------------------------------------------------


def row_scale(weight, searched):
    """absmax / 7, or the best of it times 1 − i/100 by Σ |e|^2.4, the first of equal ones. In fp32."""
    weight = weight.float()
    largest = weight.abs().amax(1, keepdim=True)
    best_scale, best_error = largest / 7, torch.full_like(largest, float("inf"), dtype=torch.float64)
    for i in range(80 if searched else 0):
        scale = largest * (1 - i / 100) / 7
        rounded = (weight / scale).round().clamp(-8, 7) * scale
        error = (rounded - weight).abs().pow(2.4).double().sum(1, keepdim=True)
        best_scale = torch.where(error < best_error, scale, best_scale)
        best_error = torch.minimum(error, best_error)
    return best_scale


def nearest(w, scale):
    return (w.float() / scale).round().clamp(-8, 7)


# ---- GPTQ and its corrections ---------------------------------------------------------------------------


def upper_factor(h):
    return torch.linalg.cholesky(torch.linalg.inv(h), upper=True)


def spread(w, scale, upper, forward=None, begin=0):
    """Rounds column by column; the error of each moves those that follow. Returns codes [out, in]."""
    w, codes = w.clone(), torch.zeros_like(w)
    for i in range(begin, w.shape[1]):
        x = w[:, i].clone()
        codes[:, i] = nearest(x[:, None], scale)[:, 0]
        error = (x - codes[:, i] * scale[:, 0].double()) / upper[i, i]
        w[:, i + 1 :] -= error[:, None] * upper[i, i + 1 :]
        if forward is not None:
            w[:, i + 1 :] += x[:, None] * forward[i, i + 1 :]
    return codes


def gptq(w, h, d, *, damping=0.01, alpha=None, ordered=False):
    scale = row_scale(w, searched=True)
    order = h.diagonal().argsort(descending=True, stable=True) if ordered else torch.arange(len(h))
    w, h, d = w[:, order], h[order][:, order], d[order][:, order]
    upper = upper_factor(h + damping * h.diagonal().mean() * torch.eye(len(h), dtype=h.dtype))
    forward = None if alpha is None else alpha * (d @ upper.T).triu(1) @ upper
    codes = torch.zeros_like(w)
    codes[:, order] = spread(w, scale, upper, forward)
    return codes, scale


def qronos(w, h, d, *, damping=1e-3, ordered=True):
    scale = row_scale(w, searched=True)
    order = h.diagonal().argsort(descending=True, stable=True) if ordered else torch.arange(len(h))
    w, h, d = w[:, order], h[order][:, order], d[order][:, order]
    h = h + damping * torch.linalg.eigvalsh(h).max() * torch.eye(len(h), dtype=h.dtype)
    g = h + d.T  # X̃ᵀX, damped alike: what is far from the data stays where it was
    first = (w @ g[0] - w[:, 1:] @ h[0, 1:]) / h[0, 0]
    code = nearest(first[:, None], scale)
    fixed = code.double() * scale.double()
    free = torch.linalg.solve(h[1:, 1:], (w @ g.T)[:, 1:].T - h[1:, :1] @ fixed.T).T
    codes = torch.zeros_like(w)
    codes[:, order] = spread(torch.cat([fixed, free], 1), scale, upper_factor(h), begin=1)
    codes[:, order[:1]] = code.double()
    return codes, scale


def quantize(shape, weights, windows, round_layer):
    """Codes of every linear layer; `round_layer(w, h, d)` -> codes, scale. Group by group, block by block."""
    original = {name: x.double() for name, x in weights.items()}
    current, codes = dict(original), {}
    x = x_quantized = original["model.embed_tokens.weight"][windows]
    for layer in range(shape.layers):
        after, inputs = block(shape, original, layer, x)
        for g, group in enumerate(GROUPS):
            seen = block(shape, current, layer, x_quantized)[1][g].flatten(0, 1)
            h = 2 / len(windows) * seen.T @ seen
            d = 2 / len(windows) * (inputs[g].flatten(0, 1) - seen).T @ seen
            for part in group:
                name = f"model.layers.{layer}.{part}.weight"
                codes[name], scale = round_layer(original[name], h, d)
                current[name] = codes[name].double() * scale.double()
        x, x_quantized = after, block(shape, current, layer, x_quantized)[0]
    return codes


# ---- AWQ ------------------------------------------------------------------------------------------------


def rounded(w):
    scale = row_scale(w, searched=False)
    return nearest(w, scale).double() * scale.double()


def shared(magnitude, shape):
    """The mean over query heads that read one value head."""
    return magnitude.reshape(shape.kv_heads, -1, shape.head_size).mean(1).flatten()


def repeated(s, shape):
    heads = s.reshape(shape.kv_heads, 1, shape.head_size)
    return heads.expand(-1, shape.heads // shape.kv_heads, -1).flatten()


def best_scale(magnitude, expand, rows, readers, ratios):
    best, best_error = None, float("inf")
    for ratio in ratios:
        s = magnitude**ratio
        s = s / (s.max() * s.min()).sqrt()
        columns = expand(s)
        error = sum((rows @ (rounded(w * columns) / columns - w).T).square().sum() for w in readers)
        if error < best_error:
            best, best_error = s, error
    return best


def limited(w, rows):
    largest = w.abs().amax(1, keepdim=True)
    best, best_error = w, torch.full_like(largest, float("inf"))
    for i in range(10):
        limit = largest * (1 - i / 20)
        clamped = w.clamp(-limit, limit)
        error = (rows @ (rounded(clamped) - w).T).square().sum(0)[:, None]
        best = torch.where(error < best_error, clamped, best)
        best_error = torch.minimum(error, best_error)
    return best


def awq(shape, weights, windows, *, ratios=tuple(i / 20 for i in range(20)), clip=True, kept=512):
    original = {name: x.double() for name, x in weights.items()}
    x, codes = original["model.embed_tokens.weight"][windows], {}
    stride = -(-windows.numel() // kept)
    for layer in range(shape.layers):
        x, inputs = block(shape, original, layer, x)
        name, w = f"model.layers.{layer}.", dict(original)
        sites = [
            (["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"], "input_layernorm"),
            (["self_attn.o_proj"], "self_attn.v_proj"),
            (["mlp.gate_proj", "mlp.up_proj"], "post_attention_layernorm"),
            (["mlp.down_proj"], "mlp.up_proj"),
        ]
        scaled_rows = []
        for site, (readers, maker) in enumerate(sites):
            all_rows = inputs[site].flatten(0, 1)
            magnitude, expand = all_rows.abs().mean(0), lambda s: s
            if site == 1:
                magnitude, expand = shared(magnitude, shape), lambda s: repeated(s, shape)
            rows = all_rows[::stride]
            full = [f"{name}{reader}.weight" for reader in readers]
            s = best_scale(magnitude, expand, rows, [w[n] for n in full], ratios)
            for n in full:
                w[n] = (w[n] * expand(s)).float().double()  # stored in fp32
            made = w[f"{name}{maker}.weight"]
            w[f"{name}{maker}.weight"] = (made / (s[:, None] if made.dim() == 2 else s)).float().double()
            scaled_rows.append(rows / expand(s))
        for site, (readers, _) in enumerate(sites):
            for reader in readers:
                n = f"{name}{reader}.weight"
                if clip and reader not in ("self_attn.q_proj", "self_attn.k_proj"):
                    w[n] = limited(w[n], scaled_rows[site])
                codes[n] = nearest(w[n], row_scale(w[n], searched=False))
    return codes
