"""The syntax trees of untrusted templates: where they spend, and what they compare data with.

`text.template_sandbox` has the filters `spent`, `joined` and `step` that `Counted` writes.
"""

from collections.abc import Iterator

from jinja2 import ext, nodes
from jinja2.visitor import NodeTransformer

STEP = 100  # characters of work that one step of a loop costs
_SEARCHES = ("startswith", "endswith", "get")


def comparands(tree: nodes.Template) -> Iterator[nodes.Expr]:
    """Yield the expressions that a template compares data with, in the order of the template."""
    kinds = (nodes.Compare, nodes.Getitem, nodes.Call)
    for node in tree.find_all(kinds):
        if isinstance(node, nodes.Compare):
            yield node.expr
            for operand in node.ops:
                yield operand.expr
        elif isinstance(node, nodes.Getitem):
            yield node.arg
        elif isinstance(node, nodes.Call):
            method = node.node
            if isinstance(method, nodes.Getattr) and method.attr in _SEARCHES:
                yield from node.args[:1]


class Generation(ext.Extension):
    """Keeps the content of {% generation %} … {% endgeneration %}.

    The tag marks a model's own words for training.
    """

    tags = {"generation"}

    def parse(self, parser):
        # The content is a scope of its own, as in the library that introduced the tag.
        tag = next(parser.stream)
        ends = ("name:endgeneration",)
        body = parser.parse_statements(ends, drop_needle=True)
        return nodes.Scope(body, lineno=tag.lineno)


class Counted(NodeTransformer):
    """Makes a template spend.

    Every step of a loop and every body of a macro does, and so does everything that grows or is
    searched without a call.
    """

    def visit_For(self, node):
        self.generic_visit(node)
        step = self._step(node)
        node.body.insert(0, step)
        # The condition of a loop is tried for elements that never reach its body.
        if node.test is not None:
            step = self._step(node).node
            node.test = self._node(nodes.And, node, step, node.test)
        return node

    def visit_Macro(self, node):
        self.generic_visit(node)
        node.body.insert(0, self._step(node))
        return node

    visit_CallBlock = visit_Macro

    def visit_Concat(self, node):
        self.generic_visit(node)
        texts = self._node(nodes.List, node, node.nodes)
        return self._filter(node, texts, "joined")

    def visit_Compare(self, node):
        self.generic_visit(node)
        node.expr = self._spent(node, node.expr)
        for operand in node.ops:
            operand.expr = self._spent(node, operand.expr)
        return node

    def visit_Getitem(self, node):
        self.generic_visit(node)
        # A slice copies, an element does not.
        if isinstance(node.arg, nodes.Slice):
            node.node = self._spent(node, node.node)
        return node

    def _step(self, node):
        """The statement that spends for one step, and for the text written in it."""
        # Text between tags is written without a call, so it is paid here.
        cost = STEP
        for text in node.find_all(nodes.TemplateData):
            cost += len(text.data)
        amount = self._node(nodes.Const, node, cost)
        step = self._filter(node, amount, "step")
        return self._node(nodes.ExprStmt, node, step)

    def _spent(self, at, value):
        return self._filter(at, value, "spent")

    def _filter(self, at, value, name: str):
        no_arguments: tuple = ([], [], None, None)
        return self._node(nodes.Filter, at, value, name, *no_arguments)

    def _node(self, kind, at, *fields):
        """A node of the template's own environment, at the line of another."""
        node = kind(*fields, lineno=at.lineno)
        node.environment = at.environment
        return node
