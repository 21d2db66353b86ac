"""Abilities that look at a picture: one file each."""
