"""Files of tensors: a wrong index is refused; a second copy of a tied tensor is compared."""

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

A = np.arange(6, dtype=np.float32).reshape(2, 3)
B = np.ones((2,), np.float32)
FOLDERS = {  # name: (files, the index, the error; '' where it is accepted)
    "agrees": (
        dict(x=dict(a=A), y=dict(b=B)),
        dict(a="x", b="y"),
        "",
    ),
    "lacks": (
        dict(x=dict(a=A), y=dict(b=B)),
        dict(a="x", b="y", c="y"),
        "y.safetensors lacks c",
    ),
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
    "an index of one file": (
        dict(model=dict(a=A, b=B)),
        dict(a="model", b="model"),
        "",
    ),
    "another file, unnamed": (
        dict(x=dict(a=A), consolidated=dict(a=A + 1)),
        dict(a="x"),
        "",
    ),
}


@pytest.mark.parametrize("name", FOLDERS)
def test_an_index_agrees_with_its_files(name, tmp_path):
    files, index, error = FOLDERS[name]
    for file, tensors in files.items():
        safetensors.numpy.save_file(tensors, tmp_path / f"{file}.safetensors")
    weight_map = {tensor: f"{file}.safetensors" for tensor, file in index.items()}
    text = json.dumps(dict(weight_map=weight_map))
    (tmp_path / shards.INDEX).write_text(text)
    if error:
        with pytest.raises(UserError, match=error):
            shards.tensors(tmp_path)
        return
    tensors = shards.tensors(tmp_path)
    assert tensors.keys() == index.keys()
    for tensor, file in index.items():
        assert (tensors[tensor].read() == files[file][tensor]).all()


def entry(shape, offsets, dtype="F32"):
    return dict(dtype=dtype, shape=shape, data_offsets=offsets)


ALL = [0, 24]
HEADERS = [
    entry([2, 3.0], ALL),
    entry([True, 6], ALL),
    entry([2, 3], [0.0, 24]),
    entry([-2, -3], ALL),
    entry([2, 3], [8, 32]),
    entry([2, 3], [0]),
    entry([2, 4], ALL),
    entry([24], ALL, "F8_E4M3"),
    entry([2, 3], ALL, ["F32"]),
    [1],
    None,
]


@pytest.mark.parametrize("header", HEADERS)
def test_a_header_that_is_not_so_is_one_line(header, tmp_path):
    text = json.dumps(dict(a=header)).encode()
    length = len(text).to_bytes(8, "little")
    (tmp_path / shards.WHOLE).write_bytes(length + text + bytes(24))
    with pytest.raises(UserError, match="damaged header") as error:
        shards.tensors(tmp_path)
    assert "\n" not in str(error.value)


def test_two_tensors_are_the_same_if_all_their_numbers_are(tmp_path, monkeypatch):
    less = A + np.eye(2, 3, dtype=np.float32) * 1e-3
    arrays = dict(
        a=A,
        copy=A,
        flat=A.reshape(6),
        half=A.astype(ml_dtypes.bfloat16),
        less=less,
        last=np.where(A == 5, 6, A).astype(np.float32),
        odd=less.astype(ml_dtypes.bfloat16),
    )
    safetensors.numpy.save_file(arrays, tmp_path / shards.WHOLE)
    tensors = shards.tensors(tmp_path)
    for size in (2, 4, 2**24):
        monkeypatch.setattr(shards, "CHUNK", size)
        same = {name for name in arrays if shards.same(tensors["a"], tensors[name])}
        assert same == {"a", "copy", "half"}


LLAMA = layouts.LAYOUTS["LlamaForCausalLM"]


def test_only_the_head_itself_is_a_copy_of_the_embedding():
    """A tensor with a similar name is none, nor are frequencies other than those of config.json."""
    tensor = shards.Tensor("x", 0, np.dtype("<f4"), (2, 2))
    embedding, head = "model.embed_tokens.weight", "lm_head.weight"
    leaf = weights.Leaf(("embed_VD",), (2, 2), {embedding: ()}, "V D")
    frequencies = "model.layers.0.self_attn.rotary_emb.inv_freq"
    tensors = dict.fromkeys((embedding, head, frequencies), tensor)
    assert set(weights.check([leaf], tensors, head, 2, "it")) == {embedding}
    for name in (
        "draft.lm_head.weight",
        "lm_head.weight_scale",
        "vision.rotary_emb.inv_freq",
        "model.rotary_emb.inv_freq.scale",
    ):
        with pytest.raises(UserError, match=f"does not know: {name}"):
            weights.check([leaf], tensors | {name: tensor}, head, 2, "it")
    with pytest.raises(UserError, match="does not know: lm_head.weight"):
        weights.check([leaf], tensors, None, 2, "it")


@pytest.fixture
def imported(tmp_path, capsys):
    """A model whose head is another tensor than the embedding, imported; (its tensors, folder)."""
    tensors = published.weights("llama")
    other = published.weights("llama", 1)
    head = other["model.embed_tokens.weight"]
    tensors = tensors | {"lm_head.weight": head}
    folder, run = tmp_path / "there", tmp_path / "run"
    published.publish(folder, "llama", tensors, softcap=3.0)
    with pytest.raises(UserError, match="softcap=3.0"):
        hf_import.from_hf(folder, run)
    convert.main(["from_hf", str(folder), f"--workdir={run}", "--ignore=softcap"])
    assert (
        "lm_head.weight is another tensor than the embedding" in capsys.readouterr().err
    )
    return tensors, folder


@pytest.mark.slow
def test_a_head_of_its_own_is_kept_where_it_is_said_to_be_tied(imported, tmp_path):
    """With a key that is let through: the run has both, and exports both as they were."""
    tensors, folder = imported
    experiment, state = reopen(tmp_path / "run")
    assert experiment.run.nn.embeddings == "untied"
    ids_BL = np.random.default_rng(1).integers(0, 256, (2, 10))
    bos_B1 = np.full((2, 1), experiment.run.nn.vocab.bos)
    read_BL = np.concatenate([bos_B1, ids_BL[:, :-1]], 1)
    canvas = Canvas(
        jnp.asarray(ids_BL, jnp.int32),
        jnp.zeros(ids_BL.shape),
        jnp.zeros(ids_BL.shape, bool),
        experiment.objective.visibility,
    )
    output = experiment.net(state.params)(canvas)
    got_BLV = np.asarray(output.prediction.logits_BLV)[..., : published.EOS]
    want_BLV = np.stack([published.says("llama", tensors, row) for row in read_BL])
    np.testing.assert_allclose(got_BLV, want_BLV[..., : published.EOS], atol=1e-4)

    back = tmp_path / "back"
    convert.main(["to_hf", str(back), f"--workdir={tmp_path / 'run'}"])
    text = (folder / "config.json").read_text()
    indented = json.dumps(json.loads(text), indent=2)
    assert (back / "config.json").read_text().split() == indented.split()
    assert {p.name for p in back.iterdir()} == {p.name for p in folder.iterdir()}
    exported = safetensors.numpy.load_file(back / "model.safetensors")
    assert exported.keys() == tensors.keys()
    for name, x in tensors.items():
        assert exported[name].tobytes() == x.tobytes()


@pytest.mark.slow
def test_a_copy_of_the_embedding_is_a_tied_head(tmp_path, capsys):
    tensors = published.weights("llama")
    copy = {"lm_head.weight": tensors["model.embed_tokens.weight"]}
    folder, run = tmp_path / "same", tmp_path / "tied"
    published.publish(folder, "llama", tensors | copy)
    hf_import.from_hf(folder, run)
    assert "another tensor" not in capsys.readouterr().err
    assert reopen(run)[0].run.nn.embeddings == "tied"
    with pytest.raises(UserError, match="--ignore is for from_hf"):
        convert.main(["to_hf", str(tmp_path / "out"), f"--workdir={run}", "--ignore=x"])
    words = ["from_hf", str(folder), f"--workdir={tmp_path / 'x'}", "--ignore=softcap"]
    with pytest.raises(
        UserError, match="--ignore=softcap: .*config.json has no such key"
    ):
        convert.main(words)
