"""The YAML that profiles are written in."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from arqonbus.config.document import MAX_BYTES, parse, parse_inline
from arqonbus.config.findings import ConfigError, Fault


def faults(text: str) -> list[tuple[Fault, str]]:
    with pytest.raises(ConfigError) as caught:
        parse(text, layer="profile", source="p.yaml")
    return [(finding.code, str(finding)) for finding in caught.value.findings]


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("no", "no"),
        ("on", "on"),
        ("off", "off"),
        ("yes", "yes"),
        ("True", "True"),
        ("1:30", "1:30"),
        ("2030-01-31", "2030-01-31"),
        ("0123", "0123"),
        ("0o17", "0o17"),
        ("1_000", "1_000"),
        (".inf", ".inf"),
        ("=", "="),
        ("'@int 5'", "@int 5"),
        ("'9100'", "9100"),
        ("true", True),
        ("false", False),
        ("null", None),
        ("~", None),
        ("", None),
        ("9100", 9100),
        ("-5", -5),
        ("1.5", 1.5),
        ("9" * 5000, "9" * 5000),
    ],
)
def test_only_plain_json_values_have_a_type(written: str, value: object) -> None:
    """The surprises of YAML 1.1 stay text."""
    found = parse(f"key: {written}\n", layer="profile", source="p.yaml").data["key"]
    assert (type(found), found) == (type(value), value)


def test_every_key_and_list_item_has_its_place() -> None:
    """Lines and columns count from 1."""
    marks = parse("a:\n  b: 1\n  c:\n    - x\n    - {d: 2}\n", layer="profile", source="p.yaml").marks
    assert marks[("a",)] == (1, 1)
    assert marks[("a", "b")] == (2, 3)
    assert marks[("a", "c", 1)] == (5, 7)
    assert marks[("a", "c", 1, "d")] == (5, 8)


@pytest.mark.parametrize(
    ("text", "code", "sentence"),
    [
        ("", Fault.YAML_INVALID, "p.yaml: the file holds no settings"),
        ("# only a comment\n", Fault.YAML_INVALID, "p.yaml: the file holds no settings"),
        ("- a\n", Fault.YAML_INVALID, "p.yaml:1:1: the file holds a list at its top"),
        ("text\n", Fault.YAML_INVALID, "p.yaml:1:1: the file holds a single value"),
        ("a:\n\tb: 1\n", Fault.YAML_INVALID, "p.yaml:2:1: a tab is used for indentation"),
        ("a: 1\n---\nb: 2\n", Fault.YAML_INVALID, "p.yaml:2:1: the file holds several documents"),
        ("a: 1\nb: 2\na: 3\n", Fault.DUPLICATE_KEY, "p.yaml:3:1: a is repeated, first set in line 1"),
        ("a: !!python/name:os.system x\n", Fault.YAML_INVALID, "p.yaml:1:4: a has a YAML tag"),
        ("a: !secret x\n", Fault.YAML_INVALID, "p.yaml:1:4: a has a YAML tag"),
        ("? [a]\n: 1\n", Fault.YAML_INVALID, "p.yaml:1:3: a key must be a name"),
        ("a: *missing\n", Fault.YAML_INVALID, "p.yaml:1:4: an alias or anchor is invalid here"),
        ("a: [1\n", Fault.YAML_INVALID, "p.yaml:2:1: this is not YAML"),
        ("a: x\x00\n", Fault.YAML_INVALID, "p.yaml:1:5: the file holds the character U+0000"),
        ("a: &x [*x]\n", Fault.YAML_TOO_LARGE, "the file is larger, deeper or more repetitive"),
        ("a: " + "[" * 5000, Fault.YAML_TOO_LARGE, "the file is larger, deeper or more repetitive"),
        ("a: " + "x" * MAX_BYTES, Fault.YAML_TOO_LARGE, "the file is larger, deeper or more repetitive"),
    ],
)
def test_what_is_not_a_profile_gets_one_sentence_and_its_place(text: str, code: Fault, sentence: str) -> None:
    """Every broken text is told by place, cause and remedy."""
    found = faults(text)
    assert [each for each, _ in found] == [code]
    assert sentence in found[0][1]


def test_aliases_that_explode_are_refused_before_they_are_built() -> None:
    """A billion laughs is not funny."""
    bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
        f"a{level}: &a{level} [{', '.join([f'*a{level - 1}'] * 10)}]\n" for level in range(1, 10)
    )
    assert faults(bomb)[0][0] is Fault.YAML_TOO_LARGE


def test_all_faults_of_a_text_are_found_in_one_pass() -> None:
    """Two duplicate keys and a tag are three findings, in order of place."""
    text = "a: 1\na: 2\nb: !x 3\nc: {d: 1, d: 2}\n"
    assert [code for code, _ in faults(text)] == [
        Fault.DUPLICATE_KEY,
        Fault.YAML_INVALID,
        Fault.DUPLICATE_KEY,
    ]


def test_no_finding_repeats_the_text_around_it() -> None:
    """A syntax error beside a password does not print the password."""
    assert "hunter22" not in str(faults("password: hunter22 'x': [\n"))


@given(st.text(max_size=200))
@example("{")
@example("\ufeff")
@example("a: \ud800")
@example("%YAML 9.9\n---\na: 1")
def test_any_text_is_read_or_refused_with_findings(text: str) -> None:
    """No text makes the reader fail in another way."""
    try:
        outcome: object = parse(text, layer="profile", source="p.yaml").data
    except ConfigError as error:
        outcome = error.findings
    assert outcome


def test_a_value_on_one_line_is_read_by_the_same_rules() -> None:
    """Lists in variables and options are those of files."""
    assert parse_inline("[a, no, 3, {b: 1}]") == ["a", "no", 3, {"b": 1}]
    with pytest.raises(ValueError, match="this is not YAML"):
        parse_inline("[a")
