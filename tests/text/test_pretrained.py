"""The files of a published tokenizer: all forms give the same ids, a model's rows and specials are heard, what is damaged is refused."""

import copy
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
from tests.text.probes import CORPUS, KINDS, NASTY, SPECIALS, characters, over_bytes, write


def pair(folder, tree, **config):
    """The same as vocab.json and merges.txt, with its added tokens beside them."""
    write(folder, {}, **config)
    (folder / "tokenizer.json").unlink()
    (folder / "vocab.json").write_text(json.dumps(tree["model"]["vocab"]))
    (folder / "merges.txt").write_text(
        "#version: 0.2\n" + "".join(f"{a} {b}\n" for a, b in tree["model"]["merges"])
    )
    (folder / "added_tokens.json").write_text(
        json.dumps({t["content"]: t["id"] for t in tree["added_tokens"]})
    )
    (folder / "special_tokens_map.json").write_text(
        json.dumps(dict(eos_token="</s>", bos_token=dict(content="<s>"), unk_token="<unk>"))
    )
    return str(folder)


def test_vocab_and_merges_are_the_same_as_one_file(tmp_path):
    tree = KINDS["gpt2"]() | dict(normalizer=None)
    one, two = (
        BPE(path=write(tmp_path / "one", tree)).fit(()),
        BPE(path=pair(tmp_path / "two", tree, add_prefix_space=True)).fit(()),
    )
    assert one.vocab == two.vocab and one.bytes_V.tolist() == two.bytes_V.tolist()
    for text in NASTY:
        assert (
            one.encode(text).tolist() == two.encode(text).tolist()
            and one.encode_marked(text).tolist() == two.encode_marked(text).tolist()
        )
    assert BPE(path=str(tmp_path / "two" / "vocab.json")).fit(()).fingerprint == two.fingerprint
    qwen = pair(tmp_path / "qwen", tree, tokenizer_class="Qwen2Tokenizer")
    assert len(BPE(path=qwen).fit(()).encode("12345")) == 5 > len(two.encode("12345")), (
        "Qwen2 takes digits one by one"
    )


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("ask", [{}, dict(rows=500, says="all"), dict(says="all")], ids=str)
def test_a_copy_is_the_same_when_the_published_folder_is_gone(tmp_path, kind, ask):
    folder, run = tmp_path / "published", tmp_path / "run"
    config = BPE(
        path=write(folder, KINDS[kind](), bos_token="<s>", chat_template="{{ bos_token }}"),
        published=Published(**ask),
    )
    first = config.fit(())
    run.mkdir()
    first.save(run)
    shutil.rmtree(folder)
    again = config.restore(run)
    assert (again.vocab, again.fingerprint, again.adds_bos) == (
        first.vocab,
        first.fingerprint,
        first.adds_bos,
    )
    assert again.bytes_V.tolist() == first.bytes_V.tolist()
    assert BPE(path=str(run / "tokenizer.json"), published=Published(**ask)).vocab == first.vocab
    library = tokenizers.Tokenizer.from_file(str(run / "tokenizer.json"))
    assert (
        library.token_to_id("<|mask|>") == first.mask and library.token_to_id("</s>") == first.eos
    )
    for text in NASTY:
        want = first.encode_marked(text).tolist()
        assert (
            again.encode_marked(text).tolist()
            == want
            == library.encode(text, add_special_tokens=False).ids
        )
    assert (
        pretrained.read(run).template == "{{ bos_token }}"
        and pretrained.read(run).names["bos_token"] == "<s>"
    )


def test_a_run_goes_on_without_the_published_folder(tmp_path):
    folder, workdir = write(tmp_path / "published", over_bytes()), tmp_path / "run"
    run = build_run(tiny.recipe("corpus.txt", text=dict(name="bpe", path=folder)))
    with directory.locked(workdir):
        directory.create(workdir, run, run.text.fit(()))
    shutil.rmtree(folder)
    again = build_run(directory.read_config(workdir))
    assert again.text.vocab == run.text.restore(workdir).vocab and directory.belongs(workdir, again)
    config = json.loads((workdir / "config.json").read_text())
    del config["text"]["published"]
    (workdir / "config.json").write_text(json.dumps(config))
    assert directory.belongs(workdir, again), "a run that began before the field has its default"
    with pytest.raises(UserError, match=r"another config \(text.published.says"):
        directory.belongs(
            workdir,
            build_run(
                directory.read_config(workdir)
                | dict(text=dict(config["text"], path=again.text.path, published=dict(says="all")))
            ),
        )


def test_what_a_model_knows_of_its_ids(tmp_path):
    path = write(tmp_path, over_bytes())
    n = len(json.loads((tmp_path / "tokenizer.json").read_text())["model"]["vocab"])
    unk, bos, eos, end = n, n + 1, n + 2, n + 4  # after them one that is no special

    def ids(**ask):
        return BPE(path=path, published=Published(**ask)).vocab

    assert ids() == Vocab(end + 2, bos=bos, eos=eos, pad=end, mask=end + 1) and ids().never == (
        bos,
        end,
        end + 1,
    )
    assert ids(rows=end + 1) == Vocab(end + 2, bos=bos, eos=eos, pad=end, mask=end + 1)
    assert ids(rows=end + 9) == Vocab(end + 9, bos=bos, eos=eos, pad=end, mask=end + 1)
    assert ids(says="all") == Vocab(end + 1, bos=bos, eos=eos, pad=eos, mask=end, excluded=(end,))
    assert ids(says="all", rows=end + 3, bos=eos, mask=end + 2) == Vocab(
        end + 3, bos=eos, eos=eos, pad=eos, mask=end + 2, excluded=(end + 2,)
    )
    assert ids(pad=eos, bos=eos).never == (end,), "eos stays generable"
    assert ids(pad=unk, mask=end, rows=end + 1) == Vocab(
        end + 1, bos=bos, eos=eos, pad=unk, mask=end
    )
    turns = BPE(path=path, published=Published(says="all", stops=(end - 1, eos))).fit(
        ()
    )  # the end of a turn, no special in its file
    assert turns.vocab.ends == (eos, end - 1) and turns.vocab.ending(
        np.array([0, end - 1, eos])
    ).tolist() == [False, True, True]
    assert turns.decode([0, end - 1, 1]) == turns.decode([0, 1]) and turns.bytes_V[end - 1] == 0
    assert turns.piece(end - 1) == "<|tool|>" and turns.piece(eos) == "<|eos|>", (
        "it is seen where the steps of a denoising are"
    )
    assert ids(stops=(end + 1,), pad=end + 1, rows=end + 2).never == (bos, end), (
        "what ends a text is generated"
    )
    tokenizer = BPE(path=path, published=Published(says="all", pad=0)).fit(())
    assert (
        tokenizer.pad == 0
        and tokenizer.bytes_V[0] == 1
        and tokenizer.decode(tokenizer.encode("!")) == "!"
    ), "a piece stays a piece"
    tokenizer = BPE(path=path, published=Published(pad=eos, bos=eos)).fit(())
    assert tokenizer.piece(eos) == "<|eos|>" and tokenizer.bytes_V[eos] == 0
    nameless = copy.deepcopy(over_bytes())
    nameless["added_tokens"] = []
    path = write(tmp_path / "nameless", nameless)
    assert ids(says="all", rows=n + 1) == Vocab(
        n + 2, eos=n, bos=n, pad=n, mask=n + 1, excluded=(n + 1,)
    )
    assert ids(says="all") == Vocab(n + 2, eos=n, bos=n, pad=n, mask=n + 1, excluded=(n + 1, n))
    for ask, line in [
        (dict(rows=n - 1), f"rows={n - 1} is less than the {n} ids"),
        (dict(eos=n), f"eos={n} is no id"),
        (dict(stops=(n + 9,)), rf"stops=\({n + 9},\): .* have {n} ids"),
        (dict(rows=n + 6, stops=(n + 5,), mask=n + 5), "the mask must have an id of its own"),
        (dict(mask=7), "mask=7 is the id of a piece of text"),
        (dict(pad=7), "pad=7 is the id of a piece of text"),
        (dict(rows=n + 2, eos=n, mask=n), "the mask must have an id of its own"),
    ]:
        with pytest.raises(UserError, match=line):
            ids(**ask)
    with pytest.raises(UserError, match="config.text.published: eos=-2 must not be negative"):
        build_member(dict(name="bpe", published=dict(eos=-2)), "text", where="text")
    with pytest.raises(UserError, match="config.text.published: stops=.* must not be negative"):
        build_member(dict(name="bpe", published=dict(stops=(3, -1))), "text", where="text")


def test_the_names_in_the_config_come_first_for_a_published_model(tmp_path):
    path = write(
        tmp_path,
        over_bytes(),
        eos_token="<unk>",
        add_bos_token=False,
        additional_special_tokens=["<|tool|>"],
    )
    text, whole = BPE(path=path).fit(()), BPE(path=path, published=Published(says="all")).fit(())
    assert (
        text.piece(text.encode_marked("</s>")[0])
        == "<|eos|>"
        == whole.piece(whole.encode_marked("<unk>")[0])
    )
    as_published = Published(says="all")
    bare = BPE(path=write(tmp_path / "bare", over_bytes()), published=as_published).fit(())
    none = BPE(
        path=write(tmp_path / "none", over_bytes(post_processor=None)), published=as_published
    ).fit(())
    assert (whole.adds_bos, bare.adds_bos, none.adds_bos) == (False, True, False)
    assert text.adds_bos is None, "a model trained here has its own habit"
    assert whole.bytes_V[whole.encode_marked("<|tool|>")].tolist() == [0], (
        "named special, it has no bytes"
    )


def test_learned_tokenizers_mark_their_own_specials():
    for config in (BPE(size=300), build_member("bytes", "text")):
        tokenizer = config.fit(CORPUS)
        marked = tokenizer.encode_marked("<|bos|>né<|mask|><|eos|>").tolist()
        assert (
            marked == [tokenizer.bos, *tokenizer.encode("né"), tokenizer.mask, tokenizer.eos]
            and tokenizer.adds_bos is None
        )
        assert tokenizer.encode_marked("").tolist() == []


def changed(**model):
    return lambda tree: tree | dict(model=tree["model"] | model)


REFUSED = [  # of a tokenizer over bytes, or over characters
    (
        over_bytes,
        changed(type="Unigram"),
        "of type Unigram: only BPE over bytes, or over characters with byte_fallback",
    ),
    (over_bytes, changed(type="WordPiece"), "of type WordPiece"),
    (over_bytes, lambda t: t | dict(model=None), "of type unknown"),
    (over_bytes, changed(end_of_word_suffix="</w>"), "has the end_of_word_suffix '</w>'"),
    (
        over_bytes,
        lambda t: changed(
            vocab={k: v for k, v in t["model"]["vocab"].items() if k != "Ġ"}, merges=[]
        )(t),
        "no piece for 1 of the 256",
    ),
    (
        over_bytes,
        lambda t: t | dict(pre_tokenizer=dict(type="Whitespace")),
        "no ByteLevel pre-tokenizer. and has no byte_fallback",
    ),
    (
        over_bytes,
        lambda t: (
            t
            | dict(
                pre_tokenizer=dict(
                    type="Sequence",
                    pretokenizers=[dict(type="WhitespaceSplit"), KINDS["gpt2"]()["pre_tokenizer"]],
                )
            )
        ),
        "loses bytes of texts .pre-tokenizer Sequence",
    ),
    (lambda: characters("first"), changed(byte_fallback=False), "and has no byte_fallback"),
    (
        lambda: characters("first"),
        lambda t: changed(vocab={k: v for k, v in t["model"]["vocab"].items() if k != "<0x7F>"})(t),
        "pieces for all 256",
    ),
    (
        over_bytes,
        changed(merges=["a zz"]),
        r"the merge \['a', 'zz'\] is of, or makes, a piece that the vocabulary has not",
    ),
    (over_bytes, changed(merges=["a b c"]), "an added token or a merge has not the form"),
    (
        over_bytes,
        lambda t: t | dict(added_tokens=[dict(id="1", content="x")]),
        "an added token or a merge has not the form",
    ),
    (
        over_bytes,
        lambda t: changed(vocab=t["model"]["vocab"] | dict(zz=10**9))(t),
        "the id 1000000000 of 'zz' is out of range",
    ),
    (
        over_bytes,
        lambda t: changed(vocab=t["model"]["vocab"] | dict(zz=-1))(t),
        "the id -1 of 'zz' is out of range",
    ),
    (
        over_bytes,
        lambda t: changed(vocab=t["model"]["vocab"] | dict(zz=3))(t),
        "the id 3 is that of .* and of 'zz'",
    ),
    (over_bytes, lambda t: t | dict(added_tokens=[dict(id=9999, content="a")]), "'a' has two ids"),
    (
        over_bytes,
        lambda t: t | dict(pre_tokenizer=dict(type="ByteLevel", add_prefix_space="?")),
        "is damaged",
    ),
]


@pytest.mark.parametrize("row", REFUSED, ids=lambda row: row[2][:40])
def test_what_would_lose_bytes_or_is_damaged_is_told_in_one_line(tmp_path, row):
    make, change, line = row
    with pytest.raises(UserError, match=line) as told:
        BPE(path=write(tmp_path, change(make()))).fit(())
    assert "\n" not in str(told.value)


def test_files_that_are_missing_or_cut_short(tmp_path):
    whole = json.dumps(over_bytes())
    for name, content, line in [
        ("tokenizer.json", whole[:-20], "tokenizer.json is damaged: "),
        ("tokenizer.json", "[" * 10**5, "tokenizer.json is damaged: "),
        ("tokenizer.json", "[1]", "tokenizer.json is damaged: it holds a list"),
        (
            "tokenizer.model",
            "",
            "has neither tokenizer.json nor vocab.json with merges.txt; a tokenizer.model must first be converted",
        ),
        ("vocab.json", "{}", "has neither tokenizer.json nor vocab.json with merges.txt"),
    ]:
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        folder.mkdir()
        (folder / name).write_text(content)
        with pytest.raises(UserError, match=line):
            BPE(path=str(folder)).fit(())
    folder = write(
        tmp_path / "config", over_bytes(), added_tokens_decoder={"x": {"content": SPECIALS[0]}}
    )
    with pytest.raises(UserError, match="is no added token"):
        BPE(path=folder).fit(())
    with pytest.raises(UserError, match="no tokenizer"):
        BPE(path=str(tmp_path / "absent")).fit(())
