"""The CPU engine: runs a trained cell's backbone with real sparsity.

``kernels`` are the validated kernels, ``compiler`` turns a PyTorch backbone into a plan, ``timer`` measures it. Not
for training, and not a general inference engine: it knows the blocks of ``benchmark.nn`` and nothing else.
"""
