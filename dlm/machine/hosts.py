"""Several processes as one run: how they find each other, decide together, and stop between the same two updates.

A process is one of several where JAX_COORDINATOR_ADDRESS (with JAX_NUM_PROCESSES and JAX_PROCESS_ID) says so, or SLURM, Open MPI or a
TPU pod does. They share a file system. Process 0 alone writes and decides; the others hear of it through JAX's coordination service,
without a word on the way of the devices.
"""

import contextlib
import itertools
import json
import os
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

from dlm.core.errors import UserError

_HEARTBEAT = (
    60  # seconds without a sign of life after which a process counts as dead, and the others end
)
_FAREWELL = 10  # seconds that a process which ends in an error waits for the others to end as well
_LOOK = 0.2  # seconds between two looks at whether another process was asked to stop
_ANSWER = 3600  # seconds that one process waits for what another decides
_STATED = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")
_calls = itertools.count()


def join(say: Callable[[str], None], devices: Callable[[], list]) -> bool:
    """Joins the other processes of the run, before JAX looks for `devices`; False where the environment names none."""
    how = _described(os.environ)
    if how is None or _client() is not None:
        return how is not None
    import jax

    jax.config.update(
        "jax_enable_preemption_service", False
    )  # it would take SIGTERM away from `preempt`
    given = {}
    if how == "JAX_COORDINATOR_ADDRESS":
        address, count, index = (os.environ[name] for name in _STATED)
        given = dict(coordinator_address=address, num_processes=int(count), process_id=int(index))
    say(f"joining the other processes named by {how}")
    try:
        jax.distributed.initialize(
            **given, heartbeat_timeout_seconds=_HEARTBEAT, shutdown_timeout_seconds=_HEARTBEAT
        )
    except (RuntimeError, ValueError) as error:
        raise UserError(
            f"the other processes named by {how} cannot be joined: {str(error).splitlines()[0]}"
        ) from None
    index, count = _place()
    available = devices()
    own = sum(device.process_index == index for device in available)
    say(f"process {index} of {count}, {own} of {len(available)} device(s)")
    return True


def _described(environment) -> str | None:
    """What in the environment says that this process is one of several."""
    if environment.get(_STATED[0]):
        if missing := [
            name
            for name in _STATED
            if not environment.get(name, "0").isdigit() and name != _STATED[0]
        ]:
            raise UserError(f"{missing[0]}={environment[missing[0]]} is not a number")
        if missing := [name for name in _STATED if not environment.get(name)]:
            raise UserError(f"{_STATED[0]} is set, so {missing[0]} must be")
        return _STATED[0] if int(environment[_STATED[1]]) > 1 else None
    slurm = all(
        name in environment
        for name in (
            "SLURM_JOB_ID",
            "SLURM_STEP_NODELIST",
            "SLURM_NTASKS",
            "SLURM_PROCID",
            "SLURM_LOCALID",
        )
    )
    if slurm and int(environment["SLURM_NTASKS"]) > 1:
        return "SLURM_NTASKS"
    if int(environment.get("OMPI_COMM_WORLD_SIZE", 1)) > 1:
        return "OMPI_COMM_WORLD_SIZE"
    return "TPU_WORKER_HOSTNAMES" if "," in environment.get("TPU_WORKER_HOSTNAMES", "") else None


def _client():
    """JAX's coordination service; None in a process on its own."""
    if "jax" not in sys.modules:
        return None
    from jax._src import distributed

    return distributed.global_state.client


def _place() -> tuple[int, int]:
    from jax._src import distributed

    return distributed.global_state.process_id, distributed.global_state.num_processes


def several() -> bool:
    """Whether this process is one of several."""
    return _client() is not None


def first() -> bool:
    """Whether this process is the one that writes."""
    return _client() is None or _place()[0] == 0


def together(decide: Callable[[], Any]) -> Any:
    """What process 0 decides (a value that JSON can carry), in all processes; a mistake that it finds is everybody's."""
    client = _client()
    if client is None:
        return decide()
    key = f"dlm/together/{next(_calls)}"
    if not first():
        answer = json.loads(client.blocking_key_value_get(key, _ANSWER * 1000))
        if "error" in answer:
            raise UserError(answer["error"])
        return answer["value"]
    try:
        value = decide()
    except UserError as error:
        client.key_value_set(key, json.dumps(dict(error=str(error))))
        raise
    client.key_value_set(key, json.dumps(dict(value=value)))
    return value


def gathered(value: Any) -> list:
    """Every process's value (one that JSON can carry), in the order of the processes, in all of them; all get it at about the same time."""
    client = _client()
    if client is None:
        return [value]
    index, count = _place()
    key = f"dlm/gathered/{next(_calls)}"
    client.key_value_set(f"{key}/{index}", json.dumps(value))
    return [
        json.loads(client.blocking_key_value_get(f"{key}/{i}", _ANSWER * 1000))
        for i in range(count)
    ]


def alike(value: str, what: str) -> None:
    """Refuses to go on where the processes do not agree on a value."""
    if together(lambda: value) != value:
        raise UserError(
            f"process {_place()[0]} has other {what} than process 0: give every host the same"
        )


def leave(text: str, code: int = 1) -> None:
    """Ends one of several processes at once, since the others may wait for it in a collective; all that fail together say why.

    A process on its own goes on to end as usual.
    """
    client = _client()
    if client is None:
        return
    print(text, file=sys.stderr, flush=True)
    with contextlib.suppress(Exception):  # the others are busy, or gone
        client.wait_at_barrier("dlm/leave", _FAREWELL * 1000)
    os._exit(code)


class Agreement:
    """When to stop, the same for all: between the same two calls of it.

    All processes make the same calls in the same order, so that the number of calls is a clock. Once any of them is asked, each tells the
    next time at which it could stop; the latest of these is when all do.
    """

    def __init__(self, asked: threading.Event):
        self._asked, self._client, (self._index, self._count) = asked, _client(), _place()
        self._clock, self._stop_seen, self._stop = 0, False, None
        self._lock = threading.Lock()
        threading.Thread(target=self._listen, daemon=True, name="agreement").start()

    def __call__(self) -> bool:
        with self._lock:
            self._clock += 1
            stop_seen = self._stop_seen
        if not stop_seen:
            return False
        if self._stop is None:
            answers = (
                self._client.blocking_key_value_get(f"dlm/stop/{i}", _ANSWER * 1000)
                for i in range(self._count)
            )
            self._stop = max(map(int, answers))
        return self._clock >= self._stop

    def _listen(self) -> None:
        try:
            while not self._somebody_asked():
                time.sleep(_LOOK)
            with self._lock:
                self._client.key_value_set(f"dlm/stop/{self._index}", str(self._clock + 1))
                self._stop_seen = True
        except Exception:  # the run has ended, and the coordination service with it
            return

    def _somebody_asked(self) -> bool:
        if self._asked.is_set():
            self._client.key_value_set(f"dlm/asked/{self._index}", "yes")
            return True
        return bool(self._client.key_value_dir_get("dlm/asked"))
