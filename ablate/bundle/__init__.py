"""Bundles: one file with one sweep and its trials, written by `export` and put into another folder by `merge`."""
