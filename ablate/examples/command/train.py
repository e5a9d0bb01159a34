"""Linear regression by stochastic gradient descent: an ordinary script, which runs without Ablate too."""

import argparse
import json

import numpy as np

parser = argparse.ArgumentParser()
parser.add_argument("--lr", type=float, default=0.01)
parser.add_argument("--momentum", type=float, default=0.0)
parser.add_argument("--averaging", choices=["none", "polyak"], default="none")
parser.add_argument("--epochs", type=int, default=10)
parser.add_argument("--seed", type=int, default=0)
args = parser.parse_args()

# The same data in every run; what --seed decides is the start and the order of the rows.
data = np.random.default_rng(0)
x = data.normal(size=(1400, 50)) * np.logspace(0, -1, 50)
y = x @ data.normal(size=50) + data.normal(size=1400)
train, val, test = slice(0, 400), slice(400, 800), slice(800, 1400)

rng = np.random.default_rng(args.seed)
w, velocity, mean, num_averaged = rng.normal(size=50), np.zeros(50), np.zeros(50), 0
for epoch in range(args.epochs):
    for row in rng.permutation(400):
        velocity = args.momentum * velocity - args.lr * (x[row] @ w - y[row]) * x[row]
        w = w + velocity
        if epoch >= args.epochs // 2:  # Polyak and Juditsky 1992: the mean of the weights of the second half.
            num_averaged += 1
            mean = mean + (w - mean) / num_averaged
    used = mean if args.averaging == "polyak" and num_averaged else w
    print(json.dumps({"epoch": epoch, "val_mse": float(np.mean((x[val] @ used - y[val]) ** 2))}), flush=True)
print(json.dumps({"test_mse": float(np.mean((x[test] @ used - y[test]) ** 2))}))
