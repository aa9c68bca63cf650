#!/usr/bin/env python3
"""compare_jinja.py - the interpreter beside jinja2, on templates made at random.

usage: compare_jinja.py [--seed N] [--count N] [--cli PATH]

Needs jinja2 (pip install jinja2).  Builds tests/text/jinja_cli.c with gcc
unless --cli is given, renders every case with both and prints what differs:
the text, or whether it is an error.  Exit status 1 when anything differs."""
import argparse
import datetime
import json
import os
import random
import re
import subprocess
import sys
import tempfile
import warnings

import jinja2
import jinja2.ext
import jinja2.nodes
from jinja2.sandbox import ImmutableSandboxedEnvironment

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
NOW = datetime.datetime(2025, 3, 14, 15, 9, 26)


class Generation(jinja2.ext.Extension):
    tags = {"generation"}

    def parse(self, parser):
        lineno = next(parser.stream).lineno
        body = parser.parse_statements(["name:endgeneration"], drop_needle=True)
        call = self.call_method("_body", [])
        return jinja2.nodes.CallBlock(call, [], [], body).set_lineno(lineno)

    def _body(self, caller):
        return caller()


def environment():
    def raise_exception(message):
        raise jinja2.exceptions.TemplateError(message)

    def tojson(x, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
        return json.dumps(x, ensure_ascii=ensure_ascii, indent=indent,
                          separators=separators, sort_keys=sort_keys)

    env = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True,
        extensions=[Generation, jinja2.ext.loopcontrols])
    env.filters["tojson"] = tojson
    env.globals["raise_exception"] = raise_exception
    env.globals["strftime_now"] = NOW.strftime
    return env


CONTEXT = {
    "s": "Hello, World", "e": "", "u": "Ünïcode 你好 🚀 ß ﬁ ΑΣ", "ws": "  two  words \n\t",
    "html": "<a href='x'>&\"</a>", "multi": "line one\nline two\n\n  line four\n",
    "q": "it's \"both\"", "num": "42", "flt": "3.50", "neg": "-7", "esc": "tab\tnul\x00bell\x07\u200b\u00a0é",
    "i": 7, "z": 0, "n": -3, "f": 2.5, "g": 1e16, "h": 1e-7, "big": 12345678901234567890,
    "t": True, "b": False, "none": None,
    "l": [3, 1, 2], "ls": ["b", "A", "c", "a"], "lm": [1, "x", None, True, 2.0, [1], {"k": "v"}], "el": [],
    "nested": [[1, 2], [3, [4, 5]], []],
    "d": {"b": 1, "a": "two", "C": [1, {"x": None}], "items": "key", "é": 1.0}, "ed": {},
    "users": [{"name": "Bob", "age": 30, "tags": ["x"]}, {"name": "alice", "age": 25},
              {"name": "Carl", "age": 30, "tags": []}],
    "messages": [{"role": "system", "content": "Sys"}, {"role": "user", "content": "Hi <b>there</b>"},
                 {"role": "assistant", "content": None, "tool_calls": [
                     {"function": {"name": "f", "arguments": {"a": 1, "b": [1.5, "x"]}}}]},
                 {"role": "tool", "content": "{\"r\": 1}"}],
}

FIXED = r"""
{{ u|upper }}|{{ u|lower }}|{{ u|title }}|{{ u|capitalize }}|{{ u.title() }}|{{ u.swapcase() }}|{{ u.casefold() }}
{{ [s, u, q, esc, html] }}|{{ d }}|{{ lm }}|{{ nested }}|{{ (1,) }}|{{ (1, 'a') }}|{{ () }}|{{ {1: 2, none: true, 1.5: 'x'} }}
{{ d|tojson }}|{{ lm|tojson }}|{{ d|tojson(indent=2) }}|{{ lm|tojson(ensure_ascii=true) }}|{{ u|tojson }}|{{ esc|tojson }}|{{ el|tojson(indent=2) }}{{ ed|tojson(indent=4) }}
{{ {1: 2, none: true, true: 'x', 2.5: []}|tojson }}|{{ [1, [2, {}]]|tojson(indent='--') }}|{{ d|tojson(sort_keys=true) }}
{{ '<x>' + (html|safe) }}|{{ (html|safe) + '<x>' }}|{{ '<x>' ~ (html|safe) }}|{{ [html|safe, '<y>']|join('<z>') }}|{{ (html|safe)|upper + '&' }}|{{ (html|safe).replace('a', '<') }}|{{ (html|safe) * 2 }}|{{ (html|safe)[1:4] + '<' }}|{{ [html|safe] }}|{{ '%s<' % (html|safe) }}|{{ ('%s<'|safe) % html }}|{{ (html|safe).split('<')[1] + '<' }}|{{ (html|e)|e }}|{{ (html|safe)|string + '>' }}|{{ (html|safe)|trim + '>' }}|{{ ('<'|safe).join(['<', 'a']) }}|{{ (html|safe)|replace('a','<') + '<' }}|{{ (html|safe)|title + '<' }}|{{ (html|safe)|indent + '<' }}|{{ (html|safe)|list }}|{{ (html|safe)|first + '<' }}|{{ (html|safe)|reverse + '<' }}
{{ i // 2 }}|{{ n // 2 }}|{{ n % 2 }}|{{ i % n }}|{{ f // 1 }}|{{ f % 1 }}|{{ -f // 2 }}|{{ -f % 2 }}|{{ 2 ** 10 }}|{{ 2 ** -1 }}|{{ i / 2 }}|{{ 6 / 3 }}|{{ 2 ** 3 ** 2 }}|{{ -2 ** 2 }}|{{ 1 + true }}|{{ true + true }}
{{ 1.0 }}|{{ 1e16 }}|{{ 1e15 }}|{{ 123456789012345680.0 }}|{{ 1e-4 }}|{{ 1e-5 }}|{{ 0.1 + 0.2 }}|{{ 1e22 }}|{{ 5e-324 }}|{{ 1e308 * 10 }}|{{ -1e308 * 10 }}|{{ 100000.0 }}|{{ 3.14 }}|{{ g }}|{{ h }}|{{ big }}|{{ big == big }}|{{ big > 5 }}|{{ 0x1F }}|{{ 0b101 }}|{{ 0o17 }}|{{ 1_000 }}
{{ 1 == 1.0 }}|{{ true == 1 }}|{{ '1' == 1 }}|{{ none == false }}|{{ [1] == [1.0] }}|{{ (1,) == [1] }}|{{ {'a': 1} == {'a': true} }}|{{ 1 < 2 < 3 }}|{{ 1 < 3 < 2 }}|{{ 'a' < 'b' }}|{{ [1, 2] < [1, 3] }}|{{ 'a' in 'abc' }}|{{ 1 in [true] }}|{{ 'b' in d }}|{{ 'x' not in d }}
{{ s[0] }}|{{ s[-1] }}|{{ s[100] }}|{{ s[1:4] }}|{{ s[::-1] }}|{{ s[::2] }}|{{ u[1:5] }}|{{ u[::-1] }}|{{ u[-3:] }}|{{ l[5:] }}|{{ l[-2:] }}|{{ l[::-1] }}|{{ l[:-1] }}|{{ s[4:1:-1] }}|{{ range(10)[2:5] }}|{{ range(10)[::-2]|list }}|{{ 'abc'[-100:2] }}|{{ l[true] }}
{% for x in l %}{{ loop.index }},{{ loop.index0 }},{{ loop.revindex }},{{ loop.revindex0 }},{{ loop.first }},{{ loop.last }},{{ loop.length }},{{ loop.previtem }},{{ loop.nextitem }},{{ loop.depth }},{{ loop.depth0 }},{{ loop.cycle('a', 'b') }},{{ loop.changed(x > 1) }};{% endfor %}
{% for x in l if x > 1 %}{{ loop.index }}/{{ loop.length }}/{{ loop.last }}:{{ x }} {% else %}none{% endfor %}{% for x in l if x > 9 %}{{ x }}{% else %}none{% endfor %}
{% for x in users|map(attribute='name') %}{{ loop.index }}/{{ loop.length }}:{{ x }}{% if not loop.last %}, {% endif %}{% endfor %}
{% for k, v in d|items %}{{ k }}={{ v }};{% endfor %}{% for k, v in d.items() %}{{ k }}={{ v }};{% endfor %}{% for k in d %}{{ k }}{% endfor %}{% for c in u %}{{ c }}.{% endfor %}{% for x in undefinedthing %}x{% else %}empty{% endfor %}
{% set ns = namespace(a=1, b='x') %}{% for x in l %}{% set ns.a = ns.a + x %}{% set y = x %}{% endfor %}{{ ns.a }}{{ y is defined }}{{ ns.b }}{{ ns.c is defined }}{{ ns }}
{% set x = 1 %}{% for i in l %}{{ x }}{% set x = x + 1 %}{{ x }}{% endfor %}{{ x }}{% if true %}{% set x = 5 %}{% endif %}{{ x }}
{% macro m(a, b=2, c='z') %}{{ a }}-{{ b }}-{{ c }}{{ varargs }}{{ kwargs }}{% endmacro %}{{ m(1) }}|{{ m(1, c=3) }}|{{ m(1, 2, 3, 4, x=5) }}|{{ m() }}|{{ m.name }}
{% macro f(n) %}{{ n }}{% if n > 0 %},{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(5) }}
{% macro dlg(t) %}<{{ t }}>{{ caller('x', 2) }}{{ caller('y') }}</{{ t }}>{% endmacro %}{% call(a, b=9) dlg('T') %}[{{ a }}{{ b }}]{% endcall %}
{% macro a() %}{{ x }}{% endmacro %}{% set x = 1 %}{{ a() }}{% for x in [5] %}{{ a() }}{% endfor %}
{% filter upper|replace('A', '4') %}banana {{ s }}{% endfilter %}{% set v | trim | upper %}  block  {% endset %}[{{ v }}]{% set w %}<{{ s }}>{% endset %}{{ w + '&' }}
{% with a = 1, b = s %}{{ a }}{{ b }}{% endwith %}{{ a is defined }}{% generation %}gen{% set inner = 1 %}{% endgeneration %}{{ inner is defined }}
{% for x in range(10) %}{% if x == 2 %}{% continue %}{% endif %}{% if x == 5 %}{% break %}{% endif %}{{ x }}{% endfor %}
{{ users|map(attribute='tags')|list }}|{{ users|map(attribute='tags', default='-')|list }}|{{ users|selectattr('tags')|map(attribute='name')|join(',') }}|{{ users|selectattr('age', 'eq', 30)|list|length }}|{{ users|rejectattr('age', 'gt', 25)|map(attribute='name')|list }}|{{ l|select('odd')|list }}|{{ l|reject('odd')|list }}|{{ ls|map('upper')|list }}|{{ l|map('string')|join('-') }}|{{ users|map(attribute='tags.0')|list }}
{{ users|sort(attribute='name')|map(attribute='name')|list }}|{{ users|sort(attribute='age,name')|map(attribute='name')|list }}|{{ ls|sort }}|{{ ls|sort(case_sensitive=true) }}|{{ ls|sort(reverse=true) }}|{{ l|sort }}|{{ d|dictsort }}|{{ d|dictsort(true) }}|{{ {'a': 2, 'b': 1}|dictsort(false, 'value') }}
{{ ls|unique|list }}|{{ l|min }}{{ l|max }}{{ l|sum }}{{ users|sum('age') }}|{{ ls|max }}|{{ el|max }}|{{ l|first }}{{ l|last }}{{ el|first }}{{ s|last }}|{{ l|reverse|list }}|{{ s|reverse }}|{{ [1,2,3,4,5]|batch(2)|list }}|{{ [1,2,3,4,5]|batch(2, 'x')|list }}|{{ [1,2,3,4,5]|slice(3)|list }}|{{ [1,2,3,4,5]|slice(3, 'x')|list }}
{{ '42'|int }}|{{ 'x'|int(9) }}|{{ '0x1f'|int(base=16) }}|{{ '3.9'|int }}|{{ flt|float }}|{{ 'nan'|float }}|{{ none|int }}|{{ l|int(5) }}|{{ ' 7 '|int }}|{{ '1_0'|int }}|{{ '1e3'|int }}|{{ 3.99|int }}|{{ -3.99|int }}|{{ 'inf'|int(1) }}|{{ true|int }}|{{ 2.675|round(2) }}|{{ 2.5|round }}|{{ 3.5|round }}|{{ 42|round }}|{{ 42.55|round(1, 'floor') }}|{{ 42.1|round(0, 'ceil') }}|{{ -5|abs }}
{{ s|default('x') }}|{{ nope|default('x') }}|{{ e|default('x') }}|{{ e|default('x', true) }}|{{ none|default('x') }}|{{ nope|d }}|{{ d.nope|default(1) }}|{{ s.nope|default(2) }}
{{ multi|indent }}|{{ multi|indent(2, true) }}|{{ multi|indent(2, blank=true) }}|{{ multi|indent('> ') }}|{{ s|center(20) }}|{{ s|truncate(8) }}|{{ s|truncate(8, true) }}|{{ s|wordcount }}|{{ s|replace('l', 'L', 1) }}|{{ html|e }}|{{ s|urlencode }}|{{ 1234567|filesizeformat }}|{{ 'a %s b %d c %05.2f %x %r %%'|format('x', 5, 3.14159, 255, 'q') }}|{{ '%(a)s' % {'a': 1} }}|{{ '%-5s|%5s|%+d' % ('a', 'b', 3) }}|{{ '{} {1} {a!r:>5}'.format(1, 2, a='x') if false else '{} {a!r:>5}|{:,}|{:.2f}|{:05d}|{:x}|{:^7}|{:%}'.format(1, 1234567, 2.345, 42, 255, 'mid', 0.25, a='x') }}
{{ s.split() }}|{{ s.split(',') }}|{{ ws.split() }}|{{ s.split('o', 1) }}|{{ s.rsplit('o', 1) }}|{{ ws.rsplit(none, 1) }}|{{ multi.splitlines() }}|{{ multi.splitlines(true) }}|{{ s.partition(', ') }}|{{ s.rpartition('l') }}|{{ s.partition('zz') }}|{{ s.rpartition('zz') }}|{{ ''.split('x') }}|{{ ''.split() }}|{{ 'a  b'.split(' ') }}
{{ ws.strip() }}|{{ ws.lstrip() }}|{{ ws.rstrip() }}|{{ s.strip('Hd') }}|{{ s.lstrip('He') }}|{{ s.startswith('He') }}|{{ s.startswith(('x', 'H')) }}|{{ s.endswith('ld') }}|{{ s.endswith('lo', 0, 5) }}|{{ s.find('o') }}|{{ s.rfind('o') }}|{{ s.find('zz') }}|{{ s.count('l') }}|{{ s.index('W') }}|{{ u.find('你') }}|{{ s.removeprefix('He') }}|{{ s.removesuffix('ld') }}|{{ s.zfill(15) }}|{{ '-5'.zfill(4) }}|{{ s.ljust(15, '.') }}|{{ s.rjust(15) }}|{{ 'ab'.center(5, '*') }}|{{ 'abc'.center(6, '*') }}|{{ ', '.join(ls) }}
{{ 'abc'.isalpha() }}{{ '12'.isdigit() }}{{ '½'.isnumeric() }}{{ ''.isalpha() }}{{ ' '.isspace() }}{{ 'Ab'.istitle() }}{{ 'AB'.isupper() }}{{ 'ab1'.islower() }}{{ 'a1'.isalnum() }}{{ 'é'.isascii() }}{{ 'a_b'.isidentifier() }}{{ 'ab\n'.isprintable() }}
{{ d.get('a') }}|{{ d.get('zz') }}|{{ d.get('zz', 5) }}|{{ d.keys()|list }}|{{ d.values()|list }}|{{ d.items()|list }}|{{ d.keys() }}|{{ d.items() }}|{{ d.items is callable }}|{{ d['items'] }}|{{ d.b }}|{{ d['é'] }}|{{ l.index(1) }}|{{ l.count(1) }}|{{ dict(a=1, b=2) }}|{{ dict([('x', 1)]) }}|{{ d.copy() == d }}
{{ nope is defined }}{{ nope is undefined }}{{ none is none }}{{ s is string }}{{ i is number }}{{ t is number }}{{ t is boolean }}{{ i is integer }}{{ f is float }}{{ d is mapping }}{{ l is sequence }}{{ s is sequence }}{{ d is sequence }}{{ i is sequence }}{{ l is iterable }}{{ i is iterable }}{{ nope is iterable }}{{ s is callable }}{{ range is callable }}{{ i is odd }}{{ i is even }}{{ i is divisibleby 7 }}{{ s is lower }}{{ s is upper }}{{ t is true }}{{ b is false }}{{ 1 is true }}{{ i is sameas i }}{{ i in [7] }}{{ 7 is in l }}{{ i is eq 7 }}{{ i is ne 7 }}{{ i is gt 5 }}{{ i is lessthan 5 }}{{ 'upper' is filter }}{{ 'odd' is test }}{{ (html|safe) is escaped }}{{ nope is sequence }}{{ nope is mapping }}{{ range(3) is sequence }}
{{ nope }}|{{ nope.x is defined if false else 'ok' }}|{{ d.nope }}|{{ nope|length }}|{{ nope|list }}|{{ nope == nope2 }}|{{ [nope] }}|{{ nope ~ 'x' }}|{{ not nope }}|{{ nope or 'or' }}|{{ 'a' if nope }}|{{ ('a' if nope) is defined }}|{{ nope|join }}|{{ nope|string }}|{{ nope|upper }}|{{ nope|first is defined }}|{{ nope|trim }}|{{ nope|sort }}|{{ nope|items|list }}|{{ nope|map('upper')|list }}|{{ nope in l }}|{{ 1 in nope }}
{{ nope.x }}
{{ nope + 1 }}
{{ 1 + nope }}
{{ nope() }}
{{ nope[0] }}
{{ nope|int }}
{{ nope < 1 }}
{{ nope|tojson }}
{{ d.nope.x }}
{{ d.nope() }}
{{ l.append(4) }}
{{ d.update({}) }}
{{ s + 1 }}
{{ 1 + s }}
{{ l + s }}
{{ s - 1 }}
{{ s * s }}
{{ none + 1 }}
{{ none|length }}
{{ none.x }}|{{ none[0] }}|{{ i.x }}|{{ i[0] }}
{{ none.x.y }}
{{ i|length }}
{{ s < 1 }}
{{ d < d }}
{{ 1 in s }}
{{ 1 in i }}
{{ i // 0 }}
{{ i / 0 }}
{{ f % 0 }}
{{ d[1:] }}
{{ l['a'] }}|{{ l[1.5] }}|{{ d[[1]] }}
{{ l|map('nofilter')|list }}
{{ l|nofilter }}
{% if false %}{{ l|nofilter }}{% endif %}ok
{{ 'x' if true else l|nofilter }}
{% for x in [] %}{{ l|nofilter }}{% endfor %}
{{ l is notest }}
{% for a, b in [[1, 2, 3]] %}{% endfor %}
{% for a, b in [1] %}{% endfor %}
{% set a, b = 1 %}
{% set a, b = (1, 2) %}{{ a }}{{ b }}
{{ users|map(attribute='name')|length }}
{{ (users|map(attribute='name'))[0] is defined }}
{{ (users|map(attribute='name'))[1:] }}
{% set g = users|map(attribute='name') %}{{ g|list }}{{ g|list }}
{{ d|items|list }}{{ l|items|list }}
{{ l|items is defined }}
{{ raise_exception('boom ' ~ s) }}
{{ range(100001)|length }}
{{ range(5)|list }}{{ range(5, 1, -2)|list }}{{ range(3) }}{{ range(1, 9, 3) }}
{{ strftime_now('%Y-%m-%d %H:%M:%S %A %a %B %b %d %-d %j %p %I %y %%') }}
{% set c = cycler('a', 'b') %}{{ c.next() }}{{ c.next() }}{{ c.next() }}{{ c.current }}{% set j = joiner('|') %}{{ j() }}x{{ j() }}y
{% for x in nested recursive %}[{% if x is iterable %}{{ loop(x) }}{% else %}{{ x }}@{{ loop.depth }}{% endif %}]{% endfor %}
   {% if true %}  
  a  
   {% endif %}  
b
  {%- if true -%}  c  {%- endif -%}  d
{# c #}  x {#- y -#}  z
{% raw %}{{ x }}{% endraw %}{%- raw -%}  {% y %}  {%- endraw -%}  q
a
  {%+ if true %}b{% endif +%}
c
{{- s -}}   x  {{ s }}
{{ 'a\nb\t\'\"\\\x41\u00e9\101\q' }}{{ "a" 'b' }}{{ 'x'
'y' }}
{{ {'a': {'b': {'c': 1}}}.a.b.c }}{{ {'a': [1]}['a'][0] }}{{ [1, 2,] }}{{ (1, 2,) }}{{ {'a': 1,} }}
{{ 1 if true else 2 if false else 3 }}{{ (1 if false) is undefined }}{{ true and false or true }}{{ not true == false }}{{ 1 + 2 * 3 - 4 }}{{ (1 + 2) * 3 }}{{ 1 ~ 2 + 3 }}{{ -1|abs }}{{ - 1 }}{{ 1 - -1 }}{{ 'a' ~ 1 ~ none ~ true ~ 1.5 ~ l }}
{{ messages[0].content }}{{ messages[-1]['role'] }}{{ messages|selectattr('role', 'equalto', 'user')|map(attribute='content')|first }}{{ (messages|last).content }}{{ messages[1:][0].role }}{{ messages[2].tool_calls[0].function|tojson }}{{ messages[2]['tool_calls'] is defined }}{{ 'tool_calls' in messages[0] }}{{ messages }}
{% for m in messages %}{% if loop.previtem is defined and loop.previtem.role == 'user' %}P{% endif %}{% if loop.nextitem is not defined %}L{% endif %}{{ m.role }}{% if m.content is not none %}{{ m.content }}{% endif %}{% endfor %}
{{ s.__class__ }}
{{ s.__class__.x }}
{{ s|attr('upper') is callable }}{{ d|attr('b') is defined }}
{{ [1,2]|join }}{{ [[1,2],[3]]|join('-') }}{{ d|join(',') }}{{ users|join(',', attribute='name') }}{{ s|join('.') }}
{{ 'abc'|list }}{{ d|list }}{{ s|length }}{{ d|length }}{{ u|length }}{{ d|count }}
{% if l %}y{% endif %}{% if el %}n{% else %}e{% endif %}{% if ed %}n{% elif z %}n{% elif f %}f{% endif %}{% if 0.0 %}n{% endif %}{% if ' ' %}sp{% endif %}
{{ m(1) }}{% macro m(x) %}{{ x }}{% endmacro %}
{% for i in range(3) %}{% for j in range(2) %}{{ loop.index }}{{ i }}{{ j }} {% endfor %}{{ loop.index }}{% endfor %}
{% macro outer() %}{% macro inner(x) %}({{ x }}){% endmacro %}{{ inner(1) }}{{ inner(2) }}{% endmacro %}{{ outer() }}
{{ [3,1]|sort|join|int + 1 }}{{ "%d" % 3.7 }}{{ '%5.1f|%e|%g' % (2.25, 12345.678, 0.0001) }}{{ '%c%c' % (65, 'b') }}{{ '%o' % 8 }}{{ '%#x' % 255 }}{{ '%05d' % -3 }}{{ '%s' % l }}{{ '%s %s' % (1, 2) }}
{{ '%d' % 'x' }}
{{ '%s %s' % 1 }}
{{ '%s' % (1, 2) }}
{{ "a" is string and "b" is string }}{{ 5 is divisibleby(5) }}{{ not 5 is odd }}{{ 5 is not odd }}
{{ 'A'|lower == 'a' }}{{ [1,2,3]|last }}{{ ls[0]|upper ~ ls[1:]|join }}{{ (l|sort)[0] }}{{ l|sort|first }}
{%- set x -%} {{ s }} {%- endset -%}[{{ x }}]{% set x = x|trim %}{{ x }}
{{ 10000000000000000000 }}
{{ 9223372036854775807 }}{{ -9223372036854775807 }}
{% set t = 'x' %}{% set t = t + 'y' %}{% for i in range(3) %}{% set t = t + 'z' %}{{ t }}{% endfor %}{{ t }}{% set a = t + '1' %}{% set b = t + '2' %}{{ a }}{{ b }}
{% set q = [1] %}{% set a = q + [2] %}{% set b = q + [3] %}{{ a }}{{ b }}{{ a + [4] }}{{ a + [5] }}{{ q }}
{% set ns = namespace(s='') %}{% for m in messages %}{% set ns.s = ns.s + m.role + ',' %}{% endfor %}{{ ns.s }}
{{ caller is defined }}{{ loop is defined }}{{ varargs is defined }}
{% if true %}{% set late = 1 %}{% endif %}{{ late }}{% if false %}{% set never = 1 %}{% endif %}{{ never }}
{{ namespace(d) }}{{ namespace(a=1).a }}{{ {'a': namespace(x=1)}.a.x }}
{{ '\u2028' }}{{ ['\u2028', '\ud7ff', '\x7f', '\x85'] }}{{ '\u2028'|tojson }}{{ '\x7f'|tojson(ensure_ascii=true) }}
{% print s %}{{ s, i }}{% print 1, 2 %}
{{ s if s is string else '' }}{{ d['b'] if 'b' in d }}{{ (d if 'zz' in d)|default('no') }}
{% for k, (a, b) in [(1, (2, 3))] %}{{ k }}{{ a }}{{ b }}{% endfor %}
{{ x.y.z }}{{ 5 }}
{{ l.0 }}{{ nested.1.1.0 }}{{ nested[1][1][1] }}{{ d.C.1.x }}
{{ "}}" }}{{ '{%' }}{{ '#}' }}{{ {'a':{'b':1}} }}
{{ a.b|default('c') }}
{{ lm|select('string')|list }}{{ lm|select('none')|list }}{{ lm|select|list }}{{ lm|reject|list }}{{ lm|select('number')|list }}{{ lm|map('tojson')|list }}{{ ls|map('replace', 'a', 'b')|list }}{{ ls|map('default', 'x')|list }}{{ [[2,1],[3]]|map('sort')|list }}{{ [[2,1],[3]]|map('first')|list }}{{ users|map(attribute='name')|map('lower')|sort|list }}
""".strip("\n").split("\n")

# Cases over several lines.
FIXED_MULTI = [
    "   {% if true %}  \n  a  \n   {% endif %}  \nb\n\n",
    "a\n  {%- if true -%}  c  {%- endif -%}  d\n",
    "{# c #}  x {#- y -#}  z\n {# t #}\nq {# u #}\nr",
    "a\r\nb\r{% if true %}\r\nc{% endif %}\r\n",
    "x\n  {% set a = 1 %}\n  {{ a }}\n  {# c #}\n\ty",
    "x\n  {%+ set a = 1 %}\n  {{ a }}{% if a +%}\n z{% endif %}",
    "{% for x in l %}\n  {{ x }}\n{% endfor %}\nend\n\n",
    "{% for x in l -%}\n  {{ x }}\n{%- endfor %}\nend",
    "  {% raw %}\n  {{ no }} \n {% endraw %}\n  x",
    "a {%- raw -%}  b  {%- endraw -%} c",
    "{%- macro m(x) -%}\n  <{{ x }}>\n{%- endmacro -%}\n{{ m(1) }}\n{{ m(2) -}}\n\n end",
    "{{ '''' }}", "{{ 'a }}", "{% if %}", "{% endif %}", "{% if x %}", "{{ }}", "{{ 1 +  }}",
    "{% for x in %}{% endfor %}", "{% set 1 = 2 %}", "{% unknown %}", "{{ x | }}", "{{ (1 }}", "{{ [1 }}",
    "{# open", "{% raw %} open", "{{ x is }}", "{{ f(a=1, 2) }}", "{{ a b }}", "{{ 1 2 }}", "{% break %}",
    "{% macro m(a=1, b) %}{% endmacro %}", "{{ x is string is none }}", "{{ }", "{% else %}", "{{ a. }}",
    "{%", "{{", "{{ ]", "{{ ) }}", "text only", "", "\n", "\n\n", "{", "{ {", "}}", "%}", "{{ '{{' }}",
    "{% include 'x' %}", "{% extends 'x' %}", "{{ @ }}", "{{ $ }}", "{{ a ? b : c }}", "{{ a && b }}", "{{ !a }}",
]

VALUES = ["s", "e", "u", "ws", "html", "multi", "num", "neg", "i", "z", "n", "f", "t", "b", "none", "l", "ls",
          "lm", "el", "d", "ed", "users", "nope", "messages", "'lit'", "'<b>'", "5", "0", "2.5", "[1, 'a']",
          "{'k': 'v'}", "(1, 2)", "true", "(html|safe)", "nested", "big", "range(3)"]
FILTERS = ["upper", "lower", "trim", "length", "list", "first", "last", "string", "safe", "e", "int", "float",
           "join", "join('-')", "sort", "reverse", "tojson", "tojson(indent=2)", "default('D')", "d('x', true)",
           "title", "capitalize", "items", "unique", "map('string')", "map('upper')", "select('string')",
           "map(attribute='name')", "selectattr('name')", "replace('a', 'Z')", "indent", "indent(2, true)",
           "abs", "round", "min", "max", "sum", "dictsort", "center(9)", "batch(2)", "count",
           "reject('none')", "rejectattr('x')", "attr('x')", "truncate(5)", "forceescape", "slice(2)"]
TESTS = ["defined", "undefined", "none", "string", "number", "mapping", "sequence", "iterable", "boolean", "true",
         "false", "integer", "float", "callable", "lower", "upper", "odd", "even", "in l", "eq 1", "sameas none",
         "gt 1", "escaped", "divisibleby 2"]
METHODS = [".upper()", ".lower()", ".strip()", ".split()", ".split('l')", ".items()", ".get('a')", ".keys()",
           ".title()", ".startswith('H')", ".replace('l', 'L')", ".x", ".name", "[0]", "[-1]", "[1:]", "[::-1]",
           "['a']", ".count('l')", ".values()", ".format(1)", ".capitalize()", "[:2]", ".join(ls)", ".find('o')",
           ".rstrip('d')", ".splitlines()", ".copy()", ".index(1)", "()", ".0", "[nope]", "[none]", "[1.0]"]
OPS = ["+", "-", "*", "/", "//", "%", "~", "==", "!=", "<", ">", "<=", ">=", "in", "not in", "and", "or", "**"]


def expr(rng, depth):
    if depth <= 0 or rng.random() < 0.15:
        return rng.choice(VALUES)
    kind = rng.random()
    a = expr(rng, depth - 1)
    if kind < 0.30:
        return f"{a}|{rng.choice(FILTERS)}"
    if kind < 0.50:
        return f"({a}){rng.choice(METHODS)}"
    if kind < 0.75:
        op = rng.choice(OPS)
        if op == "**":
            return f"({a}) ** 2"
        return f"({a}) {op} ({expr(rng, depth - 1)})"
    if kind < 0.82:
        return f"({a}) is {rng.choice(['', 'not '])}{rng.choice(TESTS)}"
    if kind < 0.87:
        return f"({a} if {expr(rng, depth - 1)} else {expr(rng, depth - 1)})"
    if kind < 0.91:
        return f"[{a}, {expr(rng, depth - 1)}]"
    if kind < 0.94:
        return f"{{'x': {a}}}"
    if kind < 0.97:
        return f"not ({a})"
    return f"-({a})"


def statement(rng, depth):
    kind = rng.random()
    if depth <= 0 or kind < 0.4:
        return "{{%s %s %s}}" % (rng.choice(["", "-"]), expr(rng, 2), rng.choice(["", "-"]))
    body = "".join(rng.choice([" ", "\n", "  x ", ""]) + statement(rng, depth - 1) for _ in range(rng.randint(1, 2)))
    o, c = rng.choice(["{%", "{%-", "{%", "{%+"]), rng.choice(["%}", "-%}", "%}"])
    if kind < 0.55:
        return f"{o} if {expr(rng, 1)} {c}{body}{o} else {c}\n no {o} endif {c}\n"
    if kind < 0.75:
        cond = rng.choice(["", "", f" if {expr(rng, 1)}"])
        return f"{o} for x in {expr(rng, 1)}{cond} {c}\n{{{{ loop.index }}}}{{{{ x }}}}{body}{o} endfor {c}\n"
    if kind < 0.85:
        return f"{o} set v = {expr(rng, 2)} {c}\n{{{{ v }}}}"
    if kind < 0.92:
        return f"{o} macro mm(p, q='Q') {c}{{{{ p }}}}{{{{ q }}}}{body}{o} endmacro {c}\n{{{{ mm({expr(rng, 1)}) }}}}"
    return f"{o} set w {c}{body}{o} endset {c}[{{{{ w }}}}]"


class Ours:
    def __init__(self, cli):
        self.cli = cli
        self.start()

    def start(self):
        self.p = subprocess.Popen([self.cli], stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def render(self, template, context):
        line = json.dumps({"template": template, "context": context}) + "\n"
        try:
            self.p.stdin.write(line.encode())
            self.p.stdin.flush()
            return json.loads(self.p.stdout.readline())
        except (OSError, ValueError):
            self.p.wait()
            self.start()
            return {"crash": True}


def judge(env, template, context):
    try:
        return {"ok": env.from_string(template).render(**json.loads(json.dumps(context)))}
    except RecursionError:
        return None
    except Exception as e:                      # any error counts as one
        return {"error": f"{type(e).__name__}: {e}"}


def comparable(theirs, mine):
    """Addresses of Python objects cannot agree."""
    text = theirs.get("ok", "") + mine.get("ok", "")
    return re.search("(gener.tor|iter.tor|reversed) object|object>", text, re.I) is None


def build_cli(folder):
    cli = os.path.join(folder, "jinja_cli")
    text = os.path.join(ROOT, "engine/text")
    base = os.path.join(ROOT, "engine/base")
    names = "json json_write dtoa arena buf err hash utf8 check clock".split()
    srcs = [os.path.join(text, f) for f in sorted(os.listdir(text)) if f.startswith("jinja") and f.endswith(".c")]
    srcs += [os.path.join(base, n + ".c") for n in names]
    subprocess.check_call(["gcc", "-std=c11", "-D_GNU_SOURCE", "-O1", "-g", "-fno-strict-aliasing",
                           "-fsanitize=address,undefined", "-fno-sanitize-recover=undefined", "-I", ROOT,
                           os.path.join(ROOT, "tests/text/jinja_cli.c"), *srcs, "-lm", "-o", cli])
    return cli


def main():
    warnings.simplefilter("ignore")
    ap = argparse.ArgumentParser()
    ap.add_argument("--seed", type=int, default=random.randrange(1 << 30))
    ap.add_argument("--count", type=int, default=20000)
    ap.add_argument("--cli")
    ap.add_argument("--messages", action="store_true", help="also compare the errors' texts")
    args = ap.parse_args()
    print("seed", args.seed)
    rng = random.Random(args.seed)
    env = environment()
    cases = FIXED + FIXED_MULTI
    for i in range(args.count):
        cases.append("{{ " + expr(rng, 3) + " }}" if i % 2 else statement(rng, 2))
    bad = same = errors = skipped = texts = 0
    with tempfile.TemporaryDirectory() as folder:
        ours = Ours(args.cli or build_cli(folder))
        for template in cases:
            theirs = judge(env, template, CONTEXT)
            mine = ours.render(template, CONTEXT)
            if theirs is None or not comparable(theirs, mine):
                skipped += 1
                continue
            # jinja2 folds a slice of a constant while compiling and there takes
            # an error for undefined.
            known = ["64 bit", "not subscriptable", "unhashable type: 'slice'"]
            if any(k in mine.get("error", "") for k in known):
                skipped += 1
                continue
            if "ok" in theirs and mine == theirs:
                same += 1
            elif "error" in theirs and "error" in mine:
                errors += 1
                text = theirs["error"].split(": ", 1)[1]
                if text not in mine["error"]:
                    texts += 1
                    if args.messages:
                        print("TEXT", repr(template)[:150], "\n  ", theirs["error"], "\n  ", mine["error"])
            else:
                bad += 1
                if bad <= 40:
                    print("DIFFERENT", repr(template)[:600], "\n  jinja2", str(theirs)[:500], "\n  ours  ",
                          str(mine)[:500])
    print(f"{same} equal, {errors} errors in both ({texts} with another text), {skipped} not comparable, "
          f"{bad} different")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
