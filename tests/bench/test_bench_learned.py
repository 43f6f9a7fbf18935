"""Checkpoints and presets in place of an exact target."""

import pytest
from runs import rows_in, save_models

SMALL = ["--target", "mixture2d", "--samples", "64"]


@pytest.fixture
def learned(tmp_path):
    """Two checkpoints of a small network for points in the plane, in the folders ``one`` and ``two``."""
    save_models(tmp_path, "one", "two", sde="vp[beta_max=15.0]")


@pytest.mark.usefixtures("learned")
class TestLearned:
    FAST = ("--steps", "5", "--samples", "64", "--predictor", "ddim")

    def test_a_checkpoint_brings_its_sde_and_is_judged_by_a_target(self, bench, tmp_path):
        code, out, _ = bench("--checkpoint", "one", "two", "--target", "mixture2d", *self.FAST, "--out", "here")
        rows = rows_in(tmp_path / "here")
        assert code == 0
        assert [(r["checkpoint"], r["network"], r["sde"], r["target"]) for r in rows] == [
            (name, "mlp", "vp[beta_max=15.0]", "mixture2d") for name in ("one", "two")
        ]
        assert {row["nfe"] for row in rows} == {5}
        assert all(set(row["metrics"]) >= {"nll_gap", "sliced_wasserstein"} for row in rows)
        assert rows[0]["metrics"]["nll_gap"]["value"] != rows[1]["metrics"]["nll_gap"]["value"]
        assert all((tmp_path / "here" / row["picture"]).is_file() for row in rows)
        assert "one" in out
        assert "two" in out

    def test_one_that_ships_by_its_name(self, bench, tmp_path):
        arguments = ("--target", "mnist_mfa", "--predictor", "ddim", "--steps", "2", "--samples", "4")
        code, out, _ = bench("--checkpoint", "mnist_vp", *arguments, "--out", "here")
        (row,) = rows_in(tmp_path / "here")
        assert (code, row["checkpoint"], row["network"], row["sde"]) == (0, "mnist_vp", "ncsnpp", "vp")
        assert set(row["metrics"]) >= {"sliced_wasserstein", "energy_distance"}
        assert "mnist_vp" in out

    def test_a_checkpoint_is_what_its_network_says(self, bench, tmp_path):
        """The bench evaluates the same samples that the library draws."""
        from scoresde_core.registry import load_registry
        from scoresde_core.sampler import sample
        from scoresde_run.data.evidence import Evidence, Reference
        from scoresde_run.models import checkpoint

        bench("--checkpoint", "one", "--target", "mixture2d", *self.FAST, "--seed", "3", "--out", "here")
        registry = load_registry()
        model = checkpoint.read(tmp_path / "one").load(registry)
        sampler = registry.create("samplers", "pc[predictor=ddim,steps=5]")
        x = sample(model.score(), sampler, 64, seed=3).x
        evidence = Evidence(x, reference=Reference(registry.create("targets", "mixture2d"), 64, 3))
        (metric,) = registry.create("evaluators", "nll_gap").evaluate(evidence)
        assert rows_in(tmp_path / "here")[0]["metrics"]["nll_gap"]["value"] == pytest.approx(metric.value, rel=1e-6)

    def test_without_a_target_metrics_are_skipped_with_their_reason(self, bench, tmp_path):
        code, out, _ = bench("--checkpoint", "one", *self.FAST, "--out", "here")
        (row,) = rows_in(tmp_path / "here")
        assert (code, row["status"], row["metrics"], row["target"]) == (0, "done", {}, None)
        assert row["metrics_skipped"]["nll_gap"] == "NLLGap needs target and density"
        assert "NLLGap needs target and density" in out
        assert (tmp_path / "here" / "report.html").stat().st_size > 0

    def test_random_weights_measure_speed(self, bench, tmp_path):
        code, _, _ = bench("--network", "points.yaml", *self.FAST, "--out", "here")
        (row,) = rows_in(tmp_path / "here")
        assert (code, row["checkpoint"], row["network"]) == (0, None, "points.yaml")
        assert row["samples_per_second"] > 0
        assert row["parameters"]["weights"] == "random, seed 0"
        assert row["parameters"]["network"]["width"] == 8

    def test_the_cell_is_named_after_the_weights(self, bench, tmp_path):
        key = bench("--checkpoint", "one", *self.FAST, "--dry-run")[1].split()[0]
        assert bench("--checkpoint", "one", *self.FAST, "--dry-run")[1].split()[0] == key
        (tmp_path / "one").rename(tmp_path / "old")
        (tmp_path / "two").rename(tmp_path / "one")
        assert bench("--checkpoint", "one", *self.FAST, "--dry-run")[1].split()[0] != key

    def test_damaged_weights_are_a_failed_row(self, bench, tmp_path):
        (tmp_path / "one" / "weights.safetensors").write_bytes(b"damaged")
        code, _, _ = bench("--checkpoint", "one", "two", *self.FAST, "--out", "here")
        rows = {row["checkpoint"]: row for row in rows_in(tmp_path / "here")}
        assert (code, rows["one"]["status"], rows["two"]["status"]) == (1, "failed", "done")
        assert "weights.safetensors is damaged" in rows["one"]["reason"]

    @pytest.mark.parametrize(
        ("arguments", "code", "message"),
        [
            (["--checkpoint", "one", "--sde", "vp"], 2, "--sde has no effect"),
            (["--network", "points.yaml", "--target", "mixture2d"], 2, "--target has no effect"),
            (["--checkpoint", "one", "--target", "mnist_mfa"], 2, "target mnist_mfa has shape [1, 28, 28]"),
            (["--network", "mnist_vpp"], 2, "Did you mean 'mnist_vp'"),
            (["--checkpoint", "gone"], 3, "gone is not a checkpoint"),
        ],
        ids=["sde", "target", "shape", "preset", "folder"],
    )
    def test_a_wrong_request_is_one_line_before_any_work(self, bench, tmp_path, arguments, code, message):
        before = sorted(path.name for path in tmp_path.iterdir())
        found, out, err = bench(*arguments, *self.FAST)
        assert (found, out, err.count("\n")) == (code, "", 1)
        assert message in err
        assert sorted(path.name for path in tmp_path.iterdir()) == before
