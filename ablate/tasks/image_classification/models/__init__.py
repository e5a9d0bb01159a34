"""Nets, each a file of its own."""
