"""The mutants of a C++ file: one changed line each, from a fixed list of operators.

Text is changed, not a syntax tree: what does not compile is counted as invalid and says nothing. Comments,
strings, preprocessor lines, messages of errors and OSP_CHECK are left alone."""

import re
from dataclasses import dataclass
from pathlib import Path

# Two-way exchanges of operators with a space on both sides, so that templates and pointers are left out.
EXCHANGES = [
    ("<", "<="),
    ("<=", "<"),
    (">", ">="),
    (">=", ">"),
    ("==", "!="),
    ("!=", "=="),
    ("+", "-"),
    ("-", "+"),
    ("*", "/"),
    ("/", "*"),
    ("+=", "-="),
    ("-=", "+="),
    ("&&", "||"),
    ("||", "&&"),
]
WORDS = [("true", "false"), ("false", "true"), ("std::min", "std::max"), ("std::max", "std::min")]
METHODS = [("mul_", "div_"), ("div_", "mul_"), ("add_", "sub_"), ("sub_", "add_"), ("amax", "amin")]
SKIPPED = re.compile(r"^\s*(#|//|using |namespace|OSP_CHECK|fail\(|leave_if_stopped|static_assert|warn\()")
STATEMENT = re.compile(r"^\s*[A-Za-z_][\w:.\[\]>*()-]*(\(.*\)|\s*[-+*/]?=\s.*);\s*$")
DECLARATION = re.compile(r"^\s*(return|const|auto|int|int64_t|double|float|bool|std::|at::Tensor \w+ ?[=;])")
FUNCTION_END = re.compile(r"^( {0,2})(?!if|for|while|switch|else|do\b|namespace|class|struct|enum|\})\S.*\) "
                          r"(const )?(override )?\{$")  # fmt: skip


@dataclass(frozen=True)
class Mutant:
    path: str
    line: int  # from 1
    operator: str
    before: str
    after: str

    @property
    def name(self) -> str:
        return f"{self.path}:{self.line}:{self.operator}"


def masked(line: str) -> str:
    """The line with its comment and the contents of its strings replaced by spaces."""
    line = re.sub(r'"(?:[^"\\]|\\.)*"', lambda m: '"' + " " * (len(m.group()) - 2) + '"', line)
    comment = line.find("//")
    return line if comment < 0 else line[:comment] + " " * (len(line) - comment)


def balanced(text: str) -> bool:
    return text.count("(") == text.count(")") and text.count("{") == text.count("}")


def changed_number(text: str, by: int) -> str:
    if re.fullmatch(r"\d+", text):
        return str(int(text) + by)
    suffix = "f" if text.endswith("f") else ""
    return repr(float(text.rstrip("f")) + by) + suffix


def line_changes(line: str):
    """(operator, new line) of all mutants of one line."""
    visible = masked(line)
    counts = {}

    def change(name, start, end, text):
        counts[name] = counts.get(name, 0) + 1
        number = "" if counts[name] == 1 else f"#{counts[name]}"
        return f"{name}{number}", line[:start] + text + line[end:]

    for old, new in EXCHANGES:
        for match in re.finditer(rf"(?<= ){re.escape(old)}(?= )", visible):
            yield change(f"{old} to {new}", *match.span(), new)
    for old, new in WORDS:
        for match in re.finditer(rf"\b{old}\b", visible):
            yield change(f"{old} to {new}", *match.span(), new)
    for old, new in METHODS:
        for match in re.finditer(rf"(?<=\.){old}(?=\()", visible):
            yield change(f"{old} to {new}", *match.span(), new)
    for match in re.finditer(r"(?<![\w.])(\d+\.\d*(?:e[-+]?\d+)?f?|\d+)(?![\w.'])", visible):
        for by in (1, -1):
            yield change(f"number {by:+d}", *match.span(), changed_number(match.group(), by))
    for match in re.finditer(r"(?<!\w)\+\+(?=\w)", visible):
        yield change("++ to --", *match.span(), "--")
    condition = re.match(r"^(\s*(?:\} else )?if \()(.*)(\)( \{| .*;| *))$", visible)
    if condition and balanced(condition.group(2)) and ";" not in condition.group(2):
        start, end = condition.span(2)
        yield change("negated condition", start, end, f"!({line[start:end]})")
    if STATEMENT.match(visible) and balanced(visible) and not DECLARATION.match(visible):
        yield change("removed statement", len(line) - len(line.lstrip()), len(line), ";")
    head = FUNCTION_END.match(visible)
    if head:
        value = "" if re.search(r"\bvoid\b", visible) else " {}"
        yield change("return early", len(line), len(line), f" return{value};")


def mutants_of(root: Path, path: str) -> list:
    found = []
    inside = 0  # open parentheses of a statement that is left alone
    for number, line in enumerate((root / path).read_text().splitlines(), 1):
        if inside > 0 or SKIPPED.match(line):
            inside = max(0, inside + masked(line).count("(") - masked(line).count(")"))
            continue
        if ".sentence" in line:
            continue
        found += [Mutant(path, number, name, line, after) for name, after in line_changes(line)]
    return found
