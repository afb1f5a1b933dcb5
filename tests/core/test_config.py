"""Configs: one line names the field of a mistake and the remedy; config.json is read as written."""

import json

import pytest

from dlm.core.config import (
    build_member,
    choices,
    list_differences,
    load_recipe,
    override,
    to_json,
    to_plain,
)
from dlm.core.errors import UserError
from dlm.core.run import build_run
from dlm.noise.schedules.cosine import Cosine
from tests import tiny


def run(**changes):
    return build_run(tiny.recipe("corpus.txt", **changes))


@pytest.mark.parametrize(
    "changes, said",
    [
        (
            dict(optim__lrr=1.0),
            r"unknown field config.optim.lrr \(did you mean 'lr'\?\); "
            r"OptimizerConfig has kind, lr,",
        ),
        (dict(step=3), r"unknown field config.step \(did you mean 'steps'\?\)"),
        (
            dict(objective__process__schedul="cosine"),
            r"config.objective.process.schedul \(did you mean 'schedule'\?\)",
        ),
        (
            dict(nn__attention__head=2),
            r"config.nn.attention.head \(did you mean 'heads'\?\)",
        ),
        (dict(steps="many"), "config.steps must be of type int, not 'many'"),
        (dict(steps=1.5), "config.steps must be of type int, not 1.5"),
        (dict(steps=True), "config.steps must be of type int, not True"),
        (dict(steps=float("inf")), "config.steps must be of type int"),
        (
            dict(optim__lr=float("inf")),
            "config.optim.lr must be of type float, not inf",
        ),
        (
            dict(optim__lr=float("nan")),
            "config.optim.lr must be of type float, not nan",
        ),
        (dict(optim__lr=10**400), "config.optim.lr must be of type float, not 1000"),
        (dict(optim={"l\u2028r": 1}), r"unknown field config.optim.'l\\u2028r'"),
        (dict(steps=None), "config.steps must be of type int, not None"),
        (dict(steps=0), "config: steps must be at least 1, not 0"),
        (dict(optim__lr="fast"), "config.optim.lr must be of type float, not 'fast'"),
        (
            dict(optim__kind="adam"),
            r"config.optim.kind must be adamw \| muon, not 'adam' \(did you mean 'adamw'\?\)",
        ),
        (dict(optim=3), "config.optim is a section, not 3"),
        (dict(optim__ema="a"), "config.optim.ema is a section, not 'a'"),
        (dict(optim__ema=1), "config.optim.ema: decay=1.0 must be in"),
        (dict(nn__ffn=3), "config.nn.ffn is a section, not 3"),
        (dict(evals=3), "config.evals must be a dictionary of evals, not 3"),
        (dict(evals=dict(bound=3)), "config.evals.bound is a section, not 3"),
        (
            dict(evals=dict(bond={})),
            r"config.evals.bond: no evals 'evals.bond' \(did you mean 'bound'\?\)",
        ),
        (
            dict(objective="maskd"),
            r"config.objective: no objectives 'objectives.maskd' \(did you mean 'masked'\?\)",
        ),
        (
            dict(objective="noise.mask"),
            "config.objective: no objectives 'noise.mask'",
        ),
        (dict(objective="os.path"), "config.objective: no objectives 'os.path'"),
        (dict(objective="objectives.__init__"), "config.objective: no objectives"),
        (
            dict(objective=None),
            "config.objective must name a member of objectives, such as 'adapted', not None",
        ),
        (dict(text=None), "config.text must name a member of text, .* not None"),
        (
            dict(objective=dict(name=3)),
            "config.objective must name a member of objectives",
        ),
        (dict(text=dict(size=300)), "unknown field config.text.size; Bytes has"),
        (
            dict(nn__attention__heads=3, nn__attention__kv_heads=2),
            "config.nn.attention: heads=3 must be a multiple of kv_heads=2",
        ),
        (dict(optim__lr=-1.0), "config.optim: lr and muon_lr must be positive"),
        (
            dict(objective__process__schedule="lineal"),
            r"process.schedule: no noise.schedules .*lineal' \(did you mean 'linear'\?\)",
        ),
        (
            dict(data__source__paths=()),
            "config.data.source: paths must name at least one file",
        ),
        (
            dict(data__source__paths=(1,)),
            r"config.data.source.paths\[0\] must be of type str, not 1",
        ),
        (dict(sampler__steps=0), "config.sampler: steps=0"),
        (dict(intervals__log=0), "config.intervals: log and keep"),
        (dict(mesh__tensor=0), "config.mesh: mesh axes"),
        (dict(seed=["a"] * 999), r"config.seed must be of type int, not .{120}…$"),
    ],
    ids=str,
)
def test_mistakes_are_one_line_and_name_the_field(changes, said):
    with pytest.raises(UserError, match=said) as error:
        run(**changes)
    assert "\n" not in str(error.value)


def test_a_number_of_thousands_of_digits_is_told():
    with pytest.raises(
        UserError,
        match="config.optim.lr must be of type float, not a value of type tuple",
    ):
        run(optim__lr=[10**5000])


def test_missing_fields_and_sections():
    with pytest.raises(UserError, match="config.steps is missing and has no default"):
        build_run(dict(seed=1))
    with pytest.raises(UserError, match="config.data.source.paths is missing"):
        run(data__source="local")
    assert build_run(dict(steps=1)) == build_run(
        dict(steps=1, optim=None, nn={}, data=None)
    )
    with pytest.raises(UserError, match="a recipe returns a ConfigDict"):
        build_run([])


def test_kind_conversions():
    result = run(
        steps=1e3,
        optim__lr=1,
        data__source__paths=["a", "b"],
        nn__time=None,
        nn__compute__remat=None,
    )
    assert (
        result.steps == 1000
        and type(result.steps) is int
        and type(result.optim.lr) is float
    )
    assert result.data.source.paths == ("a", "b") and run(
        data__source__paths="a"
    ).data.source.paths == ("a",)
    assert result.nn.time == result.nn.compute.remat == "none"
    assert result.data.source.held_out_paths is None and run(
        data__source__held_out_paths=["x"]
    ).data.source.held_out_paths == ("x",)


def test_members_by_any_of_their_names():
    names = ["ar", "objectives.ar", dict(name="ar"), dict(name="objectives.ar")]
    assert len({run(objective=name).objective for name in names}) == 1
    assert build_member("mask", "noise", tiny.VOCAB) == build_member(
        dict(name="noise.mask", schedule="linear"), "noise", tiny.VOCAB
    )


def test_the_vocabulary_reaches_every_member():
    result = run(text=dict(name="bpe", size=300))
    assert (
        result.nn.vocab
        == result.objective.vocab
        == result.objective.process.vocab
        == result.text.vocab
        and result.nn.vocab.size == 300
    )


@pytest.mark.parametrize(
    "changes",
    [
        {},
        tiny.AR,
        dict(text=dict(name="bpe", size=300), evals=dict(bound={}, compression={})),
    ],
    ids=str,
)
def test_round_trip_through_json(changes):
    result = run(**changes)
    text = to_json(result)
    assert (
        build_run(json.loads(text)) == result
        and to_json(build_run(json.loads(text))) == text
    )
    assert (
        "vocab" not in text
        and list_differences(json.loads(text), to_plain(result)) == []
    )


def test_differences():
    a, b = to_plain(run()), to_plain(run(optim__lr=2e-2, data__source__paths=("x",)))
    assert list_differences(a, b) == [
        "data.source.paths: ['corpus.txt'] → ['x']",
        "optim.lr: 0.01 → 0.02",
    ]


def test_overrides():
    config = tiny.recipe("corpus.txt", objective="masked")
    for dotted, text in [
        ("steps", "1e3"),
        ("objective.process.schedule", "cosine"),
        ("nn.time", "none"),
        ("data.source.paths", "['a', 'b']"),
        ("data.source.held_out_paths", "None"),
        ("text", "bytes"),
        ("optim.lr", "3e-4"),
    ]:
        override(config, dotted, text)
    result = build_run(config)
    assert (
        result.steps,
        result.objective.process.schedule,
        result.nn.time,
        result.optim.lr,
    ) == (
        1000,
        Cosine(),
        "none",
        3e-4,
    )
    assert (
        result.data.source.paths == ("a", "b")
        and result.data.source.held_out_paths is None
    )
    override(config, "objective.name", "None")
    assert config["objective"]["name"] is None
    override(config, "data.source.name", "1")
    assert config["data"]["source"]["name"] == "1", "a text stays a text"
    with pytest.raises(
        UserError,
        match="config.steps is not a section, so config.steps.x cannot be set",
    ):
        override(config, "steps.x", "1")


def test_recipes(tmp_path):
    with pytest.raises(
        UserError,
        match=r"no recipe configs/quikstart.py \(did you mean 'quickstart.py'\?\)",
    ):
        load_recipe("configs/quikstart.py")
    (tmp_path / "empty.py").write_text("")
    with pytest.raises(UserError, match="has no get_config"):
        load_recipe(str(tmp_path / "empty.py"))
    allowed = dict(size=("tiny", "small"), data=("embedded", "tfds:*"))
    assert vars(choices("data=tfds:x", **allowed)) == dict(size="tiny", data="tfds:x")
    for arg, said in [
        ("sise=tiny", "did you mean 'size'"),
        ("size=smal", "did you mean 'small'"),
        ("tiny", "recipe argument 'tiny'"),
    ]:
        with pytest.raises(UserError, match=said):
            choices(arg, **allowed)
