"""What a user's file imports to add rows of its own: see docs/extending.md."""

import ablate.tasks.image_classification  # noqa: F401  (its kinds of rows are known then)
from ablate.tasks.registry import Parameter, Row, register

__all__ = ["Parameter", "Row", "register"]
