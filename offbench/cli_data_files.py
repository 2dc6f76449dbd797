"""Commands about the rows of a dataset: `offbench data lint`, `card`, `convert` and `schema`."""
