"""Shampoo, SOAP and Adafactor beside the package pytorch_optimizer on the same gradients.

Where its definition is another one, the tests set what makes the two equal:

- Shampoo. osp preconditions the mean of gradients, the package takes the mean of what it preconditioned:
  beta1 is 0 here. osp grafts to Adam's step, the package to RMSProp's without bias correction: its rate
  carries sqrt(1 - beta2^t). Its factors begin at matrix_eps times the identity (1e-12 here) and are not
  corrected either, which the grafting cancels. osp grafts block by block: one block here.
- SOAP. osp lets weights decay before the update, the package after it: no decay here. eps stands beside
  sqrt(v / (1 - beta2^t)) in osp and beside sqrt(v) in the package: 1e-8, far below both. The package factors
  its bases in fp32 also where all else is fp64.
- Adafactor. osp's momentum averages the updates, the package's the updates times the rate
  (osp/optim/adafactor.h says why); they differ where the rate does, as with adafactor_relative_step: no
  momentum with it here. The package keeps momentum in bf16 unless told otherwise: fp32 here.
"""

import math

import pytest
import torch
from test_optimizers import DECAY, LR, error, run_probe

theirs = pytest.importorskip(
    "pytorch_optimizer", reason="the package of requirements.txt: scripts/setup.sh --with-tests installs it"
)
STEPS = 30


def check(run, make, allowed, rate=lambda step: LR, first=0):
    """Compares the weights after every step from `first` on, relative to their way from the start."""
    weight, gradients, ours, _ = run
    found = []
    for i in range(len(weight)):
        parameter = torch.nn.Parameter(weight[i].double())
        optimizer = make(parameter)
        for step in range(STEPS):
            for group in optimizer.param_groups:
                group["lr"] = rate(step)
            parameter.grad = gradients[step][i].double()
            optimizer.step()
            if step >= first:
                found.append(error(ours[step][i].double(), parameter.detach(), weight[i].double()))
    print(max(found))
    assert max(found) < allowed


@pytest.mark.parametrize("momentum, relative", [(0.0, False), (0.9, False), (0.0, True)])
def test_adafactor(run_program, tmp_path, momentum, relative):
    decay = 0.0 if relative else DECAY
    options = {"adafactor_momentum": momentum, "adafactor_relative_step": relative}
    run = run_probe(run_program, tmp_path, "adafactor", (2, 24, 40), 6, options, decay, STEPS)
    check(
        run,
        lambda p: theirs.AdaFactor(
            [p],
            lr=LR,
            betas=(momentum or None, 0.999),
            weight_decay=decay,
            scale_parameter=relative,
            relative_step=False,
            momentum_dtype=torch.float32,
        ),
        3e-5,
    )


def test_soap(run_program, tmp_path):
    """Square gradients: the first bases are unique but for signs, which cancel."""
    options = {"beta1": 0.95, "beta2": 0.95, "precondition_every": 10}
    run = run_probe(run_program, tmp_path, "soap", (2, 8, 8), 10, options, 0.0, STEPS)
    check(
        run,
        lambda p: theirs.SOAP([p], lr=LR, betas=(0.95, 0.95), weight_decay=0.0, precondition_frequency=10),
        3e-5,
        first=1,  # the first gradient only makes the bases
    )


def test_shampoo(run_program, tmp_path):
    options = {"beta1": 0.0, "beta2": 0.95, "precondition_beta": 0.95, "precondition_every": 1}
    run = run_probe(run_program, tmp_path, "shampoo", (2, 12, 12), 9, options, 0.0, STEPS)

    def rate(step):
        return LR * math.sqrt(1 - 0.95 ** (step + 1))

    check(
        run,
        lambda p: theirs.ScalableShampoo(
            [p],
            lr=LR,
            betas=(0.0, 0.95),
            start_preconditioning_step=1,
            preconditioning_compute_steps=1,
            shape_interpretation=False,
            graft_type=theirs.optimizer.utils.graft.LayerWiseGrafting.RMSPROP,
            nesterov=False,
            diagonal_eps=1e-8,
            matrix_eps=1e-12,
            use_svd=True,
        ),
        5e-5,
        rate,
    )
