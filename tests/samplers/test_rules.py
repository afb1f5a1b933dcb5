"""Each rule against its definition in plain Python; windows, second passes, guidance."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dlm.core import keys
from dlm.core.config import build_member, to_plain
from dlm.core.contracts import Canvas, Dense, Output, Sampled, keep_top_k
from dlm.core.errors import UserError
from dlm.nn.visibility.block import Block
from dlm.nn.visibility.causal import Causal
from dlm.nn.visibility.full import Full
from dlm.samplers import generator, plan
from dlm.samplers.drivers.base import Tempered
from dlm.samplers.guidance import guided
from dlm.samplers.plan import Cache, Sampler, described
from dlm.samplers.rules.ancestral import Ancestral
from dlm.samplers.rules.base import StepView
from tests import tiny
from tests.laws.worlds import EACH_RULE, chi_square
from tests.samplers.test_blockwise import (
    EOS,
    KEY_B,
    MASK,
    PROCESS,
    B,
    L,
    neighbours,
    template,
)

rng = np.random.default_rng(7)
V = 5
P_BLV = rng.dirichlet(np.full(V, 0.15), size=(B, L)).astype(np.float32)
TOLD = Output(
    Dense(
        jnp.log(jnp.asarray(np.pad(np.maximum(P_BLV, 1e-9), ((0, 0), (0, 0), (0, 15)))))
    )
)
MASKED_BL = rng.random((B, L)) < 0.8
CANVAS = Canvas(
    jnp.where(MASKED_BL, MASK, 1), jnp.ones((B, L)), jnp.zeros((B, L), bool), Full()
)


def view(t=1.0, s=0.99, **changes):
    config = dict(
        canvas=replace(CANVAS, layout=CANVAS.layout.complete(L)),
        process=PROCESS,
        active_BR=jnp.ones((B, L), bool),
        t_B=jnp.full(B, t),
        s_B=jnp.full(B, s),
        log_prob_BR=jnp.zeros((B, L)),
    )
    return StepView(**config | changes)


def revealed(rule, moment=None):
    z_BL, _ = build_member(rule, "samplers.rules").step(
        KEY_B, TOLD, moment or view(), ()
    )
    return (np.asarray(z_BL) != MASK) & MASKED_BL


def surest(k_B):
    """The k surest masks of each row, ties to the left."""
    want_BL = np.zeros((B, L), bool)
    for b, k in enumerate(k_B):
        order = [
            i for i in np.argsort(-P_BLV[b].max(-1), kind="stable") if MASKED_BL[b, i]
        ]
        want_BL[b, order[: int(k)]] = True
    return want_BL


def meddled(rule) -> tuple[bool, bool]:
    """Returns whether a step changes an inactive position, and whether an active token.

    Half of the canvas is active, at two times.
    """
    outside = stands = False
    active_BL = np.random.default_rng(1).random((B, L)) < 0.5
    sure = Output(TOLD.prediction, heads=dict(quality=jnp.zeros((B, L))))
    for moment in (
        view(1.0, 0.5, active_BR=jnp.asarray(active_BL)),
        view(0.5, 0.0, active_BR=jnp.asarray(active_BL)),
    ):
        z_BL, _ = rule.step(KEY_B, sure, moment, rule.init(CANVAS))
        changed_BL = np.asarray(z_BL != CANVAS.z_BL)
        outside |= (changed_BL & ~active_BL).any()
        stands |= (changed_BL & active_BL & ~MASKED_BL).any()
    return bool(outside), bool(stands)


@pytest.mark.parametrize("config", EACH_RULE, ids=lambda r: r["name"])
def test_a_step_changes_nothing_but_what_is_active_and_what_stands_only_if_the_rule_says_so(
    config,
):
    rule = build_member(config, "samplers.rules", tiny.VOCAB)
    outside, stands = meddled(rule)
    assert not outside
    assert rule.edits_tokens or not stands


@pytest.mark.parametrize("everywhere", [False, True])
def test_a_rule_that_writes_what_stands_is_seen(everywhere):
    """Planted: it adds one to tokens that were revealed before, in the active set or everywhere."""

    class Planted(Ancestral):
        def step(self, key_B, output, moment, state):
            z_BL, state = super().step(key_B, output, moment, state)
            old_BL = moment.canvas.z_BL
            stood_BL = (old_BL != MASK) & (everywhere | moment.active_BR)
            return jnp.where(stood_BL, old_BL + 1, z_BL), state

    assert meddled(Planted()) == (everywhere, True)
    assert meddled(Ancestral()) == (False, False)


def test_threshold_takes_all_that_are_sure_and_always_one():
    for above in (0.0, 0.6, 0.9, 1.0):
        want_BL = (MASKED_BL & (P_BLV.max(-1) >= above)) | surest([1] * B)
        assert (revealed(dict(name="threshold", above=above)) == want_BL).all()
    half = revealed(dict(name="threshold", above=1.0), view(1.0, 0.5))
    assert (half == surest(np.ceil(MASKED_BL.sum(1) / 2))).all(), (
        "never slower than the schedule"
    )


def test_factor_takes_as_many_as_their_confidence_pays_for():
    for factor in (0.0, 0.5, 1.0, 3.0):
        k_B = []
        for b in range(B):
            sure = sorted(P_BLV[b, MASKED_BL[b]].max(-1), reverse=True)
            k_B.append(
                max(
                    [
                        n
                        for n in range(1, len(sure) + 1)
                        if (n + 1) * (1 - sure[n - 1]) < factor
                    ],
                    default=1,
                )
            )
        assert (revealed(dict(name="factor", factor=factor)) == surest(k_B)).all()


def test_an_entropy_budget_is_spent_and_not_overdrawn():
    entropy_BL = -(P_BLV * np.log(np.maximum(P_BLV, 1e-9))).sum(-1)
    for budget in (0.0, 0.2, 1.0, 100.0):
        got_BL = revealed(dict(name="entropy_bounded", budget=budget))
        for b in range(B):
            cost = np.sort(entropy_BL[b, MASKED_BL[b]])
            k = max(
                k
                for k in range(1, len(cost) + 1)
                if cost[:k].sum() - cost[:k].max() <= budget + 1e-6
            )
            assert (np.sort(entropy_BL[b, got_BL[b]]) == cost[:k]).all()
    assert (revealed(dict(name="entropy_bounded", budget=100.0)) == MASKED_BL).all()


def test_maskgit_begins_slowly():
    for s in (0.75, 0.5, 0.25):
        t = s + 0.25

        def left(t):
            return np.sin(np.pi / 2 * t)

        want_B = np.ceil(MASKED_BL.sum(1) * (1 - left(s) / left(t)) - 1e-3)
        assert (revealed("maskgit", view(t, s)).sum(1) == want_B).all()
    calm, shaken = (
        revealed(dict(name="maskgit", choice_noise=shake), view(1.0, 0.6))
        for shake in (0.0, 1e5)
    )
    assert (calm != shaken).any()
    assert (calm.sum(1) == shaken.sum(1)).all()


def test_planning_keeps_the_best_of_what_stands_and_what_would_come():
    log_BL = np.log(
        np.maximum(np.where(MASKED_BL, P_BLV.max(-1), P_BLV[:, :, 1]), 1e-9)
    )
    plain = Output(
        Dense(
            jnp.asarray(
                np.where(np.arange(20) < V, TOLD.prediction.logits_BLV, -np.inf)
            )
        )
    )
    cold = Output(Tempered(plain.prediction, temperature=0.0))
    for trust in (1.0, 0.0):
        score_BL = np.where(MASKED_BL, log_BL, trust * log_BL)
        rule = build_member(dict(name="planned", self_trust=trust), "samplers.rules")
        z_BL, _ = rule.step(KEY_B, cold, view(1.0, 0.4), ())
        stays_BL = np.asarray(z_BL) != MASK
        assert (stays_BL.sum(1) == L - int(0.4 * L)).all()
        for b in range(B):
            assert (
                score_BL[b, stays_BL[b]].min() >= score_BL[b, ~stays_BL[b]].max() - 1e-5
            )


def test_editing_replaces_what_it_is_sure_is_wrong():
    best_BL = P_BLV.argmax(-1)
    sure_BL = P_BLV.max(-1)
    rule = build_member(dict(name="editing", above=1.0, edit=0.7), "samplers.rules")
    z_BL = np.asarray(rule.step(KEY_B, TOLD, view(), ())[0])
    edit_BL = ~MASKED_BL & (best_BL != 1) & (sure_BL >= 0.7)
    assert edit_BL.any()
    assert (z_BL[edit_BL] == best_BL[edit_BL]).all()
    assert (z_BL[~MASKED_BL & ~edit_BL] == 1).all()
    assert ((z_BL != MASK) & MASKED_BL).sum() == B


def test_the_order_of_maskgit_is_shaken_by_s():
    """The first of three positions is i with probability ∝ p_i^(1/(choice_noise · s)).

    That is the law of the largest logarithm with Gumbel noise.
    """
    rows = 20_000
    s = 0.7
    p_L = np.array([0.2, 0.5, 0.9])
    p_LV = np.concatenate([p_L[:, None], np.repeat((1 - p_L[:, None]) / 19, 19, 1)], 1)
    plain = Tempered(
        Dense(jnp.broadcast_to(jnp.log(p_LV), (rows, 3, 20))), temperature=0.0
    )
    seen = Canvas(
        jnp.full((rows, 3), MASK),
        jnp.ones((rows, 3)),
        jnp.zeros((rows, 3), bool),
        Full(),
    )
    times = dict(t_B=jnp.ones(rows), s_B=jnp.full(rows, s))
    config = dict(
        canvas=seen, active_BR=~seen.frozen_BL, log_prob_BR=jnp.zeros((rows, 3))
    )
    moment = view(**config, **times)
    rule = build_member(
        dict(name="maskgit", schedule="linear", choice_noise=2.0), "samplers.rules"
    )
    key_B = keys.per_sample(keys.root(0), jnp.arange(rows))
    z_BL, _ = rule.step(key_B, Output(plain), moment, ())
    first_BL = np.asarray(z_BL) != MASK
    assert (first_BL.sum(1) == 1).all()
    assert chi_square(first_BL.sum(0), p_L ** (1 / (2.0 * s))) > 1e-4


def test_which_tokens_come_back():
    """One step of each rule whose σ depends on the tokens; the masks stay as they are."""
    log_BL = np.log(rng.uniform(0.05, 1, (B, L)))
    plain = Output(
        TOLD.prediction, heads=dict(quality=jnp.asarray(np.log(P_BLV[..., 1]) + 1))
    )

    def rate(t=0.6, s=0.3, **rule):
        # α = 1 − t under the linear schedule.
        moment = view(t, s, log_prob_BR=jnp.asarray(log_BL))
        return np.asarray(build_member(rule, "samplers.remask").sigma(plain, moment))

    weight_BL = np.where(
        MASKED_BL, 0, np.exp(-np.exp(log_BL))
    )  # the least certain most of all
    share_BL = weight_BL / weight_BL.sum(1, keepdims=True)
    np.testing.assert_allclose(
        rate(name="confidence", eta=0.5), 0.5 * (0.3 / 0.4) * share_BL, rtol=1e-5
    )
    switched = [
        rate(1.0, 0.99, name="switch", eta=0.5, begin=begin) for begin in (1.0, 0.999)
    ]  # the step is that from t = 1 to s = 0.99
    assert (switched[0] == 0.5).all() and not switched[1].any(), (
        "it begins with the step that begins at its time, and not with the next"
    )
    want_BL = ~MASKED_BL & (P_BLV[:, :, 1] < 0.2)
    assert want_BL.any()
    assert (rate(name="low_confidence", threshold=0.2) == want_BL).all()
    quality_BL = np.where(MASKED_BL, 2, 1 / (1 + np.exp(-np.log(P_BLV[..., 1]) - 1)))
    for share, below in ((0.3, 1.0), (1.0, 0.25)):
        worst_BL = np.argsort(np.argsort(quality_BL, 1), 1) < np.ceil(
            share * (~MASKED_BL).sum(1, keepdims=True) - 1e-3
        )
        want_BL = ~MASKED_BL & worst_BL & (quality_BL < below)
        assert want_BL.any()
        assert (rate(name="quality", fraction=share, threshold=below) == want_BL).all()


def test_correcting_puts_the_surest_that_differs():
    for tokens in (1, 2):
        rule = build_member(dict(name="correcting", tokens=tokens), "samplers.rules")
        z_BL, _ = rule.step(KEY_B, TOLD, view(), ())
        assert ((np.asarray(z_BL) != np.asarray(CANVAS.z_BL)).sum(1) > 0).all()
        assert ((np.asarray(z_BL) != np.asarray(CANVAS.z_BL)).sum(1) <= tokens).all()


@pytest.mark.slow
def test_first_hits_are_told_as_times():
    """With one position a step the k-th hit is a product of k factors u^(1/n).

    Its mean is that of an order statistic.
    """
    seen = []
    rows = 2000
    sampler = Sampler(build_member("first_hitting", "samplers.rules"), steps=4)

    def net(canvas):
        jax.debug.callback(
            lambda t_BL: seen.append(np.asarray(t_BL)[:, 0]), canvas.t_BL
        )
        return Output(Dense(jnp.zeros((rows, 4, 20))))

    z_BL = jnp.full((rows, 4), MASK, jnp.int32)
    canvas = Canvas(z_BL, jnp.ones(z_BL.shape), z_BL < 0, Full())
    jax.block_until_ready(
        generator.generate(
            net,
            sampler,
            PROCESS,
            canvas,
            keys.per_sample(keys.root(0), jnp.arange(rows)),
        )
    )
    jax.effects_barrier()
    means = [t.mean() for t in seen]
    np.testing.assert_allclose(means, [1, 4 / 5, 3 / 5, 2 / 5], atol=0.02)
    assert all(
        (after <= before).all()
        for before, after in zip(seen[:-1], seen[1:], strict=True)
    )
    for noise in (
        dict(name="mask", schedule="cosine"),
        dict(name="mask", schedule="polynomial"),
        dict(name="mask", schedule="geometric"),
    ):
        process = build_member(noise, "noise", tiny.VOCAB)
        t_T = jnp.linspace(0.01, 0.9, 9)
        np.testing.assert_allclose(
            process.schedule.time_of(process.schedule.noised(t_T)), t_T, rtol=1e-3
        )


# ----------------------------------------------------------------------- windows, passes, guidance


def run(anchors=None, **settings):
    rule = build_member(settings.pop("rule", "threshold"), "samplers.rules")
    start = template(anchors or {})
    sampled = jax.jit(
        partial(
            generator.generate,
            neighbours,
            Sampler(rule=rule, **settings),
            PROCESS,
            trace=True,
        )
    )(start, KEY_B)
    return sampled, np.concatenate(
        [start.z_BL[None], sampled.trace[0][: int(sampled.trace[3])]]
    )


@pytest.mark.slow
def test_a_sliding_window_begins_at_the_first_mask():
    """Blocks wait for their last position; a window slides as soon as its first is decided."""
    sampled, z_TBL = run(
        {0: 3, 6: 1},
        window="sliding",
        block=3,
        steps=3,
        rule=dict(name="threshold", above=0.5),
    )
    assert not (z_TBL[-1] == MASK).any()
    assert int(sampled.nfe) <= 8
    for before, after in zip(z_TBL[:-1], z_TBL[1:], strict=True):
        for b in range(B):
            if not (before[b] == MASK).any():
                continue
            changed, first = (
                np.flatnonzero(before[b] != after[b]),
                int((before[b] == MASK).argmax()),
            )
            assert len(changed)
            assert min(first, L - 3) <= changed.min()
            assert changed.max() < min(first, L - 3) + 3
    for wrong in (
        dict(rule="ancestral", block=3),
        dict(block=0),
        dict(block=3, remask=build_member("cap", "samplers.remask")),
    ):
        with pytest.raises(ValueError, match="window='sliding' needs"):
            Sampler(
                **dict(
                    rule=build_member(wrong.pop("rule", "threshold"), "samplers.rules"),
                    window="sliding",
                )
                | wrong
            )


@pytest.mark.slow
def test_a_second_pass_reopens_what_the_first_was_least_sure_of():
    draft = dict(rule="ancestral", block=2, steps=1)
    first, _ = run({3: 7}, **draft)
    again = Sampler(
        build_member("ancestral", "samplers.rules"), steps=4, remask_fraction=0.5
    )
    both, z_TBL = run({3: 7}, **draft, next_pass=again)
    drafted_BL = np.asarray(first.canvas.z_BL)
    passes = int(first.trace[3])
    tiny.identical(z_TBL[passes], drafted_BL)
    changed_BL = (
        z_TBL[passes + 1] != drafted_BL
    )  # what was opened again is seen before it is filled
    assert (changed_BL.sum(1) == 5).all()
    assert (z_TBL[passes + 1][changed_BL] == MASK).all()
    log_BL = np.where(
        np.asarray(template({3: 7}).frozen_BL), np.inf, np.asarray(first.log_prob_BL)
    )
    worst_BL = np.argsort(np.argsort(log_BL, 1), 1) < 5  # of nine that were written
    assert changed_BL.any()
    assert (worst_BL | ~changed_BL).all()
    assert (np.asarray(both.canvas.z_BL) != MASK).all()
    assert int(both.nfe) == int(both.trace[3]) - 1 <= passes + 4
    assert (np.diff(both.trace[2][: int(both.trace[3])]) < 1e-6).all()


def test_what_is_opened_again_is_written_and_the_least_certain():
    """Neither anchors nor masks are; a new mask has log-probability 0, the others keep theirs."""
    frozen_BL = ~MASKED_BL & (np.arange(L) % 3 == 0)
    log_BL = np.where(MASKED_BL | frozen_BL, 0, np.log(rng.uniform(0.05, 1, (B, L))))
    for share in (0.4, 1.0):
        start = replace(CANVAS, frozen_BL=jnp.asarray(frozen_BL))
        written = Sampled(start, jnp.asarray(log_BL, jnp.float32), jnp.int32(9))
        done = generator.remasked_text(written, share, PROCESS)
        canvas = done.canvas
        log_prob_BL = done.log_prob_BL
        again_BL = np.zeros((B, L), bool)
        for b in range(B):
            written = [
                i for i in np.argsort(log_BL[b]) if not (MASKED_BL | frozen_BL)[b, i]
            ]
            again_BL[b, written[: int(np.ceil(share * len(written)))]] = True
        assert again_BL.any()
        assert ((np.asarray(canvas.z_BL) == MASK) == MASKED_BL | again_BL).all()
        np.testing.assert_allclose(
            log_prob_BL, np.where(again_BL, 0, log_BL), rtol=1e-6
        )


@pytest.mark.slow
def test_top_k_keeps_the_likeliest():
    stays_BLV = np.isfinite(keep_top_k(TOLD.prediction.logits_BLV, 2))
    assert (stays_BLV.sum(-1) == 2).all()
    assert (stays_BLV.argmax(-1) <= np.asarray(TOLD.prediction.argmax())).all()
    mode = run(steps=4, rule="ancestral", top_k=1)[0].canvas.z_BL
    tiny.identical(mode, run(steps=4, rule="ancestral", temperature=0.0)[0].canvas.z_BL)


@pytest.mark.slow
def test_guidance_weighs_the_prompt():
    start, vocab = (
        template({3: 7, 8: EOS}),
        replace(tiny.VOCAB, pad=EOS),
    )  # an anchor is no padding, though it has its id
    plain, blank = (
        neighbours(tiny.under(c, None)).prediction for c in (start, template({}))
    )
    for w in (-1.0, 0.5):
        output = guided(neighbours, w, vocab)(tiny.under(start, Full()))
        prediction = output.prediction
        tiny.close(
            output.heads["quality"],
            neighbours(tiny.under(start, Full())).heads["quality"],
        )
        want_BLV = (1 + w) * jax.nn.log_softmax(
            plain.logits_BLV, -1
        ) - w * jax.nn.log_softmax(blank.logits_BLV, -1)
        finite = np.isfinite(np.asarray(plain.logits_BLV))
        np.testing.assert_allclose(
            np.asarray(prediction.logits_BLV)[finite],
            np.asarray(want_BLV)[finite],
            atol=1e-5,
        )
        assert not np.isfinite(np.asarray(prediction.logits_BLV)[~finite]).any()
    assert int(run({3: 7}, guidance=0.5, steps=2, rule="ancestral")[0].nfe) == 4, (
        "a guided pass is two"
    )


@pytest.mark.slow
def test_a_row_is_done_when_its_text_has_ended():
    """All rows end in the first block; no later block is computed, and padding follows the end."""

    def eos_at_two(canvas):
        id_L = jnp.where(jnp.arange(L) == 2, EOS, 5)
        return Output(
            Dense(
                jnp.where(jnp.arange(20) == id_L[:, None], 0.0, -30.0)
                + jnp.zeros((B, L, 1))
            )
        )

    for settings, passes in (
        (dict(block=5, steps=5), 5),
        (dict(block=0, steps=10), 10),
    ):
        sampler = Sampler(build_member("ordered", "samplers.rules"), **settings)
        done = generator.generate(
            eos_at_two, sampler, PROCESS, template({}), KEY_B, stop=True
        )
        assert int(done.nfe) == 3 < passes
        assert (done.canvas.z_BL[:, 3:] == tiny.VOCAB.pad).all()
        assert (done.log_prob_BL[:, 3:] == 0).all()
        assert (done.canvas.z_BL[:, 2] == EOS).all()
        anchored = generator.generate(
            eos_at_two, sampler, PROCESS, template({7: 5}), KEY_B, stop=True
        )
        assert (anchored.canvas.z_BL != tiny.VOCAB.pad).all(), (
            "an end between anchors ends nothing"
        )


def test_what_does_not_go_together_is_refused_by_name():
    causal = Causal()
    blocks = Block(size=4)
    hybrid = build_member("hybrid", "noise", tiny.VOCAB)
    cap = build_member("cap", "samplers.remask")

    def refused(words, process=PROCESS, mask=Full(), rule="ancestral", **settings):
        with pytest.raises(UserError, match=words):
            plan.resolve(
                Sampler(build_member(rule, "samplers.rules"), **settings), process, mask
            )

    def cache(**c):
        return dict(cache=Cache(**c))

    refused("planned fills masks", hybrid, rule="planned")
    refused("remask=samplers.remask.cap needs masks", hybrid, remask=cap)
    refused("one schedule for all", w_learned(), rule="first_hitting")
    refused(
        "kind='dual' is for models that attend to the whole",
        mask=blocks,
        **cache(kind="dual"),
    )
    refused(
        "kind='exact' needs a model that attends to nothing later",
        **cache(kind="exact"),
    )
    refused("guidance=1.0 needs", mask=blocks, guidance=1.0)
    refused(
        "'sliding' needs a model",
        mask=blocks,
        rule="threshold",
        window="sliding",
        block=4,
    )
    refused(
        "'sliding' is compatible with",
        rule="threshold",
        window="sliding",
        block=4,
        **cache(kind="dual"),
    )
    refused("writes once", mask=causal, block=1, steps=1, remask=cap)
    with pytest.raises(ValueError, match="refresh=2 is for"):
        cache(kind="none", refresh=2)
    with pytest.raises(ValueError, match="'delayed' computes masks only"):
        Sampler(
            build_member("ancestral", "samplers.rules"),
            remask=cap,
            **cache(kind="delayed"),
        )


def w_learned():
    return build_member("learned", "objectives", tiny.VOCAB).process


def test_settings_are_told_where_they_are_not_as_usual():
    then = Sampler(build_member("correcting", "samplers.rules"), steps=9)
    one = Sampler(
        build_member("threshold", "samplers.rules"),
        build_member("cap", "samplers.remask"),
        cache=Cache("dual", 4),
        top_p=0.9,
        next_pass=then,
    )
    assert described(to_plain(one)) == {
        "rule": "threshold (above 0.9, confidence top)",
        "remask": "cap (eta 0.02)",
        "steps": "64",
        "top_p": "0.9",
        "cache.kind": "dual",
        "cache.refresh": "4",
        "next_pass.rule": "correcting (tokens 1)",
        "next_pass.steps": "9",
    }
