"""Published weights in every layout that needs remote code elsewhere.

Logits are those of plain numpy, and the way back gives the same bytes.
"""

import json
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from tokenizers import pre_tokenizers

from dlm.app import hf_export, hf_import
from dlm.app.open_run import reopen
from dlm.core.contracts import Canvas
from dlm.core.errors import UserError
from dlm.nn.visibility import is_autoregressive
from dlm.samplers.requests import Request
from tests.hf import published

KINDS = list(published.CONFIGS)
TURN = 257  # an id that ends turns


@pytest.fixture(scope="module")
def converted(tmp_path_factory):
    """{kind: (published folder, its tensors, run directory)}, converted at the first request."""
    folder, folders = tmp_path_factory.mktemp("hf"), {}

    def get(kind):
        if kind not in folders:
            tensors = published.publish(folder / kind, kind)
            hf_import.from_hf(folder / kind, folder / f"{kind}-run")
            folders[kind] = folder / kind, tensors, folder / f"{kind}-run"
        return folders[kind]

    return get


def clean(ids_BL, visibility):
    """A canvas of decided tokens."""
    z_BL = jnp.asarray(ids_BL, jnp.int32)
    return Canvas(z_BL, jnp.zeros(z_BL.shape), jnp.zeros(z_BL.shape, bool), visibility)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_logits_are_those_of_the_published_description(kind, converted):
    _, tensors, run = converted(kind)
    experiment, state = reopen(run)
    ids_BL = np.random.default_rng(1).integers(0, 256, (2, 10))
    visibility = experiment.objective.visibility
    causal = is_autoregressive(visibility)
    if causal:  # ours reads the token before, at the beginning bos
        bos_B1 = np.full((2, 1), experiment.run.nn.vocab.bos)
        read_BL = np.concatenate([bos_B1, ids_BL[:, :-1]], 1)
    else:
        ids_BL[:, ::3] = published.MASK
        read_BL = ids_BL
    want_BLV = np.stack([published.says(kind, tensors, row) for row in read_BL])
    if (
        kind == "dream"
    ):  # a token is predicted from the one before it, the first from itself
        first_BLV, others_BLV = want_BLV[:, :1], want_BLV[:, :-1]
        want_BLV = np.concatenate([first_BLV, others_BLV], 1)
    output = experiment.net(state.params)(clean(ids_BL, visibility))
    got_BLV = np.asarray(output.prediction.logits_BLV)
    possible = np.isfinite(got_BLV[0, 0])
    mask = published.EOS + 1 if causal else published.MASK
    assert list(np.flatnonzero(~possible)) == [mask]
    np.testing.assert_allclose(
        got_BLV[..., possible], want_BLV[..., possible], atol=1e-4
    )


@pytest.mark.slow
def test_weights_land_sharded_on_the_mesh_of_the_config(converted, tmp_path):
    folder, _, run = converted("pangu")
    hf_import.from_hf(
        folder,
        tmp_path / "run",
        [
            ("config.mesh.data", "1"),
            ("config.mesh.fsdp", "2"),
            ("config.mesh.expert", "2"),
        ],
    )
    one, plain = reopen(run)
    many, spread = reopen(tmp_path / "run")
    layers = spread.params["layers"]
    assert layers["attention"]["q_DHK"].sharding.spec[1] == "fsdp"
    assert layers["experts"]["up_EDF"].sharding.spec[1:3] == ("expert", "fsdp")
    ids_BL = np.random.default_rng(2).integers(0, 256, (8, 6))
    canvas = clean(ids_BL, one.objective.visibility)

    def hidden(experiment, params):
        return jax.jit(lambda params: experiment.net(params)(canvas).hidden_BLD)(params)

    on_one, on_many = hidden(one, plain.params), hidden(many, spread.params)
    np.testing.assert_allclose(np.asarray(on_one), np.asarray(on_many), atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_the_way_back_gives_the_same_bytes(kind, converted, tmp_path):
    folder, tensors, run = converted(kind)
    hf_export.to_hf(tmp_path / "back", run, None, None, None, 20_000)
    index = json.loads(
        (tmp_path / "back" / "model.safetensors.index.json").read_text()
    )["weight_map"]
    back = {
        name: x
        for file in set(index.values())
        for name, x in safetensors.numpy.load_file(tmp_path / "back" / file).items()
    }
    assert back.keys() == tensors.keys() and len(set(index.values())) > 1
    for name, x in tensors.items():
        assert back[name].dtype == x.dtype and back[name].tobytes() == x.tobytes(), name
    assert (
        json.loads((tmp_path / "back" / "config.json").read_text())
        == published.CONFIGS[kind]
    )


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_layout_written_from_nothing_says_the_same_network(kind, converted, tmp_path):
    """Without the config.json that it came from, the one that is written describes the same run."""
    _, _, workdir = converted(kind)
    experiment, _ = reopen(workdir)
    (name,) = published.CONFIGS[kind]["architectures"]
    layout, config = hf_export.find_layout(experiment.run, {}, name)
    assert layout.architecture == name
    assert config.get("block_size") == published.CONFIGS[kind].get("block_size")


def turns(folder, kind):
    """A lookup a → b → end of a turn → u → c → d → end of a text.

    It is published with three files that do not agree on the ids that end a text.
    """
    signs = {
        sign: i for i, sign in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))
    }
    a, b, u, c, d = (signs[sign] for sign in "abucd")
    path = {
        a: b,
        b: TURN,
        TURN: u,
        u: c,
        c: d,
        d: published.EOS,
        published.EOS: a,
        published.MASK: TURN,
    }
    published.publish(
        folder,
        kind,
        published.lookup(kind, path),
        eos_token_id=[published.EOS, TURN],
        tie_word_embeddings=False,
    )
    broken(
        folder,
        "tokenizer.json",
        lambda text: json.dumps(marked(json.loads(text))).encode(),
    )
    (folder / "tokenizer_config.json").write_text(json.dumps(dict(eos_token="zz256")))
    (folder / "generation_config.json").write_text(
        json.dumps(dict(eos_token_id=[TURN + 1, TURN]))
    )


def marked(tree):
    """The tree with its pieces 256, 257 and 258 as added tokens."""
    added = [
        dict(tree["added_tokens"][0], id=id, content=f"zz{id}")
        for id in (TURN - 1, TURN, TURN + 1)
    ]
    return tree | dict(added_tokens=[*added, *tree["added_tokens"]])


@pytest.mark.slow
@pytest.mark.parametrize("kind, prompt, passes", [("llama", "a", 2), ("sdar", "ab", 1)])
def test_each_id_that_ends_a_text_ends_it_and_the_list_goes_out_as_it_came_in(
    kind, prompt, passes, tmp_path, capsys
):
    turns(tmp_path / "it", kind)
    hf_import.from_hf(tmp_path / "it", tmp_path / "run")
    sources = "config.json says 270 and 257; generation_config.json says 258 and 257"
    line = f"a text ends at 270 and 257 and 258 and 256 ({sources}; tokenizer says 256)"
    assert line in capsys.readouterr().err
    experiment, state = reopen(tmp_path / "run")
    assert (
        experiment.run.nn.vocab.ends
        == experiment.tokenizer.vocab.ends
        == (published.EOS, TURN, TURN + 1, TURN - 1)
    )
    generator = experiment.generator(
        state.params, replace(experiment.run.sampler, temperature=0.0)
    )
    reply = generator([Request.prompt(prompt, 9)])[0]
    assert (reply.text, reply.nfe) == ("ab", passes), (
        "a published model reads its prompt at once, and stops at the end of a turn"
    )
    hf_export.to_hf(tmp_path / "back", tmp_path / "run", None, None, None, 10**9)
    for name in ("config.json", "generation_config.json"):
        assert json.loads((tmp_path / "back" / name).read_text()) == json.loads(
            (tmp_path / "it" / name).read_text()
        )
    assert hf_export.find_layout(
        experiment.run, {}, published.CONFIGS[kind]["architectures"][0]
    )[1]["eos_token_id"] == [
        published.EOS,
        TURN,
        TURN + 1,
        TURN - 1,
    ]


def broken(folder, file, change):
    path = folder / file
    path.write_bytes(change(path.read_bytes()))


def config(**changes):
    return lambda text: json.dumps(
        {k: v for k, v in (json.loads(text) | changes).items() if v != "-"}
    ).encode()


MISTAKES = {
    "cut": (lambda f: broken(f, "model.safetensors", lambda b: b[:-7]), "is cut short"),
    "no shard": (
        lambda f: (f / "model.safetensors").write_bytes(b"\x10"),
        "cut short or no safetensors",
    ),
    "header": (
        lambda f: broken(f, "model.safetensors", lambda b: b[:9] + b"?" + b[10:]),
        "damaged header",
    ),
    "long": (lambda f: broken(f, "model.safetensors", lambda b: b + b"0"), "too long"),
    "no config": (lambda f: (f / "config.json").unlink(), "config.json is missing"),
    "json": (
        lambda f: broken(f, "config.json", lambda b: b[:-3]),
        "config.json is damaged",
    ),
    "architecture": (
        lambda f: broken(f, "config.json", config(architectures=["GemmaForCausalLM"])),
        "unknown architecture 'GemmaForCausalLM'",
    ),
    "lacking": (
        lambda f: broken(f, "config.json", config(hidden_size="-")),
        "lacks hidden_size",
    ),
    "no number": (
        lambda f: broken(f, "config.json", config(hidden_size="big")),
        "hidden_size must be a whole number",
    ),
    "no heads": (
        lambda f: broken(f, "config.json", config(num_attention_heads=0)),
        "num_attention_heads must be a whole number from 1",
    ),
    "half a layer": (
        lambda f: broken(f, "config.json", config(num_hidden_layers=1.5)),
        "num_hidden_layers must be a whole number",
    ),
    "rope of words": (
        lambda f: broken(f, "config.json", config(rope_scaling="fast")),
        "rope_scaling must be an object",
    ),
    "positions": (
        lambda f: broken(f, "config.json", config(max_position_embeddings=64.5)),
        "max_position_embeddings must be a whole",
    ),
    "deep": (lambda f: (f / "config.json").write_text("[" * 100_000), "is damaged"),
    "list": (lambda f: (f / "config.json").write_text("[1]"), "holds no JSON object"),
    "end": (
        lambda f: broken(f, "config.json", config(eos_token_id=[published.EOS, 290])),
        "eos_token_id=290, and the tokenizer has no such",
    ),
    "ends": (
        lambda f: broken(f, "config.json", config(eos_token_id=["</s>"])),
        "eos_token_id is an id or a list of ids, not",
    ),
    "last end": (
        lambda f: (f / "generation_config.json").write_text('{"eos_token_id": 299}'),
        "generation_config.json says eos_token_id=299, and the tokenizer has no such",
    ),
    "mask ends": (
        lambda f: broken(f, "config.json", config(mask_token_id=published.EOS)),
        "the mask must have an id of its own",
    ),
    "act": (
        lambda f: broken(f, "config.json", config(hidden_act="gelu")),
        "hidden_act='gelu' is not supported",
    ),
    "rope": (
        lambda f: broken(
            f, "config.json", config(rope_scaling=dict(rope_type="yarn", factor=2.0))
        ),
        "'yarn' is not supported",
    ),
    "shape": (
        lambda f: broken(f, "config.json", config(intermediate_size=23)),
        "has the shape",
    ),
    "layers": (
        lambda f: broken(f, "config.json", config(num_hidden_layers=3)),
        "lacks 9 of 29 tensors",
    ),
    "far more": (
        lambda f: broken(f, "config.json", config(num_hidden_layers=2**24)),
        "asks for more layers or experts",
    ),
    "fewer": (
        lambda f: broken(f, "config.json", config(num_hidden_layers=1)),
        "holds 9 tensors that this layout does not know",
    ),
    "quantised": (
        lambda f: broken(f, "config.json", config(quantization_config=dict(bits=4))),
        "quantised",
    ),
    "tokenizer": (lambda f: (f / "tokenizer.json").write_text("{"), "tokenizer"),
    "outside": (
        lambda f: (f / "model.safetensors.index.json").write_text(
            json.dumps(dict(weight_map=dict(a="../a.safetensors")))
        ),
        "leaves the directory",
    ),
    "lost": (
        lambda f: (f / "model.safetensors.index.json").write_text(
            json.dumps(dict(weight_map=dict(a="a.safetensors")))
        ),
        "not there",
    ),
    "map": (
        lambda f: (f / "model.safetensors.index.json").write_text("[]"),
        "no JSON object",
    ),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_one_line_and_leaves_nothing(name, tmp_path):
    spoil, words = MISTAKES[name]
    published.publish(tmp_path / "it", "llama")
    spoil(tmp_path / "it")
    with pytest.raises(UserError, match=words) as caught:
        hf_import.from_hf(tmp_path / "it", tmp_path / "run")
    assert "\n" not in str(caught.value) and sorted(
        p.name for p in tmp_path.iterdir()
    ) == ["it"]


@pytest.mark.slow
def test_what_goes_wrong_while_writing_leaves_nothing(converted, tmp_path, monkeypatch):
    folder, _, run = converted("llama")
    with pytest.raises(UserError, match="is there already"):
        hf_import.from_hf(folder, run)
    with pytest.raises(UserError, match="everything but config.text may be set"):
        hf_import.from_hf(
            folder, tmp_path / "other", [("config.text.name", "text.bytes")]
        )
    with pytest.raises(UserError, match="is there already"):
        hf_export.to_hf(folder, run, None, None, None, 10**9)
    with pytest.raises(
        UserError, match="would make of it nn.attention.bias: qkv, not none"
    ):
        hf_export.to_hf(tmp_path / "out", run, None, "Qwen2ForCausalLM", None, 10**9)
    with pytest.raises(UserError, match="did you mean 'Qwen3ForCausalLM'"):
        hf_export.to_hf(tmp_path / "out", run, None, "Qwen3ForCausalLN", None, 10**9)

    def fails(*_):
        raise OSError("no room")

    monkeypatch.setattr("dlm.hf.shards.Writer.put", fails)
    monkeypatch.setattr("dlm.runs.checksums.write", fails)
    with pytest.raises(OSError, match="no room"):
        hf_export.to_hf(tmp_path / "out", run, None, None, None, 10**9)
    with pytest.raises(OSError, match="no room"):
        hf_import.from_hf(folder, tmp_path / "again")
    assert not list(tmp_path.iterdir())
