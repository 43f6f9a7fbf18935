"""A few dozen damaged folders of diffusers; tests/long/damaged_folders.py has a thousand."""

import damaged


def test_damage_is_one_line_or_another_model(tmp_path):
    whole = damaged.made(tmp_path / "whole")
    found = [damaged.wrong(whole, tmp_path, seed) for seed in range(36)]
    assert [each for each in found if each] == []
