"""SOAP for one matrix in plain PyTorch, after the paper's Algorithm 3 and the authors' order of operations.

In any floating-point type. The mean gradient is kept in the matrix's own coordinates and turned at every
step.
"""

import torch


def eigenbasis(factor: torch.Tensor) -> torch.Tensor:
    """Eigenvectors of a symmetric matrix in columns, by falling eigenvalue."""
    return torch.linalg.eigh(factor)[1].flip(1)


class Soap:
    """Starts with the bases that the first gradient has made; `step` is for those that follow."""

    def __init__(
        self, weight, first_gradient, left_basis, right_basis, lr, betas, beta, eps, weight_decay, every
    ):
        self.weight = weight.clone()
        self.left = (1 - beta) * first_gradient @ first_gradient.T
        self.right = (1 - beta) * first_gradient.T @ first_gradient
        self.left_basis, self.right_basis = left_basis, right_basis
        self.mean, self.square = torch.zeros_like(weight), torch.zeros_like(weight)
        self.lr, self.betas, self.beta, self.eps, self.every = lr, betas, beta, eps, every
        self.weight_decay, self.updates = weight_decay, 0

    def step(self, gradient: torch.Tensor) -> None:
        self.updates += 1
        beta1, beta2 = self.betas
        self.mean = beta1 * self.mean + (1 - beta1) * gradient
        turned = self.left_basis.T @ gradient @ self.right_basis
        self.square = beta2 * self.square + (1 - beta2) * turned**2
        mean_hat = self.left_basis.T @ self.mean @ self.right_basis / (1 - beta1**self.updates)
        square_hat = self.square / (1 - beta2**self.updates)
        update = self.left_basis @ (mean_hat / (square_hat.sqrt() + self.eps)) @ self.right_basis.T
        self.weight = (1 - self.lr * self.weight_decay) * self.weight - self.lr * update
        self.left = self.beta * self.left + (1 - self.beta) * gradient @ gradient.T
        self.right = self.beta * self.right + (1 - self.beta) * gradient.T @ gradient
        if self.updates % self.every == 0:
            self.left_basis, rows = self.turned_basis(self.left, self.left_basis)
            self.right_basis, columns = self.turned_basis(self.right, self.right_basis)
            self.square = self.square[rows][:, columns]

    @staticmethod
    def turned_basis(factor: torch.Tensor, basis: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """One orthogonal iteration, and the order in which it took the old columns."""
        order = torch.argsort(torch.diag(basis.T @ factor @ basis), descending=True)
        return torch.linalg.qr(factor @ basis[:, order])[0], order
