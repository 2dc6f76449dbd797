"""Commands that look things up: `offbench algorithms` and `offbench doctor`."""

from __future__ import annotations

import dataclasses
import inspect
import re
from typing import Annotated, Any

import typer
from rich.text import Text

from offbench.cli_output import examples, print_json, print_table, print_text, say

_HELP = {"help_option_names": ["-h", "--help"]}
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document on standard output.")]

algorithms_app = typer.Typer(no_args_is_help=True, context_settings=_HELP, rich_markup_mode="rich")


_SHORT = {
    "next observations": "s'",
    "next actions": "a'",
    "returns-to-go": "G",
    "the best episodes": "top",
    "windows": "K",
}


# --- algorithms ---


@algorithms_app.callback()
@examples(
    "offbench algorithms list",
    "offbench algorithms show iql",
)
def algorithms() -> None:
    """List the algorithms and show their settings.

    Other packages add algorithms through the entry-point group `offbench.algorithms`.
    """


@algorithms_app.command("list")
@examples(
    "offbench algorithms list",
    "offbench algorithms list --json",
)
def algorithms_list(as_json: Json = False) -> None:
    """List the algorithms: actions, what a batch needs, networks (targets included), cost, presets, paper.

    The names are what suites and `offbench train` take; of presets the default one is shown and how many there are
    besides. The cost is the arithmetic of one update relative to BC's. All presets with their sources: algorithms show
    NAME, or --json.
    """
    from offbench.algorithm_card import capability
    from offbench.algorithms import algorithm_names, get_algorithm

    found = [capability(get_algorithm(name)) for name in algorithm_names()]
    if as_json:
        print_json(found)
        return
    rows = [
        (
            row["name"],
            row["actions"][0] if len(row["actions"]) == 1 else "both",
            ", ".join(_SHORT.get(need, need) for need in row["needs"]),
            row["networks"],
            "-" if row["cost"] is None else f"{row['cost']:.3g}",
            _abridged(list(row["presets"])),
            "".join(re.findall(r"arXiv (\d{4}\.\d{5})", row["paper"])[-1:]),
        )
        for row in found
    ]
    print_table(("name", "actions", "needs", "nets", "cost", "presets", "arXiv"), rows)
    say(
        "needs: s' next observations, a' next actions, G returns-to-go, top the best episodes, K windows with G; "
        "nets: networks, targets included; cost: arithmetic of an update relative to BC's; see algorithms show NAME"
    )


def _unwrapped(docstring: str) -> str:
    """A docstring with each paragraph and list item on one line, for a terminal that wraps at its own width."""
    return re.sub(r"(?<!\n)\n[ \t]*(?!\s|- |\d\. )", " ", inspect.cleandoc(docstring))


def _abridged(names: list[str]) -> str:
    """The default preset and how many there are besides: all names would wrap the table in a narrow terminal."""
    return names[0] + (f" +{len(names) - 1}" if names[1:] else "") if names else "-"


@algorithms_app.command("show")
@examples(
    "offbench algorithms show iql",
    "offbench algorithms show td3_bc --dataset hopper/medium-replay --json",
    "offbench algorithms show riql --preset random-observations-hopper",
)
def algorithms_show(
    name: Annotated[str, typer.Argument(help="See `offbench algorithms list`.")],
    dataset: Annotated[
        str | None, typer.Option("--dataset", help="Show the values that would be used for this dataset.")
    ] = None,
    preset: Annotated[str | None, typer.Option("--preset", help="Show the values of a named preset.")] = None,
    as_json: Json = False,
) -> None:
    """Show an algorithm: what it is, its settings with meanings and sources, presets, networks, published scores.

    Settings marked with * may differ between runs that train together. Bold values differ from the default.
    """
    from offbench.algorithm_card import algorithm_card

    card = algorithm_card(name, dataset, preset)
    if as_json:
        print_json(card)
        return
    source = card["config_source"]
    print_text(f"{card['title']}: {card['paper']}")
    print_text(f"{_unwrapped(card['description'])}\n", "dim")
    networks = ", ".join(n if k == 1 else f"{n} x{k}" for n, k in card["networks_by_name"].items())
    print_text(f"actions: {', '.join(card['actions'])}; a batch needs: {', '.join(card['needs']) or 'nothing more'}")
    print_text(f"networks: {networks}; arithmetic of an update: {card['cost']:.3g} times BC's")
    print_text(f"shown: preset {source['preset']} ({source['class']})" if source["preset"] else "shown: the defaults")
    for place in source["sources"]:
        print_text(f"  {place}")
    for key, value in source["preprocessing"].items():
        print_text(f"  preprocessing.{key}: {value}")
    rows = [
        (
            str(s["name"]) + ("*" if s["per_lane"] else ""),
            Text(_value(s["value"]), style="" if s["value"] == s["default"] else "bold"),
            f"{s['meaning']}" + (f" ({s['symbol']})" if s["symbol"] else ""),
            s["source"] or "",
        )
        for s in card["settings"]
    ]
    print_text("")
    print_table(("setting", "value", "meaning", "source of the default"), rows)
    if card["presets"]:
        print_table(("preset", "class", "source"), [(n, p["class"], p["source"]) for n, p in card["presets"].items()])
    _print_published(card)


def _print_published(card: dict[str, Any]) -> None:
    """The table of published scores, or that there are none."""
    where = f" on {card['dataset']}" if card["dataset"] else ""
    if not card["published"]:
        say(f"no published scores of {card['title']}{where} are known here")
        return
    rows = [
        (
            row["source"] + (" (copy)" if row["copies"] else ""),
            row["datasets"],
            row["condition"] or "clean",
            row["numbers"],
            f"{row['mean']:.1f}",
            ", ".join(map(str, row["seeds"])) or "?",
            row["selection"],
        )
        for row in card["published"]
    ]
    print_table(("published by", "datasets", "data", "numbers", "mean score", "seeds", "checkpoint"), rows)
    say(f"every number and where it is printed: offbench published {card['dataset'] or card['name']}")


@algorithms_app.command("check")
@examples(
    "offbench algorithms check iql",
    "offbench algorithms check td3_bc rebrac --json",
)
def algorithms_check(
    names: Annotated[list[str], typer.Argument(help="See `offbench algorithms list`; yours by entry point, too.")],
    updates: Annotated[int, typer.Option("--updates", min=2, help="Updates over which lanes are compared.")] = 50,
    tolerance: Annotated[
        float, typer.Option("--tolerance", min=0.0, help="Of lanes against runs of their own.")
    ] = 1e-4,
    as_json: Json = False,
) -> None:
    """Check that an algorithm keeps the promises that the harness builds on, and learns a tiny problem.

    Lanes must equal separate runs, also with different settings, a stored run must continue bit for bit, a diverging
    lane must stay alone. The exit status is 1 if a check fails.
    """
    from offbench.algorithms import get_algorithm
    from offbench.algorithms.conformance import check_algorithm

    found = {name: list(check_algorithm(get_algorithm(name), updates=updates, tolerance=tolerance)) for name in names}
    if as_json:
        print_json({name: [dataclasses.asdict(check) for check in checks] for name, checks in found.items()})
    else:
        for name, checks in found.items():
            styles = {True: ("passed", "green"), False: ("failed", "bold red")}
            rows = [(check.name, Text(*styles[check.passed]), check.detail) for check in checks]
            print_text(f"{name}")
            print_table(("check", "", ""), rows)
    if not all(check.passed for checks in found.values() for check in checks):
        raise typer.Exit(1)


def _value(value: Any) -> str:
    return str(value).replace(" ", "") if isinstance(value, list) else str(value)


# --- doctor ---


@examples(
    "offbench doctor",
    "offbench doctor --json",
)
def doctor(as_json: Json = False) -> None:
    """Check this installation: versions, device, cache, environments, missing extras and how to get them.

    The exit status is 1 if something essential is broken.
    """
    from offbench.doctor import examine, healthy

    checks = examine()
    if as_json:
        print_json({"healthy": healthy(checks), "checks": [dataclasses.asdict(check) for check in checks]})
    else:
        styles = {"ok": "green", "missing": "yellow", "broken": "bold red"}
        rows = [
            (check.name, Text(check.state, style=styles[check.state]), check.detail)
            for check in checks
            if check.topic != "package" or check.state != "ok"
        ]
        packages = ", ".join(f"{c.name} {c.detail}" for c in checks if c.topic == "package" and c.state == "ok")
        rows.insert(2, ("packages", Text("ok", style="green"), packages))
        print_table(("", "", ""), rows)
        for check in checks:
            if check.fix:
                say(f"{check.name}: {check.fix}")
    if not healthy(checks):
        raise typer.Exit(1)
