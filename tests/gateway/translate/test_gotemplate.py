"""Templates of log tags, as Go and docker read them."""

from __future__ import annotations

import pytest

from gateway.translate.gotemplate import Template, TemplateError

FIELDS = {
    "ID": "abc",
    "ImageName": "reg/app:1",
    "Labels": {"x": "y"},
    "Name": "web",
    "Args": ["a", "b"],
}


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain", "plain"),
        ("{{.ID}}", "abc"),
        ("a/{{ .Name | upper }}-b", "a/WEB-b"),
        ('{{index (split .ImageName ":") 1}}', "1"),
        ('{{.ImageName | printf "%s-%q" .ID}}', 'abc-"reg/app:1"'),
        ("{{if .Name}}yes {{.ID}}{{else}}no{{end}}", "yes abc"),
        ("{{with .Labels}}{{.x}}{{end}}", "y"),
        ('{{if eq .Name "db"}}a{{else}}b{{end}}', "b"),
        ("x {{- .ID -}} y", "xabcy"),
        ("{{json .Labels}}{{/* nothing */}}", '{"x":"y"}'),
        ('{{index .Labels "none"}}{{truncate .Name 2}}{{slice .Name 1}}', "weeb"),
        ('{{join .Args "+"}} {{.Args}} {{len .Args}}', "a+b [a b] 2"),
    ],
)
def test_what_a_template_shows(text: str, shown: str) -> None:
    template = Template(text, of="*T")
    template.check(FIELDS)
    assert template.render(FIELDS) == shown


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{{.Nope}}", "can't evaluate field Nope in type *T"),
        ("{{.ID", "unclosed action"),
        ("{{foo .ID}}", 'function "foo" not defined'),
        ("{{end}}", "unexpected {{end}}"),
        ("{{if .ID}}", "unexpected EOF"),
        ("{{}}", "missing value for command"),
        ("{{(upper .ID}}", "unclosed left paren"),
        ("{{upper .ID)}}", "unexpected right paren"),
        ("{{range .Args}}{{end}}", "range is not understood"),
    ],
)
def test_what_is_no_template(text: str, words: str) -> None:
    with pytest.raises(TemplateError) as caught:
        Template(text, of="*T").check(FIELDS)
    assert words in str(caught.value)
