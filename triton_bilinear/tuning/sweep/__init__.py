"""Finding configs worth storing: by the model and the compiler (`predict`), or by measuring on a GPU (`measure`).

A step's problems (`problems`) become tasks with tensors (`task`); a candidate has to compile well (`sound`) and, before
it is timed (`timer`), to be right (`verify`).
"""
