"""Results are reused only if their dependencies (source, files, versions) have not changed."""

import csv
import io
import itertools
import json
import os
import shlex
import sys

import attrs
import numpy as np
import pytest
import torch
from runs import rows_in, save_models
from scoresde_bench.report.repeat import command
from scoresde_core import load_registry
from scoresde_run.results import digests
from scoresde_run.results.fingerprint import Fingerprint, key_of

CELL = ["--target", "mixture2d", "--sde", "vp", "--samples", "64", "--steps", "3"]
PREDICTOR = """
import attrs
from scoresde_core import Predictor
from mine_helper import half

@attrs.frozen
class Mine(Predictor):
    "A step."
    def step(self, x, step, model, noise):
        return half(x), half(x)
"""


@pytest.fixture
def again(bench, tmp_path, monkeypatch):
    """Runs the bench as a new process would: every module of the folder is imported again."""
    monkeypatch.setattr(sys, "path", list(sys.path))

    def forget():
        for name, module in list(sys.modules.items()):
            if str(getattr(module, "__file__", "")).startswith(str(tmp_path)):
                del sys.modules[name]
        for cached in (digests.of_source, digests._package, digests._of_folder):
            cached.cache_clear()

    def run(*arguments):
        forget()
        return bench(*arguments)

    yield run
    forget()


@pytest.fixture
def plugin(tmp_path):
    """A local registry file of a predictor whose module imports another one."""
    (tmp_path / "mine_parts.py").write_text(PREDICTOR)
    (tmp_path / "mine_helper.py").write_text("def half(x):\n    return 0.5 * x\n")
    (tmp_path / "mine.yaml").write_text("api: 1\npredictors:\n  mine: {target: 'mine_parts:Mine'}\n")
    return [*CELL, "--registry", "mine.yaml", "--predictor", "mine", "--evaluator", "energy_distance", "--out", "here"]


class TestBench:
    def test_an_edited_plugin_runs_again_and_its_old_row_stands_apart(self, again, plugin, tmp_path):
        assert again(*plugin)[0] == 0
        assert "1 of 1 cells are already done" in again(*plugin)[1]

        (tmp_path / "mine_helper.py").write_text("def half(x):\n    return 0.9 * x\n")
        code, out, _ = again(*plugin)
        assert (code, "already done" in out) == (0, False)
        assert "in here: 1 row of these cells was measured with an earlier version of mine_helper; shown beside" in out
        assert "with an earlier mine_helper" in out.partition("shown beside")[2]
        old, new = rows_in(tmp_path / "here")
        assert old["metrics"]["energy_distance"]["value"] != new["metrics"]["energy_distance"]["value"]
        assert "1 of 1 cells are already done" in again(*plugin)[1]

        code, out, _ = again("report", "here", "--format", "csv")
        rows = csv.DictReader(io.StringIO(out))
        assert [row["measured"] for row in rows] == ["with an earlier mine_helper", "now"]

    def test_other_seeds_of_earlier_source_are_never_pooled(self, again, plugin, tmp_path):
        again(*plugin, "--seed", "0", "1")
        (tmp_path / "mine_helper.py").write_text("def half(x):\n    return 0.9 * x\n")
        code, out, _ = again(*plugin, "--seed", "1", "2")
        assert (code, "1 row of these cells was measured with an earlier version" in out) == (0, True)
        _, out, _ = again("report", "here", "--format", "csv")
        found = {row["measured"]: row["seeds"] for row in csv.DictReader(io.StringIO(out))}
        assert found == {"with an earlier mine_helper": "0 1", "now": "1 2"}

    def test_a_class_may_move_and_lie_anywhere(self, again, plugin, tmp_path):
        again(*plugin)
        (tmp_path / "mine_parts.py").rename(tmp_path / "elsewhere.py")
        (tmp_path / "mine.yaml").write_text("api: 1\npredictors:\n  mine: {target: 'elsewhere:Mine'}\n")
        (tmp_path / "unrelated.py").write_text("x = 1\n")
        assert "1 of 1 cells are already done" in again(*plugin)[1]

    def test_a_name_that_means_another_class_runs_again(self, again, plugin, tmp_path):
        other = PREDICTOR + "\n@attrs.frozen\nclass Other(Mine):\n    'Another.'\n"
        (tmp_path / "mine_parts.py").write_text(other)
        again(*plugin)
        (tmp_path / "mine.yaml").write_text("api: 1\npredictors:\n  mine: {target: 'mine_parts:Other'}\n")
        assert "already done" not in again(*plugin)[1]

    def test_a_file_behind_an_evaluator_counts_by_its_content(self, again, tmp_path):
        def write(scale):
            np.savez(tmp_path / "ref.npz", mu=np.zeros(2), sigma=scale * np.eye(2))

        asked = [*CELL, "--evaluator", "frechet[features=identity,statistics=ref.npz]", "--out", "here"]
        write(1.0)
        assert again(*asked)[0] == 0
        write(1.0)
        os.utime(tmp_path / "ref.npz", (1, 1))
        assert "1 of 1 cells are already done" in again(*asked)[1]
        write(2.0)
        code, out, _ = again(*asked)
        assert (code, "measured with an earlier version of ref.npz" in out) == (0, True)
        assert [list(row["files"]) for row in rows_in(tmp_path / "here")] == [["ref.npz"]] * 2

    def test_a_path_may_have_any_name(self, again, tmp_path):
        """Typed in quotes; a row's own command finds the row again."""
        np.savez(tmp_path / "it's, [1].npz", mu=np.zeros(2), sigma=np.eye(2))
        asked = 'frechet[features=identity,statistics="it\'s, [1].npz"]'
        assert again(*CELL, "--evaluator", asked, "--out", "here")[0] == 0
        (row,) = rows_in(tmp_path / "here")
        assert (row["evaluators"], list(row["files"])) == ([asked], ["it's, [1].npz"])
        _, *repeated = shlex.split(command(row))
        assert "1 of 1 cells are already done" in again(*repeated, "--out", "here")[1]

    def test_the_default_folder_is_that_of_the_command_whatever_the_source(self, again, plugin, tmp_path):
        again(*plugin[:-2])
        (tmp_path / "mine_helper.py").write_text("def half(x):\n    return 0.9 * x\n")
        assert "measured with an earlier version of mine_helper" in again(*plugin[:-2])[1]
        assert len(list((tmp_path / "scoresde-runs").iterdir())) == 1

    def test_rows_without_a_record_of_their_source_are_shown_and_not_used(self, again, tmp_path):
        asked = [*CELL, "--evaluator", "energy_distance", "--out", "here"]
        again(*asked)
        (row,) = rows_in(tmp_path / "here")
        old = {key: value for key, value in row.items() if key not in ("sources", "files", "digest")}
        old |= {"schema": 1, "cell": "0123456789abcdef"}
        (tmp_path / "here" / "results.jsonl").write_text(json.dumps(old) + "\n")
        code, out, _ = again(*asked)
        assert (code, "1 row of these cells was measured with an earlier version of scoresde;" in out) == (0, True)
        assert "with an earlier scoresde" in again("report", "here", "--format", "markdown")[1]

    def test_a_source_that_changes_under_a_run_fails_its_cells(self, again, plugin, tmp_path):
        """A worker that starts after an edit must not store its results under the old key."""
        code, _, _ = again(*plugin, "--executor", "edited", "--registry", edited(tmp_path))
        assert code == 1
        assert "edited since" in rows_in(tmp_path / "here")[0]["reason"]


def edited(folder):
    """A local file of an executor that edits a plugin before it does any task."""
    (folder / "odd_executor.py").write_text(
        "import attrs, pathlib\n"
        "from scoresde_bench.run.executor import Executor\n"
        "from scoresde_bench.run.executors.processes import ProcessesExecutor\n"
        "@attrs.frozen\n"
        "class Edited(ProcessesExecutor):\n"
        "    def run(self, tasks, **how):\n"
        "        path = pathlib.Path('mine_helper.py')\n"
        "        path.write_text(path.read_text() + '# edited')\n"
        "        yield from super().run(tasks, **how)\n"
    )
    (folder / "odd.yaml").write_text("api: 1\nexecutors:\n  edited: {target: 'odd_executor:Edited'}\n")
    return "odd.yaml"


@attrs.frozen
class Holder:
    """A component of every kind of parameter."""

    value: object = None
    path: str | None = None


class TestDescription:
    @pytest.fixture
    def fingerprint(self):
        return Fingerprint(load_registry())

    def test_components_go_by_their_registered_names(self, fingerprint):
        sampler = fingerprint.registry.create("samplers", "pc[predictor=ddim[eta=0.5],steps=7]")
        told = fingerprint.describe(sampler)
        assert (told["type"], told["steps"]) == ("sampler scoresde:pc", 7)
        assert told["predictor"]["type"] == "predictor scoresde:ddim"
        assert told["corrector"]["type"] == "corrector scoresde:none"  # a default, which nobody has looked up
        assert "scoresde_plugins" not in json.dumps(told)

    def test_every_component_has_a_description_that_is_plain_and_the_same_each_time(self, fingerprint):
        registry, made = fingerprint.registry, 0
        for entry in registry.entries():
            try:
                component, twin = (registry.create(entry.row.kind, entry.qualified) for _ in range(2))
            except Exception:  # one that needs parameters, or files
                continue
            made += 1
            assert json.dumps(fingerprint.describe(component)) == json.dumps(fingerprint.describe(twin)), entry
            assert fingerprint.depends(component) == fingerprint.depends(twin)
        assert made > 60

    @pytest.mark.parametrize(
        ("a", "b"),
        [
            (torch.zeros(5000), torch.zeros(5000).index_fill(0, torch.tensor([2500]), 1.0)),
            (torch.zeros(3), torch.zeros(3, 1)),
            (torch.zeros(3), torch.zeros(3, dtype=torch.bfloat16)),
            (np.arange(5000), np.arange(5000)[::-1]),
            (float("inf"), float("-inf")),
            ({"a": 1}, {"a": 2}),
            ({"a", "b"}, {"a", "c"}),
            ([1, 2], [2, 1]),
        ],
    )
    def test_what_differs_is_described_differently(self, fingerprint, a, b):
        told = [json.dumps(fingerprint.describe(Holder(value)), allow_nan=False) for value in (a, b)]
        assert told[0] != told[1]

    def test_what_is_made_alike_is_described_alike(self, fingerprint):
        class Opaque:
            """Its text has an address."""

        assert fingerprint.describe(Opaque()) == fingerprint.describe(Opaque())
        assert fingerprint.describe({"z", "y", "x"}) == fingerprint.describe({"x", "z", "y"}) == ["x", "y", "z"]


class TestFiles:
    @pytest.fixture
    def files(self):
        fingerprint = Fingerprint(load_registry())

        def found(component):
            digests._of_folder.cache_clear()
            return fingerprint.depends(component)["files"]

        return found

    def test_a_path_counts_wherever_it_is_nested(self, files, tmp_path):
        path = tmp_path / "a.txt"
        path.write_text("a")
        before = files(Holder([{"deep": Holder(path=str(path))}]))
        assert list(before) == [str(path)]
        path.write_text("b")
        assert files(Holder(path=str(path))) != before
        assert files(Holder(path="neither there nor anywhere")) == {}

    def test_a_folder_counts_by_names_sizes_and_times(self, files, tmp_path):
        folder = tmp_path / "data"
        (folder / "deep").mkdir(parents=True)
        (folder / "deep" / "a").write_text("a")
        seen = [files(Holder(path=str(folder)))]
        (folder / ".hidden").write_text("a")
        assert files(Holder(path=str(folder))) == seen[0]
        (folder / "deep" / "a").write_text("b")
        os.utime(folder / "deep" / "a", (1, 1))
        seen.append(files(Holder(path=str(folder))))
        (folder / "deep" / "a").rename(folder / "deep" / "c")
        seen.append(files(Holder(path=str(folder))))
        assert all(a != b for a, b in itertools.pairwise(seen))

    def test_a_large_file_is_not_read(self, files, tmp_path):
        path = tmp_path / "large"
        with path.open("wb") as file:
            file.truncate(digests.LARGE)
        before = files(Holder(path=str(path)))
        os.utime(path, (1, 1))
        assert files(Holder(path=str(path))) != before

    def test_a_checkpoint_counts_by_its_index(self, files, tmp_path):
        save_models(tmp_path, "it", "two")
        before = files(Holder(path=str(tmp_path / "it")))
        os.utime(tmp_path / "it" / "weights.safetensors", (1, 1))
        assert files(Holder(path=str(tmp_path / "it"))) == before
        (tmp_path / "it").rename(tmp_path / "old")
        (tmp_path / "two").rename(tmp_path / "it")
        assert files(Holder(path=str(tmp_path / "it"))) != before

    def test_a_component_may_say_itself_what_it_reads(self, files, tmp_path):
        (tmp_path / "a").write_text("a")
        (tmp_path / "b").write_text("b")

        @attrs.frozen
        class Reads(Holder):
            """Reads a file that no parameter names."""

            def files(self):
                return [tmp_path / "b"]

        assert list(files(Reads(path=str(tmp_path / "a")))) == [str(tmp_path / "b")]

    def test_data_sets_share_a_folder(self, files, tmp_path):
        """A download next to a data set does not change it."""
        registry = load_registry()
        mnist = registry.create("datasets", f"mnist[root={tmp_path}]")
        (tmp_path / "MNIST").mkdir()
        before = files(mnist)
        (tmp_path / "svhn").mkdir()
        assert files(mnist) == before != {}


class TestSource:
    @pytest.fixture
    def package(self, tmp_path, monkeypatch):
        """A package of two modules on the path; ``digest()`` imports it anew."""

        def make(folder):
            root = tmp_path / folder / "odd_package"
            (root / "deep").mkdir(parents=True)
            (root / "__init__.py").write_text("")
            (root / "part.py").write_text("class Part: ...\n")
            (root / "deep" / "__init__.py").write_text("import odd_other\n")
            (tmp_path / folder / "odd_other.py").write_text("x = 1\n")
            monkeypatch.syspath_prepend(str(tmp_path / folder))
            return root

        yield make
        for name in [name for name in sys.modules if name.startswith("odd_")]:
            del sys.modules[name]

    @staticmethod
    def digest():
        import importlib

        digests.of_source.cache_clear()
        digests._package.cache_clear()
        importlib.invalidate_caches()
        importlib.import_module("odd_package.part")
        return dict(digests.of_source("odd_package.part"))

    def test_of_a_checkout_the_whole_package_counts_and_what_it_imports(self, package):
        root = package("src")
        seen = [self.digest()]
        assert set(seen[0]) == {"odd_package", "odd_other"}
        (root / "notes.txt").write_text("nothing")
        (root / "__pycache__").mkdir(exist_ok=True)
        (root / "__pycache__" / "x.py").write_text("nothing")
        assert self.digest() == seen[0]
        (root / "deep" / "new.py").write_text("x = 1\n")
        seen.append(self.digest())
        (root / "deep" / "new.py").rename(root / "deep" / "newer.py")
        seen.append(self.digest())
        (root.parent / "odd_other.py").write_text("x = 2\n")
        seen.append(self.digest())
        assert all(a != b for a, b in itertools.pairwise(seen))

    def test_of_an_installed_package_the_module_counts(self, package):
        root = package("site-packages")
        before = self.digest()
        assert set(before) == {"odd_package.part"}
        (root / "deep" / "new.py").write_text("x = 1\n")
        assert self.digest() == before
        (root / "part.py").write_text("class Part: x = 1\n")
        assert self.digest() != before

    def test_source_that_cannot_be_read_is_nobody_elses(self, monkeypatch):
        import types

        monkeypatch.setitem(sys.modules, "odd_notebook", types.ModuleType("odd_notebook"))
        (found,) = digests.of_source("odd_notebook").values()
        assert found == digests._UNKNOWN

    def test_a_key_holds_what_things_are_and_not_where(self):
        here = {"versions": {"scoresde": "1"}, "sources": {"a": "12", "b": "34"}, "files": {"x": "56"}}
        there = {"versions": {"scoresde": "1"}, "sources": {"d": "12", "c": "34"}, "files": {"y": "56"}}
        assert key_of("cell", here) == key_of("cell", there)
        for other in ({"versions": {"scoresde": "2"}}, {"sources": {"a": "12", "b": "35"}}, {"files": {"x": "57"}}):
            assert key_of("cell", here | other) != key_of("cell", here)
