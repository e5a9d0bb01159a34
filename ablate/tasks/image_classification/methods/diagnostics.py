"""What every layer looks like at the end of an epoch: errors, kernels, activations, the gap of batch norm.

One batch goes forward and backward once more, beside training: no gradient, buffer or random stream of training is
touched. Everything stays on the device until the one tensor of all measures is read.

Sources: mean square error, ρ and filter cosine: Xie, Xiong, Pu 2017, arXiv:1703.01827; effective learning rate: van
Laarhoven 2017, arXiv:1706.05350; the others are common practice.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ablate.tasks.image_classification.methods.kernel_measures import kernel_measures
from ablate.tasks.image_classification.methods.modulation_backward import BackwardModulation
from ablate.tasks.image_classification.methods.modulation_base import Modulation, RuledModulation
from ablate.tasks.image_classification.methods.modulation_rule import Rule, Smoothed
from ablate.tasks.image_classification.models.kernels import ReparametrisedConv2d, kernel
from ablate.tasks.image_classification.models.layers import ConvBN
from ablate.tasks.image_classification.models.norms import batch_norms, batch_statistics

MEASURES = {
    "error_mean_square": "mean square q of the backpropagated error at the layer's output, without modulation",
    "gradient_ratio": "norm of the loss's gradient over the norm of the weight",
    "defect": "squared Frobenius norm of w·wᵀ − I minus its floor, the filters beyond the inputs",
    "diagonal_defect": "the diagonal's part of it: squared norms away from 1",
    "off_diagonal_defect": "the rest of it, with the floor: filters that are not orthogonal",
    "cosine": "mean cosine between two filters",
    "absolute_cosine": "mean absolute cosine between two filters",
    "singular_min": "smallest singular value of the flattened kernel",
    "singular_max": "largest singular value of the flattened kernel",
    "dead_share": "share of channels that are nowhere positive before the ReLU, in no image of the batch",
    "activation_cosine": "mean cosine between two images' outputs after a ReLU; 1 is collapse",
    "norm_gain": "mean of |γ|/σ over the channels of batch norm, σ from the running statistics",
    "norm_gap": "output with running minus with batch statistics, relative root mean square",
    "effective_lr": "mean over the filters of lr/‖w‖², where a norm makes the layer blind to the scale of its filters",
    "modulation_factor": "factor ρ that modulation gives the error at the layer's output; 1 leaves it alone",
}
"""The rows of what `Probe.measure` returns. Kernels are those that convolve, in fp64 where the device has it."""


class Probe:
    """Measures the layers of one net: every ConvBN, and every convolution or fc outside of one, in forward order."""

    def __init__(self, net: nn.Module, loss: Callable[[Tensor, Tensor], Tensor] = F.cross_entropy) -> None:
        self.net = net
        self.loss = loss
        self.names: list[str] = []
        self.layers: list[nn.Conv2d | nn.Linear] = []
        self.outputs: list[nn.Module] = []
        inside: set[nn.Module] = set()
        for name, module in net.named_modules():
            if isinstance(module, ConvBN):
                self._add(name, module.conv, module.bn)
                inside.add(module.conv)
            elif isinstance(module, nn.Conv2d | nn.Linear) and module not in inside:
                self._add(name, module, module)

    def _add(self, name: str, layer: nn.Conv2d | nn.Linear, output: nn.Module) -> None:
        self.names.append(name)
        self.layers.append(layer)
        self.outputs.append(output)

    def measure(
        self, forward: Callable[..., Tensor], images: Tensor, labels: Tensor, lr: float = torch.nan,
        modulation: Modulation | None = None,
    ) -> Tensor:  # fmt: skip
        """Return (len(MEASURES), num layers), float32, on the CPU; NaN where a measure does not apply to a layer.

        `lr` is the learning rate of the last step. `modulation` is what acted in that step; its ρ are measured in a
        further backward pass, in the backward form, and its running means are left as they are.
        """
        found = {name: torch.full((len(self.layers),), torch.nan, device=images.device) for name in MEASURES}
        with _untouched(self.net):
            if isinstance(modulation, RuledModulation):
                self._measure_factors(found["modulation_factor"], forward, images, labels, modulation)
            self._measure_flow(found, forward, images, labels)
        self._measure_kernels(found, lr)
        return torch.stack(list(found.values())).cpu()

    def depth_curves(self, measures: Tensor, has_modulation: bool) -> dict[str, float]:
        """Return what the measures say over depth, one number each; infinite where errors are zero or not finite.

        `error_log_slope` is the least-squares slope of ln q over the convolutions, counted from the input: errors that
        grow by a factor c a layer toward the input have −ln c. `error_top_over_bottom` is q of the topmost convolution
        over that of the lowest. `modulated_share`, with modulation only, is the share of the convolutions whose error
        it rescales. A net without convolutions has nothing to say.
        """
        convolutions = [index for index, layer in enumerate(self.layers) if isinstance(layer, nn.Conv2d)]
        if not convolutions:
            return {}
        of = dict(zip(MEASURES, measures.double()[:, convolutions], strict=True))
        q = of["error_mean_square"]
        usable = (q > 0) & torch.isfinite(q)
        depth, logs = torch.arange(len(q), dtype=q.dtype)[usable], q[usable].log()
        depth = depth - depth.mean()
        # Not NaN, which is equal to nothing: a trial that is repeated must have equal curves.
        curves = {
            "error_log_slope": float((depth * logs).sum() / depth.square().sum()) if len(logs) > 1 else torch.inf,
            "error_top_over_bottom": float(q[-1] / q[0]) if bool(usable[0] & usable[-1]) else torch.inf,
        }
        if has_modulation:
            factors = of["modulation_factor"]
            curves["modulated_share"] = float((torch.isfinite(factors) & (factors != 1)).double().mean())
        return curves

    def _measure_factors(
        self, target: Tensor, forward: Callable[..., Tensor], images: Tensor, labels: Tensor,
        modulation: RuledModulation,
    ) -> None:  # fmt: skip
        rule = _NotingRule(**dataclasses.asdict(modulation.rule))
        twin = BackwardModulation(modulation.config, self.net, rule)
        twin.load_state(modulation.state())
        modulate = twin.begin()
        last, passed = -1, []

        def reach(index: int, _: Tensor) -> None:
            nonlocal last
            last = index

        def at(x: Tensor, token: Tensor, site: str = "conv") -> tuple[Tensor, Tensor]:
            if site == rule.site:
                passed.append(last)
            return modulate(x, token, site)

        with batch_statistics(self.net), torch.enable_grad(), self._hooked(self.layers, reach):
            loss = self.loss(forward(images, at), labels)
            torch.autograd.grad(loss, self.layers[0].weight)
        for index, factor in zip(passed[:: rule.every_k], reversed(rule.noted), strict=True):
            _put(target, index, factor)

    def _measure_flow(
        self, found: dict[str, Tensor], forward: Callable[..., Tensor], images: Tensor, labels: Tensor
    ) -> None:  # fmt: skip
        kept: dict[int, Tensor] = {}

        def watch_error(index: int, out: Tensor) -> None:
            out.register_hook(lambda error: _put(found["error_mean_square"], index, error.float().square().mean()))

        def keep(index: int, out: Tensor) -> None:
            kept[index] = out.detach()

        weights = [layer.weight for layer in self.layers]
        with batch_statistics(self.net), torch.enable_grad(), self._hooked(self.layers, watch_error):
            with self._hooked(self.outputs, keep):
                loss = self.loss(forward(images), labels)
            gradients = torch.autograd.grad(loss, weights, materialize_grads=True)
        ratios = [gradient.norm() / weight.norm() for gradient, weight in zip(gradients, weights, strict=True)]
        found["gradient_ratio"].copy_(torch.stack(ratios).detach())

        def compare(index: int, out: Tensor) -> None:
            batch, running = kept.pop(index).float(), out.float()
            _put(found["norm_gap"], index, (running - batch).norm() / batch.norm())
            if batch.dim() == 4:
                _put(found["dead_share"], index, (batch.amax((0, 2, 3)) <= 0).float().mean())
                _put(found["activation_cosine"], index, _mean_cosine(batch.relu().flatten(1)))

        with torch.no_grad(), self._hooked(self.outputs, compare):
            self.net.eval()
            forward(images)

    @contextmanager
    def _hooked(
        self, modules: list[nn.Conv2d | nn.Linear] | list[nn.Module], act: Callable[[int, Tensor], None]
    ) -> Iterator[None]:
        def hook(index: int) -> Callable[[nn.Module, object, Tensor], None]:
            return lambda _, __, out: act(index, out)

        handles = [module.register_forward_hook(hook(index)) for index, module in enumerate(modules)]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    @torch.no_grad()
    def _measure_kernels(self, found: dict[str, Tensor], lr: float) -> None:
        by_shape: dict[tuple[int, ...], list[int]] = {}
        for index, layer in enumerate(self.layers):
            by_shape.setdefault(tuple(layer.weight.shape), []).append(index)
            norm = self.outputs[index]
            if isinstance(norm, nn.BatchNorm2d) or isinstance(layer, ReparametrisedConv2d):
                squares = layer.weight.flatten(1).float().square().sum(1)
                _put(found["effective_lr"], index, (lr / squares).mean())
            if isinstance(norm, nn.BatchNorm2d) and norm.running_var is not None:
                gain = norm.weight.abs() / (norm.running_var + norm.eps).sqrt()
                _put(found["norm_gain"], index, gain.mean())
        for indices in by_shape.values():
            stack = torch.stack([kernel(self.layers[index]).flatten(1) for index in indices])
            for name, values in kernel_measures(stack).items():
                found[name][indices] = values.to(found[name])


@dataclass(frozen=True, kw_only=True)
class _NotingRule(Rule):
    """A rule that notes the ρ of every point, in the order of the backward pass: from the top down."""

    noted: list[Tensor] = field(default_factory=list, compare=False)

    def correct(self, r: Tensor, reference: Tensor, smoothed: Smoothed | None) -> tuple[Tensor, Tensor, Tensor | None]:
        """Note ρ and return what the rule returns."""
        corrected = super().correct(r, reference, smoothed)
        self.noted.append(corrected[0])
        return corrected


def _mean_cosine(samples: Tensor) -> Tensor:
    """Return the mean cosine between two of the samples, (num, features); samples of zeros count as orthogonal."""
    units = F.normalize(samples, dim=1)
    num = len(units)
    return (units.sum(0).square().sum() - units.square().sum()) / max(1, num * (num - 1))


def _put(target: Tensor, index: int, value: Tensor) -> None:
    target[index] = value.detach()


@contextmanager
def _untouched(net: nn.Module) -> Iterator[None]:
    """Restore the modes of all modules and the buffers of batch norm."""
    modes = [(module, module.training) for module in net.modules()]
    buffers = [(buffer, buffer.clone()) for norm in batch_norms(net) for buffer in norm.buffers()]
    try:
        yield
    finally:
        for module, is_training in modes:
            module.training = is_training
        with torch.no_grad():
            for buffer, before in buffers:
                buffer.copy_(before)
