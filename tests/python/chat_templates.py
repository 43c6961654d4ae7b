"""Chat templates written for the tests, in the constructs that published ones use, and messages for them."""

# ruff: noqa: E501  (lines of templates)

MESSAGES = {
    "one": [{"role": "user", "content": "Hello, is it 5 < 6?"}],
    "empty": [],
    "system": [
        {"role": "system", "content": "  Be brief.\n"},
        {"role": "user", "content": "Où est le café ?\n\nMerci\u3000"},
    ],
    "turns": [
        {"role": "user", "content": "one"},
        {"role": "assistant", "content": "<think>\nhm, 'one'\n</think>\n\ntwo"},
        {"role": "user", "content": "three \U0001f600"},
        {"role": "assistant", "content": "four", "reasoning_content": "\nbecause\n"},
        {"role": "user", "content": "five"},
    ],
    "parts": [
        {
            "role": "user",
            "content": [{"type": "text", "text": "A "}, {"type": "image"}, {"type": "text", "text": "B"}],
        },
        {"role": "assistant", "content": [{"type": "text", "text": "C"}]},
        {"role": "user", "content": "D"},
    ],
    "tools": [
        {"role": "user", "content": "weather?"},
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [
                {
                    "id": "call_0001",
                    "type": "function",
                    "function": {
                        "name": "get",
                        "arguments": {"city": "Köln", "days": [1, 2.5, True, None], "q": '"'},
                    },
                }
            ],
        },
        {"role": "tool", "name": "get", "tool_call_id": "call_0001", "content": '{"t": 20}'},
    ],
    "wrong": [{"role": "assistant", "content": "first"}, {"role": "user", "content": "second"}],
}

TEMPLATES = {
    "tags": """{% for message in messages %}
{{ '<|' ~ message['role'] ~ '|>' }}
{{ message.content | trim }}<|end|>
{% endfor %}
{% if add_generation_prompt %}
<|assistant|>
{% endif %}
""",
    "one line": "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'user' %}{{ 'U: ' + m['content'] }}"
    "{% elif m['role'] == 'assistant' %}{{ 'A: ' + m['content'] + eos_token }}{% else %}"
    "{{ raise_exception('The role ' ~ m.role ~ ' is unknown') }}{% endif %}{% endfor %}",
    "must alternate": """{%- if messages[0]['role'] == 'system' -%}
    {%- set system = messages[0]['content'] | trim + '\\n\\n' -%}
    {%- set rest = messages[1:] -%}
{%- else -%}
    {%- set system = '' -%}
    {%- set rest = messages -%}
{%- endif -%}
{%- for m in rest -%}
    {%- if (m['role'] == 'user') != (loop.index0 % 2 == 0) -%}
        {{ raise_exception('Roles must take turns') }}
    {%- endif -%}
    {%- if loop.first -%}{% set content = system ~ m.content %}{%- else -%}{% set content = m.content %}{%- endif -%}
    {{ '[' ~ m.role ~ '] ' ~ content ~ ' [/' ~ m.role ~ ']' }}{%- if not loop.last %}|{% endif -%}
{%- endfor -%}""",
    "thinking": """{%- set ns = namespace(last=-1, open=true) %}
{%- for m in messages[::-1] %}
    {%- set i = messages | length - 1 - loop.index0 %}
    {%- if ns.open and m.role == 'user' %}
        {%- set ns.open = false %}
        {%- set ns.last = i %}
    {%- endif %}
{%- endfor %}
{%- for m in messages %}
    {%- set content = m.content if m.content is string else '' %}
    {%- set thought = '' %}
    {%- if m.reasoning_content is defined and m.reasoning_content is not none %}
        {%- set thought = m.reasoning_content.strip('\\n') %}
    {%- elif '</think>' in content %}
        {%- set thought = content.split('</think>')[0].split('<think>')[-1].strip() %}
        {%- set content = content.split('</think>', 1)[-1].lstrip('\\n') %}
    {%- endif %}
    {{- '@' + m.role + '\\n' }}
    {%- if thought and loop.index0 > ns.last - 2 %}{{ '(' ~ thought ~ ')\\n' }}{% endif %}
    {{- content.rstrip() + '\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '@assistant\\n' }}{% endif %}
""",
    "macro": """{% macro show(content, before='', after="\\n") %}
{% if content is string %}
{{ before }}{{ content }}{{ after }}
{%- elif content is iterable and content is not mapping %}
{% for part in content if part.type == 'text' %}
{{ before ~ part.text | trim ~ after }}
{%- else %}
nothing
{%- endfor %}
{%- else %}
{{ '(' ~ content ~ ')' }}
{%- endif %}
{% endmacro %}
{% for m in messages %}
{{ m.role | upper }}: {{ show(m.content, after='!') }}
{%- endfor %}
""",
    "tool calls": """{%- for m in messages %}
{%- if m.tool_calls %}
{%- for call in m.tool_calls %}
{%- set f = call.function if call.function is defined else call %}
<call>{"name": "{{ f.name }}", "arguments": {{ f.arguments | tojson }}}</call>
{% for key, value in f.arguments.items() -%}
{{ loop.index }}. {{ key }} = {{ value | tojson if value is not string else value }}{{ ", " if not loop.last }}
{%- endfor %}
{%- for key, value in f.arguments | dictsort %} {{ key ~ ':' ~ value | string }}{% endfor %}
{{ f.arguments | tojson(indent=2) }}
{%- endfor %}
{%- elif m.role == 'tool' %}
<result {{ m.name }}>{{ m.content }}</result>
{%- if loop.previtem and loop.previtem.role != 'tool' %} first{% endif %}
{%- if loop.last or loop.nextitem.role != 'tool' %} last{% endif %}
{%- else %}
{{ m['content'] }}
{%- endif %}
{%- endfor %}""",
    "generation": """{% for m in messages %}
{% if m.role == 'assistant' %}
{% generation %}
{% set inside = m.content %}
{{ inside }}{{ eos_token }}
{% endgeneration %}
{% else %}
{{ m.content }}
{% endif %}
{% endfor %}
{{ inside is defined }}
""",
    "filters": """{%- set texts = messages | selectattr('role', 'equalto', 'user') | map(attribute='content') | list %}
{{- texts | join(' / ') | lower | replace('o', '0') | indent(2, true) }}
{{ messages | rejectattr('role', 'in', ['user', 'tool']) | list | length }}
{{ messages | map(attribute='role') | unique | sort(reverse=true) | join(',') | title }}
{{ (messages | first).role | default('none') }} {{ (messages | last)['x'] | default('no x', true) }}
{{ messages | map(attribute='content') | select('string') | map('length') | sum }}
{{ [3, 1, 2] | sort | tojson }}{{ [3, 1, 2] | max }}{{ '  a\\tb ' | trim | capitalize }}{{ 2.5 | round | int }}""",
    "set block": """{% set header %}
    # {{ messages | length }} messages
{% endset %}
{% set shout | upper | trim %}
 quiet {{ bos_token }}
{% endset %}
{{ header -}}
{{ shout }}
{% filter replace('a', 'b') | trim %}  banana  {% endfilter %}
""",
    "white space": """  {% if true %}
    kept
  {% endif %}  after
  {%+ if true %}left{% endif +%}
  {#- comment -#}
  {# a comment
of two lines #}
a {% raw %}{{ not a tag }} {%- not one -%}{% endraw %} b
{%- raw -%}  {{ x }}  {%- endraw -%}
	{{- ' c ' -}}
 d{{ '
e' }}
{{ "nested 'quotes' \\"x\\" \\u00e9 \\x41\\t|" }}{{ {'a': {'b': 1}} }}

""",
    "loops": """{% for i in range(5) %}{% if i == 1 %}{% continue %}{% endif %}{% if i == 4 %}{% break %}{% endif %}
{{ i }}/{{ loop.length }}:{{ loop.revindex }}{{ loop.previtem }}{{ loop.nextitem }}
{% endfor %}
{% for x in [] %}x{% else %}empty{% endfor %}
{% for m in messages if m.role != 'system' %}{{ loop.index }}{{ m.role }}{{ loop.last }} {% endfor %}
{% for a, (b, c) in [(1, (2, 3)), [4, [5, 6]]] %}{{ a + b * c }} {% endfor %}""",
    "operators": """{{ 7 // 2 }} {{ -7 // 2 }} {{ 7 % -3 }} {{ 2 ** 10 }} {{ 7 / 2 }} {{ 1 + 2.0 }} {{ 1 < 2 < 3 }} {{ 1 in [1] }}
{{ 'a' not in 'bcd' and not false or none }} {{ [1] + [2] }} {{ 'ab' * 2 }} {{ (1,) }} {{ -3 | abs }} {{ 1e16 }} {{ 1.5e-7 }}
{{ messages is defined }} {{ x is undefined }} {{ 3 is odd }} {{ none is none }} {{ {} is mapping }} {{ 1 is number }}
{{ 'straße' | upper }} {{ 'ÀÉ' | lower }} {{ 'héllo'[1:3] }} {{ 'héllo'[::-1] }} {{ [1, 2, 3, 4][-3:-1] }}
{{ 'x' if false }} {{ ['it\\'s', "\\n", 'é'] }} {{ {'k': none, 2: [true]} }} {{ (none or 'y') ~ 1 ~ 2.0 }}""",
    "date": "Today is {{ strftime_now('%d %B %Y') }}. {{ strftime_now('%Y-%m-%d %H:%M') if messages | length > 1 }}",
    "documents": """{% if tools is not none and tools %}tools{% endif %}{% if documents %}documents{% endif %}
{%- set seen = namespace(roles=[], n=0) -%}
{%- for m in messages -%}
{%- if m.role not in seen.roles -%}{%- set seen.roles = seen.roles + [m.role] -%}{%- set seen.n = seen.n + 1 -%}{%- endif -%}
{%- endfor -%}
{{ seen.roles }}{{ seen.n }}{{ dict(a=1, b='x').items() | list }}{{ seen.nothing is defined }}""",
    # A marked text escapes what is added to it, and stays marked.
    "marked": """{% for m in messages %}{{ "<'>" | safe + m.role + '"<b>"' }}{{ '<i>' + "x&y" | e }}{{ '<' ~ '&' | safe }}
{% set s = ' <A> ' | safe %}{{ s + '<' }}{{ s | trim + '<' }}{{ s.strip() + '<' }}{{ s | upper + '&' }}{{ s.lower() + '&' }}
{{ s[1:3] + '<' }}{{ s[1] + '<' }}{{ s * 2 + '<' }}{{ s | e }}{{ s | string + '<' }}{{ s | tojson + '<' }}{{ s.split()[0] + '<' }}
{{ s | title + '<' }}{{ s | replace('A', '&') + '<' }}{{ [s, '<'] | join('&') + '<' }}{{ [s] }}{{ s | reverse + '<' }}{{ s | first + '<' }}
{{ s | indent + '<' }}{{ s == ' <A> ' }}{{ s in ['x', ' <A> '] }}{{ (s or 'x') + '<' }}{{ s | default('x') + '<' }}{% endfor %}""",
    "format": """{% for m in messages %}{{ '<|{}|>{}{{}}'.format(m.role, loop.index) }}{{ '{1}-{0}-{1}'.format('a', none) }}
{{ '{a}{b}{}'.format(1.5, a=[1, 'x'], b=true) }}{% endfor %}{{ '{{' ~ '}}' }}""",
    "format_of_nothing": "{{ messages | length }}{{ '{0}{}'.format(1) if messages | length > 3 }}{{ '{2}'.format(1) if not messages }}",
    "branches": """{% if messages | length > 99 %}{{ messages | no_such_filter }}{{ 1 is no_such_test }}{% endif %}
{%- if true %}{% for m in messages %}{{ m.role }}{% endfor %}{% endif %}""",
}
