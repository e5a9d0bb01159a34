"""Optimizers that set the size of each layer's step by norms of that layer: relatives of modulation."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim import AdamW, Optimizer

from ablate.tasks.image_classification.config import TrialConfig

Groups = Iterable[dict[str, Any]]
State = dict[str, Any]


class Lars(Optimizer):
    """v ← momentum·v + lr·η‖w‖/(‖g‖ + d‖w‖)·(g + d·w), w ← w − v, for each weight on its own.

    Source: You, Gitman, Ginsburg 2017, arXiv:1708.03888. As in its implementations, batch norm and biases (one
    dimension) keep lr without the local factor.
    """

    def __init__(self, groups: Groups, lr: float, momentum: float, eta: float) -> None:
        super().__init__(groups, {"lr": lr, "momentum": momentum, "eta": eta, "weight_decay": 0.0})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Do one step."""
        for group in self.param_groups:
            chosen, grads = _with_gradients(group)
            velocities = [_kept(self.state[p], "velocity", p, 0.0) for p in chosen]
            rates = _local_rates(chosen, grads, group)
            decayed = torch._foreach_add(grads, chosen, alpha=group["weight_decay"])
            torch._foreach_mul_(decayed, rates)
            torch._foreach_mul_(velocities, group["momentum"])
            torch._foreach_add_(velocities, decayed, alpha=group["lr"])
            torch._foreach_sub_(chosen, velocities)
        return closure() if closure is not None else None


def _local_rates(chosen: list[Tensor], grads: list[Tensor], group: dict[str, Any]) -> list[Tensor]:
    if not chosen:
        return []
    w, g = torch.stack(torch._foreach_norm(chosen)), torch.stack(torch._foreach_norm(grads))
    rates = group["eta"] * w / (g + group["weight_decay"] * w)
    is_layer = torch.tensor([parameter.dim() > 1 for parameter in chosen], device=w.device)
    return list(torch.where(is_layer & (w > 0) & (g > 0), rates, 1.0).unbind())


class NovoGrad(Optimizer):
    """v ← β₂·v + (1 − β₂)‖g‖², m ← β₁·m + g/(√v + ε) + d·w, w ← w − lr·m, with one v for each tensor.

    Source: Ginsburg et al. 2019, arXiv:1905.11286, algorithm 1; v starts at the first ‖g‖².
    """

    def __init__(self, groups: Groups, lr: float, beta1: float, beta2: float) -> None:
        super().__init__(groups, {"lr": lr, "beta1": beta1, "beta2": beta2, "eps": 1e-8, "weight_decay": 0.0})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Do one step."""
        for group in self.param_groups:
            chosen, grads = _with_gradients(group)
            norms = torch._foreach_norm(grads)
            # The root of v is kept instead of v: errors grow over many orders of magnitude.
            roots = [_kept(self.state[p], "root", norm, 1.0) for p, norm in zip(chosen, norms, strict=True)]
            kept, new = group["beta2"] ** 0.5, (1 - group["beta2"]) ** 0.5
            for root, norm in zip(roots, norms, strict=True):
                root.copy_(torch.hypot(root * kept, norm * new))
            moments = [_kept(self.state[p], "moment", p, 0.0) for p in chosen]
            torch._foreach_mul_(moments, group["beta1"])
            torch._foreach_add_(moments, torch._foreach_div(grads, torch._foreach_add(roots, group["eps"])))
            torch._foreach_add_(moments, chosen, alpha=group["weight_decay"])
            torch._foreach_add_(chosen, moments, alpha=-group["lr"])
        return closure() if closure is not None else None


def _with_gradients(group: dict[str, Any]) -> tuple[list[Tensor], list[Tensor]]:
    chosen = [parameter for parameter in group["params"] if parameter.grad is not None]
    return chosen, [parameter.grad for parameter in chosen]


def _kept(state: State, name: str, first: Tensor, factor: float) -> Tensor:
    """Return a tensor of the state; it starts at factor·first."""
    if name not in state:
        state[name] = first * factor if factor else torch.zeros_like(first)
    tensor: Tensor = state[name]
    return tensor


class Muon(Optimizer):
    """torch.optim.Muon for the convolutions' kernels, flattened to matrices, and AdamW for all else.

    Source: Jordan 2024, kellerjordan.github.io/posts/muon, in torch's form: the momentum is orthogonalised in bfloat16.
    The step of a (m, n) matrix is scaled by 0.2·sqrt(max(m, n)), so that one learning rate, of AdamW's size, serves
    both parts (Liu et al. 2025, arXiv:2502.16982). Weight decay is decoupled.
    """

    def __init__(self, groups: Groups, lr: float, momentum: float) -> None:
        kernels, rest = [], []
        groups = list(groups)
        for group in groups:
            kernels += [(parameter, group["weight_decay"]) for parameter in group["params"] if parameter.dim() == 4]
            others = [parameter for parameter in group["params"] if parameter.dim() != 4]
            rest.append({"params": others, "weight_decay": group["weight_decay"]})
        decay = kernels[0][1] if kernels else 0.0
        self.kernels = [parameter for parameter, _ in kernels]
        self.matrices = [flattened(parameter.detach()) for parameter in self.kernels]
        self.muon = torch.optim.Muon(
            self.matrices, lr=lr, momentum=momentum, weight_decay=decay, adjust_lr_fn="match_rms_adamw"
        )
        self.adamw = AdamW(rest, lr=lr, foreach=True)
        super().__init__(groups, {"lr": lr})
        self._share_groups()

    def _share_groups(self) -> None:
        # The trainer sets the learning rate in `param_groups`: the parts' own groups are what it must reach.
        self.param_groups = [*self.muon.param_groups, *self.adamw.param_groups]

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Do one step."""
        for matrix, kernel in zip(self.matrices, self.kernels, strict=True):
            matrix.grad = None if kernel.grad is None else _in_order_of(kernel, kernel.grad)
        self.muon.step()
        self.adamw.step()
        return closure() if closure is not None else None

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Drop or zero the gradients of all parameters."""
        self.adamw.zero_grad(set_to_none)
        for kernel in self.kernels:
            if set_to_none or kernel.grad is None:
                kernel.grad = None
            else:
                kernel.grad.zero_()

    def state_dict(self) -> State:
        """Return the states of both parts."""
        return {"muon": self.muon.state_dict(), "adamw": self.adamw.state_dict()}

    def load_state_dict(self, state_dict: State) -> None:
        """Go on from the states of both parts."""
        self.muon.load_state_dict(state_dict["muon"])
        self.adamw.load_state_dict(state_dict["adamw"])
        self._share_groups()


def flattened(kernel: Tensor) -> Tensor:
    """Return a view of a kernel as (C_out, f_in). The order within a row follows the memory; Muon does not mind."""
    return kernel.view(kernel.shape[0], -1) if kernel.is_contiguous() else _rows_of_channels_last(kernel)


def _in_order_of(kernel: Tensor, gradient: Tensor) -> Tensor:
    return gradient.flatten(1) if kernel.is_contiguous() else gradient.permute(0, 2, 3, 1).flatten(1)


def _rows_of_channels_last(kernel: Tensor) -> Tensor:
    return kernel.permute(0, 2, 3, 1).view(kernel.shape[0], -1)


def lars(groups: Groups, config: TrialConfig) -> Optimizer:
    """LARS. Source: You, Gitman, Ginsburg 2017, arXiv:1708.03888."""
    return Lars(groups, config.lr, config.number("momentum"), config.number("lars_eta"))


def novograd(groups: Groups, config: TrialConfig) -> Optimizer:
    """NovoGrad. Source: Ginsburg et al. 2019, arXiv:1905.11286."""
    return NovoGrad(groups, config.lr, config.number("novograd_beta1"), config.number("novograd_beta2"))


def muon(groups: Groups, config: TrialConfig) -> Optimizer:
    """Muon for kernels, AdamW for the rest. Source: Jordan 2024, kellerjordan.github.io/posts/muon."""
    return Muon(groups, config.lr, config.number("muon_momentum"))
