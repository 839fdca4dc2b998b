"""Numbers: `paper/` has what the paper prints, `reported/` what others report on real sets.

`reference/` has our measured records, `runs/` yours.
"""
