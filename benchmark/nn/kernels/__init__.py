"""What training computes in C: the sources of one extension module, which `benchmark.nn.fused` calls."""
