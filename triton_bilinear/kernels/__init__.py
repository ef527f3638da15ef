"""The Triton kernels: pure ``@triton.jit`` code, one file per kernel, no torch.

Names used throughout: ``B`` batch rows, addressed on three levels (``B_INNER`` rows to a middle step, ``B_MIDDLE`` of
those to an outer step; strides ``b``, ``j``, ``i`` from the outermost) so that a batch whose axes cannot be merged into
one stride needs no copy; ``EVEN_X`` says that the tiles along X need no mask; ``WIDE`` makes every offset 64-bit;
``ACC`` is the accumulator's type; ``PRECISION`` is ``tl.dot``'s ``input_precision``; ``VEC_X`` divides size X, or all
strides of operand X but those of 1; ``AHEAD_X`` says that operand X is loaded into registers a step ahead of its
product, since its tile is too narrow for asynchronous copies to shared memory.
"""
