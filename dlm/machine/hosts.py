"""Let several processes act as one run: join, decide together, stop between the same two updates.

A process is one of several where JAX_COORDINATOR_ADDRESS (with JAX_NUM_PROCESSES and
JAX_PROCESS_ID), SLURM, Open MPI or a TPU pod says so. The processes share a file system. Process 0
alone writes and decides; the others learn its decisions through JAX's coordination service, which
does not use the network of the devices.
"""

import contextlib
import itertools
import json
import os
import sys
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

from dlm.core.errors import UserError

_HEARTBEAT = 60  # seconds without a sign of life until a process counts as dead
_FAREWELL = 10  # seconds that a failing process waits for the others to end, too
_POLL = 0.2  # seconds between two looks at whether another process was asked to stop
_ANSWER = 3600  # seconds that a process waits for the decision of another
_COORDINATOR = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")
_SLURM = (
    "SLURM_JOB_ID",
    "SLURM_STEP_NODELIST",
    "SLURM_NTASKS",
    "SLURM_PROCID",
    "SLURM_LOCALID",
)
_calls = itertools.count()


def join(say: Callable[[str], None], devices: Callable[[], list]) -> bool:
    """Join the other processes of the run; return False where the environment names none.

    Call it before JAX looks for `devices`. Raises UserError.
    """
    source = _described(os.environ)
    if source is None or _client() is not None:
        return source is not None
    import jax

    # JAX's own service would take SIGTERM away from `interrupts`.
    jax.config.update("jax_enable_preemption_service", False)
    address: dict[str, Any] = {}
    if source == "JAX_COORDINATOR_ADDRESS":
        coordinator, count, index = (os.environ[name] for name in _COORDINATOR)
        address = dict(
            coordinator_address=coordinator,
            num_processes=int(count),
            process_id=int(index),
        )
    say(f"joining the other processes named by {source}")
    options: dict[str, Any] = address | dict(
        heartbeat_timeout_seconds=_HEARTBEAT, shutdown_timeout_seconds=_HEARTBEAT
    )
    try:
        jax.distributed.initialize(**options)
    except (RuntimeError, ValueError) as error:
        cause = str(error).splitlines()[0]
        raise UserError(
            f"the other processes named by {source} cannot be joined: {cause}"
        ) from None
    _report_devices(say, devices())
    return True


def _report_devices(say: Callable[[str], None], available: list) -> None:
    index, count = _rank()
    own = sum(device.process_index == index for device in available)
    say(f"process {index} of {count}, {own} of {len(available)} device(s)")


def _described(environment: Mapping[str, str]) -> str | None:
    """Return the variable that says this process is one of several, if any."""
    if environment.get(_COORDINATOR[0]):
        _check_numbers(environment)
        return _COORDINATOR[0] if int(environment[_COORDINATOR[1]]) > 1 else None
    if (
        all(name in environment for name in _SLURM)
        and int(environment["SLURM_NTASKS"]) > 1
    ):
        return "SLURM_NTASKS"
    if int(environment.get("OMPI_COMM_WORLD_SIZE", 1)) > 1:
        return "OMPI_COMM_WORLD_SIZE"
    return (
        "TPU_WORKER_HOSTNAMES"
        if "," in environment.get("TPU_WORKER_HOSTNAMES", "")
        else None
    )


def _check_numbers(environment: Mapping[str, str]) -> None:
    """Raise UserError unless the number and index of processes stand beside the address."""
    address, *numbers = _COORDINATOR
    for name in numbers:
        if not environment.get(name, "0").isdigit():
            raise UserError(f"{name}={environment[name]} is not a number")
    for name in numbers:
        if not environment.get(name):
            raise UserError(f"{address} is set, so {name} must be")


def _client():
    """Return the client of JAX's coordination service; None in a process on its own."""
    if "jax" not in sys.modules:
        return None
    from jax._src import distributed

    return distributed.global_state.client


def _rank() -> tuple[int, int]:
    """Return (index of this process, number of processes)."""
    from jax._src import distributed

    return distributed.global_state.process_id, distributed.global_state.num_processes


def several() -> bool:
    """Return whether this process is one of several."""
    return _client() is not None


def first() -> bool:
    """Return whether this process is the one that writes."""
    return _client() is None or _rank()[0] == 0


def together(decide: Callable[[], Any]) -> Any:
    """Return process 0's decision, a value that JSON can carry, in all processes.

    A UserError that process 0 raises is raised in all.
    """
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
    """Return every process's value, in the order of the processes, in all of them.

    The values must be such that JSON can carry them. All processes return at about the same time.
    """
    client = _client()
    if client is None:
        return [value]
    index, count = _rank()
    key = f"dlm/gathered/{next(_calls)}"
    client.key_value_set(f"{key}/{index}", json.dumps(value))
    texts = [
        client.blocking_key_value_get(f"{key}/{i}", _ANSWER * 1000)
        for i in range(count)
    ]
    return [json.loads(text) for text in texts]


def alike(value: str, what: str) -> None:
    """Raise UserError where the processes do not agree on a value."""
    if together(lambda: value) != value:
        rule = "give every host the same"
        raise UserError(f"process {_rank()[0]} has other {what} than process 0: {rule}")


def leave(text: str, code: int = 1) -> None:
    """End one of several processes at once: the others may wait for it in a collective.

    All processes that fail together print their `text`. A process on its own returns instead.
    """
    client = _client()
    if client is None:
        return
    print(text, file=sys.stderr, flush=True)
    with contextlib.suppress(Exception):  # the others are busy, or gone
        client.wait_at_barrier("dlm/leave", _FAREWELL * 1000)
    os._exit(code)


class Agreement:
    """Decides when to stop, so that all processes stop between the same two calls.

    All processes call it equally often and in the same order, so the number of calls is a clock.
    Once one of them is asked to stop, each publishes the next time at which it could; all stop at
    the latest of these.
    """

    def __init__(self, request: threading.Event):
        self._client = _client()
        self._index, self._count = _rank()
        self._request = request
        self._clock = 0
        self._stop_seen = False
        self._stop: int | None = None
        self._lock = threading.Lock()
        threading.Thread(target=self._listen, daemon=True, name="agreement").start()

    def __call__(self) -> bool:
        with self._lock:
            self._clock += 1
            stop_seen = self._stop_seen
        if not stop_seen:
            return False
        if self._stop is None:
            keys = [f"dlm/stop/{i}" for i in range(self._count)]
            times = [
                self._client.blocking_key_value_get(key, _ANSWER * 1000) for key in keys
            ]
            self._stop = max(map(int, times))
        return self._clock >= self._stop

    def _listen(self) -> None:
        try:
            while not self._is_anyone_asked():
                time.sleep(_POLL)
            with self._lock:
                self._client.key_value_set(
                    f"dlm/stop/{self._index}", str(self._clock + 1)
                )
                self._stop_seen = True
        except Exception:  # the run has ended, and the coordination service with it
            return

    def _is_anyone_asked(self) -> bool:
        if self._request.is_set():
            self._client.key_value_set(f"dlm/asked/{self._index}", "yes")
            return True
        return bool(self._client.key_value_dir_get("dlm/asked"))
