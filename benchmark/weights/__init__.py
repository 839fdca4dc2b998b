"""Starting weights: what the small scale's networks start from, as the paper's start from ImageNet weights.

They lie in each task's folder: one safetensors file for each backbone, and beside it a JSON record of how it was made.
`files` finds and reads them, `making` trains them from nothing, `verifying` checks what is there. Nothing here knows a
method: masks and fills are put into a network after it has learned.
"""
