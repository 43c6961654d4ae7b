"""Muon and the rule for gains in the order of operations of the paper, in plain PyTorch.

Every product and every sum of the iteration is a bf16 operation of its own, as the paper's code has
them; `dtype=torch.float64` gives the same algorithm without rounding.
"""

import math

import torch

A, B, C = 3.4445, -4.7750, 2.0315


def newton_schulz(update: torch.Tensor, steps: int = 5, dtype=torch.bfloat16) -> torch.Tensor:
    """Approximate orthogonal factor of a matrix; normalised in fp32, iterated in `dtype`."""
    transpose = update.shape[0] > update.shape[1]
    x = update.T if transpose else update
    x = (x / (torch.linalg.norm(x) + 1e-8)).to(dtype)
    for _ in range(steps):
        gram = x @ x.T
        polynomial = B * gram + C * (gram @ gram)
        x = A * x + polynomial @ x
    x = x.to(update.dtype)
    return x.T if transpose else x


class PaperMuon:
    """One tensor. Matrices are orthogonalised, vectors and scalars divided by their norm."""

    def __init__(self, weight, lr, momentum=0.95, weight_decay=0.01, dtype=torch.bfloat16):
        self.weight = weight.clone()
        self.buffer = torch.zeros_like(weight)
        self.lr, self.momentum, self.weight_decay, self.dtype = lr, momentum, weight_decay, dtype

    def step(self, gradient: torch.Tensor) -> None:
        self.buffer = gradient + self.momentum * self.buffer
        update = gradient + self.momentum * self.buffer
        if update.ndim == 2:
            update = newton_schulz(update, dtype=self.dtype) * 0.2 * math.sqrt(max(update.shape))
        else:
            update = update / (torch.linalg.norm(update) + 1e-8) * 0.2 * math.sqrt(update.numel())
        self.weight = self.weight - self.lr * self.weight_decay * self.weight - self.lr * update
