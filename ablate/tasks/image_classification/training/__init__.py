"""Training of trials: knows no Ray and no MLflow."""
