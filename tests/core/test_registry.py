"""The registry: names, aliases, near misses, nested components, local files, and the bundled rows."""

import pytest
from scoresde_core import SDE, Predictor, create, default_registry
from scoresde_core.components import Spec
from scoresde_core.errors import AmbiguousName, FileError, ManifestError, UnknownName, UsageError
from scoresde_core.kinds import KINDS, find_kind
from scoresde_core.manifest import Row
from scoresde_core.plugins import Status
from scoresde_core.registry import Registry, load_registry
from scoresde_run.commands.shell import main

LOCAL = """
api: 1
sdes:
  mine:
    target: scoresde_plugins.song2021.sdes:VPSDE
    summary: the VP SDE under another name
    aliases: [my_vp]
"""


@pytest.fixture(scope="module")
def registry():
    return load_registry(disabled=())


def test_a_distribution_of_two_plugins_with_one_name():
    rows = [Row("sdes", "mine", f"nowhere:Class{k}") for k in (1, 2)]
    registry = Registry([Status("dist", "1", "ok", rows=[row]) for row in rows], None)
    for name in ("mine", "dist:mine"):
        with pytest.raises(AmbiguousName, match="dist registers the sde 'mine' twice: rename one"):
            registry.find("sdes", name)


@pytest.fixture
def local(tmp_path):
    path = tmp_path / "rows.yaml"
    path.write_text(LOCAL)
    return path


@pytest.mark.parametrize("name", ["sdes", "sde"])
def test_kinds_answer_to_plural_and_singular(registry, name):
    assert find_kind(name) is KINDS["sdes"]
    assert {entry.row.name for entry in registry.entries(name)} >= {"ve", "vp", "subvp"}


def test_unknown_kind():
    with pytest.raises(UnknownName, match=r"no kind of component is called 'sdees'\. Did you mean 'sdes'"):
        find_kind("sdees")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("sub-vp", "Did you mean 'subvp'"),
        ("zzzzzz", "Known: linear_ve, sub_vp, subvp, ve, vp."),
        ("scoresde:vpp", "no sde is called 'scoresde:vpp'"),
        ("other:vp", "no sde is called 'other:vp'"),
    ],
    ids=["near miss", "none near", "qualified", "other owner"],
)
def test_unknown_name(name, words):
    rows = [
        Row("sdes", n, "a:B", aliases=("sub_vp",) if n == "subvp" else ()) for n in ("ve", "vp", "subvp", "linear_ve")
    ]
    with pytest.raises(UnknownName) as caught:
        Registry([Status("scoresde", "1", "ok", rows=rows)], None).find("sdes", name)
    assert words in str(caught.value)


@pytest.mark.parametrize("name", ["subvp", "sub_vp", "scoresde:subvp", "scoresde:sub_vp"])
def test_names_aliases_and_owners_give_the_same_class(registry, name):
    assert registry.load("sdes", name) is registry.load("sde", "subvp")
    assert registry.find("sdes", name).qualified == "scoresde:subvp"


def test_create_from_text_spec_and_instance(registry):
    made = registry.create("correctors", "langevin[snr=0.1,n_steps=2]")
    assert (made.snr, made.n_steps) == (0.1, 2)
    assert registry.create("correctors", Spec("langevin", {"snr": 0.1, "n_steps": 2})) == made
    assert registry.create("correctors", made) is made
    assert create("correctors", "langevin[snr=0.1,n_steps=2]") == made


def test_an_instance_of_another_kind_is_refused(registry):
    with pytest.raises(UsageError, match="expected a predictor or its name, got LangevinCorrector"):
        registry.create("predictors", registry.create("correctors", "langevin"))


def test_defaults_apply_where_there_is_such_a_parameter_and_none_was_given(registry):
    assert registry.create("samplers", "pc", steps=7, nonsense=1).steps == 7
    assert registry.create("samplers", "pc[steps=9]", steps=7).steps == 9


def test_nested_components(registry):
    made = registry.create("samplers", "pc[predictor=ddim[eta=0.5],corrector=langevin[snr=0.1],grid=karras[rho=5]]")
    assert isinstance(made.predictor, Predictor)
    assert (made.predictor.eta, made.corrector.snr, made.grid.rho) == (0.5, 0.1, 5.0)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("pc[predictor=dim]", "no predictor is called 'dim'"),
        ("pc[predictor=ddim[eta=2]]", "eta must be at most 1, got 2"),
        ("pc[predictor=ddim[etta=1]]", "predictor 'ddim' has no parameter 'etta'. Did you mean 'eta'?"),
        ("pc[predictor=3]", "predictor must be Predictor, got 3"),
        ("pc[corrector=ddim]", "no corrector is called 'ddim'"),
    ],
)
def test_errors_of_nested_components_name_the_inner_one(registry, text, words):
    with pytest.raises(UsageError) as caught:
        registry.create("samplers", text)
    assert words in str(caught.value)


def test_local_file(local, monkeypatch):
    registry = load_registry(local=[local], disabled=())
    entry = registry.find("sdes", "my_vp")
    assert (entry.owner, entry.qualified) == ("rows", "rows:mine")
    assert isinstance(registry.create("sdes", "mine[beta_max=10]"), SDE)


def test_local_files_of_the_environment(local, tmp_path, monkeypatch, capsys):
    other = tmp_path / "other.yaml"
    other.write_text(LOCAL.replace("mine", "yours").replace("my_vp", "your_vp"))
    monkeypatch.setenv("SCORESDE_REGISTRY", f"{local}:{other}")
    registry = load_registry(disabled=())
    assert registry.load("sdes", "mine") is registry.load("sdes", "yours")
    assert main(["list", "sdes"]) == 0
    printed = capsys.readouterr()
    assert "yours" in printed.out
    told = [f"1 components of {path}, code that SCORESDE_REGISTRY names" for path in (local, other)]
    assert printed.err.splitlines() == [f"plugin rows: {told[0]}", f"plugin other: {told[1]}"]
    assert main(["plugins"]) == 0
    assert all(text in capsys.readouterr().out for text in told[:1])


def test_code_of_the_environment_is_told_once(local, monkeypatch, capsys):
    """Not that of the command line, which the user named, nor by a command that imports nothing."""
    monkeypatch.setenv("SCORESDE_REGISTRY", str(local))
    assert main(["show", "sdes", "mine"]) == 0
    assert capsys.readouterr().err.count("SCORESDE_REGISTRY") == 1
    with pytest.raises(SystemExit):
        main(["train", "--help"])
    assert capsys.readouterr().err == ""
    monkeypatch.delenv("SCORESDE_REGISTRY")
    assert main(["show", "sdes", "mine", "--registry", str(local)]) == 0
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("place", [["--registry", "FILE", "list", "sdes"], ["list", "sdes", "--registry", "FILE"]])
def test_local_file_of_the_command_line(local, place, capsys):
    assert main([str(local) if word == "FILE" else word for word in place]) == 0
    assert "the VP SDE under another name" in capsys.readouterr().out


def test_local_name_that_is_taken(tmp_path):
    path = tmp_path / "rows.yaml"
    path.write_text(LOCAL.replace("mine", "vp"))
    registry = load_registry(local=[path], disabled=())
    with pytest.raises(AmbiguousName, match="scoresde and rows both register the sde 'vp'"):
        registry.find("sdes", "vp")
    assert registry.load("sdes", "rows:vp") is registry.load("sdes", "scoresde:vp")


@pytest.mark.parametrize(
    ("content", "error", "words", "code"),
    [
        (None, FileError, "cannot read the registry file", 2),
        (b"\xff\xfe\x00", FileError, "cannot read the registry file", 3),
        (b"api: 1\nsdes: {mine: {}}", ManifestError, "sdes.mine: needs a target", 2),
        (b"api: 2\n", ManifestError, "needs api 2, this version has api 1: upgrade scoresde", 2),
    ],
    ids=["absent", "not text", "bad row", "newer"],
)
def test_a_bad_local_file_is_an_error_since_it_was_asked_for(tmp_path, content, error, words, code, capsys):
    path = tmp_path / "rows.yaml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(error, match=words):
        load_registry(local=[path], disabled=())
    assert main(["--registry", str(path), "list"]) == code
    assert capsys.readouterr().err.count("\n") == 1


def test_the_default_registry_is_loaded_once():
    assert default_registry() is default_registry()


def bundled():
    return [entry for entry in load_registry(disabled=()).entries() if entry.owner == "scoresde"]


@pytest.mark.parametrize("entry", bundled(), ids=lambda entry: f"{entry.row.kind}-{entry.row.name}")
def test_bundled_rows_have_a_summary_of_one_line(entry):
    assert 0 < len(entry.row.summary) < 80
    assert isinstance(entry.row.target, str)
