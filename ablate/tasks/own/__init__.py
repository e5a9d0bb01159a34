"""Tasks that are a user's own training: a Python function or a script."""
