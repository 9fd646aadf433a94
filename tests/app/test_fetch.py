"""goc fetch against real servers: one that breaks off, one that ignores Range, one that is not there."""

import contextlib
import hashlib
import json
import re
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from checkout import oracle_folders

from goc.cli import fetch as fetch_weights
from goc.config import compose_config
from goc.system.command import run_command
from goc.system.files import file_sha256

NAME = "DiT-XL-2-512x512.pt"  # no published SHA-256 of it is known
CONTENT = bytes(range(256)) * 4000  # 1 MB
HALF = len(CONTENT) // 2


@dataclass
class Source:
    """What the server has and how it behaves, and what it was asked and sent."""

    files: dict[str, bytes] = field(default_factory=lambda: {NAME: CONTENT})
    version: str = '"1"'
    ranges: bool = True
    content_type: str = "application/octet-stream"
    breaks_off: list[int] = field(default_factory=list)  # for each answer to come: bytes sent before it breaks off
    always_at: int | None = None  # every answer breaks off there
    failing_after: int | None = None  # answers 503 from this request on
    asked: list[str] = field(default_factory=list)  # Range header of each request, "" without
    sent: int = 0
    url: str = ""


def handler(source: Source) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:
            """Nothing on stderr."""

        def do_GET(self) -> None:
            asked = self.headers.get("Range", "")
            source.asked.append(asked)
            if source.failing_after is not None and len(source.asked) > source.failing_after:
                return self.send_error(503)
            content = source.files.get(self.path.removeprefix("/"))
            if content is None:
                return self.send_error(404)
            start, same = 0, self.headers.get("If-Range", source.version) == source.version
            if asked and source.ranges and same:
                start = int(re.fullmatch(r"bytes=(\d+)-", asked)[1])
                if start >= len(content):
                    self.send_response(416)
                    self.send_header("Content-Range", f"bytes */{len(content)}")
                    self.end_headers()
                    return None
                self.send_response(206)
                self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
            else:
                self.send_response(200)
            self.send_header("Content-Length", str(len(content) - start))
            self.send_header("Content-Type", source.content_type)
            if source.version:
                self.send_header("ETag", source.version)
            self.end_headers()
            body = content[start:]
            body = body[: source.breaks_off.pop(0) if source.breaks_off else source.always_at]
            source.sent += len(body)
            with contextlib.suppress(ConnectionError):  # the client may have seen enough
                self.wfile.write(body)
            return None

    return Handler


@pytest.fixture
def source(monkeypatch: pytest.MonkeyPatch) -> Iterator[Source]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    source = Source()
    with ThreadingHTTPServer(("127.0.0.1", 0), handler(source)) as server:
        source.url = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield source
        server.shutdown()
        thread.join()


Fetch = Callable[..., int]


@pytest.fixture
def fetch(source: Source, tmp_path: Path) -> Fetch:
    return lambda *items: fetch_weights.main([*items, "--out", str(tmp_path), "--mirror", source.url])


def lock(folder: Path) -> dict[str, str]:
    return json.loads((folder / fetch_weights.LOCK).read_text())


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def visible(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("[!.]*") if path.is_file()}


def test_a_file_is_downloaded_once_and_entered_in_the_lock(source: Source, fetch: Fetch, tmp_path: Path) -> None:
    assert fetch("dit-512") == 0
    assert (tmp_path / NAME).read_bytes() == CONTENT
    assert lock(tmp_path) == {NAME: sha256(CONTENT)}
    assert fetch("dit-512") == 0
    assert source.asked == [""]
    assert visible(tmp_path) == {NAME, fetch_weights.LOCK}


def publish(monkeypatch: pytest.MonkeyPatch, files: dict[str, bytes]) -> None:
    """From now on these are the published contents."""
    for name, content in files.items():
        monkeypatch.setitem(fetch_weights.PUBLISHED_SHA256, name, sha256(content))


def test_an_item_of_several_files_keeps_its_folder(
    source: Source, fetch: Fetch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    vae = {"sd-vae-ft-ema/config.json": b"{}", "sd-vae-ft-ema/diffusion_pytorch_model.safetensors": b"tensors"}
    source.files = vae
    publish(monkeypatch, vae)
    assert fetch("vae-ema") == 0
    assert {name: (tmp_path / name).read_bytes() for name in vae} == vae
    assert lock(tmp_path) == {name: sha256(content) for name, content in vae.items()}


@pytest.mark.parametrize(("ranges", "version"), [(True, '"1"'), (False, '"1"'), (False, "")])
def test_a_broken_connection_goes_on_where_it_was_or_starts_over_where_the_server_ignores_range(
    source: Source, fetch: Fetch, tmp_path: Path, ranges: bool, version: str
) -> None:
    source.breaks_off, source.ranges, source.version = [HALF], ranges, version
    assert fetch("dit-512") == 0
    assert (tmp_path / NAME).read_bytes() == CONTENT
    assert len(source.asked) == 2
    if ranges:
        assert source.sent < len(CONTENT) + fetch_weights.CHUNK  # the first half came once
    else:
        assert source.sent == HALF + len(CONTENT)


def test_a_stopped_download_goes_on_in_the_next_run(source: Source, fetch: Fetch, tmp_path: Path) -> None:
    source.breaks_off, source.failing_after = [HALF], 1
    assert fetch("dit-512") == 1
    assert not (tmp_path / NAME).exists()
    arrived = (tmp_path / f"{NAME}.part").stat().st_size
    assert HALF - fetch_weights.CHUNK < arrived <= HALF
    source.failing_after = None
    assert fetch("dit-512") == 0
    assert (tmp_path / NAME).read_bytes() == CONTENT
    assert source.asked[-1] == f"bytes={arrived}-"
    assert source.sent == HALF + len(CONTENT) - arrived
    assert visible(tmp_path) == {NAME, fetch_weights.LOCK}


def test_a_file_that_was_replaced_meanwhile_is_not_glued_to_the_old_half(
    source: Source, fetch: Fetch, tmp_path: Path
) -> None:
    source.breaks_off, source.failing_after = [HALF], 1
    assert fetch("dit-512") == 1
    source.failing_after, source.version, source.files = None, '"2"', {NAME: CONTENT[::-1]}
    assert fetch("dit-512") == 0
    assert (tmp_path / NAME).read_bytes() == CONTENT[::-1]


def test_a_server_that_always_breaks_off_at_the_same_place_is_given_up(
    source: Source, fetch: Fetch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source.always_at, source.ranges = HALF, False
    assert fetch("dit-512") == 1
    assert len(source.asked) == 2
    assert f"{NAME}: not downloaded" in capsys.readouterr().err
    assert not (tmp_path / NAME).exists()


def test_a_download_stopped_after_its_last_byte_is_complete(source: Source, fetch: Fetch, tmp_path: Path) -> None:
    (tmp_path / f"{NAME}.part").write_bytes(CONTENT)
    assert fetch("dit-512") == 0
    assert (tmp_path / NAME).read_bytes() == CONTENT
    assert source.sent == 0


def test_more_on_disk_than_the_server_has_is_thrown_away(source: Source, fetch: Fetch, tmp_path: Path) -> None:
    (tmp_path / f"{NAME}.part").write_bytes(CONTENT + b"more")
    assert fetch("dit-512") == 1
    assert fetch("dit-512") == 0
    assert (tmp_path / NAME).read_bytes() == CONTENT


def error_of(capsys: pytest.CaptureFixture[str]) -> str:
    """The one error line of the last run (progress bars apart)."""
    (line,) = [line for line in re.split(r"[\r\n]", capsys.readouterr().err) if line.startswith("error: ")]
    return line


def test_a_file_that_changed_since_it_was_first_seen_is_one_line(
    source: Source, fetch: Fetch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / NAME
    path.write_bytes(b"put here by hand")
    assert fetch("dit-512") == 0
    path.write_bytes(b"changed")
    assert fetch("dit-512") == 1
    line = error_of(capsys)
    expected = f"{path}: expected SHA-256 {sha256(b'put here by hand')} (first seen), found {sha256(b'changed')}; "
    assert expected in line
    assert "delete it and run this again" in line
    assert f"remove its line from {tmp_path / fetch_weights.LOCK}" in line
    assert path.read_bytes() == b"changed"
    assert not source.asked


def test_a_download_that_is_not_what_was_first_seen_is_discarded(
    source: Source, fetch: Fetch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert fetch("dit-512") == 0
    (tmp_path / NAME).unlink()
    source.files = {NAME: b"another release"}
    assert fetch("dit-512") == 1
    assert f"expected SHA-256 {sha256(CONTENT)} (first seen), found {sha256(b'another release')}" in error_of(capsys)
    assert visible(tmp_path) == {fetch_weights.LOCK}
    assert lock(tmp_path) == {NAME: sha256(CONTENT)}


def test_inception_must_have_the_published_hash(
    source: Source, fetch: Fetch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source.files = {fetch_weights.INCEPTION: CONTENT}
    assert fetch("inception") == 1
    line = error_of(capsys)
    published = "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"
    assert f"expected SHA-256 {published} (published), found {sha256(CONTENT)}; the download was discarded" in line
    assert visible(tmp_path) == set()

    (tmp_path / fetch_weights.INCEPTION).write_bytes(b"put here by hand")
    assert fetch("inception") == 1
    assert "delete it and run this again" in error_of(capsys)
    assert not (tmp_path / fetch_weights.LOCK).exists()


def test_a_file_with_the_published_hash_is_kept(
    fetch: Fetch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whatever was first seen before it was known."""
    publish(monkeypatch, {NAME: CONTENT})
    (tmp_path / fetch_weights.LOCK).write_text(json.dumps({NAME: sha256(b"what an old release trusted")}))
    assert fetch("dit-512") == 0
    assert capsys.readouterr().out == f"{tmp_path / NAME}: downloaded, has the published SHA-256\n"
    assert lock(tmp_path) == {NAME: sha256(CONTENT)}


def test_where_no_hash_is_published_the_first_one_is_trusted_and_that_is_said(
    fetch: Fetch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert fetch("dit-512") == 0
    trusted = f"no published SHA-256 is known, {sha256(CONTENT)} is trusted from now on"
    assert capsys.readouterr().out == f"{tmp_path / NAME}: downloaded, {trusted}\n"
    assert fetch("dit-512") == 0
    assert "present, has the SHA-256 first seen; no published one is known" in capsys.readouterr().out
    unknown = {file.item for file in fetch_weights.FILES if file.sha256 is None}
    assert unknown == {"dit-512", "sit-256", "reference-512", "dinov2", "dinov2-reference-512"}
    assert fetch_weights.main(["--list", "--out", str(tmp_path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert {line.split()[0] for line in lines if line.endswith("(no published SHA-256 is known)")} == unknown


def test_published_hashes_are_whole_and_begin_as_the_names_of_files_say() -> None:
    published = fetch_weights.PUBLISHED_SHA256
    assert set(published) <= {file.destination for file in fetch_weights.FILES}
    for name, digest in published.items():
        assert re.fullmatch("[0-9a-f]{64}", digest)
        if start := re.search(r"-([0-9a-f]{8})\.pth$", name):
            assert digest.startswith(start[1])


def test_a_login_page_is_not_taken_for_a_file(
    source: Source, fetch: Fetch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source.content_type = "text/html; charset=utf-8"
    assert fetch("dit-512") == 1
    assert "a web page came instead of the file" in error_of(capsys)
    assert visible(tmp_path) == set()


def test_a_damaged_lock_is_one_line(fetch: Fetch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / fetch_weights.LOCK).write_text("[")
    assert fetch("dit-512") == 1
    assert f"{tmp_path / fetch_weights.LOCK}: damaged" in error_of(capsys)


def test_without_a_network_each_missing_file_says_what_to_do_by_hand(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with socket.socket() as closed:  # bound, so that nobody else gets the port, and never listening
        closed.bind(("127.0.0.1", 0))
        name = "DiT-XL-2-256x256.pt"
        publish(monkeypatch, {name: CONTENT})
        (tmp_path / name).write_bytes(CONTENT)
        mirror = f"http://127.0.0.1:{closed.getsockname()[1]}"
        assert fetch_weights.main(["--out", str(tmp_path), "--mirror", mirror]) == 1
    lines = capsys.readouterr().err.splitlines()
    missing = [file for file in fetch_weights.FILES if file.item in fetch_weights.DEFAULT and file.destination != name]
    assert len(lines) == len(missing) == 4
    for line, file in zip(lines, missing, strict=True):
        path = tmp_path / file.destination
        advice = f"download {file.url} by hand to {path} and run this again"
        assert line == f"error: {path}: not downloaded (ConnectionError); {advice}"
    assert (tmp_path / name).read_bytes() == CONTENT


def test_a_file_the_server_does_not_have_does_not_stop_the_others(
    fetch: Fetch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert fetch("sit-256", "dit-512") == 1
    assert "SiT-XL-2-256x256.pt: not downloaded (HTTP status 404)" in error_of(capsys)
    assert (tmp_path / NAME).read_bytes() == CONTENT


def test_list_shows_every_file_and_what_is_here(
    source: Source, fetch: Fetch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name = "DiT-XL-2-256x256.pt"
    (tmp_path / name).write_bytes(bytes(3 << 20))
    (tmp_path / "DiT-XL-2-512x512.pt.part").write_bytes(bytes(1 << 20))
    assert fetch_weights.main(["--list", "--out", str(tmp_path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(fetch_weights.FILES)
    assert re.fullmatch(rf"dit-256 +present +3\.0 MiB  https://dl\S+/{name} -> {tmp_path / name}", lines[0])
    assert re.match(r"dit-512 +partial +1\.0 MiB  ", lines[1])
    assert all(re.search(r" missing +- +https://", line) for line in lines[2:])
    assert fetch("--list", "reference-512") == 0
    name = "VIRTUAL_imagenet512.npz"
    assert capsys.readouterr().out.endswith(f"  {source.url}/{name} -> {tmp_path / name}{fetch_weights.UNKNOWN}\n")
    assert not source.asked


def test_a_dry_run_writes_nothing(source: Source, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "new"
    assert fetch_weights.main(["dit-512", "--dry-run", "--out", str(folder), "--mirror", source.url]) == 0
    assert capsys.readouterr().out == f"would download {source.url}/{NAME} -> {folder / NAME}\n"
    assert not folder.exists()
    assert not source.asked


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(["dit-1024"], "dit-1024: must be one of dit-256, dit-512"), (["--mirror", "ftp://x"], "--mirror ftp://x: must")],
)
def test_a_wrong_argument_is_named(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        fetch_weights.main(arguments)
    assert message in capsys.readouterr().err


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    assert run_command(partial(fetch_weights.main, ["dit-512", "--out", str(tmp_path / "file" / "x")])) == 1
    assert "cannot be written" in error_of(capsys)


def test_the_published_routers_are_fetched_where_the_model_looks_for_them(request: pytest.FixtureRequest) -> None:
    files = {file.destination: file for file in fetch_weights.FILES if file.item == "l2c-routers"}
    for size in (256, 512):
        routers = compose_config([f"model=dit_xl_2_{size}"]).measurement.model.routers
        assert routers is not None
        assert {Path(routers.format(steps=steps)).name for steps in (20, 50)} == set(files)
        assert Path(routers).parent == Path("weights")
    published = oracle_folders(request.config)[0].parent / "data"
    if published.is_dir():
        for name, file in files.items():
            assert file_sha256(published / name) == file.sha256
