"""Chats as text: a published model's own template (Jinja), or a plain one, makes of messages the prompt that the model was trained on.

    [{role: user, content: Hi}]  ─ template ─>  '<|user|>\nHi<|eos|>\n<|assistant|>\n'  ─ encode_marked ─>  ids

Control ids come from the template's own text alone. A name of a special or added token that a message, a tool, a role or any other data
spell, whole or in parts that the template joins, is text (`text.quoted`), also in what the model has said before: where a template looks
for such a name in a message (`</think>`), it does not find it. A template that writes a name around a piece of data ('<|' ~ role ~ '|>')
means it, and so does one that answers with a name to what it finds.

Where a template would make a name out of a text that spells none (it takes something out, turns it round, writes small letters or
characters for their escapes), the chat is refused. This is seen in a second rendering, in which each of the data's characters that is
neither a letter, a digit, '_' nor white space is told from the template's own: both must have the same names of the template's, equally
often. So a chat is refused too where the names that its template writes depend on such characters, but for those in texts that the
template compares with (==, in, startswith, a key) and that no name could be made of. Not seen is what is made of letters, digits and '_'
alone (a name that has nothing else, though some of it be taken out; characters computed from numbers), nor a name with one other
character, its first, that the template has turned round.

A template is a program of strangers. It is rendered in a sandbox, with a bound on its work (`text.template_sandbox`), and sees the
messages, the tools and the names of special tokens; not the day, unless `today` names one: the same chat gives the same prompt.
"""

import datetime
import json
from collections import Counter
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
from jinja2.exceptions import TemplateError

from dlm import text
from dlm.core.errors import UserError
from dlm.text import pretrained
from dlm.text.quoted import Marks, Quoted, harmless, unquoted
from dlm.text.template_sandbox import Sandbox

PLAIN = """\
{%- for message in messages -%}
{%- if message.role not in ('system', 'user', 'assistant', 'tool') -%}
{{ raise_exception('the role ' ~ message.role ~ ' is none of system, user, assistant and tool') }}
{%- endif -%}
{{ '<|' ~ message.role ~ '|>\n' ~ message.content ~ eos_token ~ '\n' }}
{%- endfor -%}
{%- if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif -%}
"""


class Chat:
    """A template with the names of the special tokens it speaks of."""

    def __init__(
        self,
        template: str,
        names: dict[str, str] | None = None,
        today: datetime.date | None = None,
        where: str = "it",
    ):
        """`names`: bos_token, eos_token, …; `today` is what `strftime_now` tells, which is not defined without it."""
        self._source, self._names, self._where = template, names or {}, where
        globals_ = dict(strftime_now=today.strftime) if today else {}
        self._sandbox = Sandbox(raise_exception=_refused, **globals_)
        self._template = self._careful(lambda: self._sandbox.read(template))
        self._sought = self._careful(lambda: self._sandbox.sought(template))

    @classmethod
    def of(cls, folder: str | Path, today: datetime.date | None = None) -> "Chat":
        """The template of a published folder, or of a run directory that keeps one."""
        folder = Path(folder).expanduser()
        template = pretrained.template(folder)
        if template is None:
            where = f"{pretrained.TEMPLATE}, nor one (of several, one named 'default') in {pretrained.CONFIG}"
            raise UserError(f"{folder} has no chat template: there is no {where}")
        return cls(
            template, pretrained.token_names(pretrained.settings(folder)), today, str(folder)
        )

    @classmethod
    def default(cls, eos: str = text.SPECIALS[0]) -> "Chat":
        """For models without a template: a role's name, a line break, its text, and eos at the end of each turn."""
        return cls(PLAIN, dict(eos_token=eos), where="the plain chat")

    def render(
        self,
        messages: list[dict],
        generation=True,
        tools: list | None = None,
        names: Collection[str] = (),
        **further: Any,
    ) -> Quoted:
        """The chat as text; with `generation` it ends where the assistant is to speak. `further` are variables of the template's own. Where
        the data spell some of the `names`, it is known that they are a stranger's; where the template makes some of them out of data that
        spell none, UserError."""
        if (
            not isinstance(messages, list | tuple)
            or not messages
            or not all(isinstance(m, dict) and "role" in m for m in messages)
        ):
            raise UserError("a chat is a list of messages, each a dictionary with role and content")
        try:
            given = json.loads(json.dumps(dict(further, messages=list(messages), tools=tools)))
        except (TypeError, ValueError, RecursionError) as error:
            raise UserError(
                f"messages and tools are plain data (text, numbers, lists, dictionaries): {error}"
            ) from None
        marks = Marks(names, json.dumps(given, ensure_ascii=False), self._source)
        own = self._names | dict(documents=None), dict(add_generation_prompt=generation)
        rendered = self._rendered(own, marks, marks.put(given))
        self._check(rendered, own, marks, given, names)
        return rendered

    def _rendered(self, own: tuple[dict, dict], marks: Marks, given: dict) -> Quoted:
        return marks.taken(
            self._careful(lambda: self._sandbox.render(self._template, own[0] | given | own[1]))
        )

    def _check(
        self,
        rendered: Quoted,
        own: tuple[dict, dict],
        marks: Marks,
        given: dict,
        names: Collection[str],
    ) -> None:
        """Refuses names that the template has not written itself: those it does not write where all that could be one is signed."""
        found = unquoted(rendered, names)
        signed = (
            marks.put(given, everywhere=True, but=harmless(self._sought, names)) if found else given
        )
        if signed == given:
            return
        try:
            does, again = "makes", unquoted(self._rendered(own, marks, signed), names)
        except UserError:  # the template cannot work on texts with signs in them
            does, again = "may make", Counter()
        if found != again:
            told = ", ".join(name for name in sorted(found | again) if found[name] != again[name])
            remedy = "change the message, or use a template that writes texts as they are"
            raise UserError(
                f"the chat template of {self._where} {does} special tokens ({told}) out of a message's text: {remedy}"
            )

    def encode(
        self,
        tokenizer: text.Tokenizer,
        messages: list[dict],
        generation: bool = True,
        tools=None,
        **further: Any,
    ) -> np.ndarray:
        """The chat as ids: what the template names is a special token, and nothing else is added."""
        return tokenizer.encode_marked(
            self.render(messages, generation, tools, tokenizer.names, **further)
        )

    def _careful(self, work):
        try:
            return work()
        except (
            Exception,
            RecursionError,
            MemoryError,
        ) as error:  # whatever a stranger's program may raise
            kind = "" if isinstance(error, TemplateError) else f"{type(error).__name__}: "
            line = f", line {error.lineno}" if getattr(error, "lineno", None) else ""
            one_line = " ".join(str(error).split())[:300]
            raise UserError(
                f"the chat template of {self._where} cannot be used{line}: {kind}{one_line}"
            ) from None


def _refused(message: str):
    raise TemplateError(str(message))
