"""The page to upscale pictures: what it refuses, what it lets nobody read, and that it works in a browser."""

import errno
import io
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
from PIL import Image
from skimage.data import astronaut

from srgan import serve
from srgan import weights as packaged
from srgan.errors import UserError
from srgan.inference import pictures
from srgan.inference.upscaler import load_generator
from srgan.upscale import default_weights

MIB = 2  # limit of the server under test, in MiB
START, ANSWER = 120, 60_000  # s until the server answers, ms until a small picture is upscaled


def photograph(side: int) -> Image.Image:
    return Image.fromarray(astronaut()).resize((side, side))


def encoded(image: Image.Image, file_format: str = "PNG", **options: object) -> bytes:
    data = io.BytesIO()
    image.save(data, file_format, **options)
    return data.getvalue()


@pytest.mark.parametrize("file_format", ["PNG", "JPEG", "WEBP", "AVIF", "BMP", "TIFF", "GIF"])
def test_the_page_reads_the_formats_of_the_web(tmp_path: Path, file_format: str) -> None:
    (tmp_path / "a").write_bytes(encoded(photograph(20), file_format))
    assert serve.read(tmp_path / "a", 1e6).pixels.shape == (20, 20, 3)


def test_what_is_refused_is_named_without_a_path(tmp_path: Path) -> None:
    frames = {"save_all": True, "append_images": [Image.new("RGB", (20, 20))]}
    for content, message in (
        (encoded(Image.new("1", (20000, 20000))), "too large; the limit here is 1 megapixels"),
        (encoded(Image.new("1", (10000, 10000))), "too large; the limit"),
        (encoded(Image.new("1", (1001, 1000))), "1001×1000 pixels are too many"),
        (b"", "not a picture"),
        (encoded(photograph(8), "EPS"), "not a picture"),
        (b"II*\0\x08\0\0\0" + bytes(6), "not a picture"),  # a TIFF without a size
        (encoded(photograph(20), "GIF", **frames), "2 frames or pages"),
        (encoded(photograph(64))[:2000], "not a readable image (image file is truncated"),
        (None, "deleted meanwhile"),
    ):
        path = tmp_path / "a.png"
        path.unlink() if content is None else path.write_bytes(content)
        with pytest.raises(UserError) as refusal:
            serve.read(path, 1e6)
        assert message in str(refusal.value) and str(tmp_path) not in str(refusal.value)


def test_pixels_are_read_within_the_limits_of_the_first_look(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file can be two pictures at once: Pillow takes the first format that will have it."""
    photograph(20).save(tmp_path / "a.png")
    with pytest.raises(UserError, match="of no known format"):
        pictures.read(tmp_path / "a.png", allowed=["JPEG"])
    read = Mock(side_effect=pictures.read)
    monkeypatch.setattr(pictures, "read", read)
    serve.read(tmp_path / "a.png", 500)
    read.assert_called_once_with(tmp_path / "a.png", 500 / 1e6, serve.FORMATS)


def test_the_screen_shows_rgb_on_white() -> None:
    for pixels, colour in (
        (np.full((2, 3, 1), 7, np.uint8), (7, 7, 7)),
        (np.array([[[7, 0]]], np.uint8), (255, 255, 255)),
        (np.array([[[1, 2, 3, 255]]], np.uint8), (1, 2, 3)),
        (np.array([[[1, 2, 3, 0]]], np.uint8), (255, 255, 255)),
        (np.full((2, 3, 1), 257 * 9, np.uint16), (9, 9, 9)),
        (np.full((2, 3, 3), 65535, np.uint16), (255, 255, 255)),
    ):
        image = serve.to_screen(pixels)
        assert (image.mode, image.size) == ("RGB", (pixels.shape[1], pixels.shape[0]))
        assert image.getpixel((0, 0)) == colour


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "I;16"])
def test_the_download_and_both_previews(
    mode: str, save_compact: Callable[..., object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_compact(tmp_path / "tiny.safetensors")
    upscaler = load_generator(tmp_path / "tiny.safetensors", "cpu")
    source = tmp_path / "a b.png"
    grey = np.asarray(photograph(24).convert("L")).astype(np.uint16) * 257
    (Image.fromarray(grey) if mode == "I;16" else photograph(24).convert(mode)).save(source)
    ticks: list[tuple[int, int]] = []
    result = serve.upscale(upscaler, source, tmp_path / "1", 1e6, lambda done, total: ticks.append((done, total)))
    assert ticks == [(1, 1)]
    with Image.open(result.file) as made:
        assert (result.file.name, made.mode, made.size) == ("a b_x2.png", mode, (48, 48))
    sr = pictures.read(result.file).pixels
    assert np.array_equal(sr, upscaler.enlarge(pictures.read(source).pixels))
    left, right = (pictures.read(Path(file)).pixels for file in result.previews)
    bicubic = photograph(24).convert("L" if mode in ("L", "I;16") else "RGB").convert("RGB")
    assert np.array_equal(left, np.asarray(bicubic.resize((48, 48), Image.Resampling.BICUBIC)))
    assert np.array_equal(right, np.asarray(serve.to_screen(sr)))
    monkeypatch.setattr(serve, "MAX_PREVIEW_SIDE", 32)
    result = serve.upscale(upscaler, source, tmp_path / "2", 1e6, lambda done, total: None)
    assert [pictures.read(Path(file)).pixels.shape for file in result.previews] == [(32, 32, 3)] * 2
    assert pictures.read(result.file).pixels.shape[:2] == (48, 48)


def test_of_what_fails_nothing_is_left_and_no_other_folder_is_touched(
    save_compact: Callable[..., object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_compact(tmp_path / "tiny.safetensors")
    upscaler = load_generator(tmp_path / "tiny.safetensors", "cpu")
    photograph(24).save(tmp_path / "a.png")

    def run() -> None:
        serve.upscale(upscaler, tmp_path / "a.png", tmp_path / "new", 1e6, lambda done, total: None)

    for error, words in (
        (OSError(errno.ENOSPC, "No space left on device"), "the result can't be written .No space left on device"),
        (MemoryError(), "doesn't fit into memory"),
    ):
        monkeypatch.setattr(serve, "to_screen", Mock(side_effect=error))
        with pytest.raises(UserError, match=words):
            run()
        assert not (tmp_path / "new").exists()
    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", Mock(side_effect=OSError(errno.ENOSPC, "No space left on device")))
        with pytest.raises(UserError, match=r"^the result: can't be written \(No space left on device\)"):
            run()
    (tmp_path / "new").mkdir()
    with pytest.raises(UserError, match=r"the result can't be written \(File exists\)"):
        run()
    assert (tmp_path / "new").is_dir()


def test_weights_to_choose_from_start_with_what_upscale_takes(
    save_compact: Callable[..., object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = list(serve.load_choices([], "cpu"))
    assert names[0] == default_weights(4) and set(names) == set(packaged.names())
    (tmp_path / "a").mkdir()
    (tmp_path / "package").mkdir()
    monkeypatch.setattr(packaged, "FOLDER", tmp_path / "package")
    given = [tmp_path / "mine.safetensors", tmp_path / "a/mine.safetensors"]
    packed = [tmp_path / f"package/net_x{scale}.safetensors" for scale in (2, 4)]
    for path, scale in zip((*given, *packed), (2, 3, 2, 4), strict=True):
        save_compact(path, scale)
    choices = serve.load_choices([str(file) for file in given], "cpu")
    expected = [("mine", 2), ("mine (2)", 3), ("net_x4", 4), ("net_x2", 2)]
    assert [(name, upscaler.scale) for name, upscaler in choices.items()] == expected


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--max-megapixels", "0"], "more than 0, at most 89"),
        (["--max-megapixels", "1000"], "more than 0, at most 89"),
        (["--max-file-mib", "0"], "1 or more"),
        (["--host", "no.such.host.invalid"], "can't listen there"),
        (["--host", "127.0.0.1", "--port", "TAKEN"], "can't listen there"),
        (["--weights", "absent.safetensors"], "no weights 'absent.safetensors'"),
        ([], "no weights come with the package"),
        (["--host=localhost"], "the page needs gradio; pip install 'srgan[serve]'"),
    ],
)
def test_a_users_error_is_one_line(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: Any,
    capsys: pytest.CaptureFixture[str],
    unasked: list[str],
) -> None:
    monkeypatch.setattr(packaged, "FOLDER", tmp_path)
    monkeypatch.setattr(serve, "find_spec", lambda name: None if "--host=localhost" in arguments else "there")
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(SystemExit) as exit_:
        serve.main([str(taken.getsockname()[1]) if argument == "TAKEN" else argument for argument in arguments])
    unasked.clear()  # --host asks for it
    error = capsys.readouterr().err
    assert exit_.value.code == 1
    assert error.startswith("error: ") and message in error and error.count("\n") == 1


@pytest.fixture(scope="module")
def server(save_compact: Callable[..., object], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """`python -m srgan.serve` as it runs: the page's address, the weights given, the folder of its files."""
    pytest.importorskip("gradio", reason="needs gradio")
    folder = tmp_path_factory.mktemp("serve")
    files = folder / "files"
    files.mkdir()
    weights = [folder / f"tiny_x{scale}.safetensors" for scale in (2, 4)]
    for path, scale in zip(weights, (2, 4), strict=True):
        save_compact(path, scale)
    command = [sys.executable, "-m", "srgan.serve", "--max-file-mib", str(MIB), "--max-megapixels", "1"]
    command += [part for file in weights for part in ("--weights", str(file))]
    with socket.create_server(("127.0.0.1", 0)) as elsewhere, (folder / "errors.txt").open("w+") as errors:
        elsewhere.setblocking(False)
        proxy = f"http://127.0.0.1:{elsewhere.getsockname()[1]}"
        names = ("http_proxy", "https_proxy", "all_proxy")
        env = {key: value for key, value in os.environ.items() if key.lower() not in (*names, "no_proxy")}
        env |= {
            "TMPDIR": str(files),
        } | dict.fromkeys(names, proxy)
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True, env=env, cwd=folder)
        try:
            assert process.stdout is not None
            address = process.stdout.readline().strip()
            assert address.startswith("http://127.0.0.1:"), (folder / "errors.txt").read_text()
            yield SimpleNamespace(address=address.rstrip("/"), weights=weights, files=files)
            process.send_signal(signal.SIGTERM)
            assert process.wait(START) == 0
            assert list(files.glob("srgan-*")) == []  # nobody's pictures stay behind
            with pytest.raises(BlockingIOError):  # nothing was asked of another host
                elsewhere.accept()
        finally:
            process.kill()
            process.communicate()


def ask(url: str, body: bytes | None = None, kind: str = "application/json") -> tuple[int, str]:
    request = urllib.request.Request(url, body, {"Content-Type": kind})
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=60) as answer:
            return answer.status, answer.read().decode(errors="replace")
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode(errors="replace")


@pytest.mark.parametrize(
    ("origin", "host", "forwarded", "allowed"),
    [
        (None, "localhost:7860", None, True),
        ("http://localhost:7860", "localhost:7860", None, True),
        ("http://10.0.0.5:7860", "10.0.0.5:7860", None, True),
        ("http://[::1]:7860", "[::1]:7860", None, True),
        ("https://example.com", "127.0.0.1:7860", "example.com, inner", True),
        ("https://example.com", "[::1]:7860", "example.com", True),
        ("http://evil.example", "localhost:7860", None, False),
        ("http://evil.example", "10.0.0.5:7860", "evil.example", False),
        ("null", "localhost:7860", None, False),
        ("http://[x", "localhost:7860", None, False),
    ],
)
def test_scripts_of_other_sites_are_refused(
    origin: str | None, host: str, forwarded: str | None, allowed: bool
) -> None:
    given = {"origin": origin, "host": host, "x-forwarded-host": forwarded}
    assert serve._of_own_page({key: value for key, value in given.items() if value is not None}) == allowed


@pytest.mark.slow
def test_nothing_of_the_machine_can_be_read(server: Any) -> None:
    weights = server.weights[0]
    there = [weights, weights.parent, Path(serve.__file__), server.files, Path("/etc/passwd"), Path("/")]
    outside = [f"/gradio_api/file{sign}{path}" for path in there for sign in ("=", "/", "=../../../../..")]
    outside += [f"{start}{path}" for path in there for start in ("/file=", "/static/../../../../../..", "/assets/..")]
    outside += [f"/{name}/%2e%2e/%2e%2e/routes.py" for name in ("static", "assets", "svelte")]
    outside += ["/gradio_api/file=https://example.com/", "/gradio_api/file/http://example.com/", "/gradio_api/proxy=x"]
    outside += ["/docs", "/redoc", "/openapi.json", "/monitoring", "/monitoring/summary", "/gradio_api/runs"]
    for path in outside:
        status, text = ask(server.address + path)
        assert status in (403, 404), path
        assert text.startswith('{"detail":'), path
    assert json.loads(ask(server.address + "/gradio_api/info")[1]) == {"named_endpoints": {}, "unnamed_endpoints": {}}
    request = urllib.request.Request(server.address + "/gradio_api/upload", b"", {"Origin": "http://elsewhere.example"})
    with pytest.raises(urllib.error.HTTPError, match="403"):  # a page of another site
        urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=60)
    config = ask(server.address + "/config")[1]
    assert str(server.files) not in config and str(weights.parent) not in config


@pytest.mark.slow
def test_only_uploads_are_taken(server: Any) -> None:
    first = json.loads(ask(server.address + "/config")[1])["dependencies"][0]
    assert first["targets"][0][1] == "upload"
    for path in (str(server.weights[0]), "https://example.com/a.png"):
        data = [{"path": path, "meta": {"_type": "gradio.FileData"}}]
        payload = {"data": data, "fn_index": first["id"], "session_hash": "a"}
        status, text = ask(server.address + "/gradio_api/run/predict", json.dumps(payload).encode())
        assert status == 500
        assert json.loads(text)["error"] == ("Upload the file." if path.startswith("https:") else None)
        assert path not in text


@pytest.fixture
def tab(browser: Any, server: Any) -> Iterator[Any]:
    """The page as it is when it is opened; its scripts may not complain, nor ask another host for anything."""
    tab = browser.new_page(viewport={"width": 1280, "height": 800})
    wrong: list[str] = []
    own = (server.address, "data:", "blob:")
    tab.on("console", lambda message: wrong.append(message.text) if message.type == "error" else None)
    tab.on("pageerror", lambda error: wrong.append(str(error)))
    tab.on("request", lambda request: None if request.url.startswith(own) else wrong.append(request.url))
    tab.goto(server.address)
    tab.wait_for_selector("input[type=file]", state="attached")
    yield tab
    tab.close()
    assert wrong == []


def drop(tab: Any, name: str, data: bytes) -> None:
    tab.locator("input[type=file]").set_input_files([{"name": name, "mimeType": "image/png", "buffer": data}])


def says(tab: Any, text: str) -> None:
    tab.locator("#note", has_text=text).wait_for(timeout=ANSWER)


@pytest.mark.slow
def test_a_picture_is_upscaled_compared_and_downloaded(tab: Any, server: Any) -> None:
    expect = pytest.importorskip("playwright.sync_api").expect
    images = tab.locator("#comparison img")
    image = photograph(96)
    stem = "a-rather-long-name-of-a-picture-that-somebody-took"
    drop(tab, f"{stem}.png", encoded(image))
    for scale, weights in zip((2, 4), server.weights, strict=True):
        if scale == 4:
            tab.get_by_label("Weights").click()
            tab.get_by_role("option", name="tiny_x4").click()
        side = 96 * scale
        says(tab, f"{stem}.png: 96×96 → {side}×{side} pixels in")
        expect(images).to_have_count(2)
        tab.wait_for_function(
            "side => [...document.querySelectorAll('#comparison img')].every(one => one.naturalWidth == side)", arg=side
        )
        bodies = [tab.request.get(one.get_attribute("src")).body() for one in images.all()]
        left, right = (np.asarray(Image.open(io.BytesIO(body))) for body in bodies)
        expected = np.asarray(load_generator(weights)(image))
        assert np.array_equal(left, np.asarray(image.resize((side, side), Image.Resampling.BICUBIC)))
        assert np.array_equal(right, expected) and not np.array_equal(left, right)
        with tab.expect_download() as started:
            tab.get_by_text("Download PNG").click()
        assert started.value.suggested_filename == f"{stem}_x{scale}.png"
        with Image.open(started.value.path()) as downloaded:
            assert downloaded.format == "PNG" and np.array_equal(np.asarray(downloaded), expected)
    for width in (1280, 360):
        tab.set_viewport_size({"width": width, "height": 740})
        assert tab.evaluate("document.documentElement.scrollWidth") <= width
        for name in ("bicubic", "super-resolution"):
            assert tab.locator("#sides").get_by_text(name).bounding_box()["height"] < 30  # one line


@pytest.mark.slow
def test_what_cannot_be_upscaled_gets_a_line_and_the_last_picture_wins(tab: Any) -> None:
    for name, data, line in (
        ("text.png", b"no picture", "text.png: not a picture that can be read; try PNG, JPEG or WebP."),
        ("cut.png", encoded(photograph(64))[:3000], "cut.png: not a readable image"),
    ):
        drop(tab, name, data)
        says(tab, line)
        assert not tab.get_by_text("Download PNG").is_visible()
    drop(tab, "large.png", encoded(Image.new("RGB", (1000, 1000))))
    time.sleep(0.5)
    drop(tab, "small.png", encoded(photograph(16)))
    for seconds in (0, 1):  # long enough for the other to come back
        time.sleep(seconds)
        says(tab, "small.png: 16×16 → 32×32")


@pytest.mark.slow
def test_files_over_the_limit_are_not_taken(tab: Any, server: Any) -> None:
    noise = np.random.default_rng(1).integers(256, size=(900, 900, 3), dtype=np.uint8)
    drop(tab, "noise.png", encoded(Image.fromarray(noise)))
    tab.get_by_text("exceed the maximum allowed size").wait_for(timeout=ANSWER)
    head = b"--x\r\nContent-Disposition: form-data; name=files; filename=a.png\r\n\r\n"
    data = head + bytes((MIB + 1) * 2**20) + b"\r\n--x--\r\n"
    assert ask(f"{server.address}/gradio_api/upload", data, "multipart/form-data; boundary=x")[0] == 413
