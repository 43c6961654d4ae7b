"""Random templates over the part of Jinja that osp runs. Many fail in both implementations: types are chosen
with a preference only, so that errors are compared too."""

TEXTS = [
    "''",
    "'a'",
    "'Ab c'",
    "' x\\ny '",
    "'héß日'",
    '"it\'s"',
    "'a,b,,c'",
    "'12'",
    "'-3.50'",
    "bos_token",
    "s",
]
NUMBERS = ["0", "1", "-2", "7", "3.5", "0.1", "1e20", "true", "n", "loop.index"]
LISTS = [
    "[]",
    "[1, 2, 3]",
    "['b', 'A', 'c', 'a']",
    "(1, 'x')",
    "range(4)",
    "[[1, 2], [3]]",
    "messages",
    "xs",
    "[none, 0, '']",
]
DICTS = ["{}", "{'a': 1, 'B': [2]}", "messages[0]", "messages[-1]", "{1: 'x', none: 2}", "d"]
OTHERS = ["none", "missing", "false", "messages[9]", "d.nothing", "ns.a", "ns"]
TEXT_FILTERS = [
    "trim",
    "upper",
    "lower",
    "capitalize",
    "title",
    "length",
    "string",
    "first",
    "last",
    "reverse",
    "list",
    "replace('a', 'b')",
    "replace('', '-')",
    "indent",
    "indent(2, true)",
    "int",
    "float",
    "trim('ab ')",
    "default('d')",
    "tojson",
    "int(5)",
    "replace('b', '', 1)",
    "count",
    "safe",
    "e",
    "safe",
]
LIST_FILTERS = [
    "length",
    "first",
    "last",
    "join",
    "join('-')",
    "list",
    "sort",
    "sort(reverse=true)",
    "unique|list",
    "reverse|list",
    "sum",
    "min",
    "max",
    "tojson",
    "string",
    "map('string')|join",
    "select|list",
    "reject('none')|list",
    "map(attribute='role')|list",
    "selectattr('role', 'eq', 'user')|list|length",
    "map('length')|list",
    "select('odd')|list",
    "rejectattr('content')|list|length",
    "tojson(indent=1)",
    "map(attribute='content', default='-')|list",
    "sort(case_sensitive=true)",
    "select('in', [1, 'a'])|list",
    "sort(attribute='role')|length",
    "select('>', 1)|list",
]
DICT_FILTERS = [
    "length",
    "items|list",
    "dictsort",
    "dictsort(by='value')",
    "list",
    "tojson",
    "string",
    "first",
    "dictsort(reverse=true)|list",
    "join(',')",
    "tojson(sort_keys=true)",
    "tojson(separators=(',', ':'))",
]
NUMBER_FILTERS = [
    "abs",
    "round",
    "round(1)",
    "int",
    "float",
    "string",
    "round(1, 'ceil')",
    "round(0, 'floor')",
    "tojson",
    "default(1, true)",
    "upper",
]
METHODS = [
    "strip()",
    "lstrip()",
    "rstrip('y c')",
    "split()",
    "split(',')",
    "split(' ', 1)",
    "upper()",
    "lower()",
    "title()",
    "startswith('a')",
    "endswith(('c', 'y '))",
    "replace('a', 'xx')",
    "find('b')",
    "count('a')",
    "count('')",
    "join(['p', 'q'])",
    "rsplit(',', 1)",
    "capitalize()",
    "splitlines()",
    "strip('ax')",
    "removeprefix('a')",
    "rfind('c')",
]
DICT_METHODS = [
    "get('a')",
    "get('zz')",
    "get('zz', 3)",
    "items()|list",
    "keys()|list",
    "values()|list",
    "a",
    "role",
    "nothing",
]
TESTS = [
    "defined",
    "undefined",
    "none",
    "string",
    "mapping",
    "sequence",
    "iterable",
    "number",
    "boolean",
    "true",
    "false",
    "odd",
    "even",
    "integer",
    "float",
    "eq 1",
    "equalto('a')",
    "in [1, 'a', none]",
    "divisibleby 2",
    "ne 1",
    "callable",
    "gt 1",
    "le(2)",
]
BINARY = [
    "+",
    "-",
    "*",
    "/",
    "//",
    "%",
    "~",
    "~",
    "==",
    "!=",
    "<",
    "<=",
    ">",
    ">=",
    "in",
    "not in",
    "and",
    "or",
]


class Maker:
    def __init__(self, r):
        self.r = r

    def typed(self, kind, depth):
        """An expression that is likely of the kind text, number, list or dict."""
        r = self.r
        leaf = {"text": TEXTS, "number": NUMBERS, "list": LISTS, "dict": DICTS}[kind]
        if depth <= 0 or r.random() < 0.3:
            return r.choice(leaf if r.random() < 0.93 else OTHERS)
        inner = self.typed(kind, depth - 1)
        choice = r.random()
        if kind == "text":
            if choice < 0.3:
                return f"({inner})|{r.choice(TEXT_FILTERS)}"
            if choice < 0.6:
                return f"({inner}).{r.choice(METHODS)}"
            if choice < 0.75:
                return f"({inner}){self.subscript()}"
            return f"({inner}) {r.choice(['~', '+', '~'])} ({self.any(depth - 1)})"
        if kind == "number":
            if choice < 0.3:
                return f"({inner})|{r.choice(NUMBER_FILTERS)}"
            operator = r.choice(["+", "-", "*", "/", "//", "%"])
            return f"{r.choice(['', '-', '+'])}({inner}) {operator} ({self.typed('number', depth - 1)})"
        if kind == "list":
            if choice < 0.6:
                return f"({inner})|{r.choice(LIST_FILTERS)}"
            if choice < 0.8:
                return f"({inner}){self.subscript()}"
            return f"({inner}) + [{self.any(depth - 1)}]"
        if choice < 0.5:
            return f"({inner})|{r.choice(DICT_FILTERS)}"
        if choice < 0.8:
            return f"({inner}).{r.choice(DICT_METHODS)}"
        return "({})[{}]".format(inner, r.choice(["'a'", "'content'", "1", "'items'", "none"]))

    def subscript(self):
        bound = lambda: self.r.choice(["", "", "0", "1", "-1", "2", "-3", "10", "none"])  # noqa: E731
        if self.r.random() < 0.4:
            return f"[{self.r.choice(['0', '1', '-1', '5', '-9', 'true'])}]"
        step = self.r.choice(["", "", ":", ":-1", ":2", ":-2"])
        return f"[{bound()}:{bound()}{step}]"

    def any(self, depth):
        r = self.r
        choice = r.random()
        if choice < 0.55 or depth <= 0:
            return self.typed(r.choice(["text", "text", "number", "list", "dict"]), depth)
        inner = self.any(depth - 1)
        if choice < 0.65:
            return f"({inner}) is {r.choice(['', 'not '])}{r.choice(TESTS)}"
        if choice < 0.85:
            return f"({inner}) {r.choice(BINARY)} ({self.any(depth - 1)})"
        if choice < 0.9:
            return f"({inner}) if {self.any(depth - 1)} else {self.any(depth - 1)}"
        if choice < 0.93:
            return f"({inner}) if {self.any(depth - 1)}"
        if choice < 0.96:
            return f"not ({inner})"
        return r.choice(
            [f"[{inner}, 1]", f"({inner}, 2)", f"{{'k': {inner}}}", f"show({inner})", f"show(y={inner})"]
        )

    def tag(self, kind, content):
        """A tag with random marks and white space around it."""
        r = self.r
        marks = ["", "", "", "-", "+"] if kind == "%" else ["", "", "-"]
        left, right = r.choice(marks), r.choice(marks)
        begin, end = ("{%", "%}") if kind == "%" else ("{{", "}}")
        space = ["", "", "\n", " ", "\n  ", "\t", " \n\n "]
        return f"{r.choice(space)}{begin}{left} {content} {right}{end}{r.choice(space)}"

    def statement(self, depth):
        r = self.r
        choice = r.random()
        if depth <= 0 or choice < 0.45:
            # What e and safe give is a type of its own in jinja2, which lists show and + escapes for.
            last = r.choice(["|e", "|safe"]) if r.random() < 0.1 else ""
            return self.tag("{", f"({self.any(2)}){last}" if last else self.any(2))
        body = self.body(depth - 1)
        block = lambda content: self.tag("%", content)  # noqa: E731
        if choice < 0.55:
            middle = block("else") + self.body(depth - 1) if r.random() < 0.5 else ""
            middle = block(f"elif {self.any(1)}") + "E" + middle if r.random() < 0.3 else middle
            return block(f"if {self.any(2)}") + body + middle + block("endif")
        if choice < 0.7:
            condition = f" if {self.any(1)}" if r.random() < 0.25 else ""
            more = block("else") + "none" if r.random() < 0.3 else ""
            about = self.tag(
                "{",
                r.choice(
                    [
                        "x",
                        "loop.index0",
                        "loop.last",
                        "loop.length",
                        "loop.revindex",
                        "loop.nextitem",
                        "loop.previtem",
                        "loop.first",
                    ]
                ),
            )
            stop = block(f"if {self.any(1)}") + block(r.choice(["break", "continue"])) + block("endif")
            stop = stop if r.random() < 0.2 else ""
            source = self.typed("list", 1) if r.random() < 0.85 else self.any(1)
            return block(f"for x in {source}{condition}") + about + stop + body + more + block("endfor")
        if choice < 0.82:
            return block(f"set {r.choice(['s', 'n', 'xs', 'd', 'ns.a', 'missing', 'n, s'])} = {self.any(2)}")
        if choice < 0.87:
            return block(r.choice(["set s", "set s | trim", "set ns.a | upper"])) + body + block("endset")
        if choice < 0.91:
            return block("macro show(x, y=n)") + self.tag("{", "x ~ y") + body + block("endmacro")
        if choice < 0.94:
            return block("generation") + body + block("endgeneration")
        if choice < 0.97:
            return r.choice(["{# note #}\n", " {#- note -#} ", "{% raw %} {{ raw }} {% endraw %}\n"])
        return block(f"filter {r.choice(TEXT_FILTERS)}") + body + block("endfilter")

    def body(self, depth):
        r = self.r
        pieces = [" ", "text", "\n", "  line\n", "  ", "é"]
        return "".join(r.choice(pieces) + self.statement(depth) for _ in range(r.choice([1, 1, 2])))


def random_template(r):
    maker = Maker(r)
    setup = (
        "{% set ns = namespace(a=1) %}{% set s = 'S t' %}{% set n = 4 %}{% set xs = ['q', 'p'] %}"
        "{% set d = {'b': 2, 'a': 'z'} %}{% macro show(x, y='!') %}<{{ x }}{{ y }}>{% endmacro %}"
    )
    return setup + (maker.body(3) if r.random() < 0.5 else maker.tag("{", maker.any(3)))
