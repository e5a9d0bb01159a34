"""A tiny character-level transformer on text that comes with Python; `train` is what Ablate calls once a trial."""

from pydoc_data.topics import topics

import torch
from torch import nn
from torch.nn import functional

CONTEXT, WIDTH, HEADS, LAYERS = 64, 48, 4, 3


def load_data():
    """The language reference as Python's `help` has it, as numbers of characters: 80% to train, 10%, 10% to test."""
    text = "\n".join(topics[name] for name in sorted(topics)).encode("ascii", "replace")
    data = torch.frombuffer(bytearray(text), dtype=torch.uint8).long()
    first, second = int(0.8 * len(data)), int(0.9 * len(data))
    return data[:first], data[first:second], data[second:]


class Block(nn.Module):
    def __init__(self, norm):
        super().__init__()
        self.norm = norm
        self.norms = nn.ModuleList(nn.LayerNorm(WIDTH) for _ in range(2))
        self.qkv, self.out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.mlp = nn.Sequential(nn.Linear(WIDTH, 4 * WIDTH), nn.GELU(), nn.Linear(4 * WIDTH, WIDTH))

    def attend(self, x):
        q, k, v = (each.unflatten(-1, (HEADS, -1)).transpose(1, 2) for each in self.qkv(x).chunk(3, -1))
        return self.out(functional.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2))

    def forward(self, x):
        for layer, norm in zip((self.attend, self.mlp), self.norms, strict=True):
            x = x + layer(norm(x)) if self.norm == "pre" else norm(x + layer(x))
        return x


class Transformer(nn.Module):
    def __init__(self, positions, norm):
        super().__init__()
        self.characters = nn.Embedding(128, WIDTH)
        self.positions = nn.Embedding(CONTEXT, WIDTH) if positions == "learned" else None
        self.blocks = nn.Sequential(*(Block(norm) for _ in range(LAYERS)))
        self.head = nn.Sequential(nn.LayerNorm(WIDTH) if norm == "pre" else nn.Identity(), nn.Linear(WIDTH, 128))

    def forward(self, characters):
        x = self.characters(characters)
        if self.positions is not None:
            x = x + self.positions.weight
        return self.head(self.blocks(x))

    def loss(self, windows):
        """Cross entropy of every next character, in nats."""
        return functional.cross_entropy(self(windows[:, :-1]).flatten(0, 1), windows[:, 1:].flatten())


def windows(data, starts):
    return torch.stack([data[start : start + CONTEXT + 1] for start in starts.tolist()])


def evaluate(net, data):
    """The loss on 128 windows that are the same in every trial."""
    with torch.no_grad():
        return net.loss(windows(data, torch.linspace(0, len(data) - CONTEXT - 1, 128).long())).item()


def train(config, trial):
    training, validation, test = load_data()
    net = Transformer(config.positions, config.norm)
    optimizer = torch.optim.AdamW(net.parameters(), lr=config.lr)
    if state := trial.load():
        net.load_state_dict(state["net"])
        optimizer.load_state_dict(state["optimizer"])
    for _ in trial.steps(config.rounds):  # A round is what lies between two reports.
        for _ in range(config.updates_per_round):
            optimizer.zero_grad()
            net.loss(windows(training, torch.randint(len(training) - CONTEXT, (16,)))).backward()
            optimizer.step()
        trial.report(val_loss=evaluate(net, validation))
        trial.save({"net": net.state_dict(), "optimizer": optimizer.state_dict()})
    return {"test_loss": evaluate(net, test)} if trial.is_confirm else {}
