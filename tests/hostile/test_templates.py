"""Chat templates made to escape, to go on for ever or to fill the memory: each ends soon, in words or in nothing."""

import pytest

from martlet.errors import ChatTemplateError
from martlet.tokenizers.templates import render

MESSAGES = {"messages": [{"role": "user", "content": "hi"}]}
GROWING = "{% set ns = namespace(s='ab') %}{% for i in range(60) %}{% set ns.s = ns.s OP ns.s %}{% endfor %}{{ ns.s }}"


@pytest.mark.parametrize(
    "template",
    [
        "{% for i in range(10**9) %}x{% endfor %}",
        "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
        "{% for i in range(99999) %}{{ 'abcdefghij' * 1000 }}{% endfor %}",
        "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
        "{% for x in messages recursive %}{{ loop(messages) }}{% endfor %}",
        "{{ " + "(" * 3000 + "1" + ")" * 3000 + " }}",
        "{% if 1 %}" * 500 + "{% endif %}" * 500,
        GROWING.replace("OP", "+"),
        GROWING.replace("OP", "~"),
        "{{ 'a' * 10**10 }}",
        "{{ ([0] * 10**9)|length }}",
        "{{ (10**4000) ** 100 }}",
        "{{ 10**4000 * 10**4000 * 10**4000 }}",
        "{{ '%999999999d' % 1 }}",
        "{{ '{:>9999999999}'.format(1) }}",
        "{{ 'a'|center(10**10) }}",
        "{{ 'a'.ljust(10**10) }}",
        "{{ 'a'.zfill(10**10) }}",
        "{{ ('x' * 100000).join('y' * 100000) }}",
        "{{ ''.join(['x' * 1000000] * 50000) }}",
        "{{ range(99999)|join('x' * 100000) }}",
        "{{ ('a' * 1000)|replace('a', 'b' * 1000000) }}",
        "{{ ('a\\n' * 1000)|indent(10**8) }}",
        "{{ lipsum(10**8) }}",
        "{% include '/etc/passwd' %}",
        "{% import '/etc/passwd' as x %}",
        "{{ ''.__class__.__mro__ }}",
        "{{ cycler.__init__.__globals__ }}",
        "{{ messages.append(1) }}",
        "{% set ns = namespace(__class__=1) %}",
    ],
)
def test_refused(template):
    with pytest.raises(ChatTemplateError):
        render(template, MESSAGES, False)


@pytest.mark.parametrize(
    "template",
    [
        "{{ ''|attr('__class__') }}",
        "{{ '{0.__class__}'.format(1) }}",
        "{{ raise_exception.__globals__ }}",
        "{{ self.__init__ }}",
        "{{ messages.__len__ }}",
        "{{ dict(a=1).__class__ }}",
        "{{ ('a' * 9).encode('utf-16').__class__ }}",
    ],
)
def test_nothing_of_the_interpreter_is_seen(template):
    assert render(template, MESSAGES, False)[0] == ""


def test_what_templates_do_is_still_done():
    template = (
        "{{ ', '.join(['a', 'b']) }} {{ '{:>3}'.format(7) }} {{ 'x' * 3 }} {% for i in range(3) %}{{ i }}{% endfor %}"
    )
    assert render(template, MESSAGES, False)[0] == "a, b   7 xxx 012"
