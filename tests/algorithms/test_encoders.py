"""The convolutional encoder against torch.nn.Conv2d, in the discrete algorithms, and on images with a known answer."""

from __future__ import annotations

import copy

import gymnasium
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from offbench.algorithms import get_algorithm
from offbench.algorithms.base import ProblemSpec, make_config
from offbench.algorithms.batches import LaneSampler, Preprocessing, TransitionBuffer
from offbench.algorithms.conformance import check_checkpoint, check_isolation, check_lanes, check_policy
from offbench.algorithms.encoders import StackedConvNet
from offbench.datasets import Dataset
from offbench.errors import IncompatibleError

from .problems import CONTINUOUS, DISCRETE, make, torch_networks

IMAGE, FILTERS = (7, 6, 2), (4, 3)
SIZE = 7 * 6 * 2
SPACE = ProblemSpec(SIZE, 3, True, observation_shape=IMAGE)
ALGORITHMS = ["bc", "iql", "dqn", "qr_dqn", "rem", "bve", "mce", "discrete_bcq", "discrete_cql", "discrete_crr"]


class Images(nn.Module):
    """A lane's member as ordinary torch modules with copied weights; takes flat images with channels last."""

    def __init__(self, net: StackedConvNet, lane: int, member: int, activation: type[nn.Module] = nn.ReLU) -> None:
        super().__init__()
        self.image = net.image
        row, position = net.flat.detach()[lane, member], 0
        layers: list[nn.Module] = []
        for inputs, outputs in net._shapes:
            layer = nn.Conv2d(inputs // 9, outputs, 3)
            with torch.no_grad():
                filters = row[position : position + inputs * outputs].view(inputs, outputs)
                layer.weight.copy_(filters.T.reshape(outputs, inputs // 9, 3, 3))
                layer.bias.copy_(row[position + inputs * outputs : position + (inputs + 1) * outputs])
            position += (inputs + 1) * outputs
            layers += [layer, activation()]
        self.convolutions = nn.Sequential(*layers)
        self.perceptron = torch_networks(net._mlp, lane)[member]

    def forward(self, x: Tensor) -> Tensor:
        height, width, channels = self.image
        features = self.convolutions(x.view(-1, height, width, channels).permute(0, 3, 1, 2))
        return self.perceptron(features.permute(0, 2, 3, 1).flatten(1))

    def gradient(self) -> Tensor:
        """The parameters' gradients in the order of `flat`."""
        convolutions = [m for m in self.convolutions if isinstance(m, nn.Conv2d)]
        dense = [m for m in self.perceptron if isinstance(m, nn.Linear)]
        parts = [part for c in convolutions for part in (c.weight.grad.flatten(1).T.flatten(), c.bias.grad)]
        parts += [part for m in dense for part in (m.weight.grad.T.flatten(), m.bias.grad)]
        return torch.cat(parts)


@pytest.mark.parametrize(("activation", "start"), [("relu", "torch"), ("selu", "kaiming")])
def test_values_and_gradients_equal_conv2d(activation: str, start: str) -> None:
    options = {"activation": activation, "start": start}
    net = StackedConvNet(IMAGE, FILTERS, (SIZE, 8, 5), [3, 9], "net", members=2, **options)
    x = torch.randn(2, 11, SIZE, generator=torch.Generator().manual_seed(0), requires_grad=True)
    output = net(x)
    assert output.shape == (2, 2, 11, 5)
    weight = torch.randn(output.shape, generator=torch.Generator().manual_seed(1))
    ours, ours_x = torch.autograd.grad((weight * output).sum(), [net.flat, x])
    (frozen_x,) = torch.autograd.grad((weight * net.frozen(x)).sum(), [x])
    for lane in range(2):
        inputs = x.detach()[lane].requires_grad_()
        for member in range(2):
            plain = Images(net, lane, member, nn.ReLU if activation == "relu" else nn.SELU)
            expected = plain(inputs)
            torch.testing.assert_close(output[lane, member], expected, rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(net.detached(x)[lane, member], expected, rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(net(x, member=member)[lane], expected, rtol=1e-4, atol=1e-5)
            (weight[lane, member] * expected).sum().backward()
            torch.testing.assert_close(ours[lane, member], plain.gradient(), rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(ours_x[lane], inputs.grad, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(frozen_x, ours_x)
    assert not net.detached(x).requires_grad
    one = torch.autograd.grad(net(x, member=1).sum(), [net.flat])[0]
    assert not one[:, 0].any()
    assert one[:, 1].any()


def test_first_weights_have_the_scale_of_their_start_and_differ_between_lanes() -> None:
    uniform = StackedConvNet((10, 10, 4), (16,), (400, 8, 3), [0, 1], "net")
    bound = 1 / 6  # 36 inputs of a filter
    filters = uniform.flat.detach()[:, 0, : 37 * 16]
    assert 0.99 * bound < filters.abs().max() <= bound
    assert filters.std().item() == pytest.approx(bound / 3**0.5, rel=0.05)
    assert not torch.equal(filters[0], filters[1])
    normal = StackedConvNet((10, 10, 4), (16,), (400, 8, 3), [0], "net", start="kaiming").flat.detach()[0, 0]
    assert normal[: 36 * 16].std().item() == pytest.approx(bound, rel=0.1)
    assert not normal[36 * 16 : 37 * 16].any()


def test_targets_are_copies_that_follow() -> None:
    net = StackedConvNet(IMAGE, FILTERS, (SIZE, 8, 5), [3, 9], "net")
    target = net.target()
    x = torch.randn(2, 4, SIZE, generator=torch.Generator().manual_seed(0))
    first = target.detached(x)
    torch.testing.assert_close(first, net.detached(x))
    with torch.no_grad():
        net.flat.add_(0.1)
    assert torch.equal(target.detached(x), first)
    target.track(net, 1.0)
    assert torch.equal(target.detached(x), net.detached(x))
    target.track(StackedConvNet(IMAGE, FILTERS, (SIZE, 8, 5), [5, 6], "net"), torch.tensor([[0.0], [1.0]]))
    assert torch.equal(target.detached(x)[0], net.detached(x)[0])
    assert not torch.equal(target.detached(x)[1], net.detached(x)[1])


def test_dqn_on_images_equals_plain_torch_over_20_updates() -> None:
    ours = make("dqn", SPACE, [5], encoder="cnn", filters=FILTERS, image_shape=(), target_period=4, discount=0.9)
    assert isinstance(ours.critic, StackedConvNet)
    critic = Images(ours.critic, 0, 0, nn.SELU)
    old = copy.deepcopy(critic)
    optimizer = torch.optim.Adam(critic.parameters(), lr=1e-4)
    for step in range(1, 21):
        g = torch.Generator().manual_seed(step)
        batch = {
            "observations": torch.rand(1, 32, SIZE, generator=g),
            "next_observations": torch.rand(1, 32, SIZE, generator=g),
            "rewards": torch.randn(1, 32, generator=g),
            "continues": (torch.rand(1, 32, generator=g) > 0.1).float(),
            "actions": torch.randint(0, 3, (1, 32), generator=g),
        }
        s, a, r, s2, c = (batch[k][0] for k in ("observations", "actions", "rewards", "next_observations", "continues"))
        with torch.no_grad():
            y = r + 0.9 * c * old(s2).gather(1, critic(s2).argmax(1, keepdim=True))[:, 0]
        loss = nn.functional.smooth_l1_loss(critic(s).gather(1, a[:, None])[:, 0], y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % 4 == 0:
            old.load_state_dict(critic.state_dict())
        metrics = ours.update(batch, {}, step)
        assert metrics["critic_loss"].item() == pytest.approx(loss.item(), rel=2e-4)
    x = torch.rand(1, 50, SIZE, generator=torch.Generator().manual_seed(99))
    torch.testing.assert_close(ours.critic.detached(x)[0], critic(x[0]), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(ours.target_critic.detached(x)[0], old(x[0]), rtol=1e-4, atol=1e-5)


def dominoes(size: int = 6000, seed: int = 0) -> Dataset:
    """Episodes of one step: uint8 images [6, 7, 2] with a domino that lies (best action 0), stands (1) or slants (2).

    It is somewhere in the first channel; the second is noise. The best action pays 1 and is taken in 60 % of the rows.
    """
    rng = np.random.default_rng(seed)
    images = np.zeros((size, 6, 7, 2), np.uint8)
    images[..., 1] = 255 * (rng.random((size, 6, 7)) < 0.1)
    best = rng.integers(0, 3, size)
    row, column = rng.integers(0, 5, size), rng.integers(0, 6, size)
    images[np.arange(size), row, column, 0] = 255
    images[np.arange(size), row + (best > 0), column + (best != 1), 0] = 255
    actions = np.where(rng.random(size) < 0.6, best, (best + rng.integers(1, 3, size)) % 3)
    ends = np.ones(size, bool)
    space = gymnasium.spaces.Box(0, 255, (6, 7, 2), np.uint8)
    return Dataset.from_arrays(
        images,
        actions,
        (actions == best).astype(np.float32),
        ends,
        ~ends,
        observation_space=space,
        action_space=gymnasium.spaces.Discrete(3),
        infos={"best": best},
        name="dominoes",
    )


@pytest.mark.parametrize("name", ALGORITHMS)
def test_lanes_checkpoints_and_policies_keep_their_promises_with_images(name: str) -> None:
    algorithm, data = get_algorithm(name), dominoes(300)
    values = {"hidden": [16, 16], "encoder": "cnn", "filters": [4, 3]}
    config = make_config(algorithm.config_class, values)
    for check in (check_lanes, check_checkpoint, check_policy, check_isolation):
        check(algorithm, config, data, 10, 1e-4)


@pytest.mark.parametrize("name", ["bc", "dqn"])
def test_images_are_told_apart(name: str) -> None:
    data, held_out = dominoes(), dominoes(1000, seed=1)
    values = {"hidden": [64], "encoder": "cnn", "learning_rate": 3e-3}
    config = make_config(get_algorithm(name).config_class, values)
    run = get_algorithm(name)([config], ProblemSpec.of(data), [0], "cpu", 500)
    buffer = TransitionBuffer(data, run.needs(config), Preprocessing("max_abs"))
    sampler = LaneSampler(buffer, [0], 64, {})
    for step in range(1, 501):
        run.update(*sampler.draw(step), step)
    images = torch.from_numpy(held_out.observations.reshape(1000, -1).copy()).float()
    right = run.act(buffer.normalizer(images)[None])[0].numpy() == held_out.infos["best"]
    assert right.mean() > 0.8  # the behaviour: 0.6, chance: 1/3


def test_images_are_divided_by_their_largest_value() -> None:
    buffer = TransitionBuffer(dominoes(50), get_algorithm("bc").requires, Preprocessing("max_abs"))
    batch = buffer.gather(torch.arange(50)[None])
    assert batch["observations"].unique().tolist() == [0.0, 1.0]
    assert buffer.space.observation_shape == (6, 7, 2)


def test_misfits_say_how_to_go_on() -> None:
    with pytest.raises(IncompatibleError, match=r"5 numbers as an image(?s:.*)image_shape"):
        make("dqn", DISCRETE, [0], encoder="cnn", image_shape=())
    with pytest.raises(IncompatibleError, match="too small for 3 convolutions"):
        make("dqn", SPACE, [0], encoder="cnn", filters=(4, 4, 4), image_shape=())
    with pytest.raises(IncompatibleError, match="continuous actions"):
        make("iql", CONTINUOUS, [0], encoder="cnn")
    flat = ProblemSpec(SIZE, 3, True, observation_shape=(SIZE,))  # as the built-in MinAtar datasets have it
    run = make("dqn", flat, [0], encoder="cnn", filters=(4,), image_shape=IMAGE)
    assert run.critic.image == IMAGE
