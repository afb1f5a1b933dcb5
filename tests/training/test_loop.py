"""The training loop: metrics one update behind, the last update logged and saved.

Evaluation and saving do not count in the speed.
"""

import contextlib
import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dlm.core.contracts import Mean
from dlm.machine.interrupts import Preempted
from dlm.training import loop, metrics
from dlm.training.intervals import Intervals
from dlm.training.metrics import Diverged, MetricAverager


class Recorder:
    """Notes what the loop does, in its order."""

    def __init__(self):
        self.rows, self.calls, self.debt = [], [], {}

    def write(self, row):
        self.rows.append(row)
        self.calls.append(("row", row["step"]))

    def progress(self, row):
        pass

    def save_pending(self, step, what):
        self.debt = dict(what, step=step)

    def load_pending(self, step):
        return self.debt if self.debt.get("step") == step else None


def mean(value, count):
    return Mean(np.float32(value), np.float32(count))


def train(
    recorder,
    start,
    steps,
    stop=lambda: False,
    skipped=0.0,
    empty=lambda batch: False,
    skips=0,
    batches=None,
    evaluate=None,
    sums_type=dict,
    **every,
):
    def update(state, batch):
        recorder.calls.append(("update", batch))
        left_out = 0.0 if empty(batch) else skipped
        counted = 0.0 if empty(batch) or left_out else 1.0
        return state + 1, sums_type(
            loss_sum=np.float32(10.0 * batch * counted),
            nats_sum=np.float32(10.0 * batch * counted),
            weight_sum=np.float32(5 * counted),
            bytes_sum=np.float32(4 * counted),
            metrics=dict(
                masked_share=mean(2 * counted, 5 * counted),
                ahead_loss=mean(3 * counted, 5 * counted),
                router_busiest=mean(batch * counted, counted),
                never=mean(0, 0),
            ),
            lr=np.float32(batch),
            grad_norm=np.float32(batch),
            skipped_sum=np.float32(left_out),
            empty_sum=np.float32(empty(batch)),
        )

    intervals = Intervals(**every)
    averager = MetricAverager(
        recorder, intervals.log, flops_per_token=2.0, peak=4.0, skips=skips
    )
    running = loop.Loop(
        update,
        intervals,
        recorder,
        averager,
        evaluate=evaluate or (lambda state, step: {"score": state}),
        save=lambda step, state: recorder.calls.append(("save", step)),
        stop=stop,
    )
    batches = batches or iter(range(start + 1, steps + 1))
    return running.run(start, batches, start, steps), running.phases


def test_rows_come_one_update_behind_and_the_last_at_once():
    recorder = Recorder()
    state, phases = train(recorder, 0, 5, log=2, save=0)
    assert state == 5 and set(phases.seconds) == {"data", "step", "save"}
    assert recorder.calls == [
        ("update", 1),
        ("update", 2),
        ("update", 3),
        ("row", 2),
        ("update", 4),
        ("update", 5),
        ("row", 4),
        ("row", 5),
        ("save", 5),
    ]
    assert [r["loss"] for r in recorder.rows] == [
        3.0,
        7.0,
        10.0,
    ]  # (10 + 20) / 10, (30 + 40) / 10, 50 / 5
    row = recorder.rows[0]
    assert (
        row["bits_per_byte"] == pytest.approx(30 / 8 / np.log(2))
        and row["masked_share"] == 0.4
        and (row["lr"], row["grad_norm"]) == (2, 2)
    )
    assert (
        row["ahead_loss"] == pytest.approx(6 / 10) and row["router_busiest"] == 1.5
    ), "a figure is the mean over the updates"
    assert "never" not in row, "a metric that counted nothing has no mean"
    assert row["share_of_peak"] == pytest.approx(row["tokens_per_s"] / 2)


def test_the_speed_is_that_of_the_updates_since_the_clock_was_started(monkeypatch):
    """A row that an evaluation interrupts has all its sums, but its speed excludes that time."""
    recorder, now = Recorder(), [0.0]
    monkeypatch.setattr(metrics.time, "perf_counter", lambda: now[0])
    metering = MetricAverager(recorder, 4, flops_per_token=2.0, peak=4.0, skips=0)
    sums = dict(loss_sum=6.0, weight_sum=5.0, bytes_sum=4.0, lr=1.0, grad_norm=1.0)
    for step, seconds in ((1, 10.0), (2, 10.0), (3, 10.0), (4, 2.0)):
        now[0] += seconds
        if step == 4:
            metering.wait()
            metering.reset_clock()
            now[0] += seconds
        metering.push(step, sums)
    metering.wait()
    assert [
        (r["step"], r["loss"], r["tokens_per_s"], r["share_of_peak"])
        for r in recorder.rows
    ] == [(4, 6 / 5, 5 / 2, 5 / 4)]


def test_a_row_holds_the_time_of_its_own_updates_where_they_run_while_they_are_called():
    recorder = Recorder()

    def done(**sums):
        return jax.block_until_ready(jax.tree.map(jnp.asarray, sums))

    train(recorder, 0, 3, sums_type=done, log=1, save=0)
    assert recorder.calls == [
        ("update", 1),
        ("row", 1),
        ("update", 2),
        ("row", 2),
        ("update", 3),
        ("row", 3),
        ("save", 3),
    ]


def test_an_empty_batch_is_counted_and_is_neither_an_update_nor_a_divergence():
    recorder = Recorder()
    train(recorder, 0, 7, log=2, save=0, skips=2, empty=lambda batch: batch != 3)
    assert [
        (r["step"], r.get("empty"), r.get("skipped"), r.get("loss"), r.get("grad_norm"))
        for r in recorder.rows
    ] == [
        (2, 2, None, None, None),
        (4, 1, None, 6.0, 3.0),  # of update 3 alone
        (6, 2, None, None, None),
        (7, 1, None, None, None),
    ]
    assert (
        recorder.rows[1]["lr"],
        recorder.rows[1]["router_busiest"],
        recorder.rows[1]["tokens_per_s"] > 0,
    ) == (4, 3, True)
    diverged = Recorder()
    with pytest.raises(
        Diverged
    ) as error:  # the empty ones neither end a row of failures nor belong to it
        train(
            diverged,
            0,
            9,
            log=1,
            save=0,
            skipped=1.0,
            skips=3,
            empty=lambda batch: batch in (1, 3, 5),
        )
    assert error.value.step == 2 and [
        r["skipped"] for r in diverged.rows if "skipped" in r
    ] == [
        1,
        1,
    ]


def test_evaluations_and_saves_see_the_state_of_their_step():
    recorder = Recorder()
    train(recorder, 2, 6, log=1, eval=3, save=2)
    assert [c for c in recorder.calls if c[0] == "save"] == [("save", 4), ("save", 6)]
    assert [(r["step"], r["score"]) for r in recorder.rows if "score" in r] == [
        (3, 3),
        (6, 6),
    ]
    assert [r["step"] for r in recorder.rows if "loss" in r] == [3, 4, 5, 6]


def test_no_update_is_left_out_of_a_row_and_a_resumed_run_writes_the_same_rows():
    recorder, resumed = Recorder(), Recorder()
    train(recorder, 0, 9, log=4, eval=2, save=5)
    assert [(r["step"], r["loss"]) for r in recorder.rows if "loss" in r] == [
        (4, 5.0),
        (5, 10.0),
        (8, 14.0),
        (9, 18.0),
    ]
    train(resumed, 5, 9, log=4, eval=2, save=5)
    untimed = [
        [
            {k: r[k] for k in r if k not in ("tokens_per_s", "share_of_peak")}
            for r in t.rows
            if r["step"] > 5
        ]
        for t in (recorder, resumed)
    ]
    assert untimed[0] == untimed[1]


@pytest.mark.parametrize("at", range(12))
def test_a_run_stopped_after_any_update_and_started_again_writes_the_same_rows(at):
    whole, first, second, every = (
        Recorder(),
        Recorder(),
        Recorder(),
        dict(log=4, eval=3, save=5),
    )
    train(whole, 0, 12, **every)
    with pytest.raises(Preempted) as stopped:
        train(
            first,
            0,
            12,
            stop=lambda: len([c for c in first.calls if c[0] == "update"]) >= at,
            **every,
        )
    assert stopped.value.step == at and (at == 0 or ("save", at) in first.calls)
    second.debt = first.debt
    train(second, at, 12, **every)
    untimed = [
        [{k: r[k] for k in r if k not in ("tokens_per_s", "share_of_peak")} for r in t]
        for t in (whole.rows, first.rows + second.rows)
    ]
    assert untimed[0] == untimed[1]


@pytest.mark.parametrize("stopped", [False, True])
def test_no_batch_is_read_beyond_the_last_and_no_thread_stays(stopped):
    recorder, before = Recorder(), threading.active_count()
    batches = iter(range(1, 100))
    with pytest.raises(Preempted) if stopped else contextlib.nullcontext():
        train(
            recorder,
            0,
            3,
            batches=batches,
            stop=lambda: stopped and len(recorder.calls) > 0,
            log=1,
        )
    for thread in threading.enumerate():
        if thread.name == "batches":
            thread.join(timeout=10)
    assert threading.active_count() <= before and next(batches) == (3 if stopped else 4)


def test_an_evaluation_that_is_cut_short_is_owed_and_made_up_for():
    recorder, again = Recorder(), Recorder()

    def cut(state, step):
        raise Preempted()

    with pytest.raises(Preempted) as stopped:
        train(recorder, 0, 6, evaluate=cut, log=4, eval=2, save=5)
    assert (
        stopped.value.step == 2
        and recorder.debt["evaluation"]
        and len(recorder.debt["rows"]) == 2
        and ("save", 2) in recorder.calls
    )
    again.debt = recorder.debt
    train(again, 2, 6, log=4, eval=2, save=5)
    assert [(r["step"], r.get("score"), r.get("loss")) for r in again.rows][:2] == [
        (2, 2, None),
        (4, None, 5.0),
    ]


def test_mistakes():
    for wrong in (dict(log=0), dict(keep=0), dict(eval=-1)):
        with pytest.raises(ValueError, match="must"):
            Intervals(**wrong)


def test_a_batch_under_way_is_read_before_the_run_ends():
    """Python aborts where it ends a thread that is inside XLA."""
    begun, released = threading.Event(), threading.Event()

    def batches():
        begun.set()
        released.wait(10)
        yield None

    reader = loop._Reader(batches(), 1)
    begun.wait(10)
    threading.Timer(0.02, released.set).start()
    reader.close()
    assert not reader._thread.is_alive()
