"""The machine model of the planner: its terms, what a second pass costs, and which of alike plans is taken."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest

from triton_bilinear.planning.config import config
from triton_bilinear.planning.cost import Estimate, Rates, Work, estimate
from triton_bilinear.planning.plan import Plan, cheapest

RATES = Rates(sm_count=100, flops=1e12, instructions=1e9, l2_bytes=1e10, dram_bytes=1e11, cached_bytes=1e7)
WORK = Work(programs=100, matrix_flops=1e9, instructions=1e5, l2_bytes=1e6, dram_bytes=1e7)


def test_each_term_is_its_work_over_its_rate() -> None:
    found = estimate(WORK, RATES)
    assert (found.matrix, found.issue, found.l2, found.dram) == pytest.approx((1e-3, 1e-4, 1e-4, 1e-4))
    assert found.seconds - found.launch == pytest.approx((1e-9 + 3e-12) ** (1 / 3))
    assert (found.matrix_flops, found.dram_bytes) == (1e11, 1e7)


def test_programs_come_in_whole_waves() -> None:
    assert [estimate(WORK._replace(programs=count), RATES).waves for count in (1, 100, 101, 200)] == [1, 1, 2, 2]
    assert estimate(WORK._replace(programs=101), RATES).matrix == pytest.approx(2e-3)


def test_a_small_workspace_stays_in_the_cache_and_a_large_one_goes_through_memory() -> None:
    alone, small, large = (estimate(WORK._replace(workspace_bytes=size), RATES) for size in (0, 1e7, 2e7))
    assert small.dram_bytes == alone.dram_bytes
    assert small.l2 - alone.l2 == pytest.approx(2 * 1e7 / 1e12)
    assert large.dram_bytes - alone.dram_bytes == pytest.approx(2 * 2e7)
    assert large.dram - alone.dram == pytest.approx(2 * 2e7 / 1e11)
    assert large.l2 == alone.l2


def test_the_second_pass_waits_for_the_first() -> None:
    """What it reads is added to the time, not hidden behind the first launch's arithmetic."""
    alone, split = (estimate(WORK._replace(workspace_bytes=size), RATES) for size in (0, 2e7))
    assert split.seconds - alone.seconds >= 2e7 / 1e11


def test_a_byte_more_of_workspace_never_changes_much() -> None:
    sizes = [1e5 * step for step in range(301)]
    times = [estimate(WORK._replace(workspace_bytes=size), RATES).seconds for size in sizes]
    assert times == sorted(times)
    assert all(after < 1.02 * before for before, after in pairwise(times))


PLAN = Plan(config("project", 4, 3, B=64, P=1, Q=64, R=64), ("p", "q", "r"), 1, estimate(WORK, RATES))


def plan(**changes: float) -> Plan:
    return replace(PLAN, estimate=Estimate(**(PLAN.estimate._asdict() | changes)))


def test_of_plans_alike_in_time_the_one_with_less_matrix_work_is_taken() -> None:
    more, less = plan(seconds=1.0, matrix_flops=2e11), plan(seconds=1.01, matrix_flops=1e11)
    assert cheapest([more, less]) is less
    slower = plan(seconds=1.03, matrix_flops=1e11)
    assert cheapest([more, slower]) is more


def test_no_plan_moves_more_than_twice_the_least_bytes_if_that_takes_time() -> None:
    frugal = plan(seconds=1.5, dram=0.1, dram_bytes=1e7)
    assert cheapest([plan(seconds=1.0, dram=0.21, dram_bytes=2.1e7), frugal]) is frugal
    for quicker in (plan(seconds=1.0, dram=0.19, dram_bytes=1.9e7), plan(seconds=1.0, dram=0.05, dram_bytes=2.1e7)):
        assert cheapest([quicker, frugal]) is quicker
