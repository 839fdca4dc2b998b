"""``python -m benchmark.cli``, the same as ``saibench``."""

from benchmark.cli.app import main

main()
