"""Sweeps: from a sweep file to the trials that it asks for, and running them."""
