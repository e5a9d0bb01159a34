"""Optimizers: each builds torch's own from parameter groups; learning rates are set step by step by the trainer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.optim import Optimizer

from ablate.tasks.image_classification.config import TrialConfig

Groups = Sequence[dict[str, Any]]


def sgd(groups: Groups, config: TrialConfig) -> Optimizer:
    """SGD with momentum. Source: Polyak 1964, as in torch: the learning rate multiplies the velocity."""
    return torch.optim.SGD(groups, lr=config.lr, momentum=config.number("momentum"), foreach=True)


def nesterov(groups: Groups, config: TrialConfig) -> Optimizer:
    """SGD with Nesterov momentum. Source: Sutskever et al. 2013, ICML, in torch's form; momentum 0 is plain SGD."""
    momentum = config.number("momentum")
    return torch.optim.SGD(groups, lr=config.lr, momentum=momentum, nesterov=momentum > 0, foreach=True)


def adagrad(groups: Groups, config: TrialConfig) -> Optimizer:
    """AdaGrad. Source: Duchi, Hazan, Singer 2011, JMLR."""
    return torch.optim.Adagrad(groups, lr=config.lr, foreach=True)


def adadelta(groups: Groups, config: TrialConfig) -> Optimizer:
    """AdaDelta. Source: Zeiler 2012, arXiv:1212.5701, whose own learning rate is 1."""
    return torch.optim.Adadelta(groups, lr=config.lr, rho=config.number("adadelta_rho"), foreach=True)


def adam(groups: Groups, config: TrialConfig) -> Optimizer:
    """Adam. Source: Kingma, Ba 2014, arXiv:1412.6980."""
    betas = (config.number("beta1"), config.number("beta2"))
    return torch.optim.Adam(groups, lr=config.lr, betas=betas, foreach=True)


def adamw(groups: Groups, config: TrialConfig) -> Optimizer:
    """Adam with decoupled weight decay. Source: Loshchilov, Hutter 2017, arXiv:1711.05101."""
    betas = (config.number("beta1"), config.number("beta2"))
    return torch.optim.AdamW(groups, lr=config.lr, betas=betas, foreach=True)


def rmsprop(groups: Groups, config: TrialConfig) -> Optimizer:
    """RMSProp. Source: Tieleman, Hinton 2012."""
    return torch.optim.RMSprop(groups, lr=config.lr, alpha=config.number("rmsprop_alpha"), foreach=True)
