"""Benchmarks: who is timed at which sizes, how, and what is made of the figures.

`cases` says at which sizes, `rivals` who, `timing` and `memory` how, `measure` runs a case; `report` and `plots` show
what came out. The command is `python -m triton_bilinear bench`.
"""
