"""What `offbench algorithms show` tells, against the files that it reads and a count by hand."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from offbench.algorithm_card import algorithm_card, capability, published_summary
from offbench.algorithms import algorithm_names, get_algorithm
from offbench.algorithms.cost import relative_cost, shipped_costs

CSV = Path(__file__).parents[2] / "analysis" / "published_scores.csv"
NINE = {f"{env}-{kind}-v2" for env in ("halfcheetah", "hopper", "walker2d") for kind in ("medium", "medium-replay")}
NINE |= {f"{env}-medium-expert-v2" for env in ("halfcheetah", "hopper", "walker2d")}


def test_published_means_are_those_of_the_table_per_rule_of_selection() -> None:
    with CSV.open(newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["source"] == "corl" and row["algorithm"] == "IQL"]
    summary = {(r["source"], r["datasets"], r["selection"]): r for r in published_summary("iql")}
    for rule in ("best", "last"):
        wanted = [float(r["mean"]) for r in rows if r["dataset"] in NINE and r["selection"] == rule]
        assert len(wanted) == 9
        found = summary["corl", "locomotion-v2", rule]
        assert (found["numbers"], found["copies"]) == (9, False)
        assert found["mean"] == pytest.approx(sum(wanted) / 9, abs=0.006)
    one = published_summary("iql", "hopper-medium-v2")
    assert {row["datasets"] for row in one} == {"hopper-medium-v2"}
    assert all(row["condition"] == "" for row in one)


def test_numbers_on_damaged_data_stand_apart_and_unknown_algorithms_have_none() -> None:
    conditions = {row["condition"] for row in published_summary("riql")}
    assert "random dynamics corruption" in conditions
    assert "" not in conditions
    assert all(row["copies"] for row in published_summary("riql"))  # they are known through another paper only
    assert published_summary("dvl") == []


def test_the_card_of_riql_names_its_networks_and_the_sources_of_a_preset() -> None:
    card = algorithm_card("riql", preset="random-observations-hopper")
    assert card["networks_by_name"] == {"value": 1, "critic": 5, "target_critic": 5, "actor": 1}
    assert card["networks"] == 12
    assert card["presets"]["random-observations-hopper"]["class"] == "tuned"
    assert next(iter(card["presets"])) == "riql"
    values = {setting["name"]: setting["value"] for setting in card["settings"]}
    assert (values["sigma"], values["quantile"], values["critics"]) == (0.1, 0.25, 3)
    assert "arXiv 2310.12955" in card["paper"]


def test_every_algorithm_has_a_row_with_presets_sources_and_cost() -> None:
    for name in algorithm_names():
        row = capability(get_algorithm(name))
        assert row["networks"] >= 1
        assert row["needs"] is not None
        assert all(preset["source"] for preset in row["presets"].values())
        if row["cost"] is not None:
            assert row["cost"] >= 1.0


def test_costs_are_counted_products() -> None:
    # BC at 256x256: forward, weight and input gradients of three layers; the first layer's input needs none.
    bc = 6 * (11 * 256 + 256 * 256 + 256 * 3) - 2 * 11 * 256
    # IQL: V and Q with gradients; the target critics, and V at s', forward only; the policy as BC.
    value = 6 * (11 * 256 + 256 * 256 + 256) - 2 * 11 * 256
    critic = 6 * (14 * 256 + 256 * 256 + 256) - 2 * 14 * 256
    iql = bc + value + 2 * critic + 2 * (11 * 256 + 256 * 256 + 256) + 2 * 2 * (14 * 256 + 256 * 256 + 256)
    assert relative_cost(get_algorithm("iql")) == pytest.approx(iql / bc, rel=1e-6)
    for name in ("iql", "td3_bc", "rem"):  # the shipped table is up to date
        assert shipped_costs()[name] == pytest.approx(relative_cost(get_algorithm(name)), abs=0.006)
