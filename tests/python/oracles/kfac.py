"""K-FAC for a group of linear layers in plain PyTorch, on the Kronecker product written out.

For small layers: the preconditioner is solved as one system of out · in unknowns for each layer.
"""

import math

import torch


class Kfac:
    def __init__(self, weights, lr, beta1, beta, weight_decay, every, damping, clip):
        self.weights = [w.clone() for w in weights]
        self.means = [torch.zeros_like(w) for w in weights]
        self.factors = [[0.0, 0.0] for _ in weights]
        self.fishers = [None for _ in weights]
        self.lr, self.beta1, self.beta, self.weight_decay = lr, beta1, beta, weight_decay
        self.every, self.damping, self.clip, self.t = every, damping, clip, 0

    def step(self, inputs, output_gradients) -> None:
        """Inputs [N, in] and gradients [N, out] of the mean loss, for each layer."""
        self.t += 1
        directions, means = [], []
        for i, (x, dy) in enumerate(zip(inputs, output_gradients, strict=True)):
            self.average(i, x, dy)
            if (self.t - 1) % self.every == 0:
                self.fishers[i] = self.damped_fisher(*self.factors[i])
            self.means[i] = self.beta1 * self.means[i] + (1 - self.beta1) * dy.T @ x
            means.append(self.means[i] / (1 - self.beta1**self.t))
            flat = torch.linalg.solve(self.fishers[i], means[i].flatten())
            directions.append(flat.reshape(means[i].shape))
        product = sum((d * m).sum().item() for d, m in zip(directions, means, strict=True))
        length = min(1.0, math.sqrt(self.clip / product))
        for i, direction in enumerate(directions):
            kept = (1 - self.lr * self.weight_decay) * self.weights[i]
            self.weights[i] = kept - self.lr * length * direction

    def average(self, i, x, dy) -> None:
        keep = min(1 - 1 / self.t, self.beta)
        per_token = dy * len(dy)  # gradients of each token's own loss
        new = x.T @ x / len(x), per_token.T @ per_token / len(x)
        self.factors[i] = [
            keep * old + (1 - keep) * now for old, now in zip(self.factors[i], new, strict=True)
        ]

    def damped_fisher(self, a, g) -> torch.Tensor:
        """(G + sqrt(damping) / pi) ⊗ (A + pi sqrt(damping)); it acts on the rows of a weight in order."""
        pi = math.sqrt((a.trace() / len(a)) / (g.trace() / len(g)))
        root = math.sqrt(self.damping)
        return torch.kron(
            g + torch.eye(len(g), dtype=g.dtype) * root / pi, a + torch.eye(len(a), dtype=a.dtype) * root * pi
        )
