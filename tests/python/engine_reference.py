"""The integer engine in plain PyTorch, written from docs/numerics.md ("Integer engine"), independent of osp.

Codes first: products of codes are taken in fp64, where they are exact, and every other step is one fp32
operation. The results are the engine's, bit for bit.
"""

import json
import math
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open

PAGE = 128


def lane_sum(x: torch.Tensor) -> torch.Tensor:
    """Sum over the last dimension in 16 partial sums, then lanes j and j + 8, j + 4, j + 2, j + 1."""
    partial = torch.zeros(*x.shape[:-1], 16)
    for begin in range(0, x.shape[-1], 16):
        partial = partial + x[..., begin : begin + 16]
    half = 8
    while half:
        partial = partial[..., :half] + partial[..., half : 2 * half]
        half //= 2
    return partial[..., 0]


def exponential(x: torch.Tensor) -> torch.Tensor:
    kept = x.clamp(min=-87.0)
    n = torch.round(kept * torch.tensor(1.44269504))
    r = kept - n * torch.tensor(0.693359375)
    r = r - n * torch.tensor(-2.12194440e-4)
    y = torch.full_like(x, 1.0) / 720
    for coefficient in (1 / 120, 1 / 24, 1 / 6, 0.5, 1.0, 1.0):
        y = y * r + torch.tensor(coefficient, dtype=torch.float32)
    return torch.where(x < -87.0, torch.zeros_like(x), y * torch.exp2(n))


def rms_norm(x, gain, eps):
    mean = lane_sum(x * x) / x.shape[-1] + torch.tensor(eps, dtype=torch.float32)
    inverse = 1.0 / torch.from_numpy(np.sqrt(mean.numpy()))  # torch.sqrt is off by a bit at times
    y = x * inverse[..., None]
    return y if gain is None else y * gain


def quantize(x, bits, group, free, clip=1.0, fixed=None):
    """Codes, scale and zero by group: [.., groups, group or 1]."""
    top = torch.tensor(2.0**bits - 1)
    x = x.reshape(*x.shape[:-1], -1, group)
    if fixed:
        scale = torch.full_like(x[..., :1], fixed["scale"])
        zero = torch.full_like(x[..., :1], fixed["zero"])
    else:
        low, high = x.amin(-1, keepdim=True), x.amax(-1, keepdim=True)
        if not free:
            low, high = low.clamp(max=0.0), high.clamp(min=0.0)
        low, high = low * torch.tensor(clip), high * torch.tensor(clip)
        equal = (high - low) / top == 0
        low = torch.where(equal, low.clamp(max=0.0), low)
        high = torch.where(equal, high.clamp(min=0.0), high)
        scale = (high - low) / top
        nothing = scale == 0
        low = torch.where(nothing, torch.tensor(-1.0), low)
        scale = torch.where(nothing, torch.tensor(2.0) / top, scale)
        zero = torch.round(-low / scale)
    codes = (torch.round(x / scale) + zero).clamp(torch.tensor(0.0), top)
    return codes, scale, zero


def whole_digits(x, group):
    """Numbers of 16 bits as two signed digits: codes [.., groups, group], scale, zero."""
    x = x.reshape(*x.shape[:-1], -1, group)
    largest = x.abs().amax(-1, keepdim=True)
    top = torch.tensor(32639.0)
    scale, inverse = largest / top, top / largest
    usable = scale >= 1e-36
    codes = torch.where(usable, torch.round(x * inverse), torch.zeros_like(x)).clamp(-top, top)
    scale = torch.where(usable, scale, torch.zeros_like(scale))
    return codes, scale, torch.zeros_like(scale)


def whole(products, a, bits, signed):
    """products(a) in fp32, taken for the high and the low bytes apart where a has 16 bits."""
    if bits < 16:
        return products(a).float()
    high = torch.floor((a + 128) / 256) if signed else torch.floor(a / 256)
    return products(high).float() * torch.tensor(256.0) + products(a - 256 * high).float()


def hadamard(x, size, base_matrix):
    """In blocks of `size`: products with the base matrix, then rounds of sums and differences."""
    base = base_matrix.shape[0]
    shape = x.shape
    x = x.reshape(-1, size // base, base)
    if base > 1:
        y = x[..., :1] * base_matrix[0]
        for i in range(1, base):
            y = y + x[..., i : i + 1] * base_matrix[i]
        x = y
    x = x.reshape(-1, size)
    distance = base
    while distance < size:
        pairs = x.reshape(x.shape[0], -1, 2, distance)
        a, b = pairs[:, :, 0], pairs[:, :, 1]
        x = torch.stack([a + b, a - b], 2).reshape(x.shape[0], size)
        distance *= 2
    return (x * torch.tensor(size**-0.5, dtype=torch.float64).float()).reshape(shape)


def paley(order: int) -> torch.Tensor:
    """The matrices of the tests' sizes: order 1, and Paley's first construction for a prime order − 1."""
    if order == 1:
        return torch.ones(1, 1)
    q = order - 1
    squares = {i * i % q for i in range(1, q)}
    matrix = torch.ones(order, order)
    matrix[1:, 0] = -1.0
    for i in range(q):
        for j in range(q):
            matrix[i + 1, j + 1] = 1.0 if i == j or (i - j) % q in squares else -1.0
    return matrix


def digits(x):
    """x as two 7-bit digits: (codes, scale)."""
    largest = x.abs().amax(-1, keepdim=True)
    scale, inverse = largest / torch.tensor(16255.0), torch.tensor(16255.0) / largest
    usable = scale >= 1e-36
    codes = torch.where(usable, torch.round(x * inverse), torch.zeros_like(x)).clamp(-16255, 16255)
    return codes, torch.where(usable, scale, torch.zeros_like(scale))


class Engine:
    def __init__(self, folder: Path, base_of=None):
        self.config = json.loads((folder / "config.json").read_text())
        self.quantization = self.config["osp_quantization"]
        self.bits = [int(b) for b in self.quantization["bits"].split("-")]
        with safe_open(folder / "model.safetensors", "pt") as file:
            self.tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        self.width = self.config["hidden_size"]
        self.heads = self.config["num_attention_heads"]
        self.kv_heads = self.config["num_key_value_heads"]
        self.head_size = self.config["head_dim"]
        self.inner = self.config["intermediate_size"]
        # Granite: x = m (e / m + branches) has the norm of the bracket, with eps / m² in it.
        m = self.config.get("residual_multiplier", 1.0)
        self.eps = self.config["rms_norm_eps"] / (m * m)
        self.embedding_factor = self.config.get("embedding_multiplier", 1.0) / m
        self.root = self.config.get("attention_multiplier", self.head_size**-0.5)
        self.base_of = base_of or (lambda size: torch.ones(1, 1))
        self.value_zeros = []  # zero points of values [tokens, heads, 1], layer by layer
        self.codes = []  # (point, layer, codes [tokens or heads of tokens, channels])
        self.fixed = {(s["input"], s["layer"]): s for s in self.quantization.get("static_scales", [])}

    def gain(self, name):
        gain = self.tensors.get(name + ".weight")
        return None if gain is None else gain.float()

    def weight(self, name):
        """Codes [out, in], scale and zero [out, groups]."""
        packed = self.tensors[name + ".weight_packed"]
        bits, columns = self.bits[0], int(self.tensors[name + ".weight_shape"][1])
        per_word = 32 // bits
        assert 32 % bits == 0
        words = packed.to(torch.int64) & 0xFFFFFFFF
        parts = [(words >> (bits * i)) & (2**bits - 1) for i in range(per_word)]
        codes = torch.stack(parts, -1).reshape(words.shape[0], -1)[:, :columns] - 2 ** (bits - 1)
        scale = self.tensors[name + ".weight_scale"].float()
        zero = self.tensors.get(name + ".weight_zero_point", torch.zeros(scale.shape)).double()
        return codes.double(), scale, zero

    def linear(self, name, codes, scale, zero, offset=None):
        """codes [T, groups, group], scale and zero [T, groups, 1] of the input."""
        w, w_scale, w_zero = self.weight(name)
        columns = w.shape[1]
        w_group, a_group = columns // w_scale.shape[1], codes.shape[2]
        bits = self.bits[1]
        segment = min(w_group, a_group)
        a = codes.reshape(codes.shape[0], -1).double()
        y = None
        for t in range(columns // segment):
            part = slice(t * segment, (t + 1) * segment)
            g, k = t * segment // w_group, t * segment // a_group
            u = w[:, part] - w_zero[:, g : g + 1]  # exact whole numbers
            v = whole(lambda x, u=u: x @ u.T, a[:, part], bits, True)
            if bits < 16:
                v = v - u.sum(1).float() * zero[:, k]
            term = v * w_scale[:, g] * scale[:, k]
            y = term if y is None else y + term
        bias = self.tensors.get(name + ".bias")
        bias = None if bias is None else bias.double()
        if offset is not None:
            dequantized = (
                (w - w_zero.repeat_interleave(w_group, 1)).float() * w_scale.repeat_interleave(w_group, 1)
            ).double()
            constant = (dequantized * offset.double()).sum(1)
            bias = constant if bias is None else bias + constant
        return y if bias is None else y + bias.float()

    def codes_of(self, x, point, layer, group, free=False):
        offset = self.tensors.get(f"osp.layers.{layer}.{point}.offset")
        centred = x if offset is None else x - offset
        if self.bits[1] == 16:
            quantized = whole_digits(centred, min(group, self.quantization.get("group", 0) or group))
        else:
            clip, fixed = self.quantization["activation_clip"], self.fixed.get((point, layer))
            quantized = quantize(centred, self.bits[1], group, free, clip, fixed)
        self.codes.append((point, layer, quantized[0].reshape(x.shape)))
        return (*quantized, offset)

    def rope_tables(self, length):
        half = self.head_size // 2
        rope = self.config["rope_parameters"]
        theta = rope["rope_theta"]
        frequency = torch.tensor(
            [theta ** (-2.0 * i / self.head_size) for i in range(half)], dtype=torch.float64
        )
        angle = torch.arange(length, dtype=torch.float64)[:, None] * frequency
        if rope["rope_type"] == "default":
            return angle.cos().float(), angle.sin().float()
        # YaRN with equal mscale and mscale_all_dim, whose magnitude is 1.
        assert rope["rope_type"] == "yarn" and rope["mscale"] == rope["mscale_all_dim"]

        def pair(turns):
            ratio = rope["original_max_position_embeddings"] / (turns * 2.0 * math.pi)
            return self.head_size * math.log(ratio) / (2.0 * math.log(theta))

        low = max(math.floor(pair(rope["beta_fast"])), 0)
        high = min(math.ceil(pair(rope["beta_slow"])), self.head_size - 1)
        share = 1.0 - ((torch.arange(half, dtype=torch.float64) - low) / (high - low)).clamp(0, 1)
        frequency = share * frequency + (1.0 - share) * frequency / rope["factor"]
        angle = torch.arange(length, dtype=torch.float64)[:, None] * frequency
        return angle.cos().float(), angle.sin().float()

    def projections(self, name, a):
        """Queries, keys and values [T, heads, K], rotary pairs i and i + K / 2."""
        T, K = len(a[0]), self.head_size
        if name + "self_attn.qkv_proj.weight_packed" in self.tensors:
            rows = [self.heads * K, self.kv_heads * K, self.kv_heads * K]
            parts = self.linear(name + "self_attn.qkv_proj", *a).split(rows, 1)
        else:
            parts = [self.linear(f"{name}self_attn.{p}_proj", *a) for p in "qkv"]
        q, k, v = (part.reshape(T, -1, K) for part in parts)
        if self.config["model_type"] == "ernie4_5" or self.ernie:
            q, k = (x.reshape(T, -1, K // 2, 2).transpose(2, 3).reshape(x.shape) for x in (q, k))
        return q, k, v

    @property
    def ernie(self):
        return self.quantization.get("architecture") == "Ernie4_5ForCausalLM"

    def growth(self, length):
        """The factor of queries by position, [T, 1, 1]."""
        rope = self.config["rope_parameters"]
        beta, context = rope.get("llama_4_scaling_beta", 0.0), rope.get("original_max_position_embeddings", 1)
        factors = [1.0 + beta * math.log(1.0 + t // context) for t in range(length)]
        return torch.tensor(factors, dtype=torch.float64).float()[:, None, None]

    def window(self, layer):
        types = self.config.get("layer_types")
        there = types is None or types[layer] == "sliding_attention"
        return (self.config.get("sliding_window") or 1 << 30) if there else 1 << 30

    def turn(self, x, gain, cos, sin, layer):
        """[T, heads, K]: norm, RoPE where the layer has it, Hadamard."""
        if gain is not None:
            x = rms_norm(x, gain, self.eps)
        a, b = x.chunk(2, -1)
        c, s = cos[:, None], sin[:, None]
        if self.config.get("no_rope_layers", [1] * (layer + 1))[layer]:
            x = torch.cat([a * c - b * s, b * c + a * s], -1)
        if self.quantization["query_key_hadamard"]:
            x = hadamard(x, self.head_size, self.base_of(self.head_size))
        return x

    def attention(self, q, k, v, layer):
        """q [T, H, K], k and v [T, Hkv, K] -> [T, H, K]."""
        T, H, K = q.shape
        bits = self.bits[2]
        clip = self.quantization["cache_clip"] if bits < 16 else 1.0
        out = torch.zeros(T, H, K)
        k_codes, k_scale, k_zero = (
            x.reshape(T, self.kv_heads, -1) for x in quantize(k, self.bits[2], K, False, clip)
        )
        v_codes, v_scale, v_zero = (
            x.reshape(T, self.kv_heads, -1) for x in quantize(v, self.bits[2], K, True, clip)
        )
        self.value_zeros.append(v_zero)
        self.codes.append(("key", layer, k_codes.reshape(-1, K)))
        self.codes.append(("value", layer, v_codes.reshape(-1, K)))
        pad = (PAGE - T % PAGE) % PAGE
        position = torch.arange(T)
        for head in range(H):
            kv = head // (H // self.kv_heads)
            q_codes, q_scale = digits(q[:, head])
            q_sum = q_codes.sum(1).float()
            scale = q_scale[:, 0] * torch.tensor(self.root, dtype=torch.float64).float()
            largest = torch.full((T,), -torch.inf)
            total = torch.zeros(T, 16)
            y = torch.zeros(T, K)
            padded = [
                torch.nn.functional.pad(x[:, kv], (0, 0, 0, pad))
                for x in (k_codes, k_scale, k_zero, v_codes, v_scale, v_zero)
            ]
            for begin in range(0, T, PAGE):
                kc, ks, kz, vc, vs, vz = (x[begin : begin + PAGE] for x in padded)
                keys = begin + torch.arange(PAGE)
                visible = (position[:, None] >= keys) & (position[:, None] - keys < self.window(layer))
                here = visible.any(1)
                products = whole(lambda k: q_codes.double() @ k.T, kc.double(), bits, False)  # noqa: B023
                logit = (products - kz[:, 0] * q_sum[:, None]) * ks[:, 0] * scale[:, None]
                logit = torch.where(visible, logit, torch.tensor(-torch.inf))
                now = torch.maximum(largest, logit.amax(1))
                p = exponential(logit - now[:, None])
                p = torch.where(visible, p, torch.zeros_like(p))
                correction = torch.where(largest == -torch.inf, torch.zeros(T), exponential(largest - now))
                weight = p * vs[:, 0]
                most = weight.amax(1)
                step, inverse = most / torch.tensor(16383.0), torch.tensor(16383.0) / most
                usable = step >= 1e-34
                w_codes = torch.where(
                    usable[:, None], torch.round(weight * inverse[:, None]), torch.zeros_like(weight)
                )
                zeros = lane_sum(w_codes * vz[:, 0])
                values = whole(lambda v: w_codes.double() @ v, vc.double(), bits, False)  # noqa: B023
                new = y * correction[:, None]
                new = torch.where(usable[:, None], new + (values - zeros[:, None]) * step[:, None], new)
                y = torch.where(here[:, None], new, y)
                lanes = total * correction[:, None]
                for part in p.split(16, 1):
                    lanes = lanes + part
                total = torch.where(here[:, None], lanes, total)
                largest = torch.where(here, now, largest)
            out[:, head] = y * (1.0 / lane_sum(total))[:, None]
        return out

    def states(self, tokens):
        """Final states [T, width]."""
        T, K = len(tokens), self.head_size
        growth = self.growth(T)
        groups = self.quantization.get("activation_group", 0), self.quantization.get("down_group", 0)
        x = self.tensors["model.embed_tokens.weight"][tokens].half().float()
        if self.embedding_factor != 1.0:
            x = x * torch.tensor(self.embedding_factor, dtype=torch.float64).float()
        cos, sin = self.rope_tables(T)
        for layer in range(self.config["num_hidden_layers"]):
            name = f"model.layers.{layer}."
            y = rms_norm(x, self.gain(name + "input_layernorm"), self.eps)
            a = self.codes_of(y, "attention_input", layer, groups[0] or self.width)
            q, k, v = self.projections(name, a)
            q = self.turn(q, self.gain(name + "self_attn.q_norm"), cos, sin, layer) * growth
            k = self.turn(k, self.gain(name + "self_attn.k_norm"), cos, sin, layer)
            y = self.attention(q, k, v, layer).reshape(T, -1)
            group = min(groups[0] or K, K)
            a = self.codes_of(y, "attention_output", layer, group, free=True)
            x = x + self.linear(name + "self_attn.o_proj", *a)
            y = rms_norm(x, self.gain(name + "post_attention_layernorm"), self.eps)
            a = self.codes_of(y, "mlp_input", layer, groups[0] or self.width)
            if name + "mlp.gate_up_proj.weight_packed" in self.tensors:
                gate, up = self.linear(name + "mlp.gate_up_proj", *a).chunk(2, 1)
            else:
                gate, up = (self.linear(f"{name}mlp.{p}_proj", *a) for p in ("gate", "up"))
            e = exponential(-gate.abs())
            sigmoid = torch.where(gate < 0, e, torch.ones_like(e)) / (1.0 + e)
            y = gate * sigmoid * up
            if self.quantization["down_hadamard"]:
                size = self.quantization["down_block"] or self.inner
                y = hadamard(y, size, self.base_of(size))
            a = self.codes_of(y, "mlp_product", layer, groups[1] or groups[0] or self.inner)
            x = x + self.linear(name + "mlp.down_proj", *a)
        divisor = torch.tensor(self.config.get("logits_scaling", 1.0), dtype=torch.float64).float()
        return rms_norm(x, self.gain("model.norm") / divisor, self.eps)

    def logits(self, states):
        """The 16-bit head: fp32 products with fp16 rows in 16 partial sums."""
        name = "model.embed_tokens" if self.config["tie_word_embeddings"] else "lm_head"
        table = self.tensors[name + ".weight"].half().float()
        return torch.stack([lane_sum(state * table) for state in states])
