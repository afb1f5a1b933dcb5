r"""Chats as text: a published model's own template (Jinja), or a plain one, writes the prompt.

    [{role: user, content: Hi}]  ─ template ─>  '<|user|>\nHi<|eos|>\n<|assistant|>\n'
                                                              ─ encode_marked ─>  ids

Control ids come only from the template's own text. The name of a special or added token is text
(`text.quoted`) wherever data spell it: in a message, a tool, a role, also in earlier replies of the
model, whole or in parts that the template joins. A template that searches a message for such a
name (`</think>`) does not find it. A template that writes a name around data ('<|' ~ role ~ '|>')
means it, and so does one that writes a name when it finds something.

A chat is refused where a template would make a name out of text that contains none: by deleting
characters, reversing, changing case, or decoding escapes. A second rendering detects this. In it
each of the data's characters that is neither a letter, a digit, '_' nor white space is
distinguishable from the template's own; both renderings must contain the same names, equally often.
So a chat is also refused where the names that its template writes depend on such characters.
Exempt are texts that the template compares with (==, in, startswith, a key) and that no name could
be built from. Not detected: a name built only from letters, digits and '_' (even if some of it is
deleted; characters computed from numbers), and a name whose only other character is its first, if
the template has reversed it.

A template is an untrusted program. It runs in a sandbox with a bound on its work
(`text.template_sandbox`), and sees the messages, the tools and the names of special tokens. It does
not see the date unless `today` sets one: the same chat gives the same prompt.
"""

import datetime
import json
from collections import Counter
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import numpy as np
from jinja2.exceptions import TemplateError, TemplateSyntaxError

from dlm.core.errors import UserError
from dlm.text import pretrained
from dlm.text.base import SPECIALS, Tokenizer
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
_LONGEST_ERROR = 300  # characters of a template's own error that are shown

Result = TypeVar("Result")


class Chat:
    """A template and the names of special tokens that it uses."""

    def __init__(
        self,
        template: str,
        names: dict[str, str] | None = None,
        today: datetime.date | None = None,
        where: str = "it",
    ):
        """Compile a template.

        Args:
            template: Jinja source.
            names: bos_token, eos_token, ….
            today: date for `strftime_now`, which is undefined without it.
            where: name of the template's origin in errors.
        """
        self._source = template
        self._names = names or {}
        self._where = where
        # A template without a date is the same every day.
        functions: dict[str, Callable] = {}
        if today:
            functions["strftime_now"] = today.strftime
        self._sandbox = Sandbox(raise_exception=_raise_exception, **functions)
        self._template = self._guarded(lambda: self._sandbox.read(template))
        self._sought = self._guarded(lambda: self._sandbox.sought(template))

    @classmethod
    def of(cls, folder: str | Path, today: datetime.date | None = None) -> "Chat":
        """Load the template of a published folder, or of a run directory with a copy."""
        # The template may be a file of its own or a field of the settings.
        folder = Path(folder).expanduser()
        template = pretrained.template(folder)
        if template is None:
            raise UserError(
                f"{folder} has no chat template: there is no {pretrained.TEMPLATE}, nor one "
                f"(of several, one named 'default') in {pretrained.CONFIG}"
            )
        names = pretrained.token_names(pretrained.settings(folder))
        return cls(template, names, today, str(folder))

    @classmethod
    def default(cls, eos: str = SPECIALS[0]) -> "Chat":
        """Return the template of models without one.

        Each turn is a role's name, a line break, its text, and eos.
        """
        return cls(PLAIN, dict(eos_token=eos), where="the plain chat")

    def render(
        self,
        messages: list[dict],
        generation: bool = True,
        tools: list | None = None,
        names: Collection[str] = (),
        **further: Any,
    ) -> Quoted:
        """Render the chat as text.

        Args:
            messages: dictionaries with role and content.
            generation: end where the assistant is to write.
            tools: descriptions of tools, for templates that use them.
            names: names of special tokens. Where the data spell one, the result marks it as
                untrusted; where the template makes one out of data that spell none, UserError.
            further: variables of the template's own.
        """
        _check_messages(messages)
        data = _plain_data(dict(further, messages=list(messages), tools=tools))
        # The sign must occur neither in the data nor in the template.
        marks = Marks(names, json.dumps(data, ensure_ascii=False), self._source)
        generation_prompt = dict(add_generation_prompt=generation)

        # Data may shadow the names of tokens, but not the flag that ends the prompt.
        def rendered(marked_data: dict) -> Quoted:
            values = (
                self._names | dict(documents=None) | marked_data | generation_prompt
            )
            text = self._guarded(lambda: self._sandbox.render(self._template, values))
            return marks.taken(text)

        text = rendered(marks.put(data))
        self._check(text, rendered, marks, data, names)
        return text

    def _check(
        self,
        text: Quoted,
        rendered: Callable[[dict], Quoted],
        marks: Marks,
        data: dict,
        names: Collection[str],
    ) -> None:
        """Refuses names that vanish where everything that could be part of one has a sign."""
        written = unquoted(text, names)
        if not written:
            return
        # Texts that the template compares with must stay as they are.
        spared = harmless(self._sought, names)
        signed = marks.put(data, everywhere=True, but=spared)
        if signed == data:
            return
        makes = "makes"
        try:
            again = unquoted(rendered(signed), names)
        except UserError:  # the template does not work with signs in the texts
            makes = "may make"
            again = Counter()
        # The same names, equally often: all of them are the template's own.
        if written == again:
            return
        differing = [
            name for name in sorted(written | again) if written[name] != again[name]
        ]
        raise UserError(
            f"the chat template of {self._where} {makes} special tokens ({', '.join(differing)}) "
            "out of a message's text: change the message, "
            "or use a template that writes texts as they are"
        )

    def encode(
        self,
        tokenizer: Tokenizer,
        messages: list[dict],
        generation: bool = True,
        tools: list | None = None,
        **further: Any,
    ) -> np.ndarray:
        """Encode the chat: a name that the template writes is a special token; nothing is added.

        Args:
            tokenizer: whose names are special.
            messages: dictionaries with role and content.
            generation: end where the assistant is to write.
            tools: descriptions of tools.
            further: variables of the template's own.
        """
        text = self.render(messages, generation, tools, tokenizer.names, **further)
        return tokenizer.encode_marked(text)

    def _guarded(self, work: Callable[[], Result]) -> Result:
        """Turns whatever an untrusted program raises into one line."""
        try:
            return work()
        except (Exception, RecursionError, MemoryError) as error:
            # Jinja's own messages need no type.
            kind = (
                "" if isinstance(error, TemplateError) else f"{type(error).__name__}: "
            )
            line = ""
            if isinstance(error, TemplateSyntaxError | SyntaxError) and error.lineno:
                line = f", line {error.lineno}"
            one_line = " ".join(str(error).split())[:_LONGEST_ERROR]
            raise UserError(
                f"the chat template of {self._where} cannot be used{line}: {kind}{one_line}"
            ) from None


def _check_messages(messages: Any) -> None:
    is_list = isinstance(messages, list | tuple) and len(messages) > 0
    if not is_list or not all(isinstance(m, dict) and "role" in m for m in messages):
        raise UserError(
            "a chat is a list of messages, each a dictionary with role and content"
        )


def _plain_data(values: dict) -> dict:
    """Copies data through JSON, so that no object with methods reaches a template."""
    try:
        return json.loads(json.dumps(values))
    except (TypeError, ValueError, RecursionError) as error:
        raise UserError(
            f"messages and tools are plain data (text, numbers, lists, dictionaries): {error}"
        ) from None


def _raise_exception(message: str) -> NoReturn:
    """The function that templates call to refuse a chat."""
    raise TemplateError(str(message))
