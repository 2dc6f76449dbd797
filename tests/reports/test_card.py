"""The dataset card: the numbers that it says, the histograms, and pages that load nothing from anywhere."""

from __future__ import annotations

import re
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from gymnasium import spaces

from offbench.datasets import Dataset, DatasetEntry, Provenance, Reference, TransformRecord
from offbench.datasets.catalog import DataFile
from offbench.errors import StorageError
from offbench.reports.card import to_html, to_markdown, write_card
from offbench.reports.card_facts import card_of, short, space_text
from offbench.reports.card_histogram import bins, histogram, nice_ticks


@pytest.fixture
def dataset() -> Dataset:
    """Three episodes of 2, 3 and 1 steps with returns 3, 12 and 6; the last one is unfinished."""
    return Dataset.from_arrays(
        observations=np.array([[0.0, 2.0], [1, 2], [2, 2], [3, 2], [4, 2], [5, 2]]),
        actions=np.array([[-1.0], [0.5], [0.25], [1.0], [-0.5], [0.0]]),
        rewards=np.array([1.0, 2.0, 3.0, 4.0, 5.0, 6.0]),
        terminated=np.array([False, True, False, False, False, False]),
        truncated=np.array([False, False, False, False, True, False]),
        action_space=spaces.Box(-1.0, 1.0, (1,), np.float32),
        environment="Toy-v1",
        reference=Reference(0.0, 10.0, "a <measurement>", "Toy-v1", horizon=3),
        name="toy|log",
    )


ENTRY = DatasetEntry(
    id="toy/log-v0",
    family="toy",
    environment="Toy-v1",
    cached=True,
    description="three toy episodes",
    licence="CC BY 4.0",
    caveats=("The floor is <lava>.",),
    horizon=3,
    files=(DataFile("train", ("https://example.org/toy.hdf5",), "toy.hdf5"),),
)


def test_statistics_are_those_of_the_data(dataset: Dataset) -> None:
    card = card_of(dataset)
    assert dict(card.headline) == {
        "transitions": "6",
        "episodes": "3",
        "mean return": "7.5",  # of the two complete episodes
        "mean score": "75.0",
        "mean length": "2.5",
        "megabytes": "0.0",
    }
    rows = {row[0]: row[1:] for row in card.episodes.rows}
    assert rows["return of an episode"] == ("7.5", "4.5", "3", "7.5", "12")
    assert rows["normalized score"] == ("75", "45", "30", "75", "120")
    assert rows["length of an episode"] == ("2.5", "0.5", "2", "2.5", "3")
    assert rows["reward of a step"][0] == "3.5"
    assert card.episodes.caption == "Returns are undiscounted. One unfinished episode is left out."
    ends = dict(card.ends)
    assert ends["unfinished episodes"] == "1 of 3"
    assert ends["terminated"].startswith("1 rows")
    assert ends["not for bootstrapping"].startswith("2 rows")  # the cut one and the unfinished one
    column = card.observations.rows[0]
    assert (column[0], column[1], column[3], column[5], column[7], column[8]) == ("0", "2.5", "0", "2.5", "5", "16.7%")
    assert card.actions.rows[0][-3:] == ("−1", "1", "33.3%")


def test_details_of_the_origin_are_flat(dataset: Dataset) -> None:
    details = {"recipe": {"parts": [{"behaviour": "random", "share": 1}], "open_files": []}, "seed": 3}
    changed = dataset.replace(provenance=Provenance("recipe:toy", details))
    assert card_of(changed).origin == [
        ("source", "recipe:toy"),
        ("recipe: parts", "behaviour random, share 1"),
        ("recipe: open files", "none"),
        ("seed", "3"),
    ]


def test_choices_are_counted() -> None:
    data = Dataset.from_arrays(
        np.zeros((4, 1)), [2, 0, 2, 2], np.ones(4), [False, False, False, True], [False] * 4,
        action_space=spaces.Discrete(3),
    )  # fmt: skip
    assert card_of(data).actions.rows == [("0", "1", "25.0%"), ("1", "0", "0.0%"), ("2", "3", "75.0%")]


def test_wide_observations_get_one_row() -> None:
    frames = np.random.default_rng(0).integers(0, 255, (20, 12, 12), np.uint8)
    data = Dataset.from_arrays(
        frames, np.zeros((20, 1)), np.zeros(20), np.arange(20) % 5 == 4, [False] * 20,
        action_space=spaces.Box(-1.0, 1.0, (1,), np.float32),
    )  # fmt: skip
    (row,) = card_of(data).observations.rows
    assert row[0] == "all"
    assert float(row[1]) == pytest.approx(frames.mean(), abs=5)


def test_what_the_registry_knows_is_shown(dataset: Dataset) -> None:
    page = to_html(card_of(dataset, entry=ENTRY))
    text = to_markdown(card_of(dataset, entry=ENTRY))
    for written in (page, text):
        assert "three toy episodes" in written
        assert "CC BY 4.0" in written
        assert "https://example.org/toy.hdf5" in written
        assert "The floor is &lt;lava>" in written or "The floor is &lt;lava&gt;" in written
        assert dataset.fingerprint in written
    assert dict(card_of(dataset, entry=ENTRY).rights)["citation"] == "not known"
    assert dict(card_of(dataset).rights)["licence"] == "not known"
    assert 'offbench.load_dataset("toy/log-v0")' in text


def test_findings_and_transforms_are_shown(dataset: Dataset) -> None:
    changed = dataset.with_transform(TransformRecord("scale", {"factor": 3}, 7), actions=dataset.actions * 3)
    card = card_of(changed)
    for written in (to_html(card), to_markdown(card)):
        assert "actions-outside-space" in written
        assert "rows 0, 1, 3, 4; episodes 0, 1" in written
        assert "1 error" in written
        assert "factor 3" in written


def test_the_page_loads_nothing_and_is_well_formed(dataset: Dataset, tmp_path: Path) -> None:
    files = write_card(dataset, tmp_path / "new" / "card", entry=ENTRY)
    page = files.html.read_text(encoding="utf-8")
    assert not re.search(r"(src|href)=\"(?!#|https://example.org)", page)
    assert "<script" not in page
    assert "@import" not in page
    assert "<measurement>" not in page
    assert page.count("<svg") == 2
    for picture in files.pictures:
        assert ElementTree.parse(picture).getroot().tag.endswith("svg")
        assert f"]({picture.name})" in files.markdown.read_text(encoding="utf-8")
    assert write_card(dataset, tmp_path / "new" / "card", entry=ENTRY).html.read_text(encoding="utf-8") == page


def test_tables_of_the_markdown_have_equal_rows(dataset: Dataset) -> None:
    widths: list[int] = []
    for line in to_markdown(card_of(dataset, entry=ENTRY)).splitlines():
        if line.startswith("|"):
            widths.append(len(re.findall(r"(?<!\\)\|", line)))
        else:
            assert len(set(widths)) <= 1
            widths = []


def test_a_folder_that_cannot_be_written(dataset: Dataset, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="cannot write the card"):
        write_card(dataset, tmp_path / "file")


@pytest.mark.parametrize(
    "values",
    [
        np.random.default_rng(0).normal(0, 100, 1000),
        np.array([5.0, 5.0, 5.0]),
        np.array([0.0]),
        np.arange(1, 8),
        np.array([1, 1000] * 50),
        np.array([-1e9, 1e9]),
    ],
    ids=["normal", "equal", "zero", "few", "two", "huge"],
)
def test_histograms_count_every_episode(values: np.ndarray) -> None:
    counts, edges = bins(np.asarray(values, np.float64))
    assert counts.sum() == len(values)
    assert len(edges) == len(counts) + 1
    assert (np.diff(edges) > 0).all()
    ElementTree.fromstring(histogram(values, "return of <x>"))


def test_whole_numbers_get_whole_bins() -> None:
    counts, edges = bins(np.array([1.0, 1, 2, 3, 3, 3, 4, 5, 6, 7, 8, 9]))
    assert edges.tolist() == [0.5, 1.5, 2.5, 3.5, 4.5, 5.5, 6.5, 7.5, 8.5, 9.5]
    assert counts.tolist() == [2, 1, 3, 1, 1, 1, 1, 1, 1]


def test_ticks_are_round() -> None:
    assert nice_ticks(0, 97, 4) == [0, 25, 50, 75]
    assert nice_ticks(-1.2, 1.3, 5) == [-1.0, -0.5, 0.0, 0.5, 1.0]
    assert nice_ticks(3, 3, 4) == [3]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1510.4, "1,510"),
        (-0.0257, "−0.0257"),
        (1.0, "1"),
        (0.99998, "1"),
        (12345678.0, "1.235e+07"),
        (float("nan"), "–"),
        (float("-inf"), "−∞"),
    ],
)
def test_numbers_are_short(value: float, text: str) -> None:
    assert short(value) == text


def test_spaces_in_a_line() -> None:
    assert space_text(spaces.Box(-1.0, 1.0, (3,), np.float32)) == "[3] of float32, from −1 to 1"
    assert space_text(spaces.Box(-np.inf, np.inf, (3,), np.float32)) == "[3] of float32, no bounds"
    low, high = np.array([0.0, -1.0], np.float32), np.array([1.0, 1.0], np.float32)
    assert space_text(spaces.Box(low, high)) == "[2] of float32, bounds differ by column"
    assert space_text(spaces.Discrete(4)) == "Discrete(4)"
