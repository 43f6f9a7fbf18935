"""Folders of diffusers as models of ours, and our models as such folders.

    model_index.json   scheduler/scheduler_config.json   unet/config.json   unet/diffusion_pytorch_model.safetensors

Older folders have all files in one place, or weights as ``.bin``. UNet2DModel of DDPM and of NCSN++ becomes our own
network; any other runs through the library (:mod:`.diffusers_model`). ``diffusers.yaml`` says what configurations mean.
A table of betas is in single precision, as there. With 1000 entries it is a continuous process for a network that is
told t in 0 to 999, the label ``time``; with others the label is ``index``.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs
import torch
from safetensors.torch import load_file
from torch import Tensor
from scoresde_core import FileError, UsageError
from scoresde_run import Model
from scoresde_run.machine import inputs
from scoresde_run.models.checkpoint import write_tensors
from ..ddpm.sdes import betas_of
from ..foreign import library
from .foreign import Foreign, names, rows

SCHEDULER, WEIGHTS = "scheduler_config.json", "diffusion_pytorch_model"
_SIZES = ("nf", "ch_mult", "num_res_blocks", "attn_resolutions", "dropout")


class UnlikeOurs(UsageError):
    """A network of the library that is none of ours, or one of ours that the library has not."""


def fetched(source: str) -> Path:
    """The folder ``source``; if it is ``hub:OWNER/NAME``, that of huggingface_hub, which downloads it."""
    if not source.startswith("hub:"):
        return Path(source)
    remedy = "download its files elsewhere and name their folder"
    try:
        from huggingface_hub import snapshot_download

        patterns = ["*.json", f"*{WEIGHTS}.safetensors", f"*{WEIGHTS}.bin"]
        return Path(snapshot_download(source[4:], allow_patterns=patterns))
    except ImportError as error:
        raise UsageError(f"{source} needs huggingface_hub: pip install 'scoresde[diffusers]', or {remedy}") from error
    except Exception as error:  # of the network, the hub or the name: each has classes of its own
        why = (str(error).strip() or "no reason").splitlines()[0][:200]
        raise FileError(f"cannot download {source} ({type(error).__name__}: {why}): {remedy}") from error


def part(folder: Path) -> Path:
    """The folder of the network's files in ``folder``."""
    for place in (folder / "unet", folder / "transformer", folder):
        if (place / "config.json").is_file():
            return place
    raise FileError(f"{folder} has no unet/config.json, transformer/config.json or config.json: name one that has")


def read_json(path: Path) -> dict[str, Any]:
    """The mapping in a JSON file."""
    with inputs.reading(path, "JSON") as found:
        content = inputs.loads(inputs.text(found))
        if not isinstance(content, dict):
            raise ValueError("it must be a mapping with _class_name")
        return content


def scheduler(folder: Path) -> Path | None:
    """The file of the scheduler's configuration in ``folder``, if it is there."""
    places = folder / "scheduler" / SCHEDULER, folder / SCHEDULER
    return next((path for path in places if path.is_file()), None)


def sides(config: Mapping[str, Any]) -> list[int]:
    """Height and width of the images of a network with this ``config``; empty if it does not say."""
    size = config.get("sample_size")
    return [size, size] if isinstance(size, int) else size if isinstance(size, list) else []


def read_folder(folder: Path) -> Foreign:
    """Read the model in ``folder``; :class:`FileError` for what it lacks."""
    place, notes, kind = part(folder), [], "diffusers"
    config = read_json(place / "config.json")
    file = next((path for end in ("safetensors", "bin") if (path := place / f"{WEIGHTS}.{end}").is_file()), None)
    if (law := scheduler(folder)) is None or file is None:
        lacks = f"scheduler/{SCHEDULER}" if law is None else f"{WEIGHTS}.safetensors"
        raise FileError(f"{folder} has no {lacks}: save the whole pipeline again, with its weights in one file")
    process = process_of(read_json(law))
    try:
        kind, model = model_of(config)
    except UnlikeOurs as error:
        network = {"name": "diffusers", "config": json.dumps(config)}
        model = {"network": network, "shape": [config.get("in_channels", 3), *sides(config)]}
        notes = [f"it runs through diffusers, not our own network: {error}"]
    if kind != "diffusers" and (kind == "ncsnpp") != (process["sde"]["name"] == "ve"):
        raise FileError(f"{law} is of another model, {kind} does not go with {process['sde']['name']}: mend it")

    def named(module: Any) -> Mapping[str, str]:
        if kind == "diffusers":
            return {name: name.removeprefix("model.") for name in module.state_dict()}
        return names(module, kind, min(model["shape"][1:]))

    sampling = {"sampler": process.pop("sampler")}
    plain = {"model": {**process, **model, "network": {**model["network"], **process["network"]}}, "sampling": sampling}
    former, state = rows("diffusers.yaml")["former"], {}
    with inputs.reading(file, "safetensors") as path:
        for name, value in (load_file(path) if file.suffix == ".safetensors" else inputs.unpickled(path)).items():
            words = [former.get(word, word) if ".attentions." in name else word for word in name.split(".")]
            state[".".join(words)] = value[...]
    layers = max([n for key in ("layers_per_block", "num_layers") if isinstance(n := config.get(key), int)], default=0)
    if layers > len(state):
        raise FileError(f"{place}/config.json says {layers} layers, more than there are tensors: get it again")
    return Foreign(f"diffusers {kind}", file, plain, state, named, notes)


def model_of(config: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """Our kind, and ``network``, ``shape`` and ``centered`` of a model with the ``config`` of a UNet2DModel."""
    if config.get("_class_name") != "UNet2DModel":
        raise UnlikeOurs(f"it is a {config.get('_class_name')}")
    table = rows("diffusers.yaml")
    full = {**table["defaults"], **config}
    kind = "ncsnpp" if "Skip" in str(full["down_block_types"]) else "ddpm"
    try:
        widths, size = list(full["block_out_channels"]), full["sample_size"]
        shape = [full["in_channels"], *([size, size] if isinstance(size, int) else size)]
        attended = [level for level, name in enumerate(full["down_block_types"]) if "Attn" in name]
        resolutions, multiples = [min(shape[1:]) >> level for level in attended], [w // widths[0] for w in widths]
        values = widths[0], multiples, full["layers_per_block"], resolutions, float(full["dropout"])
        sizes, centered = dict(zip(_SIZES, values, strict=True)), not full["center_input_sample"]
        wanted = _config(kind, sizes, shape, centered)
        narrow = kind == "ncsnpp" and min([2 * min(widths), *(widths[level] for level in attended)]) < 128
    except (TypeError, ValueError, ArithmeticError, IndexError, AttributeError) as error:
        raise FileError(f"its sample_size, widths or types of blocks are damaged ({error}): get it again") from error
    for key, value in full.items():
        same = value == wanted.get(key) or (value, wanted.get(key)) == ("swish", "silu")
        if not same and key[0] != "_" and key not in ("sample_size", *table[kind]["unread"]):
            raise UnlikeOurs(f"it has {key}={value}, and our {kind} {wanted.get(key)}")
    if narrow:
        raise UnlikeOurs(f"with widths {widths}, the groups of its norms are others: ours need 64, 128 with attention")
    return kind, {"network": {**table[kind]["network"], **sizes}, "shape": shape, "centered": centered}


def _config(kind: str, sizes: Mapping[str, Any], shape: Any, centered: bool) -> dict[str, Any]:
    """The configuration of a UNet2DModel that is our network of the ``kind`` and ``sizes``."""
    table, sides = rows("diffusers.yaml"), list(shape[1:])
    has = [min(sides) >> level in sizes["attn_resolutions"] for level in range(len(sizes["ch_mult"]))]
    blocks, config = table[kind]["blocks"], {**table["defaults"], **table[kind]["config"], "_class_name": "UNet2DModel"}
    config |= {"in_channels": shape[0], "out_channels": shape[0], "center_input_sample": not centered}
    config |= {"sample_size": sides[0] if sides[0] == sides[1] else sides, "dropout": sizes["dropout"]}
    config |= {"block_out_channels": [sizes["nf"] * each for each in sizes["ch_mult"]]}
    config |= {"layers_per_block": sizes["num_res_blocks"], "down_block_types": [blocks["down"][each] for each in has]}
    return {**config, "up_block_types": [blocks["up"][each] for each in has[::-1]]}


def process_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """``sde``, what the ``network`` is told, and ``sampler``, for a scheduler's ``config``."""
    table, name, law = rows("diffusers.yaml"), str(config.get("_class_name")), str(config.get("beta_schedule"))
    meaning, betas = str(config.get("prediction_type", "epsilon")), config.get("trained_betas")
    if row := table["schedulers"].get(name):
        sde = {"name": row["sde"], **{key: config.get(key, value) for key, value in row["ends"].items()}}
        sde["t_min"] = sde.pop("sampling_eps")
        how = {"snr": 0.15, "correct_steps": 1, **config, "steps": config.get("num_train_timesteps", 2000)}
        return {"sde": sde, "network": row["network"], "sampler": row["sampler"].format(**how)}
    if meaning not in table["meanings"] or (law not in table["laws"] and not betas):
        known = f"one of {', '.join(table['laws'])} or trained_betas, and one of {', '.join(table['meanings'])}"
        raise FileError(f"its {name} has beta_schedule={law} and prediction_type={meaning}: give it {known}")
    entries = len(betas) if isinstance(betas, list) else config.get("num_train_timesteps", 1000)
    sde = {"values": betas} if betas else {"betas": table["laws"][law], "entries": entries}
    if not betas and law != "squaredcos_cap_v2":
        sde |= {"first": config.get("beta_start", 1e-4), "last": config.get("beta_end", 0.02)}
    sde |= {"name": "table", "precision": "single", "zero_terminal_snr": config.get("rescale_betas_zero_snr", False)}
    label = {"label": "time"} if entries == 1000 else {"label": "index", "scales": entries}
    network = {"parameterisation": table["meanings"][meaning], **label}
    return {"sde": sde, "network": network, "sampler": f"pc[predictor=ancestral_sampling,steps={entries}]"}


def scheduler_of(model: Model) -> dict[str, Any]:
    """The configuration of a scheduler for the process of a ``model``; :class:`UnlikeOurs` if there is none."""
    sde: Any = model.sde
    process, network = model.config.model.sde.name, model.plan.network
    meanings = {ours: theirs for theirs, ours in rows("diffusers.yaml")["meanings"].items()}
    told = network.parameterisation, network.label
    if process == "ve" and told == ("score", "sigma"):
        ends = {"sigma_min": sde.sigma_min, "sigma_max": sde.sigma_max, "sampling_eps": sde.t_min}
        return {"_class_name": "ScoreSdeVeScheduler", **ends}
    if process not in ("vp", "table") or told[0] not in meanings or told[1] not in ("time", "index"):
        what = f"{process} with parameterisation {told[0]} and label {told[1]}"
        raise UnlikeOurs(f"diffusers has no scheduler for {what}: export as scoresde, or train with ve, vp or table")
    betas = betas_of(sde) if process == "table" else sde.betas(network.scales)
    if process == "vp" and told[1] == "time":  # continuous; the first, without noise, is half a step on
        betas = library.betas_of(sde)
    config = {"_class_name": "DDPMScheduler", "num_train_timesteps": len(betas), "trained_betas": betas.tolist()}
    snr = {"rescale_betas_zero_snr": sde.zero_terminal_snr} if process == "table" else {}
    return {**config, "prediction_type": meanings[told[0]], **snr}


def write_folder(folder: Path, model: Model) -> None:
    """Write ``model`` to the new ``folder``; :class:`UnlikeOurs` for what diffusers has not."""
    spec: Any = model.plan.network
    kind, shape = model.config.model.network.name, model.shape
    if kind not in ("ddpm", "ncsnpp") or len(shape) != 3:
        raise UnlikeOurs(f"the network is {kind} for events of shape {list(shape)}, not ddpm or ncsnpp for images")
    scheduler, fixed = scheduler_of(model), rows("diffusers.yaml")[kind]["network"]
    free = (*_SIZES, "scales", "recompute", "sigma_min", "sigma_max", "centered", "parameterisation", "label")
    given = {name: getattr(spec, name) for name in free}
    twin = type(spec)(**given | {key: value for key, value in fixed.items() if key != "name"})
    for name, value in attrs.asdict(twin, recurse=False).items():
        if getattr(spec, name) not in (value, "level"):
            raise UnlikeOurs(f"the network has {name}={getattr(spec, name)}, and diffusers has only {value}")
    config, state = _config(kind, given, shape, spec.centered), _theirs(model.network, kind)
    model_of(config)
    with torch.device("meta"):  # attention that only the library has adds nothing
        whole = {key: value.shape for key, value in _theirs(twin.build(shape), kind).items()}
    state |= {key: torch.zeros(size) for key, size in whole.items() if key not in state}
    index: dict[str, Any] = {"_class_name": {"ncsnpp": "ScoreSdeVePipeline", "ddpm": "DDPMPipeline"}[kind]}
    index |= {"unet": ["diffusers", "UNet2DModel"], "scheduler": ["diffusers", scheduler["_class_name"]]}
    documents = {"model_index.json": index, f"scheduler/{SCHEDULER}": scheduler, "unet/config.json": config}
    for name, content in documents.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    write_tensors(folder / "unet" / f"{WEIGHTS}.safetensors", state)


def _theirs(module: Any, kind: str) -> dict[str, Tensor]:
    """The tensors of ``module`` under the library's names and in its shapes."""
    found, state = {}, module.state_dict()
    for name, other in names(module, kind, 1).items():
        value = state[name].t() if name.endswith(".W") and state[name].ndim > 1 else state[name]
        found[other] = value[:, :, None, None] if "conv_shortcut" in other and value.ndim == 2 else value
    return found
