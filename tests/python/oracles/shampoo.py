"""Shampoo for one matrix in plain PyTorch: blocks, inverse fourth roots, grafting to Adam's step.

In any floating-point type; factors and roots are written as sums over eigenvectors.
"""

import math

import torch


def inverse_fourth_root(factor: torch.Tensor, eps: float) -> torch.Tensor:
    values, vectors = torch.linalg.eigh(factor)
    values = values.clamp(min=1e-6 * values.max().item()) + eps
    return sum(torch.outer(v, v) * value**-0.25 for value, v in zip(values, vectors.T, strict=True))


class ShampooBlock:
    def __init__(self, beta, every, eps):
        self.beta, self.every, self.eps, self.t = beta, every, eps, 0
        self.left = self.right = 0.0

    def update(self, gradient, mean, adam):
        """The step for this block, of the length of Adam's step `adam`."""
        self.t += 1
        self.left = self.beta * self.left + (1 - self.beta) * gradient @ gradient.T
        self.right = self.beta * self.right + (1 - self.beta) * gradient.T @ gradient
        if self.t % self.every == 0:
            seen = 1 - self.beta**self.t
            self.roots = [inverse_fourth_root(factor / seen, self.eps) for factor in (self.left, self.right)]
        if self.t < self.every:
            return adam
        direction = self.roots[0] @ mean @ self.roots[1]
        return direction * torch.linalg.norm(adam) / torch.linalg.norm(direction)


class Shampoo:
    """One matrix, in blocks of at most `largest` rows and columns and of sizes as equal as can be."""

    def __init__(self, weight, lr, betas, beta, eps, weight_decay, every, largest, shampoo_eps=1e-12):
        self.weight, self.lr, self.betas, self.eps = weight.clone(), lr, betas, eps
        self.weight_decay, self.t = weight_decay, 0
        self.mean, self.square = torch.zeros_like(weight), torch.zeros_like(weight)
        self.sizes = [math.ceil(n / math.ceil(n / largest)) for n in weight.shape]
        self.blocks = [[ShampooBlock(beta, every, shampoo_eps) for _ in row] for row in self.split(weight)]

    def split(self, matrix):
        return [row.split(self.sizes[1], dim=1) for row in matrix.split(self.sizes[0], dim=0)]

    def step(self, gradient: torch.Tensor) -> None:
        self.t += 1
        beta1, beta2 = self.betas
        self.mean = beta1 * self.mean + (1 - beta1) * gradient
        self.square = beta2 * self.square + (1 - beta2) * gradient**2
        adam = self.mean / (1 - beta1**self.t) / ((self.square / (1 - beta2**self.t)).sqrt() + self.eps)
        parts = zip(self.blocks, self.split(gradient), self.split(self.mean), self.split(adam), strict=True)
        update = torch.cat(
            [torch.cat([b.update(*x) for b, *x in zip(*row, strict=True)], dim=1) for row in parts]
        )
        self.weight = (1 - self.lr * self.weight_decay) * self.weight - self.lr * update
