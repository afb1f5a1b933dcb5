"""A template that makes a special token's name out of a text without one is refused.

Ordinary templates are not.
"""

import json

import pytest

from dlm.core.errors import UserError
from dlm.text.bytes import Bytes
from dlm.text.chat import Chat
from dlm.text.quoted import Marks, harmless

TOKENIZER = Bytes().fit(())
# A change of the text `t` by a template, and a text that it turns into the name of the mask.
FORGERIES = {
    "replace": ("t | replace('<image>', '')", "<|mas<image>k|>"),
    "looked for": ("t.replace('/x', '') if '/x' in t else t", "<|mas/xk|>"),
    "split": ("t.split('</think>') | join('')", "<|ma</think>sk|>"),
    "letters": ("t.split('zz') | join", "<|mazzsk|>"),
    "lower": ("t | lower", "<|MASK|>"),
    "tags": ("t | striptags", "&lt;|mask|&gt;"),
    "tags looked for": (
        "t | striptags if '&lt;' in t and '&gt;' in t else t",
        "&lt;|mask|&gt;",
    ),
    "white space": ("t.split() | join", "<|ma sk|>"),
    "reverse": ("t | reverse", ">|ksam|<"),
    "slice": ("t[::2]", "<_|_m_a_s_k_|_>"),
    "parts": ("t.split(',')[1][:-1] ~ t.split(',')[0]", "k|>,<|mas."),
    "less its sign": ("t[0] ~ t[2:]", "<|mask|>"),
    "all looked for": ("t | lower if '<|' in t and '|>' in t else t", "<|MASK|>"),
    "with one less": (
        "(t | lower) ~ ('' if '<|' in t and '|>' in t else '<|pad|>')",
        "<|MASK|>",
    ),
    "format": ("t.format('|')", "<{0}mask{0}>"),
}


@pytest.mark.parametrize("case", FORGERIES)
def test_a_name_that_a_template_makes_out_of_a_text_is_refused(case, monkeypatch):
    change, content = FORGERIES[case]
    chat = Chat(
        "{% set t = messages[0].content %}{{ " + change + " }}<|eos|>", where="there"
    )
    messages = [dict(role="user", content=content)]
    with pytest.raises(UserError) as error:
        chat.encode(TOKENIZER, messages)
    special_cases = {
        "format": ("may make", "<|eos|>, <|mask|>"),
        "with one less": ("makes", "<|mask|>, <|pad|>"),
    }
    makes, names = special_cases.get(case, ("makes", "<|mask|>"))
    expected = (
        f"the chat template of there {makes} special tokens ({names}) "
        "out of a message's text: change the message, or use "
    )
    message = str(error.value)
    assert message.startswith(expected) and "\n" not in message
    tame = chat.encode(TOKENIZER, [dict(role="user", content=", & <qqq>")])
    assert (tame == TOKENIZER.eos).sum() == 1
    assert not (tame == TOKENIZER.mask).any()
    monkeypatch.setattr(chat, "_check", lambda *arguments: None)
    assert (chat.encode(TOKENIZER, messages) == TOKENIZER.mask).sum() == 1, (
        "or nothing was forged"
    )


ORDINARY = """\
{%- for m in messages %}{% set text = m.content | trim %}
{%- if m.role == 'tool_response' or m.role in ['x-tool', 'y'] %}<|bos|>{% endif %}
{{- '<|' ~ m.role ~ '|>' }}
{%- if text.startswith('<tool_response>') and text.endswith(('</tool_response>', '!')) -%}
<|pad|>{% endif %}
{%- if '</think>' in text %}{{ text.split('</think>')[-1].lstrip('\\n') }}<|eos|>
{%- elif '/no_think' in text %}{{ text.replace('/no_think', '') | trim }}<|eos|><|mask|>
{%- else %}{{ text }}<|eos|>{% endif %}
{%- for call in m.tool_calls -%}
{{ call.function.name ~ call.function.arguments | tojson }}<|eos|>{% endfor %}
{%- if m.made and m.made['x-kind'] %}<|pad|>{% endif %}
{%- if m.made and m.made.get('a.b') %}<|bos|>{% endif %}{% endfor %}"""
CALLS = [
    dict(
        type="tool_call",
        function=dict(
            name="get_x", arguments={"a-b": ['"<|eos|>"', "x/y."], "$ref": "#/<|mask|>"}
        ),
    )
]
TURNS = [  # a message, and what the template makes of it
    (dict(role="eos", content=" Hi, <é>! 1-2 "), "<|eos|>Hi, <é>! 1-2<|eos|>"),
    (
        dict(role="x", content="<|mask|> <|MASK|> <|x|>"),
        "<|x|><|mask|> <|MASK|> <|x|><|eos|>",
    ),
    (dict(role="tool_response", content="ok."), "<|bos|><|tool_response|>ok.<|eos|>"),
    (dict(role="x-tool", content="-"), "<|bos|><|x-tool|>-<|eos|>"),
    (
        dict(role="y", content="<tool_response>\n{}</tool_response>"),
        "<|bos|><|y|><|pad|><tool_response>\n{}</tool_response><|eos|>",
    ),
    (dict(role="x", content="<think>\na.\n</think>\n\nb."), "<|x|>b.<|eos|>"),
    (dict(role="x", content="/no_think Be brief."), "<|x|>Be brief.<|eos|><|mask|>"),
    (
        dict(role="x", content="", tool_calls=CALLS),
        "<|x|><|eos|>get_x" + json.dumps(CALLS[0]["function"]["arguments"]) + "<|eos|>",
    ),
    (
        dict(role="x", content="", made={"x-kind": "1.", "a.b": "c"}),
        "<|x|><|eos|><|pad|><|bos|>",
    ),
]


def test_templates_that_look_for_texts_and_write_them_as_they_are_are_not_refused():
    chat = Chat(ORDINARY)
    chats = [([turn], text) for turn, text in TURNS]
    # And all of the turns as one chat.
    messages = [turn for turn, _ in TURNS]
    chats.append((messages, "".join(text for _, text in TURNS)))
    for turns, text in chats:
        assert chat.render(turns, names=TOKENIZER.names) == text, turns
        assert chat.render(turns) == text, turns
    ids = chat.encode(TOKENIZER, messages).tolist()
    specials = (TOKENIZER.eos, TOKENIZER.bos, TOKENIZER.pad, TOKENIZER.mask)
    assert [ids.count(i) for i in specials] == [11, 4, 2, 1]


@pytest.mark.parametrize(("content", "rendered"), [("no sign in it_1", 1), ("a.", 2)])
def test_a_chat_is_rendered_twice_only_where_a_name_could_be_made(
    content, rendered, monkeypatch
):
    for template, times in (
        ("{{ messages[0].content }}<|eos|>", rendered),
        ("{{ messages[0].content }}", 1),
    ):
        chat, seen = Chat(template), []
        work = chat._sandbox.render
        monkeypatch.setattr(
            chat._sandbox,
            "render",
            lambda *values, work=work, seen=seen: seen.append(values) or work(*values),
        )
        chat.encode(TOKENIZER, [dict(role="user", content=content)])
        assert len(seen) == times


def test_a_name_of_letters_alone_is_text_as_before_and_refuses_nothing():
    chat = Chat(
        "{{ messages[0].content }}. ing{% if '/x' in messages[0].content %}<a>{% endif %}"
    )
    rendered = chat.render(
        [dict(role="user", content="sing: /x <a>")], names=["ing", "<a>"]
    )
    assert rendered == "sing: /x <a>. ing<a>" and rendered.quoted == {1, 9}


def test_signs_go_behind_all_marks_but_those_in_texts_of_which_no_name_can_be_made():
    assert harmless(["/x", "&lt;", "<a", ">", "\\", "|"], ["<a>", "ing", "</a>"]) == [
        "/x",
        "<a",
        "|",
    ]
    marks = Marks(["<a>"])
    put = marks.put(
        {"k_1 é": ["x-y-z: x-!", "<a>", 2]}, everywhere=True, but=["x-", "x-y-z", ""]
    )
    assert put == {
        "k_1 é": [
            f"x-y-z:{marks.sign} x-!{marks.sign}",
            f"<{marks.sign}a>{marks.sign}",
            2,
        ]
    }
