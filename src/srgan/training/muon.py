"""Muon for networks of convolutions: each weight's update is made orthogonal, which trains in fewer steps than Adam."""

from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import cast

import torch
from torch import Tensor
from torch.nn import Parameter
from torch.optim import Optimizer

from srgan.errors import UserError

# Jordan et al. 2024: five steps with these factors bring every singular value to about 1 (0.7 to 1.2).
_STEPS, _FACTORS = 5, (3.4445, -4.7750, 2.0315)


class Muon(Optimizer):
    """Muon (Jordan et al. 2024), which replaces a weight's averaged gradient by the nearest orthogonal matrix.

    A convolution's weight (O, I, K, K) counts as a matrix (O, I·K·K). Its update is scaled by 0.2·√max(rows, columns),
    so that it is about as large as Adam's at the same learning rate (Liu et al. 2025, §2.2). Parameters with fewer than
    two dimensions (biases, BN, PReLU) are updated by Adam.

    Args:
        params: parameters, or groups of them.
        lr: the learning rate, for both kinds.
        momentum: of the averaged gradients of matrices; Nesterov's form, as usual with Muon.
        betas, eps: Adam's, for the rest.
        fused: taken so that a configuration for Adam fits; updates of one shape are made together in any case.

    Raises:
        UserError: `lr`, `momentum` or a beta is out of range.
    """

    def __init__(
        self,
        params: Iterable[Parameter] | Iterable[dict[str, object]],
        lr: float = 1e-3,
        momentum: float = 0.95,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        fused: bool | None = None,
    ) -> None:
        first, second = betas
        for name, value, limit in (
            ("lr", lr, float("inf")),
            ("momentum", momentum, 1),
            ("betas", first, 1),
            ("betas", second, 1),
        ):
            if not 0 <= value < limit:
                raise UserError(
                    f"Muon: {name}={value:g} given, expected 0 or more" + (", below 1" if limit == 1 else "")
                )
        super().__init__(params, {"lr": lr, "momentum": momentum, "betas": (first, second), "eps": eps})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Update every parameter that has a gradient; a `closure` is called first, and its loss returned."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            alike: defaultdict[torch.Size, list[Parameter]] = defaultdict(list)
            for parameter in cast(list[Parameter], group["params"]):
                if parameter.grad is not None:
                    alike[parameter.shape].append(parameter)
            for shape, parameters in alike.items():
                if len(shape) < 2:
                    self._adam(parameters, group["lr"], group["betas"], group["eps"])
                else:
                    self._muon(parameters, group["lr"], group["momentum"])
        return loss

    def _muon(self, parameters: list[Parameter], learning_rate: float | Tensor, momentum: float) -> None:
        """Update matrices, or convolutions' weights, of one shape."""
        updates: list[Tensor] = []
        for parameter in parameters:
            gradient, state = cast(Tensor, parameter.grad), self.state[parameter]
            if not state:
                state["momentum_buffer"] = torch.zeros_like(gradient)
            average = state["momentum_buffer"].lerp_(gradient, 1 - momentum)
            updates.append(gradient.lerp(average, momentum).flatten(1))
        matrices = orthogonal(torch.stack(updates))
        matrices *= -0.2 * max(matrices.shape[1:]) ** 0.5 * learning_rate
        for parameter, matrix in zip(parameters, matrices, strict=True):
            parameter.add_(matrix.reshape(parameter.shape))

    def _adam(
        self, parameters: list[Parameter], learning_rate: float | Tensor, betas: tuple[float, float], eps: float
    ) -> None:
        """Update vectors and single numbers."""
        first, second = betas
        for parameter in parameters:
            gradient, state = cast(Tensor, parameter.grad), self.state[parameter]
            if not state:
                state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(gradient), torch.zeros_like(gradient)
                state["updates"] = torch.zeros((), device=gradient.device)  # a tensor, which CUDA graphs can count up
            count = state["updates"].add_(1)
            mean = state["exp_avg"].lerp_(gradient, 1 - first) / (1 - first**count)
            square = state["exp_avg_sq"].lerp_(gradient.square(), 1 - second) / (1 - second**count)
            parameter.sub_(learning_rate * mean / (square.sqrt() + eps))


def orthogonal(matrices: Tensor) -> Tensor:
    """Bring each matrix's singular values near 1 and keep its singular vectors (Newton–Schulz, Jordan et al. 2024).

    Args:
        matrices: (N, rows, columns), any scale; a matrix of zeros stays one.

    Returns:
        As many matrices of the same shape, in fp32, with singular values between about 0.7 and 1.2. Those below a
        hundredth of the largest may stay smaller.
    """
    a, b, c = _FACTORS
    matrices = matrices.float()
    tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.mT if tall else matrices
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(_STEPS):
        products = x @ x.mT
        x = a * x + (b * products + c * products @ products) @ x
    return x.mT if tall else x
