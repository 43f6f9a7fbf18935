"""Failures of plugins: each leaves a status with its reason and nothing else, and the other plugins work."""

import json
import re
import shutil
import sys
from contextlib import nullcontext
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
from scoresde_core import hookimpl, plugins
from scoresde_core.errors import AmbiguousName, ManifestError, PluginError, UnknownName
from scoresde_core.registry import load_registry
from scoresde_run.commands.shell import main

ROOT = Path(__file__).parents[2]
GRID = """
import attrs
import torch
from scoresde_core import Grid, hookimpl

@attrs.frozen
class Halving(Grid):
    "Halves."
    def times(self, sde, steps):
        return torch.tensor([2.0**-k for k in range(steps)] + [0.0], dtype=torch.float64)
"""
HOOK = """
from scoresde_core import hookimpl

@hookimpl
def scoresde_register_grids(register):
"""


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Put a fake distribution on the import path: a package with code and manifest, and an entry point to it."""
    monkeypatch.syspath_prepend(str(tmp_path))
    before = set(sys.modules)

    def put(name, code="", manifest=None, entry=None):
        package = name.replace("-", "_")
        (tmp_path / package).mkdir()
        (tmp_path / package / "__init__.py").write_text(code)
        if manifest is not None:
            (tmp_path / package / "registry.yaml").write_text(manifest)
        info = tmp_path / f"{package}-1.2.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.2\n")
        (info / "entry_points.txt").write_text(f"[scoresde.plugins]\n{package} = {entry or package}\n")
        return package

    yield put
    for name in set(sys.modules) - before:
        if name.startswith("fake_"):
            del sys.modules[name]


def status_of(registry, owner):
    (status,) = [status for status in registry.statuses if status.owner == owner]
    return status


def rows_of(owner, registry):
    return [entry.row.name for entry in registry.entries() if entry.owner == owner]


FAULTS = {
    "import error": (
        "import no_such_module_at_all",
        None,
        "failed",
        "ModuleNotFoundError: No module named 'no_such_mod",
    ),
    "syntax error": ("def (", None, "failed", "SyntaxError: "),
    "SystemExit at import": ("raise SystemExit(3)", None, "failed", "SystemExit: 3"),
    "wrong signature": (
        HOOK.replace("(register)", "(register, more)") + "    pass",
        None,
        "failed",
        "more",
    ),
    "mistyped hook": (
        HOOK.replace("_grids", "_girds") + "    pass",
        None,
        "failed",
        "unknown hook 'scoresde_register_girds'. Did you mean 'scoresde_register_grids'",
    ),
    "mistyped prefix": (
        HOOK.replace("_register_", "_registr_") + "    pass",
        None,
        "failed",
        "unknown hook 'scoresde_registr_grids'. Did you mean 'scoresde_register_grids'",
    ),
    "missing marker": (
        HOOK.replace("@hookimpl\n", "") + "    pass",
        None,
        "failed",
        "scoresde_register_grids lacks the @hookimpl marker of scoresde_core",
    ),
    "half-registered, then raised": (
        HOOK + "    register('halving', 'fake_plugin:Halving')\n    raise RuntimeError('no more')",
        None,
        "failed",
        "RuntimeError: no more",
    ),
    "manifest, then a hook that raises": (
        HOOK + "    raise RuntimeError('no more')",
        "api: 1\ngrids:\n  halving: {target: 'fake_plugin:Halving'}\n",
        "failed",
        "RuntimeError: no more",
    ),
    "newer api, module": ("scoresde_api = 99", None, "incompatible", "needs api 99, this version has api 1: upgrade"),
    "newer api, manifest": ("", "api: 99\n", "incompatible", "needs api 99, this version has api 1: upgrade"),
    "empty plugin": ("", None, "failed", "registers nothing: add a registry.yaml beside it or a scoresde_register_..."),
    "bad row of a hook": (
        HOOK + "    register('Halving', 'fake_plugin.Halving', sumary='x')",
        None,
        "failed",
        "a name must be lower-case letters, digits and underscores",
    ),
    "same name twice": (
        HOOK + "    register('halving', 'a:B')\n    register('other', 'a:B', aliases=['halving'])",
        None,
        "failed",
        "registers grids.halving twice",
    ),
    "not yaml": ("", "api: 1\ngrids: [", "failed", "not valid YAML"),
    "not a mapping": ("", "- grids\n", "failed", "a registry file must be a mapping with 'api: 1' at the top"),
    "no api": ("", "grids: {}\n", "failed", "'api' must be 1, got None"),
    "duplicate key": ("", "api: 1\ngrids:\n  a: {target: 'a:B'}\n  a: {target: 'a:C'}\n", "failed", "a given twice"),
    "unknown kind": ("", "api: 1\ngirds: {}\n", "failed", "unknown kind 'girds'. Did you mean 'grids' or 'guidances'?"),
}


@pytest.mark.parametrize(("code", "manifest", "state", "reason"), FAULTS.values(), ids=FAULTS)
def test_fault(install, code, manifest, state, reason, capsys):
    install("fake-plugin", code, manifest)
    install("fake-witness", HOOK + "    register('witness', 'fake_witness:Halving')" + GRID)
    registry = load_registry(disabled=())
    status = status_of(registry, "fake-plugin")
    assert (status.state, status.version) == (state, "1.2")
    assert reason in status.detail
    assert "\n" not in status.detail
    # Nothing is left of it, and the other plugins work.
    assert rows_of("fake-plugin", registry) == []
    assert status_of(registry, "scoresde").state == status_of(registry, "fake-witness").state == "ok"
    assert registry.load("grids", "witness").__name__ == "Halving"
    with pytest.raises(UnknownName, match="fake-plugin did not load: see 'scoresde plugins'"):
        registry.find("grids", "halving")
    # The command line works, and reports it in one line.
    assert main(["plugins"]) == 0
    assert reason in capsys.readouterr().out
    assert main(["list", "grids"]) == 0
    assert "fake-plugin: not loaded, see 'scoresde plugins'" in capsys.readouterr().out
    assert main(["check", "--dist", "fake-plugin"]) == 1
    assert f"failed   plugin fake-plugin: {status.detail}" in capsys.readouterr().out


def test_all_faults_of_a_manifest_at_once(install):
    install(
        "fake-plugin",
        "",
        "api: 1\n"
        "girds: {}\n"
        "sdes: [vp]\n"
        "grids:\n"
        "  Upper: {target: 'a.b:C'}\n"
        "  no_target: {summary: text}\n"
        "  no_colon: {target: a.b.C}\n"
        "  bad_lists: {target: 'a:B', aliases: x, requires: [1]}\n"
        "  typo: {target: 'a:B', sumary: text}\n"
        "  number: {target: 'a:B', paper: 2011.13456}\n"
        "  flat: a:B\n",
    )
    error = status_of(load_registry(disabled=()), "fake-plugin").error
    assert isinstance(error, ManifestError)
    assert error.problems == [
        "unknown kind 'girds'. Did you mean 'grids' or 'guidances'?",
        "sdes must map names to rows",
        "grids.Upper: a name must be lower-case letters, digits and underscores",
        "grids.no_target: needs a target such as 'package.module:Class'",
        "grids.no_colon: target must look like 'package.module:Class', got 'a.b.C'",
        "grids.bad_lists: aliases must be a list of names, got 'x'",
        "grids.bad_lists: requires must be a list of names, got [1]",
        "grids.typo: unknown key 'sumary'. Did you mean 'summary'?",
        "grids.number: paper must be text, got 2011.13456",
        "grids.flat: a row must be a mapping with a target",
    ]


TARGETS = {
    "module that is not there": ("no_such_module:Thing", "ModuleNotFoundError"),
    "attribute that is not there": ("fake_plugin:Thing", "AttributeError"),
    "wrong kind": ("fake_plugin:Halving", "is not a scoresde_core.sde.Process"),
    "no class": ("fake_plugin:VALUE", "is not a scoresde_core.sde.Process"),
    "abstract": ("fake_plugin:Half", "lacks sigma, which every sde needs"),
    "raises": ("fake_plugin.broken:Thing", "RuntimeError: torn"),
    "exits": ("fake_plugin.exits:Thing", "SystemExit: 4"),
}


@pytest.mark.parametrize(("target", "reason"), TARGETS.values(), ids=TARGETS)
def test_target_that_cannot_be_used(install, tmp_path, target, reason, capsys):
    """Listing works; using it is one line that names the component and its target."""
    code = GRID + "from scoresde_core import SDE\nVALUE = 3\nclass Half(SDE):\n    def alpha(self, t): return t\n"
    install("fake-plugin", code, f"api: 1\nsdes:\n  odd: {{target: '{target}'}}\n")
    (tmp_path / "fake_plugin" / "broken.py").write_text("raise RuntimeError('torn')")
    (tmp_path / "fake_plugin" / "exits.py").write_text("raise SystemExit(4)")
    registry = load_registry(disabled=())
    assert status_of(registry, "fake-plugin").state == "ok"
    with pytest.raises(PluginError, match="fake-plugin:odd") as caught:
        registry.create("sdes", "odd")
    assert reason in str(caught.value)
    assert main(["show", "sdes", "odd"]) == 1
    printed = capsys.readouterr().err
    assert printed.startswith("error: fake-plugin:odd")
    assert printed.count("\n") == 1
    assert registry.create("sdes", "vp") is not None


def test_missing_requirement(install):
    row = "api: 1\ngrids:\n  odd: {target: 'fake_plugin:Halving', requires: [no-such-distribution, pyyaml]}\n"
    install("fake-plugin", GRID, row)
    with pytest.raises(PluginError, match=r"fake-plugin:odd needs no-such-distribution: pip install no-such-distr"):
        load_registry(disabled=()).load("grids", "odd")


def test_clash_of_two_plugins(install, capsys):
    for name in ("fake-one", "fake-two"):
        package = name.replace("-", "_")
        install(name, GRID, f"api: 1\ngrids:\n  halving: {{target: '{package}:Halving', aliases: [{package}]}}\n")
    registry = load_registry(disabled=())
    with pytest.raises(
        AmbiguousName,
        match="fake-one and fake-two both register the grid 'halving': write 'fake-one:halving' or 'fake-two:halving'",
    ):
        registry.load("grids", "halving")
    for name in ("fake-one", "fake-two"):
        assert type(registry.create("grids", f"{name}:halving")).__module__ == name.replace("-", "_")
    assert registry.load("grids", "fake_one").__module__ == "fake_one"
    assert main(["list", "grids"]) == 0
    listed = capsys.readouterr().out
    assert "fake-one:halving" in listed
    assert "fake-two:halving" in listed
    assert main(["show", "grids", "halving"]) == 2
    # A component within another may be named the same way.
    sampler = registry.create("samplers", "pc[grid=fake-two:halving]")
    assert type(sampler.grid).__module__ == "fake_two"


class TestEveryNameTwice:
    """A plugin with every bundled name, whose classes cannot be loaded, breaks no reference to a bundled one."""

    @pytest.fixture
    def registry(self, install):
        rows = {}
        for entry in load_registry(disabled=()).entries():
            kind = entry.row.kind
            if entry.owner == "scoresde" and kind not in ("presets", "suites", "checkpoints", "commands", "executors"):
                rows.setdefault(kind, []).append(f"  {entry.row.name}: {{target: 'no_such_module:Thing'}}\n")
        install("fake-plugin", "", "api: 1\n" + "".join(f"{kind}:\n{''.join(lines)}" for kind, lines in rows.items()))
        found = load_registry(disabled=())
        with pytest.raises(AmbiguousName):
            found.create("sdes", "vp")
        return found

    def test_presets_are_planned(self, registry):
        from scoresde_run.models.model import plan_loss, plan_model

        for position, entry in enumerate(registry.entries("presets")):
            config = registry.create("presets", entry.row.name)
            assert type(config).from_plain(config.plain(), "itself") == config
            for kind, spec in (("networks", config.model.network), ("sdes", config.model.sde)):
                assert registry.find(kind, spec.name).owner == "scoresde"
            if position % 6 == 0:
                plan_loss(plan_model(config, registry, outputs=None), registry)

    def test_suites_and_the_default_job_have_their_cells(self, registry):
        from scoresde_bench.plan.suite import Block, read_block
        from scoresde_bench.plan.sweep import Sweep

        plain = load_registry([point for point in plugins.discover() if point.name == "scoresde"])
        for entry in registry.entries("suites"):
            suites = [(each, each.create("suites", entry.row.name)) for each in (plain, registry)]
            counts = [len(Sweep(each, "cpu").cells(suite.blocks)) for each, suite in suites]
            assert counts[0] == counts[1]
        cells = Sweep(registry, "cpu").cells([Block({"steps": ("2",)})])
        assert len(cells) == 3
        for cell in cells:  # a worker makes the same cell
            (twin,) = Sweep(registry, "cpu").cells([read_block(cell.request, "here", [])])
            assert twin.key == cell.key

    def test_names_inside_components_are_ours_too(self, registry):
        from scoresde_core.components import parse
        from scoresde_run.models.names import clear

        bare = "pc[predictor=ddim[eta=0.5],corrector=[langevin,none],grid=uniform,steps=9]"
        found = clear(registry, "samplers", parse(bare), ["scoresde"])
        words = re.sub(r"\b(pc|ddim|langevin|none|uniform)\b", r"scoresde:\1", bare)
        assert str(found) == words
        assert str(clear(load_registry([]), "samplers", parse(bare), ["scoresde"])) == bare

    def test_checkpoints_of_before_load_and_runs_go_on(self, registry, tmp_path, monkeypatch):
        from scoresde_run.models import checkpoint
        from scoresde_run.training.run import difference

        shipped = checkpoint.find("mnist_vp", registry)
        assert shipped.load(registry).plan.sde == checkpoint.read(shipped.folder).load(registry).plan.sde
        assert difference(checkpoint.read(shipped.folder).config, shipped.config) == []

    @pytest.mark.parametrize(
        "words",
        [
            ["sample", "--target", "scoresde:gaussian", "--n", "2", "--sampler", "scoresde:pc[steps=2]", "--out", "it"],
            ["sample", "--preset", "moons_vp", "--n", "2", "--set", "sampling.sampler.steps=2", "--out", "it"],
            ["likelihood", "--target", "scoresde:gaussian", "--images", "2", "--out", "it"],
        ],
        ids=lambda words: " ".join(words[:2]),
    )
    def test_commands_have_their_defaults(self, registry, words, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        assert main([*words, "--device", "cpu"]) == 0

    def test_a_plugins_own_names_come_first_in_its_own_preset(self, install):
        model = "model: {network: 'mlp[width=8]', sde: vp, shape: [2]}"
        preset = f"format: 1\n{model}\nsampling: {{sampler: 'pc[grid=halving]'}}\n"
        rows = "api: 1\nsdes: {vp: {target: 'fake_plugin:VP'}}\ngrids: {halving: {target: 'fake_plugin:Halving'}}\n"
        rows += "presets: {theirs: {target: 'fake_plugin:theirs.yaml'}}\n"
        sde = "from scoresde_plugins.song2021.sdes import VPSDE\n@attrs.frozen\nclass VP(VPSDE):\n    'Theirs.'\n"
        package = install("fake-plugin", GRID + sde, rows)
        (Path(sys.path[0]) / package / "theirs.yaml").write_text(preset)
        registry = load_registry(disabled=())
        config = registry.create("presets", "theirs")
        assert (str(config.model.sde), str(config.model.network)) == ("fake-plugin:vp", "mlp[width=8]")
        assert type(registry.create("sdes", config.model.sde)).__module__ == "fake_plugin"
        assert str(registry.create("presets", "mnist_vp").model.sde) == "scoresde:vp"


def test_a_plugin_may_not_replace_a_bundled_component(install):
    install("fake-plugin", GRID, "api: 1\ngrids:\n  uniform: {target: 'fake_plugin:Halving'}\n")
    registry = load_registry(disabled=())
    with pytest.raises(AmbiguousName, match="'scoresde:uniform' or 'fake-plugin:uniform'"):
        registry.find("grids", "uniform")


@pytest.mark.parametrize("name", ["fake-plugin", "FAKE-Plugin", "fake_plugin"])
def test_disabled(install, monkeypatch, name, capsys):
    """By distribution or entry point, in any case; a disabled plugin is not imported."""
    install("fake-plugin", "raise SystemExit('imported')")
    monkeypatch.setenv("SCORESDE_DISABLE_PLUGINS", f"other, {name}")
    registry = load_registry()
    status = status_of(registry, "fake-plugin")
    assert (status.state, status.detail) == ("disabled", "named in SCORESDE_DISABLE_PLUGINS")
    assert "fake_plugin" not in sys.modules
    assert main(["plugins"]) == 0
    assert "disabled" in capsys.readouterr().out


def test_bundled_plugin_can_be_disabled_too():
    registry = load_registry(disabled=["scoresde"])
    assert rows_of("scoresde", registry) == []


@pytest.mark.parametrize("name", ["Fake.Plugin", "fake__plugin", " fake-PLUGIN "])
def test_names_are_compared_as_indexes_do(install, monkeypatch, name, capsys):
    install("fake-plugin", "raise SystemExit('imported')")
    monkeypatch.setenv("SCORESDE_DISABLE_PLUGINS", f"{name},fake-plugim")
    assert status_of(load_registry(), "fake-plugin").state == "disabled"
    warning = "warning: cannot disable the unknown plugin 'fake-plugim'. Did you mean 'fake-plugin'"
    assert capsys.readouterr().err.startswith(warning)


class TestUnimported:
    """Rows in a file are read as data: the package is imported when one of its components is used."""

    ROWS = "api: 1\ngrids:\n  halving: {target: 'fake_plugin.parts:Halving', summary: halves}\n"

    def test_a_package(self, install, tmp_path, capsys):
        install("fake-plugin", "import no_such_module_at_all", self.ROWS)
        assert main(["list", "grids"]) == 0
        assert "halves" in capsys.readouterr().out
        registry = load_registry(disabled=())
        assert (status_of(registry, "fake-plugin").state, "fake_plugin" in sys.modules) == ("ok", False)
        with pytest.raises(PluginError, match=r"fake-plugin:halving .* cannot be loaded: ModuleNotFoundError"):
            registry.load("grids", "halving")

    def test_a_module_deep_in_packages(self, install, tmp_path):
        install("fake-plugin", "raise SystemExit('imported')", entry="fake_plugin.deep.door")
        deep = tmp_path / "fake_plugin" / "deep"
        deep.mkdir()
        (deep / "__init__.py").write_text("raise SystemExit('imported')")
        (deep / "door.py").write_text("raise SystemExit('imported')")
        (deep / "registry.yaml").write_text(self.ROWS)
        registry = load_registry(disabled=())
        assert rows_of("fake-plugin", registry) == ["halving"], status_of(registry, "fake-plugin").detail
        assert "fake_plugin" not in sys.modules

    def test_a_package_without_an_init_file(self, install, tmp_path):
        install("fake-plugin", "", self.ROWS)
        (tmp_path / "fake_plugin" / "__init__.py").unlink()
        (tmp_path / "fake_plugin" / "parts.py").write_text(GRID)
        registry = load_registry(disabled=())
        assert registry.create("grids", "halving").times(None, 2).tolist() == [1.0, 0.5, 0.0]

    def test_a_zip(self, install, tmp_path, monkeypatch):
        install("fake-plugin", "raise_on_import = 1 / 1", self.ROWS)
        (tmp_path / "fake_plugin" / "parts.py").write_text(GRID)
        shutil.make_archive(str(tmp_path / "packed"), "zip", tmp_path, "fake_plugin")
        shutil.rmtree(tmp_path / "fake_plugin")
        monkeypatch.syspath_prepend(str(tmp_path / "packed.zip"))
        registry = load_registry(disabled=())
        assert rows_of("fake-plugin", registry) == ["halving"], status_of(registry, "fake-plugin").detail
        assert "fake_plugin" not in sys.modules
        assert type(registry.create("grids", "halving")).__name__ == "Halving"

    def test_hooks_that_come_from_another_module_are_found(self, install, tmp_path):
        install("fake-plugin", "from .hooks import *", self.ROWS)
        (tmp_path / "fake_plugin" / "hooks.py").write_text(HOOK + "    register('by_hook', 'a:B')\n")
        assert rows_of("fake-plugin", load_registry(disabled=())) == ["halving", "by_hook"]

    @pytest.mark.parametrize("words", [["--version"], ["--help"], [], ["list", "-h"], ["--help", "list"]], ids=" ".join)
    def test_the_version_and_help_import_no_plugin(self, install, words, capsys):
        install("fake-plugin", GRID + HOOK + "    raise SystemExit('imported')", self.ROWS)
        command = "api: 1\ncommands:\n  odd: {target: 'a:B', summary: an odd command}\n"
        install("fake-command", "raise SystemExit", command)
        with nullcontext() if words in ([], ["--version"]) else pytest.raises(SystemExit):
            assert main(words) == 0
        out = capsys.readouterr().out
        assert ("an odd command" in out) == (words in ([], ["--help"], ["--help", "list"]))
        assert not {"fake_plugin", "fake_command"} & set(sys.modules)

    def test_the_help_of_a_command_that_a_hook_registers(self, install, capsys):
        code = HOOK.replace("_grids", "_commands") + "    register('odd', 'fake_plugin.odd:Odd')\n"
        package = install("fake-plugin", code)
        (Path(sys.path[0]) / package / "odd.py").write_text(
            "import attrs\nfrom scoresde_core import Command\n@attrs.frozen\nclass Odd(Command):\n    'Odd.'\n"
            "    def configure(self, parser):\n        parser.add_argument('--strange', help='yes')\n"
            "    def run(self, arguments, registry): ...\n"
        )
        with pytest.raises(SystemExit):
            main(["odd", "--help"])
        assert "--strange" in capsys.readouterr().out


def test_what_a_plugin_prints_goes_to_stderr_under_its_name(install, capsys):
    talk = "import sys\nsys.stdout.reconfigure(line_buffering=True)\nprint('hello\\nthere')\n"
    code = talk + HOOK + "    print('rows')\n    register('halving', 'fake_plugin.parts:Halving')\n"
    package = install("fake-plugin", code)
    parts = "import sys\nsys.stdout.buffer.write(b'by bytes, ')\nprint('no end', end='')\n" + GRID
    (Path(sys.path[0]) / package / "parts.py").write_text(parts)
    assert main(["list", "grids", "--json"]) == 0
    printed = capsys.readouterr()
    assert "halving" in [row["name"] for row in json.loads(printed.out)]
    assert printed.err.splitlines() == ["fake-plugin: hello", "fake-plugin: there", "fake-plugin: rows"]
    registry = load_registry(disabled=())
    capsys.readouterr()
    registry.load("grids", "halving")
    assert capsys.readouterr() == ("", "fake-plugin: by bytes, no end\n")
    print("ours again")
    assert capsys.readouterr().out == "ours again\n"


def test_hooks_and_manifest_together(install):
    install(
        "fake-plugin",
        GRID
        + "@hookimpl\ndef scoresde_register_grids(register):\n    register('by_hook', Halving, summary='a class')\n",
        "api: 1\ngrids:\n  by_row: {target: 'fake_plugin:Halving', summary: a string}\n",
    )
    registry = load_registry(disabled=())
    assert rows_of("fake-plugin", registry) == ["by_row", "by_hook"]
    assert registry.load("grids", "by_hook") is registry.load("grids", "by_row")


def test_a_manifest_belongs_to_a_package_not_to_the_folder_of_a_lone_module(install, tmp_path):
    install("fake-plugin", "", "api: 1\ngrids:\n  mine: {target: 'a:B'}\n", entry="fake_plugin.door")
    (tmp_path / "fake_plugin" / "door.py").write_text("")
    install("fake-lone", entry="fake_lonely")
    (tmp_path / "fake_lonely.py").write_text(HOOK + "    register('lonely', 'a:B')\n")
    (tmp_path / "registry.yaml").write_text("api: 1\ngrids:\n  stray: {target: 'a:B'}\n")
    registry = load_registry(disabled=())
    assert rows_of("fake-plugin", registry) == ["mine"]
    assert rows_of("fake-lone", registry) == ["lonely"]


def test_a_hook_may_take_fewer_arguments(install):
    code = "from scoresde_core import hookimpl\nheard = []\n@hookimpl\ndef scoresde_on_result():\n    heard.append(1)\n"
    install("fake-plugin", code)
    registry = load_registry(disabled=())
    registry.hook.scoresde_on_result(row={})
    assert sys.modules["fake_plugin"].heard == [1]


def test_hooks_of_a_failed_plugin_are_not_called(install):
    code = HOOK.replace("scoresde_register_grids(register)", "scoresde_on_result(row)") + "    row['touched'] = True\n"
    install("fake-plugin", code + HOOK + "    raise RuntimeError\n")
    registry, row = load_registry(disabled=()), {}
    assert status_of(registry, "fake-plugin").detail == "RuntimeError: no message"
    registry.hook.scoresde_on_result(row=row)
    assert row == {}


def test_one_module_by_two_entry_points_stays_loaded_once():
    class Plugin:
        @hookimpl
        def scoresde_on_result(self, row):
            row["heard"] = row.get("heard", 0) + 1

    one = Plugin()
    points = [_Point("first", one), _Point("second", one)]
    registry, row = load_registry(points, disabled=()), {}
    assert [status.state for status in registry.statuses] == ["ok", "failed"]
    assert "is already loaded" in registry.statuses[1].detail
    registry.hook.scoresde_on_result(row=row)
    assert row == {"heard": 1}


class _Point(EntryPoint):
    """An entry point to a given object."""

    def __init__(self, name, plugin):
        super().__init__(name, "in.hand", plugins.GROUP)
        vars(self)["plugin"] = plugin

    def load(self):
        return self.plugin


def test_interrupting_is_not_a_plugins_fault(install, tmp_path, monkeypatch, capsys):
    install("fake-plugin", "raise KeyboardInterrupt")
    with pytest.raises(KeyboardInterrupt):
        load_registry(disabled=())
    capsys.readouterr()
    assert main(["list"]) == 130
    assert capsys.readouterr().err == "interrupted while the plugin fake-plugin was imported\n"
    (tmp_path / "late.py").write_text("raise KeyboardInterrupt")
    (tmp_path / "rows.yaml").write_text("api: 1\ngrids: {late: {target: 'late:Grid'}}\n")
    monkeypatch.setenv("SCORESDE_DISABLE_PLUGINS", "fake-plugin")
    assert main(["show", "grids", "late", "--registry", str(tmp_path / "rows.yaml")]) == 130
    assert capsys.readouterr().err == "interrupted while the plugin rows was imported\n"


def test_a_file_that_is_given_twice_counts_once(tmp_path, monkeypatch, capsys):
    (tmp_path / "rows.yaml").write_text("api: 1\ngrids: {mine: {target: 'a:B', summary: once}}\n")
    (tmp_path / "link.yaml").symlink_to(tmp_path / "rows.yaml")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setenv("SCORESDE_REGISTRY", "./rows.yaml")
    for name in ("rows.yaml", str(tmp_path / "rows.yaml"), "link.yaml"):
        assert main(["list", "grids", "--registry", name, "--registry", "rows.yaml"]) == 0
        assert capsys.readouterr().out.count("once") == 1


class TestDocs:
    """Every file in docs/plugins.md, written and used."""

    @pytest.fixture
    def files(self, tmp_path, monkeypatch):
        text = (ROOT / "docs" / "plugins.md").read_text()
        files = {}
        for block in re.findall(r"```(?:python|yaml)\n(.*?)```", text, re.DOTALL):
            first, _, rest = block.partition("\n")
            files[first.removeprefix("# ")] = rest
            (tmp_path / first.removeprefix("# ")).write_text(block)
        monkeypatch.syspath_prepend(str(tmp_path))
        monkeypatch.chdir(tmp_path)
        yield files
        for name in files:
            sys.modules.pop(name.removesuffix(".py"), None)

    def test_twelve_lines(self, files):
        assert len((files["my_sdes.py"] + files["my_rows.yaml"]).splitlines()) == 12

    def test_the_sde_conforms(self, files, capsys):
        assert main(["check", "sdes", "constant_vp", "--registry", "my_rows.yaml"]) == 0, capsys.readouterr().out

    def test_the_grid_conforms(self, files, capsys):
        words = ["check", "grids", "power[power=2]", "--registry", "registry.yaml"]
        assert main(words) == 0, capsys.readouterr().out

    def test_the_hooks(self, files):
        registry, row = load_registry([EntryPoint("my_hooks", "my_hooks", plugins.GROUP)], disabled=()), {}
        assert [entry.qualified for entry in registry.entries("grids")] == ["my_hooks:power_grid"]
        assert registry.create("grids", "power_grid").power == 3
        registry.hook.scoresde_on_result(row=row)
        assert row == {"laboratory": "ours"}
