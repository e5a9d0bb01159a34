"""Plain and residual nets that classify images: the paper's task, with its data, models, methods and training."""

import ablate.tasks.image_classification.rows  # noqa: F401  (registers the rows)
