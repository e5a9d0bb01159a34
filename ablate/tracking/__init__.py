"""MLflow: the driver mirrors a sweep's trials there, and a command opens its UI. Nothing else imports mlflow."""
