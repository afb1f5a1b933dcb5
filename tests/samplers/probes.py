"""What the fields of samplers change; the rows of tests/test_fields.py ask here."""

from dataclasses import replace
from functools import partial

from dlm.core.config import build_member
from dlm.nn.visibility.block import Block
from dlm.samplers import generator
from dlm.samplers.plan import Cache, Sampler
from tests import tiny
from tests.samplers import test_blockwise as loops
from tests.samplers import test_cached_reader as reading
from tests.samplers import test_speculative as speculating


def sample(**changes):
    """What is drawn after a prompt, with the number of passes."""
    built = dict(
        rule=build_member(changes.pop("rule", "ancestral"), "samplers.rules"), steps=4
    )
    if "remask" in changes:
        built["remask"] = build_member(changes.pop("remask"), "samplers.remask")
    run = partial(
        generator.generate,
        loops.neighbours,
        Sampler(**built | changes),
        loops.PROCESS,
    )

    def drawn(canvas, key_B):
        done = run(canvas, key_B)
        return done.canvas.z_BL, done.nfe

    return tiny.program(drawn, loops.template({3: 7}), loops.KEY_B)


def rule(name, **options):
    """A probe: what is drawn by a rule."""

    def probe(**changes):
        return sample(rule=dict(name=name) | changes, **dict(steps=6) | options)

    probe.__name__ = name
    return probe


def remask(name, **options):
    """A probe: what is drawn where tokens come back."""

    def probe(**changes):
        return sample(remask=dict(name=name) | options | changes, steps=12)

    probe.__name__ = "remask_" + name
    return probe


def speculative(**changes):
    """What is drawn and verified, in an order."""
    mask = Block(size=1, any_order=True)
    one = Sampler(
        driver=build_member(dict(name="speculative") | changes, "samplers.drivers"),
        block=4,
        steps=2,
    )
    return tiny.program(
        speculating.drawing(one, mask, cached=False), reading.canvas(), reading.KEY_B
    )


def driven(driver="blockwise"):
    """What each driver draws from the same network."""
    mask = Block(size=1, any_order=True)
    one = Sampler(driver=driver, block=4, steps=2)
    return tiny.program(
        speculating.drawing(one, mask, cached=False), reading.canvas(), reading.KEY_B
    )


def second(**changes):
    """What a second pass leaves."""
    then = replace(
        Sampler(
            build_member("ancestral", "samplers.rules"), steps=3, remask_fraction=0.3
        ),
        **changes,
    )
    return sample(next_pass=then)


def cached(**changes):
    """What is drawn with a cache."""
    cache = replace(Cache("dual", 0), **changes)
    one = replace(
        reading.sampler(
            steps=4, rule=dict(name="confident", confidence="top"), temperature=0.0
        ),
        cache=cache,
    )
    return tiny.program(reading.drawing(one), reading.canvas(), reading.KEY_B)


def cached_as(cache=Cache("dual")):
    return cached(kind=cache.kind)


ROWS = {
    **{
        f"Sampler.{k}": (sample, v, {})
        for k, v in dict(
            rule="confident", steps=2, block=3, temperature=0.2, top_p=0.3, top_k=2
        ).items()
    },
    "Sampler.remask": (sample, dict(name="cap", eta=0.5), {}),
    "Sampler.window": (sample, "sliding", dict(block=3, rule="threshold")),
    "Sampler.driver": (driven, "speculative", {}),
    "Sampler.guidance": (sample, 2.0, {}),
    "Sampler.cache": (cached_as, Cache("prefix"), {}),
    "Sampler.next_pass": (
        sample,
        Sampler(
            build_member("ancestral", "samplers.rules"), steps=3, remask_fraction=0.5
        ),
        {},
    ),
    "Sampler.remask_fraction": (second, 0.9, {}),
    "Cache.kind": (cached, "prefix", {}),
    "Cache.refresh": (cached, 1, {}),
    "Confident.confidence": (rule("confident", steps=10), "entropy", {}),
    **{
        f"Ordered.{k}": (rule("ordered", steps=3), v, dict(order="shuffled"))
        for k, v in dict(order="right_to_left", seed=1).items()
    },
    **{
        f"Threshold.{k}": (rule("threshold", steps=9), v, dict(above=0.6))
        for k, v in dict(above=0.2, confidence="margin").items()
    },
    "Factor.factor": (rule("factor", steps=9), 3.0, {}),
    **{
        f"EntropyBounded.{k}": (rule("entropy_bounded", steps=9), v, {})
        for k, v in dict(budget=3.0, confidence="margin").items()
    },
    **{
        f"MaskGIT.{k}": (rule("maskgit"), v, {})
        for k, v in dict(schedule="linear", choice_noise=0.0).items()
    },
    **{
        f"Speculative.{k}": (speculative, v, dict(order="shuffled"))
        for k, v in dict(order="left_to_right", seed=1).items()
    },
    "Planned.self_trust": (rule("planned"), 0.0, {}),
    **{
        f"Editing.{k}": (rule("editing", steps=9), v, dict(edit=0.3))
        for k, v in dict(above=0.2, edit=1.0).items()
    },
    "Correcting.tokens": (rule("correcting"), 3, {}),
    "Cap.eta": (remask("cap"), 0.9, {}),
    "Rescale.eta": (remask("rescale"), 0.9, {}),
    "ConfidenceWeighted.eta": (remask("confidence"), 0.1, {}),
    **{
        f"Loop.{k}": (remask("loop", alpha=0.5), v, {})
        for k, v in dict(eta=0.9, begin=0.8, end=0.4, alpha=0.8).items()
    },
    **{
        f"Switch.{k}": (remask("switch", eta=0.6), v, {})
        for k, v in dict(eta=0.1, begin=0.2, strategy="rescale").items()
    },
    "LowConfidence.threshold": (remask("low_confidence"), 0.6, {}),
    **{
        f"QualityHead.{k}": (remask("quality", fraction=0.6), v, {})
        for k, v in dict(fraction=0.2, threshold=0.1).items()
    },
}
