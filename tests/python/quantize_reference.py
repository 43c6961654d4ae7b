"""Weight quantization in plain PyTorch, independent of osp: grids per channel or group, and GPTQ.

Written from the description of the reference's settings: symmetric scale = absmax / 7 with floor 1e-5,
clipping search over 1 - i/100 with error |e|^2.4 and the first strict minimum; GPTQ with dead columns,
damping 0.01 of the mean diagonal, the upper Cholesky factor of the inverse Hessian in fp32, blocks of 128
columns, scales found once.
"""

import torch


def round_fp16(scale):
    return scale.half().float().clamp(min=2.0**-24)


def grid(weight, bits, group=0, is_symmetric=True, fp16=False):
    """Scale and zero [out, groups]; zeros count from -2^(bits-1), as codes do."""
    rows = weight.reshape(-1, group or weight.shape[1])
    low_code, high_code = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
    if is_symmetric:
        top = high_code
        span = rows.abs().amax(1).clamp(min=1e-5)
        low = torch.zeros_like(span)
    else:
        top = 2**bits - 1
        low, high = rows.amin(1).clamp(max=0), rows.amax(1).clamp(min=0)
        span = (high - low).clamp(min=1e-5)
    best_error = torch.full_like(span, float("inf"), dtype=torch.float64)
    best_scale, best_zero = torch.zeros_like(span), torch.zeros_like(span)
    for i in range(80):
        p = 1 - i / 100
        scale = span * p / top
        if fp16:
            scale = round_fp16(scale)
        zero = torch.zeros_like(scale)
        if not is_symmetric:
            zero = torch.round(low * -p / scale).clamp(0, top) + low_code
        codes = (torch.round(rows / scale[:, None]) + zero[:, None]).clamp(low_code, high_code)
        error = ((codes - zero[:, None]) * scale[:, None] - rows).abs().pow(2.4).double().sum(1)
        better = error < best_error
        best_error = torch.where(better, error, best_error)
        best_scale = torch.where(better, scale, best_scale)
        best_zero = torch.where(better, zero, best_zero)
    shape = (weight.shape[0], -1)
    return best_scale.reshape(shape), best_zero.reshape(shape)


def per_column(parameters, columns, group):
    return parameters.repeat_interleave(group or columns, dim=1)


def nearest(weight, scale, zero, bits):
    low = -(2 ** (bits - 1))
    return (torch.round(weight / scale) + zero).clamp(low, -low - 1)


def round_to_nearest(weight, bits, group=0, is_symmetric=True, fp16=False):
    """Codes [out, in], scale and zero [out, groups]."""
    scale, zero = grid(weight, bits, group, is_symmetric, fp16)
    columns = weight.shape[1]
    codes = nearest(weight, per_column(scale, columns, group), per_column(zero, columns, group), bits)
    return codes, scale, zero


def gptq(
    weight,
    hessian,
    bits,
    group=0,
    is_symmetric=True,
    fp16=False,
    ordered=False,
    dtype=torch.float32,
    block=128,
):
    """Codes as GPTQ's published procedure gives them, everything in `dtype`."""
    scale, zero = grid(weight, bits, group, is_symmetric, fp16)
    columns = weight.shape[1]
    scales, zeros = per_column(scale, columns, group), per_column(zero, columns, group)
    w, h = weight.clone().to(dtype), hessian.clone().to(dtype)
    dead = h.diagonal() == 0
    h[dead, dead] = 1
    w[:, dead] = 0
    order = torch.argsort(h.diagonal(), descending=True, stable=True) if ordered else torch.arange(columns)
    w, h, scales, zeros = w[:, order], h[order][:, order], scales[:, order], zeros[:, order]
    h.diagonal().add_(0.01 * h.diagonal().mean())
    inverse = torch.linalg.cholesky(torch.cholesky_inverse(torch.linalg.cholesky(h)), upper=True)
    codes = torch.zeros_like(weight)
    for begin in range(0, columns, block):
        end = min(begin + block, columns)
        errors = torch.zeros(w.shape[0], end - begin, dtype=dtype)
        for i in range(begin, end):
            code = nearest(w[:, i].float(), scales[:, i], zeros[:, i], bits)
            value = (code - zeros[:, i]) * scales[:, i]
            error = (w[:, i] - value.to(dtype)) / inverse[i, i]
            w[:, i:end] -= error[:, None] * inverse[i, i:end][None, :]
            errors[:, i - begin] = error
            codes[:, order[i]] = code
        w[:, end:] -= errors @ inverse[begin:end, end:]
    return codes, scale, zero
