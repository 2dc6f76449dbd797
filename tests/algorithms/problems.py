"""Small datasets and problems that the algorithms' tests share."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from offbench.algorithms import get_algorithm
from offbench.algorithms.base import Algorithm, Batch, ProblemSpec
from offbench.algorithms.conformance import small_config
from offbench.algorithms.networks import StackedMLP

CONTINUOUS = ProblemSpec(5, 2, False, (-1.0, -1.0), (1.0, 1.0))
DISCRETE = ProblemSpec(5, 3, True)
DISCRETE_ONLY = ["dqn", "bve", "mce", "qr_dqn", "rem", "discrete_bcq", "discrete_cql", "discrete_crr"]
CASES = [
    ("bc", CONTINUOUS),
    ("bc", DISCRETE),
    ("td3_bc", CONTINUOUS),
    ("iql", CONTINUOUS),
    ("iql", DISCRETE),
    ("riql", CONTINUOUS),
    ("riql", DISCRETE),
    ("cql", CONTINUOUS),
    ("awac", CONTINUOUS),
    ("sac_n", CONTINUOUS),
    ("edac", CONTINUOUS),
    ("rebrac", CONTINUOUS),
    ("prdc", CONTINUOUS),
    ("a2pr", CONTINUOUS),
    ("crr", CONTINUOUS),
    ("xql", CONTINUOUS),
    ("dvl", CONTINUOUS),
    *((name, DISCRETE) for name in DISCRETE_ONLY),
]
IDS = [f"{name}-{'discrete' if space.discrete else 'continuous'}" for name, space in CASES]


def torch_networks(net: StackedMLP, lane: int = 0) -> list[nn.Sequential]:
    """The members of a lane as ordinary torch modules with copied weights."""
    layout, flat = net._layout, net.flat.detach()[lane]
    norms = layout.norm_views(flat)
    networks = []
    for member in range(net.members or 1):
        layers: list[nn.Module] = []
        for index, (weight, bias) in enumerate(layout.views(flat)):
            layer = nn.Linear(weight.shape[1], weight.shape[2])
            with torch.no_grad():
                layer.weight.copy_(weight[member].T)
                layer.bias.copy_(bias[member, 0])
            layers.append(layer)
            if index == len(net.sizes) - 2:
                break
            activation = nn.ReLU() if layout.activation == "relu" else nn.SELU()
            if layout.norm == "none":
                layers.append(activation)
                continue
            norm = nn.LayerNorm(net.sizes[index + 1])
            with torch.no_grad():
                norm.weight.copy_(norms[index][0][member, 0])
                norm.bias.copy_(norms[index][1][member, 0])
            layers += [norm, activation] if layout.norm == "before" else [activation, norm]
        networks.append(nn.Sequential(*layers))
    return networks


class Plain:
    """A stacked network of one lane as ordinary torch modules, one per member."""

    def __init__(self, net: StackedMLP) -> None:
        self.modules = torch_networks(net)

    def __call__(self, *inputs: Tensor, member: int = 0) -> Tensor:
        return self.modules[member](torch.cat(inputs, -1))

    def parameters(self) -> list[nn.Parameter]:
        return [p for module in self.modules for p in module.parameters()]

    def move(self, source: Plain, rate: float) -> None:
        with torch.no_grad():
            for mine, other in zip(self.parameters(), source.parameters(), strict=True):
                mine.copy_((1 - rate) * mine + rate * other)

    def assert_equals(self, net: StackedMLP) -> None:
        twin = Plain(net)
        for mine, other in zip(self.parameters(), twin.parameters(), strict=True):
            torch.testing.assert_close(mine, other, rtol=1e-4, atol=2e-5)


def normal_histogram(targets: Tensor, low: float, high: float, bins: int, smoothing: float) -> Tensor:
    """The mass [B, bins] of N(y, (smoothing * width)^2) in each bin over that in the whole range, by torch's Normal."""
    edges = torch.linspace(low, high, bins + 1, dtype=torch.float64)
    targets = targets.double().clamp(low, high)[:, None]
    below = torch.distributions.Normal(targets, smoothing * (high - low) / bins).cdf(edges)
    mass = below[:, 1:] - below[:, :-1]
    return (mass / mass.sum(1, keepdim=True)).float()


def histogram_mean(logits: Tensor, low: float, high: float) -> Tensor:
    """The mean [...] of the categorical distribution over the bins' centres that logits [..., bins] describe."""
    width = (high - low) / logits.shape[-1]
    centres = low + width * (torch.arange(logits.shape[-1]) + 0.5)
    return (torch.softmax(logits, -1) * centres).sum(-1)


def adam(*nets: Plain) -> torch.optim.Adam:
    return torch.optim.Adam([p for net in nets for p in net.parameters()], lr=3e-4)


def make(name: str, space: ProblemSpec, seeds: list[int], total_updates: int = 1000, **values: object) -> Algorithm:
    """An algorithm with small networks; values that are lists give one value per lane."""
    algorithm = get_algorithm(name)
    configs = []
    for lane in range(len(seeds)):
        mine = {key: value[lane] if isinstance(value, list) else value for key, value in values.items()}
        configs.append(small_config(algorithm, **mine))
    return algorithm(configs, space, seeds, "cpu", total_updates)


def random_batch(space: ProblemSpec, lanes: int, size: int, seed: int) -> Batch:
    """A batch of random transitions, a tenth of them terminal."""
    g = torch.Generator().manual_seed(seed)
    s = torch.randn(lanes, size, space.observation_size, generator=g)
    batch = {
        "observations": s,
        "next_observations": torch.randn(s.shape, generator=g),
        "rewards": torch.randn(lanes, size, generator=g),
        "continues": (torch.rand(lanes, size, generator=g) > 0.1).float(),
    }
    if space.discrete:
        batch["actions"] = torch.randint(0, space.action_size, (lanes, size), generator=g)
        batch["next_actions"] = torch.randint(0, space.action_size, (lanes, size), generator=g)
    else:
        batch["actions"] = torch.rand(lanes, size, space.action_size, generator=g) * 2 - 1
        batch["next_actions"] = torch.rand(lanes, size, space.action_size, generator=g) * 2 - 1
        batch["observation_actions"] = torch.cat([s, batch["actions"]], -1)
    batch["returns"] = torch.randn(lanes, size, generator=g)
    return batch


def _bits(*shape: int, generator: torch.Generator) -> torch.Tensor:
    return torch.randint(-(2**31), 2**31, shape, dtype=torch.int32, generator=generator)


def random_noise(algorithm: Algorithm, size: int, seed: int) -> dict[str, torch.Tensor]:
    """Noise as the algorithm declares it."""
    g = torch.Generator().manual_seed(seed)
    spec = algorithm.noise_spec(size)
    draw = {"normal": torch.randn, "uniform": torch.rand, "bits": _bits}
    return {name: draw[noise.kind](algorithm.lanes, *noise.shape, generator=g) for name, noise in spec.items()}
