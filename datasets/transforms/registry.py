"""The transforms by name: the built-in ones and those of other packages."""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import entry_points

from offbench.datasets.transforms.base import Transform
from offbench.errors import SpecError, UnknownNameError

# name -> module:class inside this package, in the order of `offbench data transforms`. Modules are imported when a
# transform is used.
_BUILTIN: dict[str, str] = {
    "subsample": "subsets:Subsample",
    "filter_episodes": "subsets:FilterEpisodes",
    "split": "subsets:Split",
    "concatenate": "mixing:Concatenate",
    "mix": "mixing:Mix",
    "imbalanced_mix": "mixing:ImbalancedMix",
    "relabel_rewards": "relabel:RelabelRewards",
    "relabel_by_function": "relabel:RelabelByFunction",
    "returns_to_go": "relabel:ReturnsToGo",
    "n_step": "n_step:NStep",
    "hindsight": "goals:Hindsight",
    "clip_actions": "scaling:ClipActions",
    "scale_actions": "scaling:ScaleActions",
    "normalize_observations": "scaling:NormalizeObservations",
    "frame_stack": "histories:FrameStack",
    "drop_actions": "action_free:DropActions",
    "fill_actions": "action_free_fill:FillActions",
    "drop_rewards": "action_free:DropRewards",
    "fill_rewards": "action_free_fill:FillRewards",
    "reweight": "weights:Reweight",
    "density_ratio": "density_ratio:DensityRatio",
    "corrupt": "corruption:Corrupt",
    "gaussian_noise": "defects_sensors:GaussianNoise",
    "sensor_dropout": "defects_sensors:SensorDropout",
    "sensor_bias": "defects_sensors:SensorBias",
    "action_delay": "defects_sensors:ActionDelay",
    "reward_sparsify": "defects_rewards:RewardSparsify",
    "reward_delay": "defects_rewards:RewardDelay",
    "reward_flip": "defects_rewards:RewardFlip",
    "poison_labels": "defects_rewards:PoisonLabels",
    "missing_next": "defects_episodes:MissingNext",
    "duplicate_episodes": "defects_episodes:DuplicateEpisodes",
    "shuffle_episodes": "defects_episodes:ShuffleEpisodes",
    "dsrl_density": "dsrl_filters:DsrlDensity",
    "dsrl_outliers": "dsrl_filters:DsrlOutliers",
    "dsrl_noise": "dsrl_filters:DsrlNoise",
    "dsrl_inpaint": "dsrl_filters:DsrlInpaint",
    "dsrl_epsilon": "dsrl_filters:DsrlEpsilon",
}
_GROUP = "offbench.transforms"


def transform_names() -> list[str]:
    """Names of all transforms: the built-in ones in order, then those of other packages."""
    return [*_BUILTIN, *sorted({entry.name for entry in entry_points(group=_GROUP)} - _BUILTIN.keys())]


def get_transform(name: str) -> type[Transform]:
    """The transform called `name`.

    Other packages add transforms through the entry-point group "offbench.transforms".

    Raises:
        UnknownNameError: there is none.
        SpecError: an entry point of that name does not lead to a Transform.
    """
    if name in _BUILTIN:
        module, _, attribute = _BUILTIN[name].partition(":")
        return getattr(import_module(f"offbench.datasets.transforms.{module}"), attribute)
    for entry in entry_points(group=_GROUP):
        if entry.name == name:
            transform = entry.load()
            if not (isinstance(transform, type) and issubclass(transform, Transform)):
                raise SpecError(f"the entry point {name!r} ({entry.value}) is not an offbench Transform")
            return transform
    raise UnknownNameError("transform", name, transform_names())
