"""The replay page: it has the trace's data, needs no network, and no text can break out of it."""

import json
import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest

from dlm.reports.replay import Trace, page

NASTY = {
    1: "def",
    2: "</script><b>&amp;",
    3: "\n    ",
    4: "<!--",
    5: "{{data}}",
    6: "\x1b[2J\u2028",
}
TRACE = Trace(
    name="</option>'\"",
    states=[
        [1, 0, 0, 0],
        [1, 2, 0, 0],
        [1, 2, 3, 6],
        [1, 2, 0, 6],
        [1, 4, 5, 6],
    ],  # position 2 is taken back, 1 is changed
    confidence=np.array(
        [[0, 0.25, 0, 0], [0, 0, 1, 0.5], [0, 0, 0, 0], [0, 0.75, 0.125, 0]]
    ),
    frozen=[True, False, False, False],
    times=np.linspace(1, 0, 5),
    pieces=NASTY,
    mask=0,
    caption={"steps": "4", "rule": "<i>confident</i>"},
)


class Elements(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.tags, self.scripts, self.pre, self.open = [], [], "", None
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self.open = tag
        if tag == "script":
            self.scripts.append("")

    def handle_endtag(self, tag):
        self.open = None

    def handle_data(self, data):
        if self.open == "script":
            self.scripts[-1] += data
        if self.open == "pre":
            self.pre += data


def test_the_data_come_back_as_they_were():
    data, code = Elements(page([TRACE, TRACE], "t")).scripts
    assert code.rstrip().endswith(
        "open(0);"
    )  # the script is whole: nothing closed it early
    first, second = json.loads(data)
    assert first == second
    state, states = list(first["start"]), [list(first["start"])]
    for step, changes in enumerate(first["steps"]):
        for i, token, sure in changes:
            state[i] = token
            assert sure == TRACE.confidence[step][i]
        states.append(list(state))
    assert states == TRACE.states
    assert (first["name"], first["frozen"], first["times"], first["caption"]) == (
        TRACE.name,
        [0],
        list(TRACE.times),
        TRACE.caption,
    )
    assert first["pieces"] == {
        **{str(k): v for k, v in NASTY.items()},
        "6": "␛[2J\u2028",
    }


def test_text_stays_text():
    text = page([TRACE], 'a <title> & "b"')
    elements = Elements(text)
    assert [tag for tag, _ in elements.tags] == [
        tag for tag, _ in Elements(page([replace(TRACE, pieces={1: "x"})], "t")).tags
    ]
    assert (
        elements.pre == "def<!--{{data}}␛[2J\u2028"
    )  # what a reader without JavaScript sees
    assert "a &lt;title&gt; &amp;" in text


def test_the_page_is_one_file():
    text = page([TRACE], "t")
    assert not [
        v
        for _, attrs in Elements(text).tags
        for k, v in attrs.items()
        if k in ("src", "href", "srcset", "action")
    ]
    assert set(re.findall(r"https?://[^\s\"]+", text)) == {
        "http://www.w3.org/2000/svg"
    }  # a namespace, never fetched
    assert not re.search(r"@import|url\(|fetch\(|XMLHttp|import\(", text)


def test_every_control_has_a_name():
    elements = Elements(page([TRACE], "t")).tags
    labelled = {
        attrs["for"] for tag, attrs in elements if tag == "label" and "for" in attrs
    }
    controls = [
        a
        for tag, a in elements
        if tag in ("button", "select") or (tag == "input" and a["type"] == "range")
    ]
    assert len(controls) == 8
    assert all(
        "aria-label" in a or a["id"] in labelled or a["id"] == "play" for a in controls
    )


def test_only_changes_are_stored():
    rng = np.random.default_rng(0)
    T, L = 64, 256
    when = rng.integers(1, T + 1, L)
    states = np.where(
        when[None] <= np.arange(T + 1)[:, None], rng.integers(1, 1000, L), 0
    )
    trace = Trace(
        "s",
        states,
        np.full((T, L), 0.123456),
        np.zeros(L, bool),
        np.linspace(1, 0, T + 1),
        {i: "piece" for i in range(1000)},
        0,
    )
    assert len(page([trace], "t")) - len(page([TRACE], "t")) < 14_000


def test_shapes_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="do not fit together"):
        replace(TRACE, times=[1, 0])


def test_a_puzzle_is_drawn_as_grids():
    """A prompt of a whole grid is one, too; a template with holes is the only one."""
    length, prompt = 10, 5
    states = np.ones((2, length), int)
    states[0, prompt:] = 0
    puzzle = Trace(
        "puzzle",
        states,
        np.full((1, length), 0.5),
        states[0] == 1,
        [1, 0],
        {1: "1"},
        0,
        columns=2,
    )
    data = json.loads(Elements(page([puzzle], "t")).scripts[0])
    assert (data[0]["columns"], data[0]["grids"]) == (2, [0, 5])
    assert replace(puzzle, frozen=np.arange(length) < 3).grids == [0]
    assert replace(puzzle, columns=0).grids == []
    with pytest.raises(ValueError, match="10 tokens do not fill a grid of 4 columns"):
        replace(puzzle, columns=4)
