"""Chats: templates are rendered as published, special tokens become one id each.

Each mistake is one line.
"""

import datetime
import json

import pytest

from dlm.core.errors import UserError
from dlm.text.bpe import BPE
from dlm.text.bytes import Bytes
from dlm.text.chat import Chat
from tests.text.probes import over_bytes, write

MESSAGES = [dict(role="user", content=" Hi <é> "), dict(role="assistant", content="yo")]
TEMPLATE = """{{- bos_token }}
{%- for m in messages %}
    {%- if m.role == 'system' %}{% continue %}{% endif %}
    {% generation %}[{{ m.role }}]{{ m['content'] | trim }}{% endgeneration %}
    {% if not loop.last %}
{{ eos_token + '\\n' }}
    {% endif %}
{% endfor %}
{%- if tools %}{{ tools | tojson }}{% endif %}
{%- if add_generation_prompt %}[assistant]{% endif %}"""
RENDERED = "<s>[user]Hi <é></s>\n\n[assistant]yo"


def test_a_template_is_rendered_as_it_was_published():
    chat = Chat(TEMPLATE, dict(bos_token="<s>", eos_token="</s>"))
    assert (
        chat.render([dict(role="system", content="x"), *MESSAGES], generation=False)
        == RENDERED
    )
    tools = [dict(type="function", function=dict(name="<é&'>"))]
    as_json = json.dumps(tools, ensure_ascii=False)
    assert chat.render(MESSAGES, tools=tools) == RENDERED + as_json + "[assistant]"
    chat = Chat("{{ bos_token }}{{ thinking }}{{ documents is none }}")
    assert chat.render(MESSAGES, thinking="no") == "noTrue"
    assert MESSAGES[0] == dict(role="user", content=" Hi <é> ")


@pytest.mark.parametrize("form", ["text", "list", "file"])
def test_the_template_of_a_folder_and_of_a_run_s_copy(tmp_path, form):
    templates = dict(text=TEMPLATE, file="{{ 1 }}")
    templates["list"] = [
        dict(name="tool_use", template="{{ 2 }}"),
        dict(name="default", template=TEMPLATE),
    ]
    path = write(
        tmp_path / "published",
        over_bytes(),
        bos_token=dict(content="<s>", lstrip=False),
        eos_token="</s>",
        chat_template=templates[form],
    )
    if form == "file":
        (tmp_path / "published" / "chat_template.jinja").write_text(
            TEMPLATE, encoding="utf-8"
        )
    tokenizer = BPE(path=path).fit(())
    (tmp_path / "run").mkdir()
    tokenizer.save(tmp_path / "run")
    for folder in (path, tmp_path / "run"):
        ids = Chat.of(folder).encode(tokenizer, MESSAGES, generation=False)
        assert tokenizer.decode(ids) == "[user]Hi <é>\n\n[assistant]yo"
        assert ids[0] == tokenizer.bos
        assert (ids == tokenizer.eos).sum() == 1


def test_the_plain_chat_goes_with_any_tokenizer():
    text = "<|user|>\n Hi <é> <|eos|>\n<|assistant|>\nyo<|eos|>\n"
    prompt = text + "<|assistant|>\n"
    assert Chat.default().render(MESSAGES, generation=False) == text
    assert Chat.default().render(MESSAGES) == prompt
    tokenizer = Bytes().fit(())
    ids = Chat.default().encode(tokenizer, MESSAGES)
    assert tokenizer.decode(ids) == prompt.replace("<|eos|>", "")
    assert (ids == tokenizer.eos).sum() == 2
    with pytest.raises(
        UserError, match="plain chat cannot be used: the role robot is none of"
    ):
        Chat.default().render([dict(role="robot", content="")])


def test_the_date_is_known_only_where_it_is_set():
    date = "{{ strftime_now('%d %b %Y') }}"
    template = (
        "{% if strftime_now is defined %}" + date + "{% else %}some day{% endif %}"
    )
    assert Chat(template).render(MESSAGES) == "some day"
    today = datetime.date(2024, 7, 26)
    assert Chat(template, today=today).render(MESSAGES) == "26 Jul 2024"


@pytest.mark.parametrize(
    ("template", "line"),
    [
        ("{% for %}", "cannot be used, line 1: Expected an expression"),
        (
            "\n{% nothing %}",
            "cannot be used, line 2: Encountered unknown tag 'nothing'",
        ),
        (
            "{{ raise_exception('roles must\nalternate') }}",
            "cannot be used: roles must alternate",
        ),
        ("{{ strftime_now('%d') }}", "'strftime_now' is undefined"),
        ("{{ messages[0].content.a.b }}", "has no attribute 'a'"),
        ("{{ 1 / 0 }}", "ZeroDivisionError"),
        ("{% include 'other' %}", "no loader"),
        ("x" * 10**6 + "x", "it has 1000001 characters"),
    ],
    ids=lambda v: v[:30],
)
def test_a_wrong_template_is_an_error_of_one_line(template, line):
    with pytest.raises(UserError, match=line) as error:
        Chat(template, where="there").render(MESSAGES)
    message = str(error.value)
    assert "\n" not in message and "the chat template of there" in message


def test_a_missing_template_and_what_is_no_chat(tmp_path):
    absent = "has no chat template: there is no chat_template.jinja"
    for config in ({}, dict(chat_template=[dict(name="rag", template="x")])):
        folder = write(tmp_path, over_bytes(), bos_token="<s>", **config)
        with pytest.raises(UserError, match=absent):
            Chat.of(folder)
    with pytest.raises(UserError, match="chat_template is text, or a list"):
        Chat.of(write(tmp_path, over_bytes(), chat_template=3))
    for messages in ([], "Hi", ["Hi"], [dict(content="Hi")]):
        with pytest.raises(UserError, match="a chat is a list of messages"):
            Chat.default().render(messages)
    with pytest.raises(UserError, match="are plain data"):
        Chat.default().render([dict(role="user", content=object())])
