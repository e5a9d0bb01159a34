"""Runs a sweep as Ray Tune trials: the only package that imports ray."""
