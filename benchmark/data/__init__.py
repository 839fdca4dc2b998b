"""What the tasks' data have in common: readers and samples, images, rendered scenes, embedded sets, verification.

The formats themselves are the business of each task, in `benchmark.tasks`, and so is what is done with an image.
"""
