"""The grammar of components: text round-trips, values are strict, errors name the value and the remedy."""

import math
from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import attrs
import pytest
from attrs.validators import gt
from hypothesis import given
from hypothesis import strategies as st
from scoresde_core.components import Spec, build, param, parameters, parse, parse_value, split
from scoresde_core.errors import UsageError


@attrs.frozen
class Inner:
    """A parameter that is itself a component."""

    size: int = param(1, "size")


@attrs.frozen
class Part:
    """One parameter of each type."""

    count: int = param(3, "a whole number", gt(0))
    ratio: float = param(0.5, "a number")
    loud: bool = param(False, "a switch")
    word: str = param("plain", "a word")
    mode: Literal["batch", "sample"] = param("batch", "a choice")
    level: Literal[1, 2] = param(1, "a choice of numbers")
    limit: float | None = param(None, "a number or nothing")
    pair: tuple[int, float] = param((1, 2.0), "two numbers")
    sizes: tuple[int, ...] = param((1, 2), "numbers")
    means: float | tuple[float, ...] = param(0.0, "one or several")
    series: Sequence[float] = param((), "numbers")
    inner: Inner = param(attrs.Factory(Inner), "a component")
    anything: Any = param(None, "unchecked")


@attrs.frozen
class Needy:
    """Has a required parameter."""

    path: str = param(help="where")
    size: int = param(help="how many")


def made(**params):
    return build(Part, params, "part", lambda kind, value: Inner(**parse(value).params) if kind is Inner else fail())


def fail():
    raise TypeError


ODD = ["true", "No", "NULL", "~", "12", "-1e-3", ".5", "inf", "-.Inf", "nan", "", " a", "it's", "a,b[1].npz", "#", "'"]
texts = st.one_of(st.text(max_size=12), st.text("'\"[](),= \n#a1~", max_size=8), st.sampled_from(ODD))
words = st.from_regex(r"[A-Za-z_][A-Za-z0-9_.:/-]{0,12}", fullmatch=True).filter(
    lambda text: (
        text.lower() not in {"null", "true", "false", "yes", "no", "on", "off", "~", "nan", "inf"}
        and not isinstance(parse_value(text), bool)
    )
)
scalars = st.one_of(
    st.integers(-(10**12), 10**12),
    st.floats(allow_nan=False),
    st.booleans(),
    st.none(),
    words,
    texts,
)
values = st.recursive(scalars, lambda inner: st.lists(inner, min_size=1, max_size=4), max_leaves=8)
keys = st.from_regex(r"[a-z_][a-z0-9_]{0,8}", fullmatch=True)


@given(name=words, params=st.dictionaries(keys, values, max_size=4))
def test_text_round_trips(name, params):
    spec = Spec(name, params)
    assert parse(str(spec)) == spec
    assert [type(value) for value in parse(str(spec)).params.values()] == [type(value) for value in params.values()]


@given(outer=words, inner=words, value=scalars)
def test_nested_components_stay_whole(outer, inner, value):
    nested = str(Spec(inner, {"a": value, "b": 1}))
    assert parse(f"{outer}[first={nested},second=2]").params == {"first": nested, "second": 2}


@given(name=words, params=st.dictionaries(keys, texts, max_size=4))
def test_text_of_any_kind_passes_through_sweeps_and_files(name, params):
    """A component is parsed and printed repeatedly: on a command line, in a suite, in a list of components."""
    spec = Spec(name, params)
    assert [parse(part) for part in split(f"{spec},{spec}")] == [spec, spec]
    assert parse(parse(f"outer[inner={spec}]").params["inner"]) == spec
    assert parse(str(Spec("outer", {"inner": str(spec)}))).params == {"inner": str(spec)}


@given(parts=st.lists(words, min_size=1, max_size=5))
def test_split_is_the_inverse_of_join(parts):
    assert split(",".join(parts)) == parts
    assert split(",".join(f"{part}[x=1,y=[2,3]]" for part in parts)) == [f"{part}[x=1,y=[2,3]]" for part in parts]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("3", 3),
        ("-3", -3),
        ("3.0", 3.0),
        ("1e-3", 1e-3),
        (".5", 0.5),
        ("true", True),
        ("false", False),
        ("null", None),
        ("batch", "batch"),
        ("[]", []),
        ("[1, 2.5, x]", [1, 2.5, "x"]),
        ("[[1,2],[3]]", [[1, 2], [3]]),
        ("2021-01-01", "2021-01-01"),
        ("data/a.npz", "data/a.npz"),
        ("inf", float("inf")),
        ("-inf", float("-inf")),
        (".inf", float("inf")),
        ("yes", True),
        ("Off", False),
        ("nan", "nan"),
        ("#x", "#x"),
        ("it's", "it's"),
        ("'12'", "12"),
        ('"true"', "true"),
        ("''", ""),
        ("'it''s'", "it's"),
        ("['a,b', 'c]']", ["a,b", "c]"]),
    ],
)
def test_values(text, value):
    found = parse_value(text)
    assert found == value
    assert type(found) is type(value)


def test_spaces_do_not_matter():
    assert parse(" langevin [ snr = 0.1 , n_steps=2 ] ") == Spec("langevin", {"snr": 0.1, "n_steps": 2})


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "cannot read ''"),
        ("langevin[snr=1", "cannot read 'langevin[snr=1'"),
        ("langevin]", "cannot read 'langevin]'"),
        ("two words", "cannot read 'two words': write name or name[key=value,key=value]"),
        ("langevin[0.16]", "cannot read '0.16' in 'langevin[0.16]': write key=value"),
        ("langevin[=1]", "write key=value"),
        ("langevin[a b=1]", "write key=value"),
        ("langevin[snr=1,snr=2]", "parameter 'snr' is given twice"),
        ("langevin[snr=[1]", "unbalanced brackets"),
        ("langevin[snr=1]]", "unbalanced brackets"),
        ("langevin[snr=1,]", "write key=value"),
        ("langevin[,snr=1]", "write key=value"),
        ("npz[path='a]", "a quote is not closed"),
        ("npz[path='a'b]", "end a quoted value with its quote"),
        ("npz[path=a)]", "quote a value that contains brackets"),
    ],
)
def test_unreadable_text(text, words):
    with pytest.raises(UsageError) as caught:
        parse(text)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("given_value", "stored"),
    [
        ({"count": 5}, 5),
        ({"ratio": 2}, 2.0),
        ({"loud": True}, True),
        ({"mode": "sample"}, "sample"),
        ({"level": 2}, 2),
        ({"limit": None}, None),
        ({"limit": 1}, 1.0),
        ({"pair": [1, 2]}, (1, 2.0)),
        ({"sizes": [4]}, (4,)),
        ({"sizes": []}, ()),
        ({"means": 1}, 1.0),
        ({"ratio": math.inf}, math.inf),
        ({"limit": -math.inf}, -math.inf),
        ({"means": [1, 2]}, (1.0, 2.0)),
        ({"series": [1]}, (1.0,)),
        ({"inner": "inner[size=3]"}, Inner(3)),
        ({"inner": Inner(4)}, Inner(4)),
        ({"anything": {"a": 1}}, {"a": 1}),
    ],
    ids=str,
)
def test_values_are_kept_in_their_type(given_value, stored):
    (name,) = given_value
    found = getattr(made(**given_value), name)
    assert found == stored
    assert type(found) is type(stored)


@pytest.mark.parametrize(
    ("given_value", "expected"),
    [
        ({"count": 2.7}, "int"),
        ({"count": 2.0}, "int"),
        ({"count": True}, "int"),
        ({"count": "3"}, "int"),
        ({"count": None}, "int"),
        ({"ratio": "yes"}, "float"),
        ({"ratio": "nan"}, "float"),
        ({"ratio": math.nan}, "float"),
        ({"means": [1.0, math.nan]}, "float or tuple[float, ...]"),
        ({"word": math.inf}, "str"),
        ({"ratio": False}, "float"),
        ({"ratio": [0.5]}, "float"),
        ({"loud": 1}, "bool"),
        ({"loud": "yes"}, "bool"),
        ({"word": 3}, "str"),
        ({"mode": "bach"}, "'batch' or 'sample'"),
        ({"level": True}, "1 or 2"),
        ({"level": 1.0}, "1 or 2"),
        ({"limit": "none"}, "float or null"),
        ({"pair": [1]}, "tuple[int, float]"),
        ({"pair": [1.5, 2]}, "tuple[int, float]"),
        ({"sizes": 3}, "tuple[int, ...]"),
        ({"sizes": [1, 2.5]}, "tuple[int, ...]"),
        ({"means": "one"}, "float or tuple[float, ...]"),
        ({"inner": 3}, "Inner"),
    ],
    ids=str,
)
def test_values_are_strict(given_value, expected):
    ((name, value),) = given_value.items()
    with pytest.raises(UsageError) as caught:
        made(**given_value)
    assert str(caught.value).startswith(f"part: {name} must be {expected}, got {value!r}")


def test_validators_give_one_line():
    with pytest.raises(UsageError) as caught:
        made(count=0)
    assert str(caught.value) == "part: 'count' must be > 0: 0"


def test_unknown_parameter_names_near_misses():
    with pytest.raises(UsageError, match=r"^part has no parameter 'coutn'. Did you mean 'count'"):
        made(coutn=1)


def test_missing_parameters_are_named_all_at_once():
    with pytest.raises(UsageError, match=r"^needy needs path, size: write needy\[path=...\]$"):
        build(Needy, {}, "needy")


def test_without_a_converter_text_is_no_component():
    with pytest.raises(UsageError, match="part: inner must be Inner, got 'inner'"):
        build(Part, {"inner": "inner"}, "part")


class TestParameters:
    """The parameters of a class as shown to users and sweeps."""

    FOUND: ClassVar = {parameter.name: parameter for parameter in parameters(Part)}

    def test_all_in_order(self):
        assert list(self.FOUND) == [field.name for field in attrs.fields(Part)]
        assert self.FOUND["count"].help == "a whole number"

    @pytest.mark.parametrize(
        ("name", "default"), [("count", 3), ("limit", None), ("inner", Inner())], ids=["plain", "none", "factory"]
    )
    def test_defaults(self, name, default):
        assert self.FOUND[name].default == default

    @pytest.mark.parametrize(
        ("name", "takes"),
        [("pair", True), ("sizes", True), ("means", True), ("series", True), ("count", False), ("limit", False)],
    )
    def test_which_take_a_list_as_one_value(self, name, takes):
        assert self.FOUND[name].takes_list is takes

    def test_a_class_without_attrs_has_none(self):
        assert parameters(object) == []

    def test_fields_that_are_not_set_from_outside_are_no_parameters(self):
        cls = attrs.make_class("Cls", {"kept": attrs.field(default=1, init=False)})
        assert parameters(cls) == []
