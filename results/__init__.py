"""Numbers: `paper/` has what the paper prints, `reference/` our measured records, `runs/` yours."""
