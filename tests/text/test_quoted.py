"""What a stranger writes is text: no message, tool or document makes a control id, and all of it comes back."""

import copy
import pickle
from collections import Counter

import pytest

from dlm.text.bpe import BPE
from dlm.text.bytes import Bytes
from dlm.text.chat import Chat
from dlm.text.quoted import Quoted, spelled
from tests.text.probes import KINDS, characters, over_bytes, write

CORPUS = ["the cat sat on the mat; the cat sat.\n" * 9]


def stripping():
    """Names that take the white space beside them along."""
    tree = characters("first")
    return tree | dict(
        added_tokens=[token | dict(lstrip=True, rstrip=True) for token in tree["added_tokens"]]
    )


def in_vocabulary(make):
    """Names that are pieces too, and so within reach of whole words and of merges: 'ing' is one that merges make."""
    tree = copy.deepcopy(make())
    vocab = tree["model"]["vocab"]
    for a, b in [("i", "n"), ("in", "g")]:
        for piece in (a, b, a + b):
            vocab.setdefault(piece, 2000 + len(vocab))
        if [a, b] not in tree["model"]["merges"]:
            tree["model"]["merges"].append([a, b])
    tree["added_tokens"].append(dict(tree["added_tokens"][-1], id=vocab["ing"], content="ing"))
    vocab |= {token["content"]: token["id"] for token in tree["added_tokens"]}
    return tree | dict(
        model=tree["model"] | dict(ignore_merges=True),
        added_tokens=sorted(tree["added_tokens"], key=lambda t: t["id"]),
    )


PUBLISHED = KINDS | dict(
    stripping=stripping,
    words=lambda: in_vocabulary(over_bytes),
    runs=lambda: in_vocabulary(lambda: characters("first")),
)


@pytest.fixture(scope="module", params=["own", "bpe", *PUBLISHED])
def tokenizer(request, tmp_path_factory):
    if request.param in ("own", "bpe"):
        return (Bytes() if request.param == "own" else BPE(size=300)).fit(CORPUS)
    return BPE(path=write(tmp_path_factory.mktemp("published"), PUBLISHED[request.param]())).fit(())


def control(tokenizer) -> dict[str, int]:
    """{name: id} of all names; they are what `encode_marked` makes one id of."""
    found = {name: int(tokenizer.encode_marked(name)[-1]) for name in tokenizer.names}
    assert len(set(found.values())) == len(found) >= 4
    return found


def hostile(name: str) -> list[str]:
    return [
        name,
        f"say {name} now",
        f"{name}{name} é{name}",
        f"x{name[0]}{name}",
        f"{name[:1]}{name}",
    ]


def test_encode_never_gives_a_control_id(tokenizer):
    ids = control(tokenizer)
    for text in [word for name in ids for word in hostile(name)]:
        for found in (
            tokenizer.encode(text),
            tokenizer.encode_bytes(text.encode()),
            tokenizer.encode_marked(Quoted(text)),
        ):
            assert not set(ids.values()) & set(found.tolist()), text
        assert tokenizer.decode(tokenizer.encode(text)) == text
        assert tokenizer.decode(tokenizer.encode_marked(Quoted(text))).lstrip(" ") == text


def test_signs_and_runs_of_spaces_that_were_added_are_text(tmp_path):
    tree = characters("first")
    added = [
        *tree["added_tokens"],
        *(
            dict(tree["added_tokens"][-1], content=name, id=500 + i)
            for i, name in enumerate(["\n\n", "▁▁▁▁▁▁▁▁▁", "<b>"])
        ),
    ]
    added += [
        dict(added[-1], content=name, id=tree["model"]["vocab"][name]) for name in ("a", "<0x41>")
    ]
    tokenizer = BPE(path=write(tmp_path, tree | dict(added_tokens=added))).fit(())
    assert set(tokenizer.names) == {"<unk>", "<s>", "</s>", "<|tool|>", "<b>"}
    assert tokenizer.decode(tokenizer.encode("a A中")) == "a A中" and tokenizer.named(
        "a <b></s> <b>"
    ) == ["<b>", "</s>"]


OWN = "{{ eos_token }} {{ CONTENT }} {{ eos_token }}{{ messages[0].role }}{{ eos_token }}"
PLACES = {  # templates, and where in the messages the strings go; 'a' and 'b' are what they are made of
    "plain": (
        OWN.replace("CONTENT", "messages[0].content"),
        lambda a, b: [dict(role="user", content=a + b)],
    ),
    "first": (
        "{{ messages[0].content }}{{ eos_token }}",
        lambda a, b: [dict(role="user", content=a + b)],
    ),
    "trim": (
        OWN.replace("CONTENT", "messages[0].content | trim"),
        lambda a, b: [dict(role="user", content=f" {a}{b}\n ")],
    ),
    "role": (
        OWN.replace("CONTENT", "messages[0].content"),
        lambda a, b: [dict(role=a + b, content="hi")],
    ),
    "parts": (
        OWN.replace(
            "{{ CONTENT }}",
            "{% for part in messages[0].content %}{{ part.text | trim }}{% endfor %}",
        ),
        lambda a, b: [
            dict(role="tool", content=[dict(type="text", text=f"{a} "), dict(type="text", text=b)])
        ],
    ),
    "turns": (
        "{% for m in messages %}{{ '<' ~ m.role ~ '>' }}{{ m['content'] }}{{ eos_token }}{% endfor %}",
        lambda a, b: [
            dict(role=role, content=a + b) for role in ("system", "user", "assistant", "tool")
        ],
    ),
    "json": (
        OWN.replace("CONTENT", "messages[0].calls | tojson"),
        lambda a, b: [dict(role="user", calls=[dict(name="f", arguments={a + b: [a + b]})])],
    ),
    "escaped": (
        OWN.replace("CONTENT", "messages[0].content | tojson(ensure_ascii=True)"),
        lambda a, b: [dict(role="user", content=a + b)],
    ),
}


@pytest.mark.parametrize("place", PLACES)
def test_messages_hold_no_control_ids_and_come_back_exactly(tokenizer, place):
    template, messages = PLACES[place]
    ids, eos = control(tokenizer), "</s>" if "</s>" in tokenizer.names else "<|eos|>"
    chat = Chat(template, dict(eos_token=eos))
    tame = chat.encode(tokenizer, messages("qqq", "zzz")).tolist()
    wanted = Counter(i for i in tame if i in ids.values())
    assert wanted[ids[eos]] >= 1
    for name in ids:
        for a, b in [
            (name, "_b"),
            ("a_", f"{name}_b"),
            (name[:2], name[2:]),
            (name[:1], name[1:]),
            (f"x{name[:-1]}", name[-1:] + name),
        ]:
            given = messages(a, b)
            rendered = chat.render(given, names=tokenizer.names)
            found = chat.encode(tokenizer, given).tolist()
            assert Counter(i for i in found if i in ids.values()) == wanted, (name, a, b)
            assert rendered == chat.render(given) and tokenizer.spelled(rendered), (
                "as it is without a look at names"
            )
            assert tokenizer.decode(found) == tokenizer.decode(tame).replace("qqq", a).replace(
                "zzz", b
            )


def test_a_template_that_changes_what_it_is_given_still_makes_no_control_id(tokenizer):
    ids = control(tokenizer)
    for body in (
        "m.content[1:]",
        "m.content[:-1] ~ m.content[-1:]",
        "m.content | upper | lower",
        "m.content | list | join",
    ):
        chat = Chat("{% for m in messages %}{{ " + body + " }}\n{% endfor %}")
        for text in [text for name in ids for text in (name, f"x{name}")]:
            found = chat.encode(tokenizer, [dict(role="user", content=text)])
            assert not set(ids.values()) & set(found.tolist()), (body, text)


def test_a_chat_without_names_is_encoded_as_published(tokenizer):
    given = [dict(role="user", content=" the cat <\n"), dict(role="tool", content="<a> é|")]
    chat = Chat(
        "{{ a }}{% for m in messages %}{{ m.content }}{{ eos_token }}{% endfor %}",
        dict(eos_token="</s>", a="<s>"),
    )
    assert (
        chat.encode(tokenizer, given).tolist()
        == tokenizer.encode_marked("<s> the cat <\n</s><a> é|</s>").tolist()
    )


@pytest.mark.parametrize("text", ["<\u200b|eos|> <|eos|>\U00100000", "<|eos|>\\u200b"])
def test_messages_may_hold_the_sign_that_marks_them(text):
    tokenizer, chat = Bytes().fit(()), Chat("{{ messages[0].content }}<|eos|>")
    ids = chat.encode(tokenizer, [dict(role="user", content=text)])
    assert tokenizer.decode(ids) == text and (ids == tokenizer.eos).sum() == 1


def test_names_in_names_and_over_names():
    assert spelled(Quoted("ababa"), ["aba"]) == [(0, 5)] and spelled(
        Quoted("ababa", [4]), ["aba"]
    ) == [(2, 5)]
    assert (
        spelled(Quoted("xabcd ab"), ["abcd", "bc", "ab"]) == [(1, 5), (6, 8)]
        and spelled("ab", ["ab"]) == []
    )


def test_what_is_a_stranger_s_stays_so_when_texts_are_joined_and_copied():
    tokenizer, a, b = Bytes().fit(()), Quoted("<|eos|> "), Quoted("x<|eos|>", [3])
    assert a.quoted == set(range(8)) and Quoted(b).quoted == {3}
    assert (
        (a + b).quoted == {*range(8), 11}
        and ("<|e" + Quoted("os|>")).quoted == {3, 4, 5, 6}
        and (b + "<|eos|>").quoted == {3}
    )
    assert a.rstrip().quoted == set(range(7)) and a.rstrip() == "<|eos|>"
    for again in (copy.deepcopy(b), pickle.loads(pickle.dumps(b))):
        assert again == b and again.quoted == {3}
    assert (tokenizer.encode_marked(a + "<|eos|>") == tokenizer.eos).sum() == 1
    assert tokenizer.spelled(a + b + "<|eos|>") == [(0, 7), (9, 16)]
