"""The U-Net of NCSN++, DDPM++ and DDPM (Song et al. 2021, arXiv:2011.13456, Appendix H; Ho et al. 2020, 2006.11239).

A level is one resolution, half that of the level before. Going down, the output of every residual block is kept for
the opposite block on the way up; attention follows the blocks of chosen levels and is in the middle. Two image
pyramids may run beside the blocks (StyleGAN2, Karras et al. 2020, arXiv:1912.04958):

    progressive_input   input_skip: the halved input joins each level     residual: halved features are the next level
    progressive         output_skip: the output is a sum over levels      residual: doubled features join each level

All layers are in one list, ``all_modules``, in the order in which they run, with the names of the published PyTorch
checkpoints (``all_modules.7.Conv_0.weight``), which load strictly. A :class:`Stage` holds the indices of the layers of
one level; the list is built and read by these stages, never by counting.
"""

from collections.abc import Callable
from typing import Any, ClassVar, Literal, Self

import attrs
import torch
from attrs import validators as check
from torch import Tensor, nn
from scoresde_core import param
from scoresde_core.shapes import expand
from . import layers
from .known import ClassEmbedding
from .unet_spec import ImageUNet, UNetSpec

Way = Literal["down", "up"]
Places = tuple[int, ...]  # indices of layers in ``all_modules``, in the order in which they run


@attrs.define
class Stage:
    """The layers of one level on one side of the U."""

    blocks: Places = ()
    attention: Places = ()
    pyramid: Places = ()
    resample: Places = ()


class Combine(nn.Module):
    """``input_skip``: a 1x1 convolution of the pyramid's image, added to the features or stacked before them."""

    def __init__(self, image_channels: int, channels: int, stack: bool, dims: int) -> None:
        super().__init__()
        self.Conv_0, self.stack = layers.conv(image_channels, channels, 1, dims=dims), stack

    def forward(self, image: Tensor, features: Tensor) -> Tensor:
        """(B, c, H, W) and (B, C, H, W) -> (B, C, H, W), or (B, 2C, H, W) stacked."""
        image = self.Conv_0(image)
        return torch.cat([image, features], 1) if self.stack else image + features


class UNet(nn.Module):
    """The module of ``ncsnpp``, ``ddpm`` and ``unet``: events (B, C, *sides) and labels (B,) -> (B, C, *sides).

    If the specification asks for it, an image (B, cond_channels, *sides), or (1, ...) for all, is concatenated with
    ``x`` wherever the network reads its input: it is ``known[spec.cond]``, or ``cond_image``. The embedding of the
    class, ``known["class"]`` (B,), -1 for none, is added to that of the label.
    """

    sigmas: Tensor

    def __init__(self, spec: UNetSpec, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.spec = spec
        channels, *sides = shape
        self.attends = spec.attended(sides)
        self.activation = layers.Overwrite(spec.nonlinearity)  # every input is a layer's output that nothing else reads
        self.style = layers.BlockStyle(
            activation=self.activation,
            embedding=4 * spec.nf if spec.conditional else None,
            biggan=spec.resblock_type == "biggan",
            dropout=spec.dropout,
            min_group=spec.min_group,
            scale=spec.init_scale,
            rescale=spec.skip_rescale,
            dims=len(sides),
        )
        self.register_buffer("sigmas", spec.sigma_table())
        self.shrink = self._filter("down") if spec.progressive_input == "input_skip" else None
        self.grow = self._filter("up") if spec.progressive == "output_skip" else None

        self.all_modules = nn.ModuleList()
        self._build_embedding()
        seen = channels + spec.cond_channels
        self.first = self._add(layers.conv(seen, spec.nf, dims=len(sides)))
        kept = [spec.nf]
        self.down = self._build_down(seen, kept)
        width = kept[-1]
        middle = layers.ResidualBlock(width, width, self.style), layers.AttentionBlock(width, self.style)
        self.middle = self._add(*middle, layers.ResidualBlock(width, width, self.style))
        self.up, width = self._build_up(channels, kept)
        self.last = () if self.grow is not None else self._add(*self._head(width, channels, spec.init_scale))
        if spec.classes:
            inner: Any = self.all_modules[self.embedding[0]]
            width = inner.in_features if spec.class_joins == "features" else inner.out_features
            self.class_embedding = ClassEmbedding(spec.classes, width)
        if self.sigmas.device.type == "cpu":
            self._lay_out(torch.channels_last)

    def forward(self, x: Tensor, label: Tensor, cond_image: Tensor | None = None, **known: Tensor) -> Tensor:
        """A tensor like ``x``; ``ValueError`` for a size that the levels cannot halve, or a wrong condition."""
        self.spec.check_size(x.shape[2:])
        if label.shape != x.shape[:1]:
            raise ValueError(f"{len(x)} images need {len(x)} labels, got labels of shape {tuple(label.shape)}")
        embedding = self._embed(label, known.get("class"))
        image: Tensor | None = self._see(x, known.get(self.spec.cond, cond_image))

        h = self.all_modules[self.first[0]](image)
        kept = [h]
        for stage in self.down:
            for place, block in enumerate(stage.blocks):
                h = self._run(block, h, embedding)
                if stage.attention:
                    h = self._run(stage.attention[place], h)
                kept.append(h)
            if stage.resample:
                h, image = self._join_input(stage, self._resample(stage, h, embedding), image)
                kept.append(h)

        before, attention, after = self.middle
        h = self._run(after, self._run(attention, self._run(before, h, embedding)), embedding)

        image = None
        for stage in self.up:
            for block in stage.blocks:
                h = self._run(block, h, embedding, kept.pop())
                if block + 1 in stage.attention:
                    h = self._run(block + 1, h)
            h, image = self._join_output(stage, h, image)
            if stage.resample:
                h = self._resample(stage, h, embedding)

        if self.last:
            image = self._run_head(self.last, h)
        assert image is not None
        if self.spec.divides_by_sigma:
            sigma = label if self.spec.label == "sigma" else self.sigmas[label.round().long()]
            image = image / expand(sigma, image)
        return image if image.device.type != "cpu" else image.contiguous()

    def _run(self, place: int, *inputs: Tensor | None) -> Tensor:
        spec = self.spec
        return layers.run(self.all_modules[place], *inputs, recompute=spec.recompute, random=spec.dropout > 0)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Kernels have the layout of :meth:`_see` on a CPU, and the usual one elsewhere."""
        before, after = self.sigmas.device.type, fn(self.sigmas).device.type
        if before == "cpu" != after:
            self._lay_out(torch.contiguous_format)
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        if after == "cpu" != before:
            self._lay_out(torch.channels_last)
        return self

    def _lay_out(self, layout: torch.memory_format) -> None:
        super()._apply(lambda v: v.contiguous(memory_format=layout) if v.ndim == 4 else v)  # type: ignore[no-untyped-call]

    # The label and the input.

    def _embed(self, label: Tensor, classes: Tensor | None) -> Tensor | None:
        """Return the activated embedding of the label and the class for all blocks, (B, 4 nf)."""
        if not self.embedding:
            return None
        inner, outer = (self.all_modules[place] for place in self.embedding)
        if self.fourier:
            features = self.all_modules[self.fourier[0]](label.log() if self.spec.label == "sigma" else label)
        else:
            features = layers.positional_embedding(label, self.spec.nf)
        features, told = features.to(inner.weight.dtype), self.class_embedding(classes) if self.spec.classes else None
        if told is not None and self.spec.class_joins == "features":
            features, told = features + told, None
        out: Tensor = outer(self.activation(inner(features)))
        return self.activation(out if told is None else out + told)  # type: ignore[no-any-return]

    def _see(self, x: Tensor, cond_image: Tensor | None) -> Tensor:
        """Return ``x`` in [-1, 1], followed by the condition's channels."""
        x = self.spec.beside(x if self.spec.centered else 2 * x - 1, cond_image)
        # CPU convolutions are a tenth faster in this layout, and every layer keeps it; the kernels have it too.
        return x.contiguous(memory_format=torch.channels_last) if x.device.type == "cpu" and x.ndim == 4 else x

    # The two pyramids.

    def _resample(self, stage: Stage, h: Tensor, embedding: Tensor | None) -> Tensor:
        return self._run(stage.resample[0], h, *([embedding] if self.style.biggan else []))

    def _join_input(self, stage: Stage, h: Tensor, image: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Return the features after halving, and the input pyramid at their size."""
        if not stage.pyramid:
            return h, image
        layer = self.all_modules[stage.pyramid[0]]
        if self.shrink is not None:
            image = self.shrink(image)
            return layer(image, h), image
        h = layers.merge(layer(image), h, self.style.rescale)
        return h, h

    def _join_output(self, stage: Stage, h: Tensor, image: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Return the features of a level on the way up, and the output pyramid with their contribution."""
        if not stage.pyramid:
            return h, image
        if image is None:
            return h, self._run_head(stage.pyramid, h)
        if self.grow is not None:
            return h, self.grow(image) + self._run_head(stage.pyramid, h)
        h = layers.merge(self.all_modules[stage.pyramid[0]](image), h, self.style.rescale)
        return h, h

    def _run_head(self, places: Places, h: Tensor) -> Tensor:
        norm, project = (self.all_modules[place] for place in places)
        return project(self.activation(norm(h)))  # type: ignore[no-any-return]

    # Construction, in the order of the list.

    def _add(self, *modules: nn.Module) -> Places:
        start = len(self.all_modules)
        self.all_modules.extend(modules)
        return tuple(range(start, len(self.all_modules)))

    def _build_embedding(self) -> None:
        spec = self.spec
        self.fourier: Places = ()
        self.embedding: Places = ()
        if spec.embedding == "fourier":
            # The published list contains it even if nothing uses it.
            self.fourier = self._add(layers.FourierEmbedding(spec.nf, spec.fourier_scale, spec.trainable_embedding))
        if spec.conditional:
            size = 2 * spec.nf if self.fourier else spec.nf
            self.embedding = self._add(layers.dense(size, 4 * spec.nf), layers.dense(4 * spec.nf, 4 * spec.nf))

    def _build_down(self, seen: int, kept: list[int]) -> list[Stage]:
        """Build the way down; ``kept`` collects the channels of every output that is kept for the way up."""
        spec, stages = self.spec, []
        image, width = seen, spec.nf
        for level, multiple in enumerate(spec.ch_mult):
            stage = Stage()
            for _ in range(spec.num_res_blocks):
                stage.blocks += self._add(layers.ResidualBlock(width, multiple * spec.nf, self.style))
                width = multiple * spec.nf
                if self.attends[level]:
                    stage.attention += self._add(layers.AttentionBlock(width, self.style))
                kept.append(width)
            if level + 1 < len(spec.ch_mult):
                stage.resample = self._add(self._resize("down", width))
                if spec.progressive_input == "input_skip":
                    stack = spec.progressive_combine == "cat"
                    stage.pyramid = self._add(Combine(seen, width, stack, self.style.dims))
                    width *= 2 if stack else 1
                elif spec.progressive_input == "residual":
                    stage.pyramid = self._add(self._filtered_conv("down", image, width))
                    image = width
                kept.append(width)
            stages.append(stage)
        return stages

    def _build_up(self, channels: int, kept: list[int]) -> tuple[list[Stage], int]:
        """Build the way up, coarsest level first; return it with its final channels, and empty ``kept``."""
        spec, stages = self.spec, []
        image, width = 0, kept[-1]
        for level, multiple in reversed(list(enumerate(spec.ch_mult))):
            stage = Stage()
            for index in range(spec.num_res_blocks + 1):
                stage.blocks += self._add(layers.ResidualBlock(width + kept.pop(), multiple * spec.nf, self.style))
                width = multiple * spec.nf
                if self.attends[level] and (spec.up_attention == "block" or index == spec.num_res_blocks):
                    stage.attention += self._add(layers.AttentionBlock(width, self.style))
            if spec.progressive == "output_skip":
                stage.pyramid = self._add(*self._head(width, channels, spec.init_scale))
            elif spec.progressive == "residual":
                output = [self._filtered_conv("up", image, width)] if image else self._head(width, width)
                stage.pyramid = self._add(*output)
                image = width
            if level:
                stage.resample = self._add(self._resize("up", width))
            stages.append(stage)
        return stages, width

    def _head(self, channels: int, out_channels: int, scale: float = 1.0) -> tuple[nn.Module, nn.Module]:
        project = layers.conv(channels, out_channels, scale=scale, dims=self.style.dims)
        return layers.group_norm(channels, self.spec.min_group), project

    def _resize(self, way: Way, channels: int) -> nn.Module:
        if self.style.biggan:
            return layers.ResidualBlock(channels, channels, self.style, self._filter(way))
        return self._filtered_conv(way, channels, channels) if self.spec.resamp_with_conv else self._filter(way)

    def _filter(self, way: Way) -> nn.Module:
        if self.spec.fir:
            return layers.FIRDown(self.spec.fir_kernel) if way == "down" else layers.FIRUp(self.spec.fir_kernel)
        return layers.mean_down(self.style.dims) if way == "down" else layers.NearestUp()

    def _filtered_conv(self, way: Way, in_channels: int, out_channels: int) -> nn.Module:
        if self.spec.fir:
            kind = layers.FIRConvDown if way == "down" else layers.FIRConvUp
            return kind(in_channels, out_channels, self.spec.fir_kernel)
        return (layers.ConvDown if way == "down" else layers.ConvUp)(in_channels, out_channels, self.style.dims)


PLAIN: dict[str, Any] = {"fir": False, "progressive_input": "none"}  # DDPM++ as options of NCSN++


@attrs.frozen(kw_only=True)
class NCSNpp(UNetSpec):
    """NCSN++ and DDPM++ (Song et al. 2021, arXiv:2011.13456, Appendix H): images (B, C, H, W), labels (B,).

    NCSN++ for 32 pixels (the defaults): fir, biggan blocks, progressive_input=residual. For 256 and 1024 pixels:
    progressive=output_skip, progressive_input=input_skip. DDPM++: fir=false, progressive_input=none.

        VP, sub-VP     parameterisation=noise   label=time            positional embedding
        VP, discrete   parameterisation=noise   label=index           positional embedding
        VE             parameterisation=score   label=sigma           Fourier features of log sigma, output / sigma
        VE, discrete   parameterisation=score   label=reverse_index   positional embedding, output / sigma

    The last column follows from the two before it unless ``embedding_type`` and ``scale_by_sigma`` are given. Sides
    must be divisible by 2^(levels - 1). With ``classes`` or ``cond_channels`` it knows classes, or images beside x.
    """

    example: ClassVar = {"nf": 8, "ch_mult": (1, 2), "num_res_blocks": 1, "attn_resolutions": (8,)}

    def build(self, shape: tuple[int, ...]) -> UNet:
        if self.fir and 2 <= len(shape) != 3:
            raise ValueError(f"FIR filters need images (C, H, W), got {tuple(shape)}: set fir=false, or choose unet")
        if not 2 <= len(shape) <= 4:
            why = f"a U-Net needs channels and one to three sides, got {tuple(shape)}: choose another network"
            raise ValueError(why)
        self.check_size(shape[1:])
        return UNet(self, shape)


@attrs.frozen(kw_only=True)
class DDPM(ImageUNet):
    """The U-Net of Ho et al. 2020, arXiv:2006.11239, Appendix B; ``conditional=false`` omits the label.

    It is that of NCSN++ without its additions: no filters, pyramids or rescaled sums, separate layers at each change of
    resolution, and GroupNorm with 32 groups however few channels they have.
    """

    example: ClassVar = {"nf": 32, "ch_mult": (1, 2), "num_res_blocks": 1, "attn_resolutions": (8,)}
    without: ClassVar = {
        **PLAIN, "resblock_type": "ddpm", "skip_rescale": False, "embedding_type": "positional", "min_group": 1
    }  # fmt: skip

    num_res_blocks: int = param(2, "residual blocks per level going down; one more going up", check.ge(1))

    def build(self, shape: tuple[int, ...]) -> UNet:
        shared = {field.name: getattr(self, field.name) for field in attrs.fields(ImageUNet)}
        return NCSNpp(**shared, **self.without).build(shape)


@attrs.frozen(kw_only=True)
class DDPMpp(DDPM):
    """The U-Net of DDPM++ (arXiv:2011.13456, Appendix H) for signals (C, L), images (C, H, W) and volumes (C, H, W, D).

    Convolutions, means and nearest neighbours have as many dimensions as the event has sides; attention is over all
    positions. For images it is ``ncsnpp[fir=false,progressive_input=none]``.
    """

    example: ClassVar = {"nf": 8, "ch_mult": (1, 2), "num_res_blocks": 1}
    without: ClassVar = PLAIN

    dims: Literal[1, 2, 3] | None = param(None, "sides of the events; null: as many as they have")
    attn_resolutions: tuple[int, ...] = param(
        (), "levels with attention, by the shortest side of their events; the middle always has it", converter=tuple
    )
    num_res_blocks: int = param(4, "residual blocks per level going down; one more going up", check.ge(1))

    def build(self, shape: tuple[int, ...]) -> UNet:
        if self.dims not in (None, len(shape) - 1):
            raise ValueError(f"dims={self.dims} does not fit events of shape {tuple(shape)}: set dims={len(shape) - 1}")
        return super().build(shape)
