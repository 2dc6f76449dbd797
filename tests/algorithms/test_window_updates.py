"""Decision Transformer and RvS against their papers written out in plain torch, and problems that need the return."""

from __future__ import annotations

import math

import gymnasium
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from offbench.algorithms.base import Algorithm, Batch, ProblemSpec
from offbench.algorithms.batches import LaneSampler, Preprocessing, make_buffer
from offbench.algorithms.transformer import StackedTransformer
from offbench.datasets import Dataset
from offbench.errors import SpecError

from .problems import CONTINUOUS, DISCRETE, Plain, make, random_noise


def random_windows(space: ProblemSpec, lanes: int, size: int, window: int, seed: int) -> Batch:
    """Windows of random steps, each padded on the left by up to its length less one."""
    g = torch.Generator().manual_seed(seed)
    shape = (lanes, size, window)
    padding = torch.randint(0, window, (lanes, size, 1), generator=g)
    mask = (torch.arange(window) >= padding).float()
    batch = {
        "observations": torch.randn(*shape, space.observation_size, generator=g) * mask.unsqueeze(-1),
        "returns": torch.randn(shape, generator=g) * 20 * mask,
        "timesteps": (torch.randint(0, 40, (lanes, size, 1), generator=g) + torch.arange(window)) * mask.long(),
        "mask": mask,
    }
    if space.discrete:
        batch["actions"] = torch.randint(0, space.action_size, shape, generator=g) * mask.long()
    else:
        batch["actions"] = (torch.rand(*shape, space.action_size, generator=g) * 2 - 1) * mask.unsqueeze(-1)
    return batch


class PlainTransformer(nn.Module):
    """A Decision Transformer of one lane as ordinary modules; every token goes through every block."""

    def __init__(self, net: StackedTransformer, activation: str) -> None:
        super().__init__()
        p = {key: value[0] for key, value in net.parameters().items()}
        self.net, self.width, self.heads = net, net.width, net.heads
        self.time = nn.Parameter(p["time"].detach().clone())
        self.embed = nn.ModuleList(self.linear(p, f"embed{kind}") for kind in range(3))
        self.embedded, self.last = self.norm(p, "embedded"), self.norm(p, "last")
        self.head = self.linear(p, "head")
        self.blocks = nn.ModuleList()
        for layer in range(net.layers):
            q, k, v = p[f"{layer}.attention.weight"].split(self.width, -1)
            bq, bv = p[f"{layer}.attention.bias"].split(self.width)
            block = nn.ModuleDict({name: self.norm(p, f"{layer}.{name}") for name in ("first", "second")})
            block.update({name: self.linear(p, f"{layer}.{name}") for name in ("mixed", "hidden", "result")})
            for name, weight, bias in (("query", q, bq), ("key", k, None), ("value", v, bv)):
                block[name] = nn.Linear(self.width, self.width, bias=bias is not None)
                with torch.no_grad():
                    block[name].weight.copy_(weight.T)
                    if bias is not None:
                        block[name].bias.copy_(bias)
            self.blocks.append(block)
        self.activation = nn.GELU() if activation == "gelu" else nn.ReLU()

    def linear(self, p: dict[str, Tensor], name: str) -> nn.Linear:
        weight = p[f"{name}.weight"]
        layer = nn.Linear(*weight.shape)
        with torch.no_grad():
            layer.weight.copy_(weight.T)
            layer.bias.copy_(p[f"{name}.bias"])
        return layer

    def norm(self, p: dict[str, Tensor], name: str) -> nn.LayerNorm:
        layer = nn.LayerNorm(self.width)
        with torch.no_grad():
            layer.weight.copy_(p[f"{name}.gain"])
            layer.bias.copy_(p[f"{name}.offset"])
        return layer

    def forward(
        self, tokens: list[Tensor], timesteps: Tensor, mask: Tensor, drop: list[Tensor] | None = None
    ) -> Tensor:
        """tokens [B, K, inputs] of the three kinds; `drop` are multipliers, read tokens alone in the last block."""
        batch, window = mask.shape
        time = self.time[timesteps.clamp(max=len(self.time) - 1)]
        x = torch.stack([e(t) + time for e, t in zip(self.embed, tokens, strict=True)], 2).flatten(1, 2)
        x = self.embedded(x)
        if drop is not None:
            x = x * drop[0].view(x.shape)
        steps = torch.arange(3 * window)
        real = mask.bool().repeat_interleave(3, 1)
        # Padding sees itself, so that no row is empty; what it becomes is not read.
        allowed = (steps[:, None] >= steps) & real[:, None] | torch.eye(3 * window, dtype=torch.bool)
        for layer, block in enumerate(self.blocks):
            read = slice(1, None, 3) if layer == len(self.blocks) - 1 else slice(None)
            masks = [torch.ones(batch, 3 * window, n) for n in (self.heads * 3 * window, self.width, self.width)]
            if drop is not None:
                shares, *others = drop[1 + 3 * layer : 4 + 3 * layer]
                shares = shares.view(batch, self.heads, -1, 3 * window).transpose(1, 2).flatten(2)
                for target, source in zip(masks, [shares, *others], strict=True):
                    target[:, read] = source.reshape(batch, -1, target.shape[-1])
            y, d = block["first"](x), self.width // self.heads
            mixed = []
            for head in range(self.heads):
                part = slice(head * d, (head + 1) * d)
                q, k, v = (block[name](y)[..., part] for name in ("query", "key", "value"))
                scores = (q @ k.transpose(1, 2) / math.sqrt(d)).masked_fill(~allowed, -math.inf).softmax(-1)
                mixed.append((scores * masks[0].view(batch, -1, self.heads, 3 * window)[:, :, head]) @ v)
            x = x + block["mixed"](torch.cat(mixed, -1)) * masks[1]
            x = x + block["result"](self.activation(block["hidden"](block["second"](x)))) * masks[2]
        return self.head(self.last(x)[:, 1::3])

    def flat(self) -> Tensor:
        """The parameters in the order of the stacked transformer."""
        values: dict[str, Tensor] = {"time": self.time, "last.gain": self.last.weight, "last.offset": self.last.bias}
        linears: dict[str, nn.Module] = {f"embed{kind}": layer for kind, layer in enumerate(self.embed)} | {
            "head": self.head
        }
        norms: dict[str, nn.Module] = {"embedded": self.embedded}
        for index, block in enumerate(self.blocks):
            linears |= {f"{index}.{name}": block[name] for name in ("mixed", "hidden", "result")}
            norms |= {f"{index}.{name}": block[name] for name in ("first", "second")}
            qkv = [block[name].weight.T for name in ("query", "key", "value")]
            values[f"{index}.attention.weight"] = torch.cat(qkv, -1)
            values[f"{index}.attention.bias"] = torch.cat([block["query"].bias, block["value"].bias])
        for name, layer in linears.items():
            values |= {f"{name}.weight": layer.weight.T, f"{name}.bias": layer.bias}
        for name, layer in norms.items():
            values |= {f"{name}.gain": layer.weight, f"{name}.offset": layer.bias}
        return torch.cat([values[key].reshape(-1) for key in self.net.parameters()])


@pytest.mark.parametrize("discrete", [False, True])
@pytest.mark.parametrize("dropout", [0.0, 0.2])
def test_decision_transformer_equals_the_paper_written_out(discrete: bool, dropout: float) -> None:
    space = DISCRETE if discrete else CONTINUOUS
    activation = "gelu" if discrete else "relu"
    settings = {"learning_rate": 1e-3, "weight_decay": 0.1, "warmup_steps": 10, "return_scale": 0.1}
    sizes = {"context": 5, "layers": 2, "heads": 2 if discrete else 1, "activation": activation, "dropout": dropout}
    ours = make("decision_transformer", space, [5], **settings, **sizes)
    plain = PlainTransformer(ours.actor, activation)
    optimizer = torch.optim.AdamW(plain.parameters(), lr=1e-3, weight_decay=0.1)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min((step + 1) / 10, 1))
    clipped = 0
    for step in range(1, 21):
        batch, noise = random_windows(space, 1, 8, 5, step), random_noise(ours, 8, step)
        s, a, g, t, mask = (batch[key][0] for key in ("observations", "actions", "returns", "timesteps", "mask"))
        drop = None
        if dropout:
            shapes = [(8, 15, 16)]
            for length in (15, 5):
                shapes += [(8, sizes["heads"], length, 15), (8, length, 16), (8, length, 16)]
            drop = [ours.dropout.multipliers(noise["dropout"], i, (1, *shape))[0] for i, shape in enumerate(shapes)]
        taken = nn.functional.one_hot(a, space.action_size).float() if discrete else a
        output = plain([0.1 * g.unsqueeze(-1), s, taken], t, mask, drop)
        if discrete:
            wrong = nn.functional.cross_entropy(output.transpose(1, 2), a, reduction="none")
        else:
            wrong = ((torch.tanh(output) - a) ** 2).mean(-1)
        loss = wrong[mask.bool()].mean()
        optimizer.zero_grad()
        loss.backward()
        clipped += int(nn.utils.clip_grad_norm_(plain.parameters(), 0.25) > 0.25)
        optimizer.step()
        schedule.step()
        metrics = ours.update(batch, noise, step)
        assert metrics["actor_loss"].item() == pytest.approx(loss.item(), rel=1e-4)
    assert clipped > 0
    torch.testing.assert_close(ours.actor.flat[0, 0].detach(), plain.flat().detach(), rtol=1e-3, atol=5e-5)


def test_attention_is_that_of_torch() -> None:
    net = StackedTransformer((1, 3, 2), 4, 1, [0], "net", width=12, layers=1, heads=3, steps=9)
    with torch.no_grad():
        net.flat.add_(0.3 * torch.randn(net.flat.shape))
    p = {key: value[0].detach() for key, value in net.parameters().items()}
    theirs = nn.TransformerEncoderLayer(12, 3, 48, 0.0, "gelu", batch_first=True, norm_first=True)
    attention, zero = theirs.self_attn, torch.zeros(12)
    bq, bv = p["0.attention.bias"].split(12)
    with torch.no_grad():
        attention.in_proj_weight.copy_(p["0.attention.weight"].T)
        attention.in_proj_bias.copy_(torch.cat([bq, zero, bv]))
        for layer, name in ((attention.out_proj, "mixed"), (theirs.linear1, "hidden"), (theirs.linear2, "result")):
            layer.weight.copy_(p[f"0.{name}.weight"].T)
            layer.bias.copy_(p[f"0.{name}.bias"])
        for norm, name in ((theirs.norm1, "first"), (theirs.norm2, "second")):
            norm.weight.copy_(p[f"0.{name}.gain"])
            norm.bias.copy_(p[f"0.{name}.offset"])
    tokens = [torch.randn(1, 2, 4, size) for size in (1, 3, 2)]
    time = p["time"][torch.arange(4)]
    embedded = [t[0] @ p[f"embed{i}.weight"] + p[f"embed{i}.bias"] + time for i, t in enumerate(tokens)]
    x = torch.stack(embedded, 2).flatten(1, 2)
    x = nn.functional.layer_norm(x, (12,), p["embedded.gain"], p["embedded.offset"])
    x = theirs(x, nn.Transformer.generate_square_subsequent_mask(12), is_causal=True)[:, 1::3]
    x = nn.functional.layer_norm(x, (12,), p["last.gain"], p["last.offset"])
    expected = x @ p["head.weight"] + p["head.bias"]
    timesteps = torch.arange(4).expand(1, 2, 4)
    ours = net.detached(tokens, timesteps, torch.ones(1, 2, 4))
    torch.testing.assert_close(ours[0], expected.detach(), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(net.detached(tokens, timesteps, torch.ones(1, 2, 4), last=True), ours[:, :, -1])


def test_padding_the_future_and_other_lanes_are_not_seen() -> None:
    net = StackedTransformer((1, 3, 2), 4, 1, [0, 1], "net", width=8, layers=2, heads=2, steps=9)
    tokens = [torch.randn(2, 3, 5, size, requires_grad=True) for size in (1, 3, 2)]
    mask = torch.ones(2, 3, 5)
    mask[0, 1, :2] = 0
    output = net(tokens, torch.arange(5).expand(2, 3, 5), mask)
    output[0, 1, 3].sum().backward()
    for kind, token in enumerate(tokens):
        seen = token.grad.abs().sum(-1) > 0
        expected = torch.zeros(2, 3, 5, dtype=torch.bool)
        expected[0, 1, 2:4] = True
        expected[0, 1, 3] = kind < 2  # the action of a step follows its observation
        assert torch.equal(seen, expected)
    with pytest.raises(SpecError, match="do not divide"):
        StackedTransformer((1,), 1, 0, [0], "net", width=8, layers=1, heads=3, steps=9)


def test_a_target_transformer_follows() -> None:
    net = StackedTransformer((1,), 1, 0, [0, 1], "net", width=4, layers=1, heads=1, steps=3)
    target = net.target()
    start = target.flat.clone()
    with torch.no_grad():
        net.flat.add_(1.0)
    target.track(net, torch.tensor([[0.5], [0.0]]))
    torch.testing.assert_close(target.flat[0], start[0] + 0.5)
    assert torch.equal(target.flat[1], start[1])
    assert not target.flat.requires_grad


@pytest.mark.parametrize("discrete", [False, True])
@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_rvs_equals_the_paper_written_out(discrete: bool, dropout: float) -> None:
    space = DISCRETE if discrete else CONTINUOUS
    ours = make("rvs", space, [5], dropout=dropout, horizon=50, learning_rate=3e-4)
    actor = Plain(ours.actor)
    log_std = torch.zeros(space.action_size, requires_grad=True)
    optimizer = torch.optim.Adam([*actor.parameters(), *([] if discrete else [log_std])], lr=3e-4)
    first, _, second, _, output = actor.modules[0]
    for step in range(1, 21):
        batch, noise = random_windows(space, 1, 32, 1, step), random_noise(ours, 32, step)
        s, a, g, t = (batch[key][0, :, 0] for key in ("observations", "actions", "returns", "timesteps"))
        omega = g / (50 - t)
        drop = [torch.ones(32, 16)] * 2
        if dropout:
            drop = [ours.dropout.multipliers(noise["dropout"], place, (1, 32, 16))[0] for place in range(2)]
        hidden = torch.relu(first(torch.cat([s, omega[:, None]], 1))) * drop[0]
        mean = output(torch.relu(second(hidden)) * drop[1])
        if discrete:
            loss = -torch.distributions.Categorical(logits=mean).log_prob(a).mean()
        else:
            loss = -torch.distributions.Normal(mean, log_std.exp()).log_prob(a).sum(-1).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        metrics = ours.update(batch, noise, step)
        assert metrics["actor_loss"].item() == pytest.approx(loss.item(), rel=1e-4)
    actor.assert_equals(ours.actor)
    if not discrete:
        torch.testing.assert_close(ours.log_std[0].detach(), log_std.detach(), rtol=1e-4, atol=1e-6)


def test_dropout_of_a_network_is_refused_where_it_would_be_wrong() -> None:
    critic = make("td3_bc", CONTINUOUS, [0]).critic
    with pytest.raises(SpecError, match="single ReLU networks"):
        critic(torch.zeros(1, 2, 7), multipliers=[torch.ones(1, 2, 16)] * 2)


# --- learning ---


def door(*, discrete: bool, episodes: int = 400) -> Dataset:
    """Episodes of three steps by a behaviour that is wrong half of the time.

    A lamp is shown in the first step only. Its side must be chosen in the third one for a reward of 1; whoever chooses
    the other side gets nothing. The first two actions are arbitrary and earn nothing.
    """
    rng = np.random.default_rng(0)
    lamp, choice = rng.choice([-1.0, 1.0], episodes), rng.choice([-1.0, 1.0], episodes)
    observations = np.zeros((episodes, 3, 2), np.float32)
    observations[:, 0, 0], observations[:, :, 1] = lamp, np.arange(3) / 2
    actions = rng.choice([-1.0, 1.0], (episodes, 3))
    actions[:, 2] = choice
    rewards = np.zeros((episodes, 3), np.float32)
    rewards[:, 2] = choice == lamp
    ends = np.zeros((episodes, 3), bool)
    ends[:, 2] = True
    flat_actions: np.ndarray = (actions.reshape(-1) > 0).astype(np.int64)
    space: gymnasium.Space = gymnasium.spaces.Discrete(2)
    if not discrete:
        flat_actions, space = 0.5 * actions.reshape(-1, 1).astype(np.float32), gymnasium.spaces.Box(-1.0, 1.0, (1,))
    return Dataset.from_arrays(
        observations.reshape(-1, 2),
        flat_actions,
        rewards.reshape(-1),
        ends.reshape(-1),
        np.zeros(3 * episodes, bool),
        action_space=space,
    )


def train(ours: Algorithm, data: Dataset, updates: int) -> None:
    buffer = make_buffer(data, ours.needs(ours.config), Preprocessing(observations="none"))
    sampler = LaneSampler(buffer, ours.seeds, 64, ours.noise_spec(64))
    for step in range(1, updates + 1):
        ours.update(*sampler.draw(step), step)


@pytest.mark.parametrize("discrete", [False, True])
def test_decision_transformer_remembers_and_obeys_the_return_it_is_asked_for(discrete: bool) -> None:
    """The right choice is known only from the first observation and the return: imitation alone is right by chance."""
    data = door(discrete=discrete)
    targets = [1.0, 0.0]  # one lane wants the reward, the other wants to miss it
    ours = make(
        "decision_transformer",
        ProblemSpec.of(data),
        [0, 0],
        learning_rate=3e-3,
        context=3,
        layers=2,
        dropout=0.0,
        target_return=targets,
    )
    train(ours, data, 400)
    context = ours.context()
    lamps = torch.tensor([-1.0, 1.0]).repeat(2, 8)  # [2, 16] episodes side by side
    for step in range(3):
        observations = torch.zeros(2, 16, 2)
        observations[..., 1] = step / 2
        if step == 0:
            observations[..., 0] = lamps
        context.observe(torch.zeros(2, 16), torch.full((2, 16), step == 0))
        actions = context.act(observations)
    chosen = actions * 2 - 1 if discrete else actions.squeeze(-1).sign()
    assert (chosen[0] == lamps[0]).all()
    assert (chosen[1] == -lamps[1]).all()


@pytest.mark.parametrize("discrete", [False, True])
def test_rvs_obeys_the_return_it_is_asked_for(discrete: bool) -> None:
    data = door(discrete=discrete)
    # The lamp stays on here: RvS sees one observation.
    visible = data.observations.reshape(-1, 3, 2).copy()
    visible[:, :, 0] = visible[:, :1, 0]
    data = data.replace(observations=visible.reshape(-1, 2))
    space = ProblemSpec.of(data)
    ours = make("rvs", space, [0, 0], hidden=(64, 64), dropout=0.0, target_return=[3.0, 0.0], horizon=3)
    train(ours, data, 200)
    lamps = torch.tensor([-1.0, 1.0]).repeat(2, 8)
    actions = ours.policy(torch.stack([lamps, torch.ones(2, 16)], -1))
    chosen = actions * 2 - 1 if discrete else actions.squeeze(-1).sign()
    assert (chosen[0] == lamps[0]).all()
    assert (chosen[1] == -lamps[1]).all()
