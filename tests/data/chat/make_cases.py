#!/usr/bin/env python3
"""Writes cases.json: small templates and what Jinja2, set up as Hugging Face does, renders.

Needs jinja2 3.1. Run: python3 make_cases.py > cases.json
"""
import json
import sys

import jinja2
from jinja2.ext import Extension, loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

from real_templates import REAL


class Generation(Extension):
    tags = {"generation"}

    def parse(self, parser):
        line = next(parser.stream).lineno
        body = parser.parse_statements(["name:endgeneration"], drop_needle=True)
        call = self.call_method("_render", [])
        return jinja2.nodes.CallBlock(call, [], [], body).set_lineno(line)

    def _render(self, caller):
        return caller()


class Raised(Exception):
    pass


def raise_exception(message):
    raise Raised(message)


def tojson(x, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
    return json.dumps(x, ensure_ascii=ensure_ascii, indent=indent, separators=separators,
                      sort_keys=sort_keys)


def environment():
    env = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True,
                                        extensions=[Generation, loopcontrols])
    env.filters["tojson"] = tojson
    env.globals["raise_exception"] = raise_exception
    return env


USERS = [{"name": "Zoë", "age": 31, "tags": ["a", "b"]}, {"name": "adam", "age": 7, "tags": []},
         {"name": "Bob", "age": 31, "tags": ["c"], "boss": {"name": "Eve"}}]
CONTEXT = {"users": USERS, "text": "Hello, Wörld 日本 🙂", "n": 7, "f": 2.5, "t": True, "no": False,
           "nil": None, "empty": [], "nums": [3, 1, 2], "d": {"b": 1, "a": [1, "x"], "C": None},
           "html": "<a href=\"x\">'&'</a>", "lines": "one\ntwo\n\nthree\n",
           "nested": {"k": {"deep": [{"z": 1}]}}, "spaced": "  x y  "}

# One string is a template rendered with CONTEXT; errors are recorded as errors.
CASES = r"""
{{ 1 }} {{ 1.0 }} {{ 1e20 }} {{ 1.5e-7 }} {{ 0.1 + 0.2 }} {{ 1e16 }} {{ 123456789012345.0 }} {{ 0.0001 }} {{ 1_000 }} {{ 0x1F }} {{ 0b101 }} {{ 0o17 }}
{{ true }} {{ True }} {{ false }} {{ none }} {{ None }} {{ nil }} {{ t }}
{{ 'a' "b" 'c' }} {{ 'it\'s' }} {{ "\u00e9\x41\n\t\\|" }} {{ '\q' }} {{ '\101' }} {{ "\U0001F642" }}
{{ [1, 'a', "it's", none, true, 1.5, [], {}, (), (1,), (1, 2), 'q"\'', 'x\ny\\'] }}
{{ {'a': 1, 'b': [1, {'c': none}], 3: 'x'} }} {{ {} }} {{ {'a': 1, 'a': 2} }}
{{ 1 + 2 * 3 - 4 / 2 }} {{ 7 // 2 }} {{ -7 // 2 }} {{ -7 % 3 }} {{ 7 % -3 }} {{ 2 ** 10 }} {{ 2 ** -1 }} {{ 2 ** 3 ** 2 }} {{ -2 ** 2 }}
{{ 7.5 // 2 }} {{ -7.5 % 2 }} {{ 7 / 2 }} {{ 1 / 3 }} {{ 5 % 2.5 }} {{ true + 1 }} {{ 3 * 1.5 }} {{ 1e3 }} {{ - -3 }} {{ +4 }} {{ -f }}
{{ 'ab' * 3 }}{{ 2 * 'x' }}{{ [1] * 2 }}{{ 'x' * -1 }} {{ [1] + [2] }} {{ (1,) + (2,) }} {{ 'a' + 'b' }}
{{ 'a' ~ 1 ~ none ~ 1.0 ~ true ~ [1] }} {{ 1 ~ 2 }} {{ missing ~ 'x' }}
{{ 1 + 'a' }}
{{ 'a' + 1 }}
{{ 'a' + none }}
{{ [1] + (2,) }}
{{ 1 / 0 }}
{{ 1 // 0 }}
{{ 1 % 0 }}
{{ 1 < 2 < 3 }} {{ 1 < 3 < 2 }} {{ 1 == 1.0 == true }} {{ 'a' < 'b' }} {{ [1, 2] < [1, 3] }} {{ (1,) <= (1,) }} {{ 1 != 2 }} {{ 'a' == 1 }} {{ 3 >= 3 > 2 }}
{{ none < 1 }}
{{ 'a' < 1 }}
{{ {} < {} }}
{{ 1 in [1, 2] }} {{ 3 not in [1, 2] }} {{ 'a' in 'cat' }} {{ 'b' in d }} {{ 1 in d }} {{ '' in '' }} {{ 'x' in missing }} {{ not 1 in [1] }}
{{ 1 in 'abc' }}
{{ 1 in 5 }}
{{ 1 and 0 or 'x' }} {{ not 1 }} {{ not not 'a' }} {{ none or [] or 0 }} {{ 1 and 'yes' }} {{ missing or 'default' }} {{ 0 and missing.x }}
{{ 'a' if true else 'b' }} {{ 'a' if false }}| {{ 'a' if 0 else 'b' if 0 else 'c' }} {{ ('a' if n > 5 else 'b') ~ 'z' }}
{{ ('a' if false) is defined }} {{ ('a' if false) is undefined }}
{{ text[0] }}{{ text[-1] }} {{ text[7:12] }} {{ text[::-1] }} {{ text[-4:] }} {{ text[:5] }} {{ text[1:9:2] }} {{ text[100] }}| {{ text|length }} {{ text[5:2] }}|
{{ nums[0] }} {{ nums[-1] }} {{ nums[1:] }} {{ nums[:-1] }} {{ nums[::-1] }} {{ nums[::2] }} {{ nums[5] }}| {{ nums[-9:9] }} {{ nums[2:0:-1] }} {{ (1,2,3)[1:] }} {{ nums[true] }}
{{ nums[::0] }}
{{ nums['a':] }}
{{ d.a }} {{ d['a'] }} {{ d.a[1] }} {{ d.zzz }}| {{ d['zzz'] }}| {{ nested.k.deep[0].z }} {{ nested['k'].deep.0.z }} {{ d.items is callable }} {{ d[1] }}|
{{ missing }}|{{ missing is defined }}|{{ missing|default('x') }}|{{ missing|length }}|{{ missing|list }}|{% for x in missing %}x{% endfor %}|{{ missing == missing }}|{{ missing|upper }}|{{ missing|trim }}
{{ missing.attr }}
{{ missing['x'] }}
{{ missing() }}
{{ missing + 1 }}
{{ -missing }}
{{ missing < 1 }}
{{ missing|int }}
{{ missing|tojson }}
{{ d.zzz.yyy }}
{{ none.x }}|{{ none['x'] }}|{{ 5 .x }}|{{ 'abc'.content is defined }}
{{ none() }}
{{ 'x'() }}
{{ n.foo() }}
{{ [missing] }}
{{ d.get('a') }} {{ d.get('q') }} {{ d.get('q', 5) }} {{ d.keys()|list }} {{ d.values()|list }} {{ d.items()|list }} {{ d|length }} {{ d.copy() }}
{% for k, v in d.items() %}{{ k }}={{ v }};{% endfor %} {% for k in d %}{{ k }}{% endfor %} {% for k, v in d|items %}{{ k }}{% endfor %} {% for k, v in d|dictsort %}{{ k }}{% endfor %} {{ d|dictsort(true) }} {{ {'x': 2, 'y': 1}|dictsort(by='value', reverse=true) }}
{{ spaced.strip() }}|{{ spaced.lstrip() }}|{{ spaced.rstrip() }}|{{ 'xxaxx'.strip('x') }}|{{ 'abcba'.lstrip('ab') }}|{{ 'abcba'.rstrip('ab') }}|{{ 'éxé'.strip('é') }}|{{ spaced|trim }}|{{ 'xax'|trim('x') }}|{{ '\u3000a\u00a0'.strip() }}|
{{ 'a,b,c'.split(',') }} {{ 'a,b,c'.split(',', 1) }} {{ ' a  b '.split() }} {{ 'a b  c '.split(none, 1) }} {{ ''.split() }} {{ ''.split(',') }} {{ 'a--b'.split('-') }} {{ 'a,b,c'.rsplit(',', 1) }} {{ 'abc'.split('</think>')[-1] }} {{ 'a b c'.split(maxsplit=1) }}
{{ 'a'.split('') }}
{{ 'abc'.startswith('ab') }} {{ 'abc'.endswith('bc') }} {{ 'abc'.startswith(('x', 'a')) }} {{ 'abc'.endswith(('x',)) }} {{ 'abc'.startswith('b', 1) }} {{ 'abc'.startswith('') }}
{{ 'abc'.startswith(1) }}
{{ 'hELLO wORLD'.upper() }} {{ 'ÀÉ'.lower() }} {{ 'hELLO wORLD'.title() }} {{ 'hELLO'.capitalize() }} {{ "they're bill's"|title }} {{ 'foo-bar (baz)'|title }} {{ 'straße'|capitalize }} {{ 'élan ñ ÿ жук'|upper }} {{ 'ΑΒΓ ЖУК'|lower }}
{{ 'aXbXc'.replace('X', '-') }} {{ 'aXbXc'.replace('X', '-', 1) }} {{ 'abc'.replace('', '.') }} {{ 'aXbX'|replace('X', '') }} {{ 'aaa'|replace('a', 'b', 2) }} {{ 123|replace(2, 'x') }}
{{ '-'.join(['a', 'b']) }} {{ ', '.join(d) }} {{ [1, 'b', none]|join('/') }} {{ users|join(', ', attribute='name') }} {{ 'abc'|join('.') }} {{ []|join }}|
{{ '-'.join([1]) }}
{{ 'hello'.find('l') }} {{ 'hello'.find('z') }} {{ 'hello'.rfind('l') }} {{ 'hello'.count('l') }} {{ 'hello'.index('e') }} {{ '日本語'.find('語') }} {{ [1, 2, 1].count(1) }} {{ [1, 2].index(2) }}
{{ 'hello'.index('z') }}
{{ '12'.isdigit() }} {{ 'a1'.isalnum() }} {{ 'ab'.isalpha() }} {{ ' '.isspace() }} {{ 'AB'.isupper() }} {{ 'aB'.islower() }} {{ ''.isdigit() }} {{ '3'.isnumeric() }} {{ 'é'.isalpha() }} {{ '日'.isalpha() }}
{{ 'a\nb\r\nc'.splitlines() }} {{ 'a=b=c'.partition('=') }} {{ 'abc'.partition('=') }} {{ 'abc'.removeprefix('a') }} {{ 'abc'.removesuffix('c') }} {{ '7'.zfill(3) }} {{ '-7'.zfill(4) }} [{{ 'a'.ljust(3) }}] [{{ 'a'.rjust(3, '.') }}] [{{ 'ab'.center(5) }}] [{{ 'a'.center(4) }}] {{ '%s-%d' % ('a', 5) }} {{ '%05.2f|%-4s|%x' % (3.14159, 'ab', 255) }} {{ '%s' % 'one' }} {{ '%d%%'|format(50) }} {{ '{} {1} {x}'.format is callable }} {{ '{0}-{1}-{x}'.format('a', 2, x=none) }} {{ '{}{}{{}}'.format(1, 2) }}
{{ '%s' % () }}
{{ '%d' % 'a' }}
{{ [1].append(2) }}
{{ d.update({'z': 1}) }}
{{ ''.__class__ }}|{{ ''.__class__.__mro__ }}
{{ users|map(attribute='name')|list }} {{ users|map(attribute='boss.name', default='-')|list }} {{ users|map(attribute='tags')|map('length')|list }} {{ ['a', 'b']|map('upper')|join }} {{ users|map(attribute='tags.0')|join('|') }} {{ ['a,b']|map('replace', ',', ';')|first }}
{{ users|selectattr('age', 'equalto', 31)|map(attribute='name')|join(',') }} {{ users|rejectattr('boss')|list|length }} {{ users|selectattr('boss', 'defined')|list|length }} {{ nums|select('gt', 1)|list }} {{ nums|reject('odd')|list }} {{ [0, 1, '']|select|list }} {{ [0, 1, none]|reject('none')|list }} {{ users|selectattr('name', 'in', ['Bob'])|list|length }} {{ users|selectattr('age', '>', 10)|list|length }}
{{ nums|sort }} {{ nums|sort(reverse=true) }} {{ ['b', 'A', 'c']|sort }} {{ ['b', 'A', 'c']|sort(case_sensitive=true) }} {{ users|sort(attribute='name')|map(attribute='name')|list }} {{ users|sort(attribute='age,name')|map(attribute='name')|list }} {{ 'bca'|sort }}
{{ [1, 'a']|sort }}
{{ nums|first }} {{ nums|last }} {{ []|first }}| {{ 'abc'|first }} {{ 'abc'|last }} {{ d|first }} {{ nums|sum }} {{ users|sum(attribute='age') }} {{ nums|sum(start=10) }} {{ nums|max }} {{ nums|min }} {{ users|max(attribute='age')|attr('get') is callable }} {{ ['b', 'A']|min }} {{ []|max }}|
{{ nums|reverse|list }} {{ 'abc'|reverse }} {{ [1, 1.0, 'a', 'A', 'b']|unique|list }} {{ users|unique(attribute='age')|list|length }} {{ 'abc'|list }} {{ d|list }} {{ (1, 2)|list }}
{{ '42'|int }} {{ 'x'|int }} {{ 'x'|int(5) }} {{ '3.7'|int }} {{ 3.9|int }} {{ -3.9|int }} {{ 'ff'|int(base=16) }} {{ ' 12 '|int }} {{ true|int }} {{ none|int }} {{ '1e2'|int }} {{ '2.5'|float }} {{ 'x'|float }} {{ 3|float }} {{ '-1'|int }} {{ '0x1f'|int(base=16) }}
{{ 2.567|round(2) }} {{ 2.5|round }} {{ 3.5|round }} {{ 2.4|round(method='ceil') }} {{ 2.6|round(method='floor') }} {{ 7|round }} {{ 2.675|round(2) }} {{ -5|abs }} {{ 2.5|abs }} {{ 1234.5|round(-2) }} {{ 1e300|round(2) }}
{{ html|escape }} {{ html|e|length }} {{ 'a'|safe }} {{ 5|string|length }} {{ 'a b c'|wordcount }}
{{ lines|indent }}|{{ lines|indent(2, true) }}|{{ lines|indent(2, blank=true) }}|{{ lines|indent('> ') }}|{{ 'x'|indent(first=true) }}
{{ none|default('x') }} {{ none|default('x', true) }} {{ ''|default('x') }} {{ ''|d('x', boolean=true) }} {{ missing|d }}|
{{ d|tojson }} {{ users|tojson }} {{ 'é"\\\n\u0001/<'|tojson }} {{ [1.0, 1e20, none, true, (1, 2)]|tojson }} {{ {1: 'a', none: 'b', true: 'c', 1.5: 'd'}|tojson }} {{ [[], {}]|tojson }}
{{ users|tojson(indent=2) }} {{ [[], {}, [1]]|tojson(indent=4) }} {{ d|tojson(sort_keys=true) }} {{ text|tojson(ensure_ascii=true) }} {{ [1, 2]|tojson(separators=(',', ':')) }} {{ {'a': 1}|tojson(indent=0) }} {{ {'a': [1]}|tojson(indent='\t') }}
{{ d.get|tojson }}
{{ 1|nofilter }}
{{ 1 is notest }}
{{ n is odd }} {{ n is even }} {{ n is divisibleby 7 }} {{ n is divisibleby(2) }} {{ n is not divisibleby 3 }} {{ n is number }} {{ t is number }} {{ t is integer }} {{ n is integer }} {{ f is float }} {{ t is boolean }} {{ nil is none }} {{ nil is not none }} {{ n is eq 7 }} {{ n is gt 3 }} {{ n is lessthan 3 }} {{ n is ne 7 }} {{ n is in [7] }} {{ n is not in [7] }} {{ t is true }} {{ t is false }} {{ 1 is true }} {{ nil is sameas none }}
{{ 'a' is string }} {{ 1 is string }} {{ d is mapping }} {{ nums is mapping }} {{ nums is sequence }} {{ 'a' is sequence }} {{ d is sequence }} {{ n is sequence }} {{ nums is iterable }} {{ n is iterable }} {{ 'a' is iterable }} {{ d is iterable }} {{ (1,) is sequence }} {{ missing is undefined }} {{ missing is iterable }} {{ 'AB' is upper }} {{ 'ab' is lower }} {{ range is callable }} {{ 'upper' is filter }} {{ 'odd' is test }} {{ none is mapping }} {{ 'a' is defined and 'b' is string }}
{{ 1 + n is odd }} {{ not n is odd }} {{ n is odd and t }} {{ (n is odd) is true }} {{ n is defined or false }} {{ 'x' if n is odd else 'y' }} {{ -3|abs }} {{ nums|length > 2 }} {{ 'a' ~ 'b'|upper }} {{ ('a' ~ 'b')|upper }} {{ 1 + '2'|int }}
{% for x in nums %}{{ loop.index }}{{ loop.index0 }}{{ loop.revindex }}{{ loop.revindex0 }}{{ loop.first }}{{ loop.last }}{{ loop.length }}{{ loop.previtem }}{{ loop.nextitem }}{{ loop.depth }}{{ loop.cycle('a', 'b') }};{% endfor %}
{% for x in [1, 1, 2] %}{{ loop.changed(x) }} {% endfor %}{% for x in nums if x > 1 %}{{ x }}{{ loop.length }}{{ loop.last }} {% else %}none{% endfor %}{% for x in nums if x > 9 %}{{ x }}{% else %}none{% endfor %}{% for a, b in [(1, 2), [3, 4]] %}{{ a }}-{{ b }} {% endfor %}{% for a, (b, c) in [(1, (2, 3))] %}{{ a + b + c }}{% endfor %}
{% for a, b in [(1, 2, 3)] %}{% endfor %}
{% for x in 5 %}{% endfor %}
{% for c in 'añ🙂' %}[{{ c }}]{% endfor %}{% for x in 1, 2 %}{{ x }}{% endfor %}{% for x in range(3) %}{{ x }}{% endfor %}{% for x in range(5, 0, -2) %}{{ x }}{% endfor %}{% for x in range(2, 4) %}{{ x }}{% endfor %}{% for x in range(0) %}{{ x }}{% endfor %}
{% for i in range(10) %}{% if i == 2 %}{% continue %}{% endif %}{% if i == 5 %}{% break %}{% endif %}{{ i }}{% endfor %} {% for i in range(3) %}{% for j in range(3) %}{% if j == 1 %}{% break %}{% endif %}{{ i }}{{ j }} {% endfor %}{% endfor %}
{% set x = 0 %}{% for i in range(3) %}{{ x }}{% set x = x + 1 %}{{ x }}{% endfor %}{{ x }} {% if true %}{% set x = 'if' %}{% endif %}{{ x }}
{% set ns = namespace(x=0, y='a') %}{% for i in range(3) %}{% set ns.x = ns.x + i %}{% endfor %}{{ ns.x }}{{ ns.y }}{{ ns.z }}|{{ ns.z is defined }} {% set ns.z = 1 %}{{ ns.z }} {{ ns['x'] }} {% set m = namespace({'q': 3}) %}{{ m.q }}
{% set q.x = 1 %}
{% set d.x = 1 %}
{% set a, b = 1, 2 %}{{ a }}{{ b }} {% set c = 1, %}{{ c }} {% set (e, g) = (5, 6) %}{{ e + g }} {% set blk %}x{{ n }}{% endset %}[{{ blk }}] {% set up | upper | replace('A', 'B') %}abc{% endset %}{{ up }} {{ blk is string }}
{% set a, b = 1 %}
{% for x in nums %}{% set outer %}{{ x }}!{% endset %}{{ outer }}{% endfor %}{{ outer is defined }}
{% macro m(a, b=2, c='z') %}[{{ a }}{{ b }}{{ c }}]{% endmacro %}{{ m(1) }}{{ m(1, 3) }}{{ m(b=5, a=4) }}{{ m() }}{{ m(1, c=none) }} {{ m is callable }} {{ m(1)|length }} {{ m(1)|upper }}
{% macro m(a) %}{{ a }}{% endmacro %}{{ m(1, 2) }}
{% macro m(a) %}{{ a }}{% endmacro %}{{ m(z=2) }}
{% macro m(a) %}{{ a }}{{ varargs }}{{ kwargs }}{% endmacro %}{{ m(1, 2, 3, q=4) }}{{ m() }}
{% macro fact(n) %}{% if n <= 1 %}1{% else %}{{ n * fact(n - 1)|int }}{% endif %}{% endmacro %}{{ fact(10) }}
{% macro tree(x) -%}{%- if x is mapping -%}{{ '{' }}{%- for k, v in x.items() -%}{{ k }}:{{ tree(v) }}{%- if not loop.last %},{% endif -%}{%- endfor -%}{{ '}' }}{%- elif x is iterable and x is not string -%}[{%- for v in x %}{{ tree(v) }};{% endfor %}]{%- else -%}{{ x }}{%- endif -%}{%- endmacro %}{{ tree(nested) }}{{ tree(users) }}
{% set g = 'global' %}{% macro m() %}{{ g }}{% set g = 'local' %}{% endmacro %}{{ m() }}{{ g }}{% set g = 'changed' %}{{ m() }}
{% macro m(x, y=x) %}{{ x }}{{ y }}{% endmacro %}{{ m(1) }}{{ m(1, 2) }} {% for i in nums %}{% macro inner() %}{{ i }}{% endmacro %}{{ inner() }}{% endfor %}
{% macro wrap(tag) %}<{{ tag }}>{{ caller() }}</{{ tag }}>{% endmacro %}{% call wrap('b') %}hi {{ n }}{% endcall %} {% macro each(xs) %}{% for x in xs %}{{ caller(x, loop.index) }}{% endfor %}{% endmacro %}{% call(v, i) each(nums) %}{{ i }}:{{ v }} {% endcall %}
{% filter upper %}abc {{ text }}{% endfilter %} {% filter replace('a', 'b')|upper %}banana{% endfilter %}
{% with a = 1, b = n %}{{ a }}{{ b }}{% set n = 99 %}{{ n }}{% endwith %}{{ n }}{{ a is defined }}
{% generation %}said {{ n }}{% set inside = 1 %}{% endgeneration %}{{ inside is defined }}
{% raw %}{{ not }} {% if %} {# x #}{% endraw %}|{%- raw -%}  a  {%- endraw -%}|
a{# comment {{ x }} {% y %} #}b{#- trim -#}  c  {#- x #}d
{{ dict(a=1, b='x') }} {{ dict({'a': 1}, b=2) }} {{ dict([('k', 'v')]) }} {{ dict()|length }}
{{ range(10)|list }} {{ range(2, 8, 3)|list }} {{ range(3)|length }} {{ range(3)[1] }}
{{ range(1000000) }}
{{ range(1, 5, 0) }}
{{ raise_exception('boom ' ~ n) }}
{% if n == 7 %}yes{% elif nope %}elif{% else %}no{% endif %} {% if empty %}a{% elif n %}b{% endif %} {% if not empty and (t or no) %}c{% endif %} {% if missing %}d{% else %}e{% endif %} {% if missing is defined and missing.x %}f{% else %}g{% endif %}
{{ {'a': {'b': {}}}['a'].b }}{{ {'x': '}}'}.x }}{{ '{{' }}{{ '%}' }}
{{ (1, 2) }}{{ 1, 2 }}{{ () }}{{ (1) }} {{ [1,] }} {{ {'a': 1,} }} {{ [(1, 2)][0][1] }}
{{ users[0].name }} {{ users[-1]['boss'].name }} {{ users[0]['tags'][1] }} {{ users|length }} {{ (users|first).name }} {{ users[1:]|map(attribute='name')|join }} {{ (users|selectattr('age', 'lt', 10)|list)[0].name }}
{{ 'é' < 'z' }} {{ 'Z' < 'a' }} {{ '10' < '9' }} {{ text.upper()|lower == text|lower }} {{ 'x' in ['x'] and 'y' not in 'xyz'[:1] }}
{{ 10 ** 15 }} {{ 9223372036854775807 }} {{ -9223372036854775807 - 1 }} {{ 1e308 * 10 }} {{ -1e308 * 10 }} {{ 7.0 }} {{ 1.10 }} {{ 100000.0 * 100000 }} {{ 3.0e5 }} {{ 1.0e-5 }}
{%- for x in nums -%} {{ x }} {%- endfor -%} |
{% if t %} a {%- endif %} b {%+ if t %}c{% endif +%} d
{{ n -}}   x   {{- n }} {{ n -}}
{{
{{ n
{% if %}{% endif %}
{% if n %}
{% for x nums %}{% endfor %}
{% endfor %}
{% unknown %}
{{ 'abc }}
{{ 1 + }}
{{ (1 }}
{{ [1 }}
{{ n) }}
{{ ! }}
{{ a b }}
{# no end
{% raw %} no end
{% set x %}
{% set 1 = 2 %}
{% macro %}{% endmacro %}
{% macro m(a=1, b) %}{% endmacro %}
{% break %}
{% for x in nums %}{% else %}{% break %}{% endfor %}
{{ x. }}
{{ x[ }}
{{ }}
{{ f(a=1, 2) }}
{% include 'x' %}
{% import 'x' as y %}
{{ n is divisibleby 3 is true }}
{{ ''.__init__ }}|{{ range.__globals__ }}|
{{ d.__class__ }}|{{ cycler is defined or true }}
{% set true = 1 %}
{% do nums.append(1) %}
{% if n %}x{% endfor %}{% endif %}
{{ n if t else }}
{{ 08 }}
{{ 1__0 }}
{% for loop in nums %}{{ loop }}{% endfor %}
""".strip("\n").split("\n")

# Templates with line ends: white-space control.
BLOCKS = [
    "a\n{% if true %}\nb\n{% endif %}\nc\n",
    "a\n   {% if true %}   \n  b\n   {% endif %}\nc",
    "a\n   {%- if true -%}   \n  b\n   {%- endif -%}\nc\n\n",
    "  {% if true %}x{% endif %}\n  {{ n }}\n  {# c #}\n  y",
    "x {% if true %} y {% endif %} z\n",
    "{% if true %}\n\n\nx{% endif %}\n\n",
    "a  {%+ if true %}  b{% endif %}\n   {%+ if true +%}\n c{% endif %}",
    "a\r\n{% if true %}\r\nb\r{% endif %}\rc\r\n",
    "{{ n }}\n\n{{ n }}\n",
    "{% for x in nums %}\n  - {{ x }}\n{% endfor %}\nend",
    "{%- for x in nums %}\n  - {{ x }}\n{%- endfor %}\nend",
    "{# c #}\n{# d -#}\n\n x\n  {#- e #} y",
    "   {% raw %}\n  {{ x }}\n   {% endraw %}\n z",
    "\t{% set a = 1 %}\n\t{{ a }}\n",
    "{% set x %}\n  a\n{% endset %}\n[{{ x }}]",
    "{{ 'a\nb' }}\n{% set y = [\n 1,\n 2\n] %}\n{{ y }}",
    "{% macro m() %}\n  x\n{% endmacro %}\n{{ m() }}|",
    " {%- if true %} a{% endif -%} \n b",
    "{% if true -%}\n  a\n{%- endif %}\n\n{%- if true %}\n b\n{% endif %}",
    "{{- n -}}\n {{- n -}} \n",
    "a {{ n }}  {% if true %}\n  b{% endif %}   {# x #}   \n  {# y #}\nc",
    "line\n  {%- generation -%}\n g \n{%- endgeneration -%}\n end",
    "{% if t %}{{ n }}\n{% endif %}{% if t %}\n{{ n }}{% endif %}\n\n",
    "\n\n{% if t %}\n{% endif %}\n",
    "{{ n }}{% if t %} {% endif %}\n  {% if t %}x{% endif %}  \n",
    "",
    "\n",
    "no tags at all { } %} }} #}",
]


def render(template, context):
    try:
        return {"expected": environment().from_string(template).render(**context)}
    except Raised as error:
        return {"raised": str(error)}
    except Exception as error:  # whatever Python raises inside a template counts as an error
        print(f"{template[:60]!r}: {error}", file=sys.stderr)
        return {"error": True}


def main():
    cases = [{"template": t, **render(t, CONTEXT)} for t in CASES + BLOCKS]
    real = []
    for name, template, contexts in REAL:
        runs = [{"context": c, **render(template, c)} for c in contexts]
        real.append({"name": name, "template": template, "runs": runs})
    result = {"context": CONTEXT, "cases": cases, "real": real}
    json.dump(result, sys.stdout, ensure_ascii=False, indent=1)
    sys.stdout.write("\n")


main()
