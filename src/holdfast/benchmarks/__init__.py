"""Grids of runs: recipes x learning rates x seeds x orders."""
