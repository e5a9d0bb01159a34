"""Your own training as a function. Ablate calls `train` once a trial; replace what is in it, keep what is marked."""

import numpy as np
import torch
from sklearn.datasets import make_friedman1
from torch import nn


def load_data():
    """Friedman's function #1 with noise: y depends on 5 of 10 columns. The same rows in every trial."""
    x, y = make_friedman1(n_samples=1600, n_features=10, noise=1.0, random_state=0)
    x = x * 10.0 ** np.linspace(-1.5, 1.5, 10)  # Columns in units of their own, as tables have them.
    x, y = torch.tensor(x, dtype=torch.float32), torch.tensor(y, dtype=torch.float32)
    return (x[:400], y[:400]), (x[400:600], y[400:600]), (x[600:], y[600:])


class Net(nn.Module):
    def __init__(self, width, skip, dropout):
        super().__init__()
        self.first, self.last = nn.Linear(10, width), nn.Linear(width, 1)
        self.blocks = nn.ModuleList(nn.Linear(width, width) for _ in range(4))
        self.dropout, self.skip = nn.Dropout(dropout), skip

    def forward(self, x):
        x = self.first(x).relu()
        for block in self.blocks:
            new = self.dropout(block(x).relu())
            x = x + new if self.skip else new
        return self.last(x).squeeze(-1)


def rmse(net, x, y):
    net.eval()
    with torch.no_grad():
        return (net(x) - y).square().mean().sqrt().item()


def train(config, trial):  # Ablate: the parameters of the sweep file, and the trial.
    (x, y), validation, test = load_data()
    if config.standardise:
        mean, std = x.mean(0), x.std(0)  # Of the training rows only.
        x, validation, test = [(x - mean) / std, *(((each - mean) / std, z) for each, z in (validation, test))]
    net = Net(config.width, config.skip, config.dropout)  # random, numpy and torch are seeded already.
    optimizer = torch.optim.Adam(net.parameters(), lr=config.lr)

    if state := trial.load():  # Ablate: what this trial saved before it was cut off, or None.
        net.load_state_dict(state["net"])
        optimizer.load_state_dict(state["optimizer"])
    for _ in trial.steps(config.epochs):  # Ablate: the epochs that are left.
        net.train()
        for batch in torch.randperm(len(x)).split(20):
            optimizer.zero_grad()
            nn.functional.mse_loss(net(x[batch]), y[batch]).backward()
            optimizer.step()
        trial.report(val_rmse=rmse(net, *validation))  # Ablate: the objective, once an epoch.
        trial.save({"net": net.state_dict(), "optimizer": optimizer.state_dict()})
    # Ablate: test data only in confirm trials, after everything has been chosen.
    return {"test_rmse": rmse(net, *test)} if trial.is_confirm else {}
