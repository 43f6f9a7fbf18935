"""Networks of the library diffusers, run by it: UNet2DModel, UNet2DConditionModel without text, and DiT."""

import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import attrs
from torch import Tensor, nn
from scoresde_core import FileError, Spec, UsageError, param
from scoresde_run import Network
from .diffusers_folder import part, process_of, read_json, scheduler, sides

CLASSES = ("UNet2DModel", "UNet2DConditionModel", "DiTTransformer2DModel")
EXAMPLE = """{"_class_name": "UNet2DModel", "sample_size": 8, "layers_per_block": 1, "block_out_channels": [8, 16],
"norm_num_groups": 4, "attention_head_dim": 4, "down_block_types": ["DownBlock2D", "AttnDownBlock2D"],
"up_block_types": ["AttnUpBlock2D", "UpBlock2D"]}"""


@attrs.frozen(kw_only=True)
class DiffusersModel(Network):
    """A network of diffusers in its own code: events (B, C, H, W), labels (B,) -> the first C channels of its answer.

    It is built from ``config``, with random weights, or with those in the folder ``path``. It knows the classes of the
    library; none is the row that DiT has for it, and an error elsewhere.
    """

    example: ClassVar = {"config": EXAMPLE}

    path: str | None = param(None, "a folder with config.json and weights, as its save_pretrained writes them")
    config: str | None = param(None, "the text of its config.json, in place of a folder")

    def __attrs_post_init__(self) -> None:
        if (self.path is None) == (self.config is None):
            raise ValueError("give path, the folder of a model of diffusers, or config, the text of its config.json")
        name = self.settings.get("_class_name")
        if name not in CLASSES or "CrossAttn" in str(self.settings.get("down_block_types")):
            raise ValueError(f"a {name} is none of {', '.join(CLASSES)} without text: choose another model")

    @property
    def settings(self) -> dict[str, Any]:
        """The content of its config.json."""
        try:
            found = json.loads(self.config) if self.config else read_json(part(Path(self.path or "")) / "config.json")
            return dict(found)
        except (FileError, TypeError) as error:
            raise ValueError(str(error)) from error

    @property
    def fixed_shape(self) -> tuple[int, ...] | None:
        known = sides(self.settings) if self.path else []
        return (self.settings.get("in_channels", 3), *known) if known else None

    @property
    def trained(self) -> tuple[Spec | None, dict[str, Any]]:
        if self.path is None or (file := scheduler(Path(self.path))) is None:
            return None, {}
        found = process_of(read_json(file))
        return Spec(found["sde"].pop("name"), found["sde"]), found["network"]

    def takes(self, shape: tuple[int, ...]) -> Mapping[str, int | tuple[int, ...]]:
        classes = self.settings.get("num_class_embeds") or self.settings.get("num_embeds_ada_norm")
        return {"class": int(classes)} if classes else {}

    def build(self, shape: tuple[int, ...]) -> nn.Module:
        settings = self.settings
        wanted = (settings.get("in_channels", 3), *(sides(settings) or shape[1:]))
        if tuple(shape) != wanted:
            raise ValueError(f"its configuration is for events of shape {list(wanted)}, not {list(shape)}")
        try:
            import diffusers
        except ImportError as error:
            raise UsageError("this network needs the library: pip install 'scoresde[diffusers]'") from error
        kind = getattr(diffusers, settings["_class_name"])
        try:
            if self.path is None:
                with warnings.catch_warnings(action="ignore"):
                    return Told(kind.from_config({key: settings[key] for key in settings if key[0] != "_"}), self)
            how = {"local_files_only": True, "low_cpu_mem_usage": False}
            return Told(kind.from_pretrained(part(Path(self.path)), **how), self)
        except Exception as error:  # the library checks little, and raises anything
            why = (str(error) or "no reason").splitlines()[0]
            raise ValueError(f"diffusers cannot make it ({type(error).__name__}: {why})") from error


class Told(nn.Module):
    """A module of diffusers that is asked as ours are; see :class:`DiffusersModel`."""

    def __init__(self, model: nn.Module, spec: DiffusersModel) -> None:
        super().__init__()
        self.model, self.kind = model, CLASSES.index(spec.settings["_class_name"])

    def forward(self, x: Tensor, label: Tensor, **known: Tensor) -> Tensor:
        """A tensor like ``x`` (B, C, H, W) for labels (B,) and, of a network with classes, classes (B,)."""
        told: dict[str, Any] = {"encoder_hidden_states": None} if self.kind == 1 else {}
        if "class" in known:
            model: Any = self.model
            none = model.config.num_embeds_ada_norm if self.kind == 2 else -1
            told["class_labels"] = known["class"].where(known["class"] >= 0, none)
        answer: Tensor = self.model(x, timestep=label, **told).sample[:, : x.shape[1]]
        return answer
