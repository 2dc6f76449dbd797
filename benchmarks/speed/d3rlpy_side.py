"""d3rlpy as a contestant of the speed benchmark: `python d3rlpy_side.py THREADS`, by an interpreter that has d3rlpy.

Its algorithms have its defaults but for widths and depth of the networks, batches, the number of critics and of sampled
actions, which are made ours. An update is what its `fit` does every step: sample a batch from the buffer, update.
"""

from __future__ import annotations

import sys
from typing import Any

import d3rlpy
import torch
from contestant import CHOICES, Step, random_data, serve
from d3rlpy.dataset import MDPDataset
from d3rlpy.models import VectorEncoderFactory

# Name, hidden layers, and the settings that are not d3rlpy's defaults.
ALGORITHMS: dict[str, tuple[str, int, dict[str, Any]]] = {
    "bc": ("BC", 2, {}),
    "td3_bc": ("TD3PlusBC", 2, {}),
    "iql": ("IQL", 2, {}),
    "awac": ("AWAC", 3, {}),
    "cql": ("CQL", 3, {"alpha_learning_rate": 0.0}),
    "crr": ("CRR", 2, {"n_critics": 2, "target_update_type": "soft"}),
    "bcq": ("BCQ", 2, {"n_action_samples": 10}),
    "rebrac": ("ReBRAC", 3, {}),
    "decision_transformer": ("DecisionTransformer", 0, {}),
    "dqn": ("DoubleDQN", 3, {}),
    "discrete_bcq": ("DiscreteBCQ", 3, {}),
    "discrete_cql": ("DiscreteCQL", 3, {}),
}
DISCRETE = ("dqn", "discrete_bcq", "discrete_cql")


def make(name: str, width: int, batch: int, lanes: int) -> tuple[Step, int]:
    """One update, its batch included."""
    kind, depth, settings = ALGORITHMS[name]
    data = random_data(name in DISCRETE)
    if name in DISCRETE:
        data["actions"] = data["actions"].reshape(-1, 1)
    dataset = MDPDataset(
        observations=data["observations"],
        actions=data["actions"],
        rewards=data["rewards"].reshape(-1, 1),
        terminals=data["terminated"].astype("float32"),
        action_space=d3rlpy.ActionSpace.DISCRETE if name in DISCRETE else d3rlpy.ActionSpace.CONTINUOUS,
        action_size=CHOICES if name in DISCRETE else None,
    )
    config_class = getattr(d3rlpy.algos, f"{kind}Config")
    fields = {"batch_size": batch, **settings}
    if name == "decision_transformer":
        fields["encoder_factory"] = VectorEncoderFactory([width], exclude_last_activation=True)
    for field in config_class.__dataclass_fields__:
        if field.endswith("encoder_factory") and depth:
            normalized = name == "rebrac" and field.startswith("critic")
            fields[field] = VectorEncoderFactory([width] * depth, use_layer_norm=normalized)
    algorithm = config_class(**fields).create(device="cpu")
    algorithm.build_with_dataset(dataset)
    if name == "decision_transformer":
        length = fields.get("context_size", 20)
        return lambda: algorithm.update(dataset.sample_trajectory_batch(batch, length)), 1
    return lambda: algorithm.update(dataset.sample_transition_batch(batch)), 1


if __name__ == "__main__":
    torch.set_num_threads(int(sys.argv[1]))
    serve(make)
