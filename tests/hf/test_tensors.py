"""Files of tensors: the index agrees with them or is refused, and a second copy of a tied tensor is compared, not dropped."""

import json

import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

from dlm import convert
from dlm.app import hf_import
from dlm.app.open_run import reopen
from dlm.core.contracts import Canvas
from dlm.core.errors import UserError
from dlm.hf import layouts, shards, weights
from tests.hf import published

A, B = np.arange(6, dtype=np.float32).reshape(2, 3), np.ones((2,), np.float32)
FOLDERS = {  # name: (files, the index, what is said; '' where it is accepted)
    "agrees": (dict(x=dict(a=A), y=dict(b=B)), dict(a="x", b="y"), ""),
    "lacks": (dict(x=dict(a=A), y=dict(b=B)), dict(a="x", b="y", c="y"), "y.safetensors lacks c"),
    "holds more": (
        dict(x=dict(a=A, c=B), y=dict(b=B)),
        dict(a="x", b="y"),
        "x.safetensors holds c",
    ),
    "in another file": (
        dict(x=dict(a=A, b=B), y=dict(c=B)),
        dict(a="x", b="y", c="y"),
        "x.safetensors holds b",
    ),
    "in two files": (
        dict(x=dict(a=A, b=B), y=dict(b=B + 1)),
        dict(a="x", b="y"),
        "x.safetensors holds b",
    ),
    "another model beside": (
        dict(x=dict(a=A), model=dict(a=A + 1)),
        dict(a="x"),
        "keep the one that is meant",
    ),
    "an index of one file": (dict(model=dict(a=A, b=B)), dict(a="model", b="model"), ""),
    "another file, unnamed": (dict(x=dict(a=A), consolidated=dict(a=A + 1)), dict(a="x"), ""),
}


@pytest.mark.parametrize("name", FOLDERS)
def test_an_index_agrees_with_its_files(name, tmp_path):
    files, index, said = FOLDERS[name]
    for file, held in files.items():
        safetensors.numpy.save_file(held, tmp_path / f"{file}.safetensors")
    (tmp_path / shards.INDEX).write_text(
        json.dumps(dict(weight_map={k: f"{file}.safetensors" for k, file in index.items()}))
    )
    if said:
        with pytest.raises(UserError, match=said):
            shards.tensors(tmp_path)
    else:
        found = shards.tensors(tmp_path)
        assert found.keys() == index.keys() and all(
            (found[k].read() == files[file][k]).all() for k, file in index.items()
        )


HEADERS = [
    dict(dtype="F32", shape=[2, 3.0], data_offsets=[0, 24]),
    dict(dtype="F32", shape=[True, 6], data_offsets=[0, 24]),
    dict(dtype="F32", shape=[2, 3], data_offsets=[0.0, 24]),
    dict(dtype="F32", shape=[-2, -3], data_offsets=[0, 24]),
    dict(dtype="F32", shape=[2, 3], data_offsets=[8, 32]),
    dict(dtype="F32", shape=[2, 3], data_offsets=[0]),
    dict(dtype="F32", shape=[2, 4], data_offsets=[0, 24]),
    dict(dtype="F8_E4M3", shape=[24], data_offsets=[0, 24]),
    dict(dtype=["F32"], shape=[2, 3], data_offsets=[0, 24]),
    [1],
    None,
]


@pytest.mark.parametrize("told", HEADERS)
def test_a_header_that_is_not_so_is_one_line(told, tmp_path):
    text = json.dumps(dict(a=told)).encode()
    (tmp_path / shards.WHOLE).write_bytes(len(text).to_bytes(8, "little") + text + bytes(24))
    with pytest.raises(UserError, match="damaged header") as error:
        shards.tensors(tmp_path)
    assert "\n" not in str(error.value)


def test_two_tensors_are_the_same_if_all_their_numbers_are(tmp_path, monkeypatch):
    held = dict(
        a=A,
        copy=A,
        flat=A.reshape(6),
        half=A.astype(ml_dtypes.bfloat16),
        less=A + np.eye(2, 3, dtype=np.float32) * 1e-3,
    )
    held["last"] = np.where(A == 5, 6, A).astype(np.float32)
    held["odd"] = held["less"].astype(ml_dtypes.bfloat16)
    safetensors.numpy.save_file(held, tmp_path / shards.WHOLE)
    found = shards.tensors(tmp_path)
    for size in (2, 4, 2**24):
        monkeypatch.setattr(shards, "CHUNK", size)
        assert {name for name in held if shards.same(found["a"], found[name])} == {
            "a",
            "copy",
            "half",
        }


LLAMA = layouts.LAYOUTS["LlamaForCausalLM"]


def test_only_the_head_itself_is_a_copy_of_the_embedding():
    """A tensor whose name ends as the head's does is not one, nor are other frequencies than those that config.json says."""
    a, b = (shards.Tensor("x", 0, np.dtype("<f4"), (2, 2)) for _ in range(2))
    leaf = weights.Leaf(("embed_VD",), (2, 2), {"model.embed_tokens.weight": ()}, "V D")
    held = {
        "model.embed_tokens.weight": a,
        "lm_head.weight": b,
        "model.layers.0.self_attn.rotary_emb.inv_freq": b,
    }
    assert set(weights.check([leaf], held, "lm_head.weight", 2, "it")) == {
        "model.embed_tokens.weight"
    }
    for name in (
        "draft.lm_head.weight",
        "lm_head.weight_scale",
        "vision.rotary_emb.inv_freq",
        "model.rotary_emb.inv_freq.scale",
    ):
        with pytest.raises(UserError, match=f"does not know: {name}"):
            weights.check([leaf], held | {name: b}, "lm_head.weight", 2, "it")
    with pytest.raises(UserError, match="does not know: lm_head.weight"):
        weights.check([leaf], held, None, 2, "it")


@pytest.mark.slow
def test_a_head_of_its_own_is_kept_where_it_is_said_to_be_tied(tmp_path, capsys):
    """With a key that is let through: the run keeps that, and both go out as they came."""
    tensors = published.weights("llama")
    head = dict(tensors) | {
        "lm_head.weight": published.weights("llama", 1)["model.embed_tokens.weight"]
    }
    published.publish(tmp_path / "there", "llama", head, softcap=3.0)
    with pytest.raises(UserError, match="softcap=3.0"):
        hf_import.from_hf(tmp_path / "there", tmp_path / "run")
    words = [
        "from_hf",
        str(tmp_path / "there"),
        f"--workdir={tmp_path / 'run'}",
        "--ignore=softcap",
    ]
    convert.main(words)
    assert "lm_head.weight is another tensor than the embedding" in capsys.readouterr().err
    experiment, state = reopen(tmp_path / "run")
    assert experiment.run.nn.embeddings == "untied"
    ids_BL = np.random.default_rng(1).integers(0, 256, (2, 10))
    read_BL = np.concatenate([np.full((2, 1), experiment.run.nn.vocab.bos), ids_BL[:, :-1]], 1)
    canvas = Canvas(
        jnp.asarray(ids_BL, jnp.int32),
        jnp.zeros(ids_BL.shape),
        jnp.zeros(ids_BL.shape, bool),
        experiment.objective.visibility,
    )
    got_BLV = np.asarray(experiment.net(state.params)(canvas).prediction.logits_BLV)
    want_BLV = np.stack([published.says("llama", head, row) for row in read_BL])
    np.testing.assert_allclose(
        got_BLV[..., : published.EOS], want_BLV[..., : published.EOS], atol=1e-4
    )
    convert.main(["to_hf", str(tmp_path / "back"), f"--workdir={tmp_path / 'run'}"])
    assert (tmp_path / "back" / "config.json").read_text().split() == json.dumps(
        json.loads((tmp_path / "there" / "config.json").read_text()), indent=2
    ).split()
    assert {p.name for p in (tmp_path / "back").iterdir()} == {
        p.name for p in (tmp_path / "there").iterdir()
    }
    back = safetensors.numpy.load_file(tmp_path / "back" / "model.safetensors")
    assert back.keys() == head.keys() and all(
        back[name].tobytes() == x.tobytes() for name, x in head.items()
    )
    same = dict(tensors) | {"lm_head.weight": tensors["model.embed_tokens.weight"]}
    published.publish(tmp_path / "same", "llama", same)
    hf_import.from_hf(tmp_path / "same", tmp_path / "tied")
    assert (
        "another tensor" not in capsys.readouterr().err
        and reopen(tmp_path / "tied")[0].run.nn.embeddings == "tied"
    )
    with pytest.raises(UserError, match="--ignore is for from_hf"):
        convert.main(
            ["to_hf", str(tmp_path / "out"), f"--workdir={tmp_path / 'tied'}", "--ignore=x"]
        )
    with pytest.raises(UserError, match="--ignore=softcap: .*config.json has no such key"):
        convert.main(
            ["from_hf", str(tmp_path / "same"), f"--workdir={tmp_path / 'x'}", "--ignore=softcap"]
        )
