"""Everything that a report says as one JSON document, for programs: numbers unrounded, runs included."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

if TYPE_CHECKING:
    from offbench.reports.content import Content

SCHEMA = 1


def to_json(content: Content, tables: Mapping[str, Mapping[str, str]], figures: Mapping[str, Mapping[str, str]]) -> str:
    """The document as text; NaN and infinity become null.

    Keys: schema, title, protocol (how runs became scores, and the study's settings), options, notices, sentences,
    runs (one row per run), curves, tables (caption, printed rows, unrounded records, files), figures (caption, files),
    datasets, versions.
    """
    table = content.table
    document = {
        "schema": SCHEMA,
        "title": content.title,
        "protocol": {"scores": table.protocol, "selection": table.selection, "settings": content.protocol},
        "options": asdict(content.options),
        "notices": [{"code": notice.code, "text": notice.text} for notice in content.notices],
        "sentences": list(content.sentences),
        "algorithms": table.algorithms,
        "units": table.units,
        "runs": table.rows.to_dict("records"),
        "curves": [] if table.curves is None else table.curves.to_dict("records"),
        "tables": {
            name: {
                "caption": rows.caption,
                "header": rows.header,
                "rows": [[cell.text for cell in row] for row in rows.rows],
                "bold": [[cell.bold for cell in row] for row in rows.rows],
                "records": rows.records.to_dict("records"),
                "files": tables.get(name, {}),
            }
            for name, rows in content.tables.items()
        },
        "figures": {
            name: {"caption": plot.caption, "files": figures.get(name, {})} for name, plot in content.figures.items()
        },
        "datasets": content.datasets,
        "versions": content.versions,
    }
    return json.dumps(plain(document), indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def plain(value: Any) -> Any:
    """Mappings, sequences and NumPy scalars as what JSON can hold."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, (np.generic, np.ndarray)):
        return plain(value.tolist())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is pd.NA or value is None:
        return None
    return value if isinstance(value, (str, int, bool)) else str(value)
