"""Stop on SIGTERM or SIGINT after the current update, with a checkpoint; a second one: at once.

The exit code is 75 (EX_TEMPFAIL of sysexits.h): the same command, started again, continues there.
Schedulers can requeue on it, for instance SLURM with `#SBATCH --requeue --signal=TERM@120` and
`[ $? = 75 ] && scontrol requeue $SLURM_JOB_ID`.

XLA compiles, and evaluators run, without returning to Python's signal handlers; so a thread reads
the signals from a pipe.
"""

import os
import signal
import sys
import threading
from types import TracebackType

from dlm.machine import hosts

EXIT = 75
_SIGNALS = (signal.SIGTERM, signal.SIGINT)
_MESSAGE = "asked to stop: saving after this update; once more stops at once"


class Preempted(Exception):
    """The run stopped after update `step`, which is saved; or `what` stopped."""

    def __init__(self, step: int = 0, what: str = ""):
        cause = what or f"stopped after update {step}"
        super().__init__(f"{cause}; the same command goes on from there")
        self.step = step


class Watch:
    """Watches for signals: `with Watch() as stop:`, then `stop()` is true once one has arrived.

    After `agree` it is true in all processes of the run, once one of them was asked to stop.
    """

    def __init__(self):
        self._asked = threading.Event()
        self._agreed: hosts.Agreement | None = None

    def __call__(self) -> bool:
        """Return whether to stop; all processes must call it equally often."""
        return self._agreed() if self._agreed else self._asked.is_set()

    @property
    def here(self) -> bool:
        """Whether this very process was asked to stop."""
        return self._asked.is_set()

    def agree(self) -> None:
        """From now on, stop together with all processes of the run."""
        self._agreed = hosts.Agreement(self._asked)

    def __enter__(self) -> "Watch":
        # Python allows signal handlers in the main thread only.
        self._active = threading.current_thread() is threading.main_thread()
        if self._active:
            read, self._write = os.pipe()
            os.set_blocking(self._write, False)
            self._before = {s: signal.signal(s, lambda *_: None) for s in _SIGNALS}
            self._wakeup = signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
            threading.Thread(
                target=self._listen, args=(read,), daemon=True, name="signals"
            ).start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._active:
            signal.set_wakeup_fd(self._wakeup)
            for number, handler in self._before.items():
                signal.signal(number, handler)
            os.close(self._write)

    def _listen(self, read: int) -> None:
        # The pipe carries the number of each signal.
        while number := os.read(read, 1):
            if number[0] not in _SIGNALS:
                continue
            if (
                self._asked.is_set()
            ):  # the second request: the user does not want to wait
                os._exit(EXIT)
            self._asked.set()
            print(_MESSAGE, file=sys.stderr, flush=True)
        os.close(read)
