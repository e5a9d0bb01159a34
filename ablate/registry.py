"""What a user's file imports to add rows of its own: see docs/extending.md."""

from ablate.tasks.registry import Parameter, Row, register

__all__ = ["Parameter", "Row", "register"]
