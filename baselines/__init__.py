"""Baselines that do not adapt to the input, one file each; found by discovery, never imported by name."""
