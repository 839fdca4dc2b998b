"""Data: readers of the three real formats, the embedded sets written in those formats, and verification.

What a task does with an image (resizing, augmentation, batching, metrics) is not decided here.
"""
