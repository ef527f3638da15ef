"""What makes products of the accumulation dtype, and what that costs beside their arithmetic."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Library:
    """Costs in multiply-adds of MKL's product at its best.

    call: what is fixed for each piece, the calls, and the threads that meet at the end of each; dot_calls and
    turn_calls: the same of a batched product in it, and of the transposes of its features.
    """

    product: float  # one element of a Khatri-Rao product
    shared_product: float  # the same where other threads read it than wrote it
    dot: float  # one multiply-add of a batched vector-matrix product
    copy: float  # one element of a copied weight
    turn: float  # the same where another axis is the dense one
    packed: float  # one element of a weight, in each product that it is the right operand of
    turned: float  # one element of transposed features
    added: float  # one element of a result, for each product that is added to it
    added_turned: float  # the same where the result lies as its transpose
    call: float
    dot_calls: float
    turn_calls: float

    def product_cost(self, run: int, shared: bool = False) -> float:
        """Of each element of a Khatri-Rao product, which is made in runs of so many."""
        return (self.shared_product if shared else self.product) * (1 + 10 / run)

    def dot_cost(self, length: int) -> float:
        """Of each multiply-add of a batched vector-matrix product with vectors of this length."""
        return self.dot * (1 + 8 / length)

    def copy_cost(self, dense: bool) -> float:
        """Of each element of a copied weight, or of a stored result: whether the copy's dense axis is so in both."""
        return self.copy if dense else self.turn


MKL = Library(  # fitted to times of every plan of 25 sizes on a Xeon
    product=6.5,
    shared_product=6.5,
    dot=11.5,
    copy=18.0,
    turn=115.0,
    packed=0.0,
    turned=90.0,
    added=0.0,
    added_turned=0.0,
    call=6e5,
    dot_calls=6e5,
    turn_calls=0.0,
)

# Fitted to those of 28 sizes on a Zen 5 (see `onednn`), in multiply-adds of MKL's there. On a Zen 4 plans of 25 sizes
# took 2 % longer than the best in the mean, whether by these or by costs of its own.
ONEDNN = Library(
    product=6.0,
    shared_product=20.0,  # 10 to 45, by how near to each other the system runs the threads
    dot=6.4,
    copy=27.0,
    turn=80.0,
    packed=12.0,
    turned=75.0,
    added=8.0,
    added_turned=47.0,
    call=3.4e6,
    dot_calls=1e6,
    turn_calls=4e6,
)
