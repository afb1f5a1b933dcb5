"""Several processes: who is one of several, one mistake for all, and one moment to stop."""

import random
import threading
import time

import pytest

from dlm.core.errors import UserError
from dlm.machine import hosts

STATED = dict(JAX_COORDINATOR_ADDRESS="a:1", JAX_NUM_PROCESSES="2", JAX_PROCESS_ID="0")
SLURM = dict(
    SLURM_JOB_ID="7",
    SLURM_STEP_NODELIST="n[1-2]",
    SLURM_NTASKS="2",
    SLURM_PROCID="0",
    SLURM_LOCALID="0",
)


class Service:
    """JAX's coordination service, in memory."""

    def __init__(self):
        self.values = {}

    def key_value_set(self, key, value):
        assert key not in self.values
        self.values[key] = value

    def key_value_dir_get(self, folder):
        return [
            item for item in self.values.items() if item[0].startswith(f"{folder}/")
        ]

    def blocking_key_value_get(self, key, milliseconds):
        end = time.monotonic() + milliseconds / 1000
        while key not in self.values:
            assert time.monotonic() < end
            time.sleep(1e-3)
        return self.values[key]


@pytest.fixture
def service(monkeypatch):
    stand_in = Service()
    monkeypatch.setattr(hosts, "_client", lambda: stand_in)
    return stand_in


def test_who_is_one_of_several():
    assert (
        hosts._described({}) is None
        and hosts._described(dict(STATED, JAX_NUM_PROCESSES="1")) is None
    )
    assert hosts._described(STATED) == "JAX_COORDINATOR_ADDRESS"
    assert (
        hosts._described(SLURM) == "SLURM_NTASKS"
        and hosts._described(dict(SLURM, SLURM_NTASKS="1")) is None
    )
    assert (
        hosts._described({k: v for k, v in SLURM.items() if k != "SLURM_LOCALID"})
        is None
    ), "salloc's shell is no task"
    assert hosts._described(dict(OMPI_COMM_WORLD_SIZE="4")) == "OMPI_COMM_WORLD_SIZE"
    assert hosts._described(dict(TPU_WORKER_HOSTNAMES="a,b")) and not hosts._described(
        dict(TPU_WORKER_HOSTNAMES="a")
    )
    for wrong in ("JAX_NUM_PROCESSES", "JAX_PROCESS_ID"):
        with pytest.raises(UserError, match=f"so {wrong} must be"):
            hosts._described({k: v for k, v in STATED.items() if k != wrong})
        with pytest.raises(UserError, match=f"{wrong}=many is not a number"):
            hosts._described(dict(STATED, **{wrong: "many"}))
    assert not hosts.join(print, list) and hosts.first(), (
        "the tests are a process on their own"
    )


def test_one_decides_for_all(service, monkeypatch):
    def wrong():
        raise UserError("no such file")

    places = []
    for place in (0, 1):
        monkeypatch.setattr(hosts, "_rank", lambda place=place: (place, 2))
        monkeypatch.setattr(hosts, "_calls", iter(range(9)))
        places.append(hosts.together(lambda place=place: [place]))
        with pytest.raises(UserError, match="no such file"):
            hosts.together(wrong if place == 0 else None)
        if place == 0:
            hosts.alike("x", "data")
        else:
            with pytest.raises(
                UserError, match="process 1 has other data than process 0"
            ):
                hosts.alike("y", "data")
    assert places == [[0], [0]]


def test_all_hear_what_each_has(service, monkeypatch):
    monkeypatch.setattr(hosts, "_rank", lambda: (1, 3))
    monkeypatch.setattr(hosts, "_calls", iter(range(9)))
    for rank in (0, 2):
        service.key_value_set(f"dlm/gathered/0/{rank}", f'"of {rank}"')
    assert hosts.gathered("mine") == ["of 0", "mine", "of 2"]


def test_a_process_on_its_own_gathers_what_it_has():
    assert hosts.gathered([1]) == [[1]]


@pytest.mark.parametrize("seed", range(4))
def test_all_stop_at_the_same_call_whoever_is_asked_and_however_far_they_are(
    seed, service, monkeypatch
):
    rng, count, stops, agreements = (
        random.Random(seed),
        3,
        [threading.Event() for _ in range(3)],
        [],
    )
    monkeypatch.setattr(hosts, "_POLL", 2e-3)
    for i in range(count):
        monkeypatch.setattr(hosts, "_rank", lambda i=i: (i, count))
        agreements.append(hosts.Agreement(stops[i]))
    pauses, stopped = [rng.uniform(0, 3e-3) for _ in range(count)], [None] * count

    def work(i):
        for call in range(1, 400):
            if agreements[i]():
                stopped[i] = call
                return
            time.sleep(pauses[i])
            if i == seed % count and call == 9:
                stops[i].set()

    threads = [threading.Thread(target=work, args=(i,)) for i in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(stopped)) == 1 and 9 < stopped[0] < 400
