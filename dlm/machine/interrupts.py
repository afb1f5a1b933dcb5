"""Being told to stop. SIGTERM or SIGINT ends a run after the update under way, with a checkpoint; a second one ends it at once.

The exit code is 75 (EX_TEMPFAIL of sysexits.h): the same command, started again, goes on where this one stopped. Schedulers can requeue
on it, for instance SLURM with `#SBATCH --requeue --signal=TERM@120` and `[ $? = 75 ] && scontrol requeue $SLURM_JOB_ID`.

XLA compiles, and evaluators run, without returning to Python's signal handlers; so a thread reads the signals from a pipe.
"""

import os
import signal
import sys
import threading

from dlm.machine import hosts

EXIT = 75
_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Preempted(Exception):
    """The run stopped after update `step`, which is saved; or `what` stopped."""

    def __init__(self, step: int = 0, what: str = ""):
        super().__init__(
            f"{what or f'stopped after update {step}'}; the same command goes on from there"
        )
        self.step = step


class Watch:
    """`with Watch() as told:` — `told()` is true once the process, or any process of the run, has been asked to stop."""

    def __init__(self):
        self._asked, self._agreed = threading.Event(), None

    def __call__(self) -> bool:
        """To be asked by all processes equally often: they say yes at the same call."""
        return self._agreed() if self._agreed else self._asked.is_set()

    @property
    def here(self) -> bool:
        """This process alone was asked, whatever the others say."""
        return self._asked.is_set()

    def agree(self) -> None:
        """From now on all processes of the run stop together."""
        self._agreed = hosts.Agreement(self._asked)

    def __enter__(self) -> "Watch":
        self._active = threading.current_thread() is threading.main_thread()
        if self._active:
            read, self._write = os.pipe()
            os.set_blocking(self._write, False)
            self._before = {s: signal.signal(s, lambda *_: None) for s in _SIGNALS}
            self._wakeup = signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
            threading.Thread(target=self._listen, args=(read,), daemon=True, name="signals").start()
        return self

    def __exit__(self, *_) -> None:
        if self._active:
            signal.set_wakeup_fd(self._wakeup)
            for number, handler in self._before.items():
                signal.signal(number, handler)
            os.close(self._write)

    def _listen(self, read: int) -> None:
        while number := os.read(read, 1):
            if number[0] not in _SIGNALS:
                continue
            if self._asked.is_set():
                os._exit(EXIT)
            self._asked.set()
            print(
                "asked to stop: saving after this update; once more stops at once",
                file=sys.stderr,
                flush=True,
            )
        os.close(read)
