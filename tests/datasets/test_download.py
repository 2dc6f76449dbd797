"""Downloads from a server on this machine that truncates, stalls, refuses, corrupts, ignores ranges and changes."""

from __future__ import annotations

import hashlib
import http.server
import json
import multiprocessing
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from offbench.datasets import download as module
from offbench.datasets.download import SIDE_FOLDER, digest, download, is_offline, read_record, verify
from offbench.errors import DatasetError, StorageError

CONTENT = bytes(range(256)) * 4000  # a megabyte
SHA256 = "sha256:" + hashlib.sha256(CONTENT).hexdigest()
MD5 = "md5:" + hashlib.md5(CONTENT).hexdigest()
Script = Callable[["Handler", int], None]


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers the n-th request for a path with what the test's script does with it."""

    def do_GET(self) -> None:
        server = self.server
        with server.guard:  # type: ignore[attr-defined]
            number = server.counts[self.path] = server.counts.get(self.path, -1) + 1  # type: ignore[attr-defined]
            server.ranges.append(self.headers.get("Range"))  # type: ignore[attr-defined]
        server.scripts.get(self.path, status(404))(self, number)  # type: ignore[attr-defined]

    def send(
        self,
        content: bytes = CONTENT,
        *,
        etag: str | None = '"one"',
        ranges: bool = True,
        stop: int | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        """Send `content`, honouring Range and If-Range; close the connection after `stop` bytes of the body."""
        start, asked = 0, self.headers.get("Range")
        if asked and ranges and (self.headers.get("If-Range") in (None, etag)):
            start = int(asked.removeprefix("bytes=").rstrip("-"))
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        if etag:
            self.send_header("ETag", etag)
        for name, value in {"Content-Length": str(len(content) - start), **(headers or {})}.items():
            if value:
                self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content[start:][:stop])

    def log_message(self, *arguments: object) -> None:
        """Say nothing on standard error."""


class Server(http.server.ThreadingHTTPServer):
    """The address, the scripts by path, and what was asked for."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.guard = threading.Lock()
        self.released = threading.Event()
        self.scripts: dict[str, Script] = {}
        self.counts: dict[str, int] = {}
        self.ranges: list[str | None] = []
        self.address = f"http://127.0.0.1:{self.server_address[1]}"

    def at(self, path: str, script: Script) -> str:
        self.scripts[path] = script
        return self.address + path


@pytest.fixture
def server() -> Iterator[Server]:
    running = Server()
    thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield running
    running.released.set()
    running.shutdown()
    running.server_close()
    thread.join()


def status(code: int) -> Script:
    return lambda handler, number: handler.send_error(code)


def good(handler: Handler, number: int) -> None:
    handler.send()


def fetch(url: str | list[str], target: Path, **options: object) -> Path:
    return download(url, target, **{"pause": 0.0, "timeout": 5.0, **options})  # type: ignore[arg-type]


def left_over(target: Path) -> list[str]:
    return sorted(path.name for path in (target.parent / SIDE_FOLDER).iterdir() if not path.name.endswith(".lock"))


def test_a_download_is_complete_recorded_and_reports_progress(server: Server, tmp_path: Path) -> None:
    seen: list[tuple[int, int | None]] = []
    target = fetch(server.at("/x", good), tmp_path / "a" / "x", progress=lambda done, total: seen.append((done, total)))
    assert target.read_bytes() == CONTENT
    assert seen[-1] == (len(CONTENT), len(CONTENT))
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    record = read_record(target)
    assert record is not None
    assert (f"sha256:{record.sha256}", record.size, record.validator) == (SHA256, len(CONTENT), '"one"')
    assert not record.published
    assert left_over(target) == ["x.json"]
    fetch(server.address + "/x", target)
    assert server.counts["/x"] == 0, "what is there is not fetched again"


def test_a_broken_download_is_resumed_where_it_stopped(server: Server, tmp_path: Path) -> None:
    url = server.at("/x", lambda handler, number: handler.send(stop=300_000 if number < 2 else None))
    assert fetch(url, tmp_path / "x").read_bytes() == CONTENT
    assert server.ranges == [None, "bytes=300000-", "bytes=600000-"]


def test_an_interrupted_process_resumes_later(server: Server, tmp_path: Path) -> None:
    url = server.at("/x", lambda handler, number: handler.send(stop=300_000 if number == 0 else None))
    with pytest.raises(DatasetError, match=r"incomplete[\s\S]*300000 of 1024000 bytes[\s\S]*by hand"):
        fetch(url, tmp_path / "x", attempts=1)
    assert not (tmp_path / "x").exists()
    assert left_over(tmp_path / "x") == ["x.part", "x.part.json"]
    assert fetch(url, tmp_path / "x").read_bytes() == CONTENT
    assert server.ranges[-1] == "bytes=300000-"


def test_a_server_that_ignores_ranges_sends_everything_again(server: Server, tmp_path: Path) -> None:
    def script(handler: Handler, number: int) -> None:
        handler.send(ranges=False, stop=300_000 if number == 0 else None)

    assert fetch(server.at("/x", script), tmp_path / "x").read_bytes() == CONTENT


def test_without_a_validator_nothing_is_resumed(server: Server, tmp_path: Path) -> None:
    def script(handler: Handler, number: int) -> None:
        handler.send(etag=None, stop=300_000 if number == 0 else None)

    assert fetch(server.at("/x", script), tmp_path / "x").read_bytes() == CONTENT
    assert server.ranges == [None, None]


@pytest.mark.parametrize("honest", [True, False], ids=["If-Range honoured", "If-Range ignored"])
def test_a_file_that_changes_between_attempts_is_never_mixed(server: Server, tmp_path: Path, honest: bool) -> None:
    new = CONTENT[::-1]

    def script(handler: Handler, number: int) -> None:
        if number == 0:
            handler.send(stop=300_000)
        elif honest:
            handler.send(new, etag='"two"')
        else:
            del handler.headers["If-Range"]
            handler.send(new, etag='"two"')

    assert fetch(server.at("/x", script), tmp_path / "x").read_bytes() == new


def test_a_date_serves_as_validator_when_it_is_old_enough(server: Server, tmp_path: Path) -> None:
    def script(handler: Handler, number: int) -> None:
        date = "Wed, 21 Oct 2015 07:28:00 GMT"
        assert number == 0 or handler.headers["If-Range"] == date
        handler.headers.replace_header("If-Range", "x") if number else None
        start = 300_000 if number else 0
        handler.send_response(206 if number else 200)
        if number:
            handler.send_header("Content-Range", f"bytes {start}-{len(CONTENT) - 1}/{len(CONTENT)}")
        handler.send_header("Last-Modified", date)
        handler.send_header("Content-Length", str(len(CONTENT) - start))
        handler.end_headers()
        handler.wfile.write(CONTENT[start:] if number else CONTENT[:300_000])

    assert fetch(server.at("/x", script), tmp_path / "x").read_bytes() == CONTENT
    assert server.ranges == [None, "bytes=300000-"]


def test_wrong_ranges_are_not_glued_together(server: Server, tmp_path: Path) -> None:
    def script(handler: Handler, number: int) -> None:
        if number == 0:
            handler.send(stop=300_000)
        else:
            handler.send_response(206)
            handler.send_header("Content-Range", "bytes 5-9/1024000")
            handler.send_header("Content-Length", "5")
            handler.end_headers()
            handler.wfile.write(b"wrong")

    with pytest.raises(DatasetError, match="another part than was asked for"):
        fetch(server.at("/x", script), tmp_path / "x")
    assert not (tmp_path / "x").exists()


def test_a_part_that_is_too_long_starts_again(server: Server, tmp_path: Path) -> None:
    def script(handler: Handler, number: int) -> None:
        if number == 0:
            handler.send(stop=300_000)
        elif handler.headers.get("Range"):
            handler.send_error(416)
        else:
            handler.send(CONTENT[:1000], etag='"two"')

    assert fetch(server.at("/x", script), tmp_path / "x").read_bytes() == CONTENT[:1000]


@pytest.mark.parametrize(("code", "asked"), [(403, 1), (404, 1), (410, 1), (500, 3), (503, 3), (429, 3)])
def test_refusals_are_told_and_only_passing_ones_are_repeated(
    server: Server, tmp_path: Path, code: int, asked: int
) -> None:
    url = server.at("/x", status(code))
    with pytest.raises(DatasetError, match=rf"refused {url} \(HTTP {code} [\s\S]*by hand from {url}"):
        fetch(url, tmp_path / "x", attempts=3)
    assert server.counts["/x"] + 1 == asked
    assert not (tmp_path / "x").exists()


def test_a_passing_failure_is_survived(server: Server, tmp_path: Path) -> None:
    url = server.at("/x", lambda handler, number: good(handler, number) if number else handler.send_error(503))
    assert fetch(url, tmp_path / "x").read_bytes() == CONTENT


def test_a_stalled_server_is_left_and_resumed(server: Server, tmp_path: Path) -> None:
    def script(handler: Handler, number: int) -> None:
        handler.send(stop=300_000 if number == 0 else None)
        if number == 0:
            server.released.wait(5)

    before = time.monotonic()
    assert fetch(server.at("/x", script), tmp_path / "x", timeout=0.3).read_bytes() == CONTENT
    assert time.monotonic() - before < 4
    assert server.ranges == [None, "bytes=300000-"]


def test_silent_and_absent_servers(server: Server, tmp_path: Path) -> None:
    url = server.at("/slow", lambda handler, number: server.released.wait(5) and None)
    with pytest.raises(DatasetError, match=r"cannot download http.*/slow\s+why: no data for 0.2 s[\s\S]*network"):
        fetch(url, tmp_path / "x", timeout=0.2, attempts=2)
    with pytest.raises(DatasetError, match=r"cannot download http://127\.0\.0\.1:9/x"):
        fetch("http://127.0.0.1:9/x", tmp_path / "x", timeout=2, attempts=1)


def test_mirrors_are_tried_in_order(server: Server, tmp_path: Path) -> None:
    urls = [server.at("/gone", status(404)), server.at("/down", status(500)), server.at("/x", good)]
    assert fetch([*urls, server.at("/never", good)], tmp_path / "x").read_bytes() == CONTENT
    assert "/never" not in server.counts
    with pytest.raises(DatasetError, match=r"none of 2 addresses gives y[\s\S]*HTTP 404[\s\S]*HTTP 500"):
        fetch(urls[:2], tmp_path / "y")


def test_a_corrupted_body_is_refused_and_the_mirror_taken(server: Server, tmp_path: Path) -> None:
    bad = server.at("/bad", lambda handler, number: handler.send(CONTENT[:-1] + b"!"))
    for checksum in (SHA256, MD5):
        with pytest.raises(DatasetError, match=r"damaged or another file[\s\S]*published is"):
            fetch(bad, tmp_path / "x", checksum=checksum)
        assert not (tmp_path / "x").exists()
    assert server.counts["/bad"] == 1, "a whole file with a wrong checksum is not fetched twice"
    target = fetch([bad, server.at("/x", good)], tmp_path / "x", checksum=MD5)
    assert target.read_bytes() == CONTENT
    assert read_record(target).published  # type: ignore[union-attr]
    assert verify(target, MD5) == "published"


def test_a_wrong_file_made_of_pieces_is_tried_again(server: Server, tmp_path: Path) -> None:
    def script(handler: Handler, number: int) -> None:
        """First half of another file under the same ETag: only the checksum can tell."""
        handler.send(CONTENT if number else b"x" * len(CONTENT), stop=300_000 if number == 0 else None)

    target = fetch(server.at("/x", script), tmp_path / "x", checksum=SHA256)
    assert target.read_bytes() == CONTENT
    assert server.ranges == [None, "bytes=300000-", None]


def test_what_was_downloaded_first_is_trusted_and_held_to(server: Server, tmp_path: Path) -> None:
    current = [CONTENT]
    url = server.at("/x", lambda handler, number: handler.send(current[0], etag=None))
    target = fetch(url, tmp_path / "x")
    assert verify(target) == "recorded"
    target.write_bytes(CONTENT[:-1] + b"!")
    with pytest.raises(DatasetError, match=r"not the file that it should be[\s\S]*delete it and fetch it again"):
        verify(target)
    target.unlink()
    current[0] = CONTENT[::-1]
    with pytest.raises(DatasetError, match="sends another file than at the first download"):
        fetch(url, target)
    assert not target.exists()
    assert fetch(url, target, force=True).read_bytes() == CONTENT[::-1]
    assert verify(target) == "recorded"
    (tmp_path / "mine").write_bytes(b"put here by hand")
    assert verify(tmp_path / "mine") == "unknown"
    with pytest.raises(DatasetError, match="there is no file"):
        verify(tmp_path / "absent")


def test_a_good_file_survives_a_failed_replacement(server: Server, tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"old")
    with pytest.raises(DatasetError):
        fetch(server.at("/x", lambda handler, number: handler.send(stop=10)), tmp_path / "x", force=True, attempts=2)
    assert (tmp_path / "x").read_bytes() == b"old"


def test_a_web_page_is_no_dataset(server: Server, tmp_path: Path) -> None:
    page = {"Content-Type": "text/html; charset=utf-8"}
    url = server.at("/x.npz", lambda handler, number: handler.send(b"<html>log in</html>", headers=page))
    with pytest.raises(DatasetError, match="sent a web page"):
        fetch(url, tmp_path / "x.npz")
    assert server.counts["/x.npz"] == 0


def test_a_chunked_answer_that_breaks_off_is_noticed(server: Server, tmp_path: Path) -> None:
    def script(handler: Handler, number: int) -> None:
        handler.protocol_version = "HTTP/1.1"
        handler.send_response(200)
        handler.send_header("Transfer-Encoding", "chunked")
        handler.end_headers()
        handler.wfile.write(b"5\r\nhello\r\n" + (b"0\r\n\r\n" if number else b"ff\r\nhal"))
        handler.close_connection = True

    assert fetch(server.at("/x", script), tmp_path / "x").read_bytes() == b"hello"


def test_redirects_are_followed_when_resuming(server: Server, tmp_path: Path) -> None:
    """As from huggingface.co, which redirects to a host of files."""
    server.at("/store", lambda handler, number: handler.send(stop=300_000 if number == 0 else None))

    def redirect(handler: Handler, number: int) -> None:
        handler.send_response(302)
        handler.send_header("Location", f"{server.address}/store")
        handler.end_headers()

    assert fetch(server.at("/x", redirect), tmp_path / "x").read_bytes() == CONTENT
    assert server.ranges == [None, None, "bytes=300000-", "bytes=300000-"]


def test_a_damaged_state_of_a_part_starts_again(server: Server, tmp_path: Path) -> None:
    url = server.at("/x", lambda handler, number: handler.send(stop=300_000 if number == 0 else None))
    with pytest.raises(DatasetError):
        fetch(url, tmp_path / "x", attempts=1)
    (tmp_path / SIDE_FOLDER / "x.part.json").write_text("{")
    assert fetch(url, tmp_path / "x").read_bytes() == CONTENT
    assert server.ranges[-1] is None


def test_offline_mode(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    url = server.at("/x", good)
    monkeypatch.setenv("OFFBENCH_OFFLINE", "1")
    with pytest.raises(DatasetError, match=r"x is not on this machine and OFFBENCH_OFFLINE[\s\S]*unset"):
        fetch(url, tmp_path / "x")
    assert not server.counts
    (tmp_path / "x").write_bytes(b"here")
    assert fetch(url, tmp_path / "x").read_bytes() == b"here"
    for value, expected in (("", False), ("0", False), ("off", False), ("true", True), ("yes", True)):
        monkeypatch.setenv("OFFBENCH_OFFLINE", value)
        assert is_offline() is expected


def test_places_that_cannot_be_written(server: Server, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StorageError, match="set OFFBENCH_CACHE"):
        fetch(server.at("/x", good), tmp_path / "file" / "x")


def test_digests(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"abc")  # the test vectors of FIPS 180-2 and RFC 1321
    assert digest(tmp_path / "x") == "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert digest(tmp_path / "x", "md5") == "md5:900150983cd24fb0d6963f7d28e17f72"
    with pytest.raises(DatasetError, match="sha256 or md5"):
        digest(tmp_path / "x", "crc")


def _download_in_a_process(url: str, target: str) -> None:
    download(url, Path(target), pause=0.0)


def test_two_processes_share_one_download(server: Server, tmp_path: Path) -> None:
    def script(handler: Handler, number: int) -> None:
        time.sleep(0.5)  # long enough for the other process to ask for the same file
        handler.send()

    url = server.at("/x", script)
    context = multiprocessing.get_context("spawn")
    arguments = (url, str(tmp_path / "x"))
    processes = [context.Process(target=_download_in_a_process, args=arguments) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
    assert (tmp_path / "x").read_bytes() == CONTENT
    assert server.counts["/x"] == 0, "the second process waited and found the file"


def test_the_record_is_plain_json(server: Server, tmp_path: Path) -> None:
    fetch(server.at("/x", good), tmp_path / "x", checksum=SHA256)
    stored = json.loads((tmp_path / SIDE_FOLDER / "x.json").read_text())
    assert f"sha256:{stored['sha256']}" == SHA256
    assert stored["downloaded"].endswith("+00:00")
    assert module.read_record(tmp_path / "absent") is None
