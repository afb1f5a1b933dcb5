"""An untrusted template reaches neither the interpreter nor the machine's memory and time."""

import time
import tracemalloc

import pytest

from dlm.core.errors import UserError
from dlm.text.chat import Chat

MESSAGES = [dict(role="user", content="Hi")]
DOUBLED = (
    "{% set n = namespace(x=START, y=START) %}{% for i in range(60) %}STEP{% endfor %}"
)
WORK = "it does more work than"


def doubled(step: str, then: str = "", start: str = "'aa'") -> str:
    """60 doublings: 2⁶¹ characters, or as many ways through a list of lists."""
    return DOUBLED.replace("START", start).replace("STEP", step) + then


TOWER = "{% set n.x = [n.x, n.x] %}{% set n.y = [n.y, n.y] %}"
ESCAPES = [
    "{{ ''.__class__ }}",
    "{{ ''|attr('__class__') }}",
    "{{ messages.__init__.__globals__ }}",
    "{{ '{0.__class__}'.format(1) }}",
    "{{ raise_exception.__globals__ }}",
    "{{ messages.append(1) }}",
    "{{ dict.__subclasses__() }}",
    "{{ self.__init__ }}",
]
TOO_MUCH = [
    "{{ 'a' * 10**10 }}",
    "{{ 10**10 * 'a' }}",
    "{{ [1] * 10**9 }}",
    "{{ 7 ** (10 ** 9) }}",
    "{% for i in range(100000) %}{% for j in range(100000) %}{% endfor %}{% endfor %}",
    "{% for i in range(100000) %}{% for j in range(100000) if false %}{% endfor %}{% endfor %}",
    "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(60) }}",
    doubled("{% set n.x = n.x ~ n.x %}"),
    doubled("{% set n.x = n.x + n.x %}"),
    doubled("{% set z %}{{ n.x }}{{ n.x }}{% endset %}{% set n.x = z %}"),
    doubled("{% set n.x = '%s%s' % (n.x, n.x) %}"),
    doubled("{% set n.x = '{0}{0}'.format(n.x) %}"),
    doubled("{% set n.x = [n.x, n.x]|join %}"),
    doubled("{% set n.x = n.x|replace('a', 'aa') %}"),
    doubled("{% set n.x = n.x.replace('a', 'aa') %}"),
    "{{ 'a'|center(10**10) }}",
    "{{ 'a'.ljust(10**10) }}",
    "{{ 'a'|indent(10**10) }}",
    "{{ [1]|batch(10**9, 'x')|list }}",
    "{{ ('a' * 10**5).translate({97: 'b' * 10**6}) }}",
    "{{ range(100000)|join('a' * 100000) }}",
    "{{ ('a' * 100000).join(['b'] * 100000) }}",
]
SLOW = [
    doubled(TOWER, then, "['a']")
    for then in (
        "{{ n.x }}",
        "{{ n.x|tojson }}",
        "{{ n.x|upper }}",
        "{{ n.x == n.y }}",
        "{{ n.x ~ 1 }}",
    )
]


@pytest.mark.parametrize("template", ESCAPES)
def test_the_interpreter_is_out_of_reach(template):
    with pytest.raises(UserError, match="it may not read|is undefined|unsafe"):
        Chat(template).render(MESSAGES)


@pytest.mark.parametrize(
    "template", [*TOO_MUCH, *(pytest.param(t, marks=pytest.mark.slow) for t in SLOW)]
)
def test_too_much_is_refused_before_it_is_done(template):
    began = time.monotonic()
    with pytest.raises(UserError, match=WORK):
        Chat(template).render(MESSAGES)
    assert time.monotonic() - began < 60


def test_nothing_large_is_made():
    tracemalloc.start()
    for template in (
        TOO_MUCH[0],
        doubled("{% set n.x = n.x ~ n.x %}"),
        "{{ '{:>1000000000}'.format(1) }}",
        "{{ '%*d' % (10**9, 1) }}",
    ):
        with pytest.raises(UserError, match=f"{WORK}|a width that is not plain"):
            Chat(template).render(MESSAGES)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 3e8


def test_long_ranges_and_long_outputs_are_refused():
    with pytest.raises(UserError, match="Range too big"):
        Chat("{{ range(100001)|list }}").render(MESSAGES)
    with pytest.raises(UserError, match="makes more than 10000000 characters"):
        Chat("{% for i in range(11) %}{{ messages[0].content }}{% endfor %}").render(
            [dict(role="user", content="a" * 10**6)]
        )


def test_a_long_chat_is_far_below_the_bounds():
    reply = "m.content.split('</think>')[-1].strip() | replace('a', 'b')"
    template = "{% for m in messages %}{{ m.role ~ ': ' + " + reply + " }}{% endfor %}"
    long = [dict(role="user", content="a" * 1000)] * 1000
    assert Chat(template).render(long).count("b") == 10**6
