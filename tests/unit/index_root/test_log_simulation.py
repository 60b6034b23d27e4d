"""The protocol of the log in a store that loses, delays and doubles, with processes that pause for hours."""

from dataclasses import replace

import pytest

from shoal.index_root import layout
from shoal.testing.entry_stores import Faults
from tests.support.log_entries import plain
from tests.support.log_simulation import Simulation, has_key
from tests.support.long import LONG

SEEDS = range(1000 if LONG else 8)


def simulated(simulation: Simulation) -> Simulation:
    simulation.run()
    simulation.check()
    return simulation


@pytest.mark.parametrize("seed", SEEDS)
def test_whatever_goes_wrong_each_acknowledged_request_is_there_once(seed: int) -> None:
    simulation = simulated(Simulation(seed))
    assert len(simulation.acknowledged) >= len(simulation.asked) // 2


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize(
    ("fault", "likelihood"),
    [
        ("lost_request", 0.3),
        ("lost_answer", 0.3),
        ("retried_answer", 0.3),
        ("conflict", 0.3),
        ("delayed", 0.3),
        ("unreachable", 0.05),
    ],
)
def test_one_fault_alone_is_survived(fault: str, likelihood: float, seed: int) -> None:
    simulation = simulated(Simulation(seed, replace(Faults(), **{fault: likelihood}), requests=4))
    assert set(filter(has_key, simulation.asked)) <= simulation.acknowledged.keys()


@pytest.mark.parametrize("seed", range(4))
def test_without_faults_writers_only_race(seed: int) -> None:
    simulation = simulated(Simulation(seed, Faults(), writers=4, pause_s=0.0))
    assert len(simulation.acknowledged) == len(simulation.asked) == len(simulation.history()) == 32


@pytest.mark.parametrize("seed", range(200 if LONG else 3))
def test_a_writer_that_was_paused_over_a_removal_does_not_lose_what_it_acknowledges(seed: int) -> None:
    simulation = Simulation(seed, Faults(), requests=20, pause_s=1800.0)
    simulation.pauses_s = [0.0, 4 * 3600.0]
    simulated(simulation)
    assert any(name.startswith(layout.LOG_ENTRIES) for name in simulation.objects.created_again)


def test_a_simulation_comes_again() -> None:
    first, second = (simulated(Simulation(5)) for _ in range(2))
    assert [plain(each) for each in first.history()] == [plain(each) for each in second.history()]
    assert first.acknowledged == second.acknowledged
    assert first.threads.clock() == second.threads.clock()
