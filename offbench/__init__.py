"""offbench: benchmark offline-RL algorithms and analyse the datasets that they learn from."""

__version__ = "0.1.0"
