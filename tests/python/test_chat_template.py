"""Chat templates beside jinja2 with the settings of transformers: templates written for the test, random
expressions and statements, and further templates from the folder $OSP_TEMPLATES if it is set."""

import datetime
import functools
import json
import os
import random
import subprocess
from pathlib import Path

import jinja2
import jinja2.ext
import jinja2.sandbox
import pytest
from chat_template_random import random_template
from chat_templates import MESSAGES, TEMPLATES

# A seed gives the same templates everywhere.
COUNT = int(os.environ.get("OSP_RANDOM_TEMPLATES", "4000"))
NOW = 1_700_000_000
VARIABLES = {"bos_token": "<s>", "eos_token": "</s>", "add_generation_prompt": True}


class Generation(jinja2.ext.Extension):
    """{% generation %}: its body, in a scope of its own."""

    tags = {"generation"}  # noqa: RUF012

    def parse(self, parser):
        line = next(parser.stream).lineno
        body = parser.parse_statements(["name:endgeneration"], drop_needle=True)
        return jinja2.nodes.CallBlock(self.call_method("_body"), [], [], body).set_lineno(line)

    def _body(self, caller):
        return caller()


def refuse(message):
    raise jinja2.TemplateError(message)


def to_json(value, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )


def environment():
    made = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, jinja2.ext.loopcontrols]
    )
    made.filters["tojson"] = to_json
    made.globals["raise_exception"] = refuse
    made.globals["strftime_now"] = lambda form: datetime.datetime.fromtimestamp(NOW).strftime(form)
    return made


ENVIRONMENT = environment()


@functools.lru_cache(maxsize=256)
def compiled(text):
    return ENVIRONMENT.from_string(text)


def jinja_text(text, messages, variables):
    """What jinja2 renders, None for any error."""
    try:
        values = {"messages": messages, "tools": None, "documents": None, **variables}
        return compiled(text).render(**values)
    except Exception:  # Python's errors come through, of any kind
        return None


def osp_answers(osp_build, cases):
    """[(template, messages, variables)] -> the probe's answers."""
    lines = [
        json.dumps({"template": t, "messages": m, "variables": v, "now": NOW}, ensure_ascii=False)
        for t, m, v in cases
    ]
    result = subprocess.run(
        [osp_build / "chat_template_probe"],
        input="\n".join(lines),
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert result.returncode == 0, result.stderr
    answers = [json.loads(line) for line in result.stdout.split("\n") if line]
    assert len(answers) == len(cases)
    return answers


def differences(cases, answers):
    """Cases whose text differs, or that one of the two refuses. Left out are what osp calls unsupported, and
    slices of numbers, which jinja2 refuses unless it computes them while it compiles."""
    found = []
    for (text, messages, variables), answer in zip(cases, answers, strict=True):
        wanted = jinja_text(text, messages, variables)
        left_out = answer.get("unsupported") or "cannot be sliced" in answer.get("error", "")
        if wanted != answer.get("text") and not left_out:
            found.append({"template": text, "messages": messages, "jinja2": wanted, "osp": answer})
    return found


def shown(found):
    return json.dumps(found[:3], ensure_ascii=False, indent=1)


@pytest.mark.parametrize("name", TEMPLATES)
def test_templates_render_as_in_jinja2(osp_build, name):
    options = [VARIABLES, {**VARIABLES, "add_generation_prompt": False}]
    cases = [(TEMPLATES[name], m, v) for m in MESSAGES.values() for v in options]
    answers = osp_answers(osp_build, cases)
    assert not (found := differences(cases, answers)), shown(found)
    assert not [a for a in answers if a.get("unsupported")]
    assert sum("text" in a for a in answers) >= 4


@pytest.mark.filterwarnings("ignore::SyntaxWarning")
def test_random_templates_render_as_in_jinja2(osp_build):
    cases = [
        (random_template(random.Random(seed)), MESSAGES["turns" if seed % 2 else "tools"], VARIABLES)
        for seed in range(COUNT)
    ]
    answers = osp_answers(osp_build, cases)
    assert not (found := differences(cases, answers)), f"{len(found)} differ\n{shown(found)}"
    assert sum(bool(a.get("unsupported")) for a in answers) < 0.1 * COUNT
    assert sum("text" in a for a in answers) > 0.3 * COUNT


def test_templates_of_a_folder_render_as_in_jinja2(osp_build):
    folder = os.environ.get("OSP_TEMPLATES")
    if not folder:
        pytest.skip("set OSP_TEMPLATES to a folder with .jinja files")
    files = sorted(Path(folder).rglob("*.jinja"))
    assert files
    different, refused = {}, {}
    for file in files:
        cases = [(file.read_text(), m, VARIABLES) for m in MESSAGES.values()]
        answers = osp_answers(osp_build, cases)
        for answer in answers:
            if answer.get("unsupported"):
                refused[file.name] = answer["error"]
        if found := differences(cases, answers):
            different[file.name] = found
    print(f"{len(files)} templates, {len(different)} differ, {len(refused)} refused in part or whole")
    for name, why in refused.items():
        print(f"  {name}: {why}")
    assert not different, "\n".join(f"{name}: {shown(found[:1])}" for name, found in different.items())
