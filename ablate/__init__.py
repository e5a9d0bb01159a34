"""Fair ablations of deep networks."""

__version__ = "0.2.0.dev0"
