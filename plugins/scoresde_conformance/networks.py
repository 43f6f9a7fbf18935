"""Networks: their modules answer like the events, row by row, depend on the noise, and learn with all parameters.

A new network may answer with zeros, and a deep one may hardly depend on its label, so the weights are perturbed at
random first: the checks must hold for any weights. Large networks have the small sizes of their ``example``.
"""

import torch
from torch import Tensor, nn
from scoresde_core import ScoreModel, level_of
from scoresde_run import NoisyClassifier
from .candidate import Candidate, Skip, first_accepted, kept
from .exact import ConstantRateSDE
from .expect import agree, is_like, refusal

SHAPES = ((2,), (1, 8, 8), (3, 8, 8), (3, 16, 16), (3, 32, 32), (1, 28, 28), (3, 64, 64), (3, 256, 256))
ROWS, MOVED = 3, 0.05


@kept
def _built(candidate: Candidate) -> tuple[tuple[int, ...], nn.Module]:
    """Return the first event shape that the network accepts and its module, with perturbed weights, to evaluate."""
    modules: list[nn.Module] = []
    shape = first_accepted(SHAPES, lambda shape: refusal(lambda: modules.append(candidate.component.build(shape))))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for value in modules[0].parameters():
            value.add_(MOVED * torch.randn(value.shape, generator=generator))
    return shape, modules[0].eval()


def _ask(candidate: Candidate, x: Tensor, t: Tensor, module: nn.Module | None = None) -> Tensor:
    """Return the score, or the log probabilities of the classes, at times (B,)."""
    sde = ConstantRateSDE()
    view = candidate.component.view(module or _built(candidate)[1], sde, tuple(x.shape[1:]))
    level = level_of(sde, t.double(), x)
    if isinstance(view, ScoreModel):
        return view.score(x, level)
    if isinstance(view, NoisyClassifier):
        return view.log_probabilities(x, level)
    raise Skip(f"view gives a {type(view).__name__}, which the suite cannot check")


def _events(candidate: Candidate, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(ROWS, *_built(candidate)[0], generator=generator), torch.tensor([0.15, 0.4, 0.8])


def says_which_shapes_it_takes(candidate: Candidate) -> None:
    """``build`` gives a module, or a ValueError with the reason why it refuses a shape."""
    for shape in ((), *SHAPES[: SHAPES.index(_built(candidate)[0])]):
        reason = refusal(candidate.component.build, shape)
        assert reason is None or reason.strip(), f"build refuses events of shape {shape} without a reason"


@torch.no_grad()
def answers_like_the_events(candidate: Candidate) -> None:
    """A score is finite and like x; a classifier's log probabilities are (B, classes) and normalised."""
    x, t = _events(candidate)
    found = _ask(candidate, x, t)
    view = candidate.component.view(_built(candidate)[1], ConstantRateSDE(), tuple(x.shape[1:]))
    classes = view.classes if isinstance(view, NoisyClassifier) else None
    is_like("the answer", found, x.shape if classes is None else (ROWS, classes), x.dtype)
    if classes is not None:
        agree(found.exp().sum(1), 1, 1e-4, "the probabilities of the classes sum to one only within")


@torch.no_grad()
def treats_every_row_by_itself(candidate: Candidate) -> None:
    """In evaluation mode an event's answer is the same alone, in a batch, and the second time."""
    x, t = _events(candidate)
    together, again = _ask(candidate, x, t), _ask(candidate, x, t)
    assert torch.equal(together, again), "the module gives another answer the second time in evaluation mode"
    alone = torch.cat([_ask(candidate, x[k : k + 1], t[k : k + 1]) for k in range(ROWS)])
    agree(alone, together, 1e-4 * float(together.abs().max()), "an event's answer alone and in a batch differs by")


@torch.no_grad()
def hears_the_noise_level(candidate: Candidate) -> None:
    """Another label gives another answer."""
    _, module = _built(candidate)
    heard: list[Tensor] = []
    handle = module.register_forward_hook(lambda module, inputs, output: heard.append(output))
    x, _ = _events(candidate)
    for t in (0.15, 0.8):
        _ask(candidate, x, torch.full((ROWS,), t))
    handle.remove()
    change = float((heard[0] - heard[1]).abs().max() / heard[0].abs().max())
    assert change > 1e-6, "the module gives the same answer for the labels of t = 0.15 and t = 0.8: it ignores them"


def learns_with_every_parameter(candidate: Candidate) -> None:
    """In training mode every parameter receives a gradient."""
    _, module = _built(candidate)
    x, t = _events(candidate)
    module.train()
    try:
        answer = _ask(candidate, x, t)
        weights = torch.randn(answer.shape, generator=torch.Generator().manual_seed(1))
        learning = {name: value for name, value in module.named_parameters() if value.requires_grad}
        slopes = torch.autograd.grad((answer * weights).sum(), list(learning.values()), allow_unused=True)
        idle = [name for name, slope in zip(learning, slopes, strict=True) if slope is None or not slope.any()]
    finally:
        module.eval()
    assert not idle, f"no gradient reaches {', '.join(idle[:5])}{' and others' if len(idle) > 5 else ''}"


@torch.no_grad()
def is_all_in_its_state(candidate: Candidate) -> None:
    """A new module with the same state_dict gives the same answers: its random numbers are buffers."""
    shape, module = _built(candidate)
    other = candidate.component.build(shape)
    other.load_state_dict(module.state_dict())
    x, t = _events(candidate)
    found, expected = _ask(candidate, x, t, other.eval()), _ask(candidate, x, t)
    assert torch.equal(found, expected), "a new module with the same state_dict gives other answers"
