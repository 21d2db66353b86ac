"""Abilities that only read: one file each."""
