"""Adaptive methods, one file each; found by discovery, never imported by name."""
