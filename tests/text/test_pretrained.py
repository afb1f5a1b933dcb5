"""The files of a published tokenizer: all forms give the same ids, damaged ones are refused.

A model's rows and special ids are respected.
"""

import json
import shutil

import numpy as np
import pytest
import tokenizers

from dlm.core.config import build_member
from dlm.core.errors import UserError
from dlm.core.run import build_run
from dlm.core.vocab import Vocab
from dlm.runs import directory
from dlm.text import pretrained
from dlm.text.bpe import BPE, Published
from tests import tiny
from tests.text.probes import CORPUS, KINDS, NASTY, SPECIALS, over_bytes, write


def fitted(folder, **own):
    """The tokenizer of a folder, with a model's own ids."""
    return BPE(path=str(folder), published=Published(**own)).fit(())


def pair(folder, tree, **config):
    """The same as vocab.json and merges.txt, with its added tokens beside them."""
    write(folder, {}, **config)
    (folder / "tokenizer.json").unlink()
    model = tree["model"]
    vocab = json.dumps(model["vocab"])
    (folder / "vocab.json").write_text(vocab)
    merges = ["#version: 0.2"]
    merges += [f"{a} {b}" for a, b in model["merges"]]
    (folder / "merges.txt").write_text("\n".join(merges) + "\n")
    added = {}
    for token in tree["added_tokens"]:
        added[token["content"]] = token["id"]
    (folder / "added_tokens.json").write_text(json.dumps(added))
    bos = dict(content="<s>")
    names = dict(eos_token="</s>", bos_token=bos, unk_token="<unk>")
    (folder / "special_tokens_map.json").write_text(json.dumps(names))
    return str(folder)


def test_vocab_and_merges_are_the_same_as_one_file(tmp_path):
    tree = KINDS["gpt2"]() | dict(normalizer=None)
    folder = write(tmp_path / "one", tree)
    one = fitted(folder)
    folder = pair(tmp_path / "two", tree, add_prefix_space=True)
    two = fitted(folder)
    assert one.vocab == two.vocab
    lengths = one.bytes_V.tolist()
    assert two.bytes_V.tolist() == lengths
    for text in NASTY:
        ids = one.encode(text).tolist()
        assert two.encode(text).tolist() == ids
        ids = one.encode_marked(text).tolist()
        assert two.encode_marked(text).tolist() == ids
    by_file = fitted(tmp_path / "two" / "vocab.json")
    assert by_file.fingerprint == two.fingerprint
    qwen = pair(tmp_path / "qwen", tree, tokenizer_class="Qwen2Tokenizer")
    # Qwen2 splits digits one by one.
    assert len(fitted(qwen).encode("12345")) == 5
    assert len(two.encode("12345")) < 5


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "ask", [{}, dict(rows=500, says="all"), dict(says="all")], ids=str
)
def test_a_copy_is_the_same_when_the_published_folder_is_gone(tmp_path, kind, ask):
    folder = tmp_path / "published"
    run = tmp_path / "run"
    tree = KINDS[kind]()
    write(folder, tree, bos_token="<s>", chat_template="{{ bos_token }}")
    published = Published(**ask)
    config = BPE(path=str(folder), published=published)
    first = config.fit(())
    run.mkdir()
    first.save(run)
    shutil.rmtree(folder)
    again = config.restore(run)
    assert again.vocab == first.vocab
    assert again.fingerprint == first.fingerprint
    assert again.adds_bos == first.adds_bos
    lengths = first.bytes_V.tolist()
    assert again.bytes_V.tolist() == lengths
    copy = str(run / "tokenizer.json")
    assert BPE(path=copy, published=published).vocab == first.vocab
    library = tokenizers.Tokenizer.from_file(copy)
    assert library.token_to_id("<|mask|>") == first.mask
    assert library.token_to_id("</s>") == first.eos
    for text in NASTY:
        ids = first.encode_marked(text).tolist()
        assert again.encode_marked(text).tolist() == ids
        encoding = library.encode(text, add_special_tokens=False)
        assert encoding.ids == ids
    files = pretrained.read(run)
    assert files.template == "{{ bos_token }}"
    assert files.names["bos_token"] == "<s>"


def test_a_run_goes_on_without_the_published_folder(tmp_path):
    folder = write(tmp_path / "published", over_bytes())
    workdir = tmp_path / "run"
    text = dict(name="bpe", path=folder)
    run = build_run(tiny.recipe("corpus.txt", text=text))
    tokenizer = run.text.fit(())
    with directory.locked(workdir):
        directory.create(workdir, run, tokenizer)
    shutil.rmtree(folder)
    again = build_run(directory.read_config(workdir))
    restored = run.text.restore(workdir)
    assert again.text.vocab == restored.vocab
    assert directory.belongs(workdir, again)
    config = json.loads((workdir / "config.json").read_text())
    del config["text"]["published"]
    (workdir / "config.json").write_text(json.dumps(config))
    assert directory.belongs(workdir, again), (
        "a run that began before the field has its default"
    )
    published = dict(says="all")
    text = dict(config["text"], path=again.text.path, published=published)
    other = build_run(directory.read_config(workdir) | dict(text=text))
    with pytest.raises(UserError, match=r"another config \(text.published.says"):
        directory.belongs(workdir, other)


def ids_of(path):
    """The function from a model's own ids to the vocabulary of a tokenizer."""
    return lambda **own: BPE(path=path, published=Published(**own)).vocab


def test_a_models_own_ids_come_before_names(tmp_path):
    path = write(tmp_path, over_bytes())
    n = len(over_bytes()["model"]["vocab"])
    unk = n
    bos = n + 1
    eos = n + 2
    end = n + 4  # before it one that is no special
    last = end + 1
    ids = ids_of(path)
    own = dict(bos=bos, eos=eos, pad=end, mask=last)
    assert ids() == Vocab(end + 2, **own)
    assert ids().never == (bos, end, last)
    assert ids(rows=last) == Vocab(end + 2, **own)
    assert ids(rows=end + 9) == Vocab(end + 9, **own)
    own = dict(bos=bos, eos=eos, pad=eos, mask=end)
    assert ids(says="all") == Vocab(last, **own, excluded=(end,))
    own = dict(bos=eos, eos=eos, pad=eos, mask=end + 2)
    larger = ids(says="all", rows=end + 3, bos=eos, mask=end + 2)
    assert larger == Vocab(end + 3, **own, excluded=(end + 2,))
    # eos stays generable under any name.
    assert ids(pad=eos, bos=eos).never == (end,)
    expected = Vocab(last, bos=bos, eos=eos, pad=unk, mask=end)
    assert ids(pad=unk, mask=end, rows=last) == expected
    # So does any id that ends a text.
    ended = ids(stops=(last,), pad=last, rows=end + 2)
    assert ended.never == (bos, end)
    tree = over_bytes(added_tokens=[])
    nameless = ids_of(write(tmp_path / "nameless", tree))
    mask = n + 1
    ours = dict(eos=n, bos=n, pad=n, mask=mask)
    with_row = nameless(says="all", rows=n + 1)
    assert with_row == Vocab(n + 2, **ours, excluded=(mask,))
    assert nameless(says="all") == Vocab(n + 2, **ours, excluded=(mask, n))


def test_ids_that_end_a_text_and_pieces_as_specials(tmp_path):
    path = write(tmp_path, over_bytes())
    n = len(over_bytes()["model"]["vocab"])
    eos, tool = n + 2, n + 3
    # The end of a turn, which is no special token in its file.
    turns = fitted(path, says="all", stops=(tool, eos))
    assert turns.vocab.ends == (eos, tool)
    ends = turns.vocab.ending(np.array([0, tool, eos]))
    assert ends.tolist() == [False, True, True]
    without_end = turns.decode([0, 1])
    assert turns.decode([0, tool, 1]) == without_end
    assert turns.bytes_V[tool] == 0
    # It is visible where the steps of a denoising are shown.
    assert turns.piece(tool) == "<|tool|>"
    assert turns.piece(eos) == "<|eos|>"
    tokenizer = fitted(path, says="all", pad=0)
    assert tokenizer.pad == 0
    # A piece of text stays one.
    assert tokenizer.bytes_V[0] == 1
    ids = tokenizer.encode("!")
    assert tokenizer.decode(ids) == "!"
    tokenizer = fitted(path, pad=eos, bos=eos)
    assert tokenizer.piece(eos) == "<|eos|>"
    assert tokenizer.bytes_V[eos] == 0


def test_ids_that_do_not_exist_or_are_in_use(tmp_path):
    path = write(tmp_path, over_bytes(added_tokens=[]))
    n = len(over_bytes()["model"]["vocab"])
    for own, line in [
        (dict(rows=n - 1), f"rows={n - 1} is less than the {n} ids"),
        (dict(eos=n), f"eos={n} is no id"),
        (dict(stops=(n + 9,)), rf"stops=\({n + 9},\): .* have {n} ids"),
        (
            dict(rows=n + 6, stops=(n + 5,), mask=n + 5),
            "the mask must have an id of its own",
        ),
        (dict(mask=7), "mask=7 is the id of a piece of text"),
        (dict(pad=7), "pad=7 is the id of a piece of text"),
        (dict(rows=n + 2, eos=n, mask=n), "the mask must have an id of its own"),
    ]:
        with pytest.raises(UserError, match=line):
            ids_of(path)(**own)
    for field, value in (("eos", -2), ("stops", (3, -1))):
        published = {field: value}
        config = dict(name="bpe", published=published)
        line = f"config.text.published: {field}=.* must not be negative"
        with pytest.raises(UserError, match=line):
            build_member(config, "text", where="text")


def test_the_names_in_the_config_come_first_for_a_published_model(tmp_path):
    path = write(
        tmp_path,
        over_bytes(),
        eos_token="<unk>",
        add_bos_token=False,
        additional_special_tokens=["<|tool|>"],
    )
    text = fitted(path)
    whole = fitted(path, says="all")
    first, *_ = text.encode_marked("</s>")
    assert text.piece(first) == "<|eos|>"
    first, *_ = whole.encode_marked("<unk>")
    assert whole.piece(first) == "<|eos|>"
    # Without a setting the template decides; without a template there is no bos.
    bare = fitted(write(tmp_path / "bare", over_bytes()), says="all")
    tree = over_bytes(post_processor=None)
    none = fitted(write(tmp_path / "none", tree), says="all")
    assert whole.adds_bos is False
    assert bare.adds_bos is True
    assert none.adds_bos is False
    assert text.adds_bos is None, "a model trained here has its own habit"
    # A token that is named special has no bytes.
    ids = whole.encode_marked("<|tool|>")
    assert whole.bytes_V[ids].tolist() == [0]


def test_learned_tokenizers_mark_their_own_specials():
    for config in (BPE(size=300), build_member("bytes", "text")):
        tokenizer = config.fit(CORPUS)
        marked = tokenizer.encode_marked("<|bos|>né<|mask|><|eos|>").tolist()
        plain = tokenizer.encode("né")
        assert marked == [tokenizer.bos, *plain, tokenizer.mask, tokenizer.eos]
        assert tokenizer.adds_bos is None
        assert tokenizer.encode_marked("").tolist() == []


def changed(**model):
    """Changes fields of a tree's model."""
    return lambda tree: tree | dict(model=tree["model"] | model)


def without(piece, **model):
    """Removes a piece."""

    def change(tree):
        vocab = dict(tree["model"]["vocab"])
        del vocab[piece]
        return changed(vocab=vocab, **model)(tree)

    return change


def with_piece(id):
    """Adds the piece 'zz'."""

    def change(tree):
        vocab = dict(tree["model"]["vocab"], zz=id)
        return changed(vocab=vocab)(tree)

    return change


def replaced(**fields):
    """Replaces fields of a tree."""
    return lambda tree: tree | fields


ONLY = "only BPE over bytes, or over characters with byte_fallback"
TWICE = [dict(type="WhitespaceSplit"), KINDS["gpt2"]()["pre_tokenizer"]]
OF_BYTES = [
    (changed(type="Unigram"), f"of type Unigram: {ONLY}"),
    (changed(type="WordPiece"), "of type WordPiece"),
    (replaced(model=None), "of type unknown"),
    (changed(end_of_word_suffix="</w>"), "has the end_of_word_suffix '</w>'"),
    (without("Ġ", merges=[]), "no piece for 1 of the 256"),
    (
        replaced(pre_tokenizer=dict(type="Whitespace")),
        "no ByteLevel pre-tokenizer. and has no byte_fallback",
    ),
    (
        replaced(pre_tokenizer=dict(type="Sequence", pretokenizers=TWICE)),
        "loses bytes of texts .pre-tokenizer Sequence",
    ),
    (
        changed(merges=["a zz"]),
        r"the merge \['a', 'zz'\] is of, or makes, a piece that the vocabulary has not",
    ),
    (changed(merges=["a b c"]), "an added token or a merge has not the form"),
    (
        replaced(added_tokens=[dict(id="1", content="x")]),
        "an added token or a merge has not the form",
    ),
    (with_piece(10**9), "the id 1000000000 of 'zz' is out of range"),
    (with_piece(-1), "the id -1 of 'zz' is out of range"),
    (with_piece(3), "the id 3 is that of .* and of 'zz'"),
    (replaced(added_tokens=[dict(id=9999, content="a")]), "'a' has two ids"),
    (
        replaced(pre_tokenizer=dict(type="ByteLevel", add_prefix_space="?")),
        "is damaged",
    ),
]
OF_CHARACTERS = [
    (changed(byte_fallback=False), "and has no byte_fallback"),
    (without("<0x7F>"), "pieces for all 256"),
]
REFUSED = [(over_bytes, *row) for row in OF_BYTES]
REFUSED += [(KINDS["first"], *row) for row in OF_CHARACTERS]


@pytest.mark.parametrize("row", REFUSED, ids=lambda row: row[2][:40])
def test_a_lossy_or_damaged_file_is_an_error_of_one_line(tmp_path, row):
    make, change, line = row
    with pytest.raises(UserError, match=line) as error:
        fitted(write(tmp_path, change(make())))
    assert "\n" not in str(error.value)


def test_files_that_are_missing_or_cut_short(tmp_path):
    whole = json.dumps(over_bytes())
    for name, content, line in [
        ("tokenizer.json", whole[:-20], "tokenizer.json is damaged: "),
        ("tokenizer.json", "[" * 10**5, "tokenizer.json is damaged: "),
        ("tokenizer.json", "[1]", "tokenizer.json is damaged: it contains a list"),
        (
            "tokenizer.model",
            "",
            "has neither tokenizer.json nor vocab.json with merges.txt; "
            "a tokenizer.model must first be converted",
        ),
        (
            "vocab.json",
            "{}",
            "has neither tokenizer.json nor vocab.json with merges.txt",
        ),
    ]:
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        folder.mkdir()
        (folder / name).write_text(content)
        with pytest.raises(UserError, match=line):
            fitted(folder)
    folder = write(
        tmp_path / "config",
        over_bytes(),
        added_tokens_decoder={"x": {"content": SPECIALS[0]}},
    )
    with pytest.raises(UserError, match="is no added token"):
        fitted(folder)
    with pytest.raises(UserError, match="no tokenizer"):
        fitted(tmp_path / "absent")
