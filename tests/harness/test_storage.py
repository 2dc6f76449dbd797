"""Crash-safe files and locks."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from offbench.errors import StorageError
from offbench.storage import (
    FolderLock,
    append_rows,
    is_locked,
    keep_rows,
    read_json,
    read_rows,
    write_atomic,
    write_json,
)


def full_disk(*_: Any, **__: Any) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_full_disk_keeps_the_old_file_and_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    file = tmp_path / "a.json"
    write_json(file, {"old": 1})
    monkeypatch.setattr(os, call, full_disk)
    with pytest.raises(StorageError, match=r"(?s)a\.json.*No space left.*free some space"):
        write_json(file, {"new": 2})
    monkeypatch.undo()
    assert read_json(file) == {"old": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


def test_append_on_a_full_disk_takes_the_rows_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "rows.jsonl"
    append_rows(file, [{"step": 1}])
    before = file.read_bytes()
    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(StorageError):
        append_rows(file, [{"step": 2}])
    assert file.read_bytes() == before


def test_torn_last_line_is_dropped_but_damage_inside_is_an_error(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    append_rows(file, [{"step": 1}, {"step": 2}])
    with file.open("ab") as stream:
        stream.write(b'{"step": 3, "retu')
    assert [row["step"] for row in read_rows(file)] == [1, 2]
    assert keep_rows(file, lambda row: row["step"] < 2) == 1
    append_rows(file, [{"step": 5}])
    assert [row["step"] for row in read_rows(file)] == [1, 5]
    file.write_bytes(b'{"st\n' + file.read_bytes())
    with pytest.raises(StorageError, match="line 1"):
        read_rows(file)


def test_damaged_json_names_the_file(tmp_path: Path) -> None:
    write_atomic(tmp_path / "x.json", b"{")
    with pytest.raises(StorageError, match=r"x\.json"):
        read_json(tmp_path / "x.json")


def test_lock_refuses_a_second_process_and_dies_with_the_first(tmp_path: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path; from offbench.storage import FolderLock\n"
        "with FolderLock(Path(sys.argv[1])): print('locked', flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline().strip() == b"locked"
        assert is_locked(tmp_path)
        with pytest.raises(StorageError, match=str(holder.pid)), FolderLock(tmp_path):
            pass
        holder.kill()
    assert not is_locked(tmp_path)
    with FolderLock(tmp_path):
        pass
