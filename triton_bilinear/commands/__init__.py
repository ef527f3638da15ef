"""The commands of `python -m triton_bilinear`.

Each is a module with `add_parser(subparsers)`, which describes its options, and `run(args)`, which returns the exit
status.
"""
