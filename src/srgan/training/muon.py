"""Muon for networks of convolutions: each weight's update is made orthogonal, which trains in fewer steps than Adam."""

from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn import Parameter
from torch.optim import Optimizer
from torch.optim.adam import adam

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
        fused: whether the rest is updated by Adam's fused kernel; None leaves the choice to torch.

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
        options = {"lr": lr, "momentum": momentum, "betas": (first, second), "eps": eps}
        super().__init__(params, options | {"fused": fused, "capturable": False})  # the last as for torch's Adam

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Update every parameter that has a gradient; a `closure` is called first, and its loss returned."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            alike: defaultdict[torch.Size, list[Parameter]] = defaultdict(list)
            others: list[Parameter] = []
            for parameter in cast(list[Parameter], group["params"]):
                if parameter.grad is not None:
                    (others if parameter.ndim < 2 else alike[parameter.shape]).append(parameter)
            for parameters in alike.values():
                self._muon(parameters, group["lr"], group["momentum"])
            self._adam(others, group)
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

    def _adam(self, parameters: list[Parameter], group: dict[str, Any]) -> None:
        """Update vectors and single numbers, all at once, by torch's own Adam."""
        for parameter in parameters:
            if not (state := self.state[parameter]):
                beside = parameter.device if group["fused"] or group["capturable"] else None
                state["step"] = torch.zeros((), device=beside)
                state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(parameter), torch.zeros_like(parameter)
        states = [self.state[parameter] for parameter in parameters]
        adam(
            cast(list[Tensor], parameters),
            [cast(Tensor, parameter.grad) for parameter in parameters],
            *([state[name] for state in states] for name in ("exp_avg", "exp_avg_sq")),
            max_exp_avg_sqs=[],
            state_steps=[state["step"] for state in states],
            capturable=group["capturable"],
            fused=group["fused"],
            amsgrad=False,
            beta1=group["betas"][0],
            beta2=group["betas"][1],
            lr=group["lr"],
            weight_decay=0.0,
            eps=group["eps"],
            maximize=False,
        )


def orthogonal(matrices: Tensor) -> Tensor:
    """Bring each matrix's singular values near 1 and keep its singular vectors (Newton–Schulz, Jordan et al. 2024).

    Computes in bf16 on a CUDA device, which is as good for a direction, and in fp32 elsewhere.

    Args:
        matrices: (N, rows, columns), any scale well above 1e-7; a matrix of zeros stays one.

    Returns:
        As many matrices of the same shape and type, with singular values between about 0.7 and 1.2. Those below a
        hundredth of the largest may stay smaller.
    """
    a, b, c = _FACTORS
    tall = matrices.shape[1] > matrices.shape[2]
    x = (matrices.mT if tall else matrices).float()
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    with torch.autocast(matrices.device.type, enabled=False):
        x = x.bfloat16() if matrices.is_cuda else x
        for _ in range(_STEPS):
            products = x @ x.mT
            x = a * x + (b * products + c * products @ products) @ x
    return (x.mT if tall else x).to(matrices.dtype)
