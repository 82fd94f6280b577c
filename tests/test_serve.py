"""The page to upscale pictures: what it refuses, what it lets nobody read, and that it works in a browser."""

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
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from PIL import Image
from skimage.data import astronaut

from srgan import serve
from srgan import weights as packaged
from srgan.errors import UserError
from srgan.inference import pictures
from srgan.inference.upscaler import Upscaler, load_generator
from srgan.models import checkpoints
from srgan.models.generators import Compact
from srgan.upscale import default_weights

MIB = 2  # limit of the server under test, in MiB
START, ANSWER = 120, 60_000  # s until the server answers, ms until a small picture is upscaled


def make_weights(file: Path, scale: int) -> Path:
    """A generator that differs from bicubic."""
    torch.manual_seed(scale)
    generator = Compact(scale, channels=8, blocks=1)
    torch.nn.init.normal_(generator.tail.weight, std=0.02)
    node = {"_target_": "srgan.models.generators.Compact", "scale": scale, "channels": 8, "blocks": 1}
    checkpoints.save_weights(file, generator, node)
    return file


def photograph(side: int) -> Image.Image:
    return Image.fromarray(astronaut()).resize((side, side))


@pytest.fixture
def upscaler(tmp_path: Path) -> Upscaler:
    return load_generator(make_weights(tmp_path / "tiny.safetensors", 2), "cpu")


def animation(file: Path) -> None:
    photograph(20).save(file, "GIF", save_all=True, append_images=[Image.new("RGB", (20, 20))])


def cut_short(file: Path) -> None:
    photograph(64).save(file, "PNG")
    file.write_bytes(file.read_bytes()[:2000])


REFUSED: dict[str, tuple[Callable[[Path], object], str]] = {
    "bomb": (
        lambda file: Image.new("1", (20000, 20000)).save(file, "PNG"),
        "too large; the limit here is 1 megapixels",
    ),
    "warning": (lambda file: Image.new("1", (10000, 10000)).save(file, "PNG"), "too large; the limit"),
    "pixels": (lambda file: Image.new("1", (1001, 1000)).save(file, "PNG"), "1001×1000 pixels are too many"),
    "text": (lambda file: file.write_text("no picture"), "not a picture"),
    "nothing": (lambda file: file.write_bytes(b""), "not a picture"),
    "PostScript": (lambda file: photograph(8).save(file, "EPS"), "not a picture"),
    "TIFF without a size": (lambda file: file.write_bytes(b"II*\0\x08\0\0\0" + bytes(6)), "not a picture"),
    "animation": (animation, "2 frames or pages"),
    "cut short": (cut_short, "not a readable image (image file is truncated"),
    "32 bits": (lambda file: Image.new("F", (8, 8)).save(file, "TIFF"), "convert it to 8 or 16 bits"),
    "gone": (lambda file: None, "deleted meanwhile"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_is_refused_is_named_without_a_path(kind: str, tmp_path: Path) -> None:
    write, message = REFUSED[kind]
    write(tmp_path / "a.png")
    with pytest.raises(UserError) as refusal:
        serve.read(tmp_path / "a.png", 1e6)
    assert message in str(refusal.value) and str(tmp_path) not in str(refusal.value)


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
def test_the_download_keeps_the_kind_of_the_picture_and_large_previews_are_made_smaller(
    mode: str, upscaler: Upscaler, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / "a b.png"
    grey = np.asarray(photograph(24).convert("L")).astype(np.uint16) * 257
    image = Image.fromarray(grey) if mode == "I;16" else photograph(24).convert(mode)
    image.save(source)
    ticks: list[tuple[int, int]] = []
    result = serve.upscale(upscaler, source, tmp_path, 1e6, lambda done, total: ticks.append((done, total)))
    assert result.file.name == "a b_x2.png"
    with Image.open(result.file) as made:
        assert (made.mode, made.size) == (mode, (48, 48))
    assert np.array_equal(pictures.read(result.file).pixels, upscaler.enlarge(pictures.read(source).pixels))
    assert ticks[-1][0] == ticks[-1][1]
    left, right = (pictures.read(Path(file)).pixels for file in result.previews)
    bicubic = photograph(24).convert("L" if mode in ("L", "I;16") else "RGB").convert("RGB")
    assert np.array_equal(left, np.asarray(bicubic.resize((48, 48), Image.Resampling.BICUBIC)))
    assert np.array_equal(right, np.asarray(serve.to_screen(pictures.read(result.file).pixels)))
    monkeypatch.setattr(serve, "MAX_PREVIEW_SIDE", 32)
    result = serve.upscale(upscaler, source, tmp_path, 1e6, lambda done, total: None)
    assert [pictures.read(Path(file)).pixels.shape for file in result.previews] == [(32, 32, 3)] * 2
    assert pictures.read(result.file).pixels.shape[:2] == (48, 48)


def test_the_page_starts_with_what_upscale_takes() -> None:
    names = list(serve.load_choices([], "cpu"))
    assert names[0] == default_weights(4) and set(names) == set(packaged.names())


def test_weights_to_choose_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "package").mkdir()
    monkeypatch.setattr(packaged, "FOLDER", tmp_path / "package")
    for scale in (2, 4):
        make_weights(tmp_path / "package" / f"net_x{scale}.safetensors", scale)
    given = [make_weights(tmp_path / "mine.safetensors", 2), make_weights(tmp_path / "a" / "mine.safetensors", 3)]
    choices = serve.load_choices([str(file) for file in given], "cpu")
    expected = {"mine": 2, "mine (2)": 3, "net_x4": 4, "net_x2": 2}
    assert [(name, upscaler.scale) for name, upscaler in choices.items()] == [*expected.items()]


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
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(packaged, "FOLDER", tmp_path)
    monkeypatch.setattr(serve, "find_spec", lambda name: None if "--host=localhost" in arguments else "there")
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(SystemExit) as exit_:
        serve.main([str(taken.getsockname()[1]) if argument == "TAKEN" else argument for argument in arguments])
    error = capsys.readouterr().err
    assert exit_.value.code == 1
    assert error.startswith("error: ") and message in error and error.count("\n") == 1


class Server(NamedTuple):
    """`python -m srgan.serve` as it runs.

    Attributes:
        address: of the page, without a slash at the end.
        files: what it keeps its files in.
        elsewhere: a listener that all its requests to other hosts would go to.
    """

    address: str
    weights: list[Path]
    files: Path
    elsewhere: socket.socket


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    pytest.importorskip("gradio", reason="needs gradio")
    folder = tmp_path_factory.mktemp("serve")
    files = folder / "files"
    files.mkdir()
    weights = [make_weights(folder / f"tiny_x{scale}.safetensors", scale) for scale in (2, 4)]
    given = [part for file in weights for part in ("--weights", str(file))]
    with socket.create_server(("127.0.0.1", 0)) as elsewhere, (folder / "errors.txt").open("w+") as errors:
        elsewhere.setblocking(False)
        proxy = f"http://127.0.0.1:{elsewhere.getsockname()[1]}"
        names = ("http_proxy", "https_proxy", "all_proxy")
        environment = {key: value for key, value in os.environ.items() if key.lower() not in (*names, "no_proxy")}
        environment |= {"TMPDIR": str(files), "no_proxy": "127.0.0.1"} | dict.fromkeys(names, proxy)
        process = subprocess.Popen(
            [sys.executable, "-m", "srgan.serve", *given, "--max-file-mib", str(MIB), "--max-megapixels", "1"],
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            env=environment,
            cwd=folder,
        )
        try:
            assert process.stdout is not None
            address = process.stdout.readline().strip()
            assert address.startswith("http://127.0.0.1:"), (folder / "errors.txt").read_text()
            yield Server(address.rstrip("/"), weights, files, elsewhere)
            process.send_signal(signal.SIGTERM)
            assert process.wait(START) == 0
            assert list(files.glob("srgan-*")) == []  # nobody's pictures stay behind
            with pytest.raises(BlockingIOError):
                elsewhere.accept()
        finally:
            process.kill()
            process.wait()
            assert process.stdout is not None
            process.stdout.close()


def ask(url: str, data: Any = None) -> tuple[int, str]:
    body = None if data is None else json.dumps(data).encode()
    request = urllib.request.Request(url, body, {"Content-Type": "application/json"})
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=60) as answer:
            return answer.status, answer.read().decode(errors="replace")
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode(errors="replace")


@pytest.mark.slow
def test_nothing_of_the_machine_can_be_read(server: Server) -> None:
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
    config = ask(server.address + "/config")[1]
    assert str(server.files) not in config and str(weights.parent) not in config


@pytest.mark.slow
def test_only_uploads_are_taken(server: Server) -> None:
    first = json.loads(ask(server.address + "/config")[1])["dependencies"][0]
    assert first["targets"][0][1] == "upload"
    for path in (str(server.weights[0]), "https://example.com/a.png"):
        data = [{"path": path, "meta": {"_type": "gradio.FileData"}}]
        payload = {"data": data, "fn_index": first["id"], "session_hash": "a"}
        status, text = ask(server.address + "/gradio_api/run/predict", payload)
        assert status == 500
        assert json.loads(text)["error"] in (None, "Upload the file.")
        assert path not in text


class Page(NamedTuple):
    """The page in a browser, and what went wrong on it: complaints of scripts, requests to other hosts."""

    tab: Any
    wrong: list[str]


@pytest.fixture(scope="module")
def page(browser: Any, server: Server) -> Iterator[Page]:
    tab = browser.new_page(viewport={"width": 1280, "height": 800})
    wrong: list[str] = []

    def watch(request: Any) -> None:
        if not request.url.startswith((server.address, "data:", "blob:")):
            wrong.append(request.url)

    tab.on("console", lambda message: wrong.append(message.text) if message.type == "error" else None)
    tab.on("pageerror", lambda error: wrong.append(str(error)))
    tab.on("request", watch)
    yield Page(tab, wrong)
    tab.close()


@pytest.fixture
def opened(page: Page, server: Server) -> Iterator[Any]:
    """The page as it is when it is opened, in one tab for all tests."""
    page.tab.set_viewport_size({"width": 1280, "height": 800})
    page.tab.goto(server.address)
    page.tab.wait_for_selector("input[type=file]", state="attached")
    yield page.tab
    wrong = [*page.wrong]
    page.wrong.clear()
    assert wrong == []


def drop(tab: Any, name: str, data: bytes) -> None:
    tab.locator("input[type=file]").set_input_files([{"name": name, "mimeType": "image/png", "buffer": data}])


def png(image: Image.Image) -> bytes:
    data = io.BytesIO()
    image.save(data, "PNG")
    return data.getvalue()


def says(tab: Any, text: str) -> None:
    tab.locator("#note", has_text=text).wait_for(timeout=ANSWER)


@pytest.mark.slow
def test_a_picture_is_upscaled_compared_and_downloaded(opened: Any, server: Server) -> None:
    expect = pytest.importorskip("playwright.sync_api").expect
    images = opened.locator("#comparison img")
    image = photograph(96)
    for place, scale in enumerate((2, 4)):
        if place == 0:
            drop(opened, "astronaut.png", png(image))
        else:
            opened.get_by_label("Weights").click()
            opened.get_by_role("option", name="tiny_x4").click()
        says(opened, f"astronaut.png: 96×96 → {96 * scale}×{96 * scale} pixels in")
        expect(images).to_have_count(2)
        opened.wait_for_function(
            "side => [...document.querySelectorAll('#comparison img')].every(one => one.naturalWidth == side)",
            arg=96 * scale,
        )
        expected = load_generator(server.weights[place])(image)
        shown = [
            np.asarray(Image.open(io.BytesIO(opened.request.get(one.get_attribute("src")).body()))).astype(int)
            for one in images.all()
        ]
        bicubic = np.asarray(image.resize(expected.size, Image.Resampling.BICUBIC)).astype(int)
        assert np.array_equal(shown[0], bicubic) and np.array_equal(shown[1], np.asarray(expected))
        assert not np.array_equal(shown[0], shown[1])
        with opened.expect_download() as started:
            opened.get_by_text("Download PNG").click()
        assert started.value.suggested_filename == f"astronaut_x{scale}.png"
        with Image.open(started.value.path()) as downloaded:
            assert downloaded.format == "PNG" and downloaded.size == (96 * scale, 96 * scale)
            assert np.array_equal(np.asarray(downloaded), np.asarray(expected))


@pytest.mark.slow
def test_what_cannot_be_upscaled_gets_a_line(opened: Any) -> None:
    for name, data, line in (
        ("text.png", b"no picture", "text.png: not a picture that can be read; try PNG, JPEG or WebP."),
        ("bomb.png", png(Image.new("1", (20000, 20000))), "bomb.png: too large; the limit here is 1 megapixels."),
        ("cut.png", png(photograph(64))[:3000], "cut.png: not a readable image"),
    ):
        drop(opened, name, data)
        says(opened, line)
        assert not opened.get_by_text("Download PNG").is_visible()
    drop(opened, "good.png", png(photograph(16)))  # and the page goes on
    says(opened, "good.png: 16×16 → 32×32")


@pytest.mark.slow
def test_the_last_picture_wins(opened: Any) -> None:
    drop(opened, "large.png", png(Image.new("RGB", (1000, 1000))))
    time.sleep(0.5)
    drop(opened, "small.png", png(photograph(16)))
    says(opened, "small.png: 16×16 → 32×32")
    time.sleep(1)  # long enough for the other to come back
    says(opened, "small.png: 16×16 → 32×32")


@pytest.mark.slow
def test_files_over_the_limit_are_not_taken(opened: Any, server: Server) -> None:
    noise = np.random.default_rng(1).integers(256, size=(900, 900, 3), dtype=np.uint8)
    drop(opened, "noise.png", png(Image.fromarray(noise)))
    opened.get_by_text("exceed the maximum allowed size").wait_for(timeout=ANSWER)
    head = b"--x\r\nContent-Disposition: form-data; name=files; filename=a.png\r\n\r\n"
    data = head + bytes((MIB + 1) * 2**20) + b"\r\n--x--\r\n"
    request = urllib.request.Request(
        f"{server.address}/gradio_api/upload", data, {"Content-Type": "multipart/form-data; boundary=x"}
    )
    with pytest.raises(urllib.error.HTTPError) as refusal:
        urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request)
    refusal.value.close()
    assert refusal.value.code == 413


@pytest.mark.slow
def test_the_page_is_no_wider_than_the_window(opened: Any) -> None:
    drop(opened, "a-rather-long-name-of-a-picture-that-somebody-took.png", png(photograph(64)))
    says(opened, "64×64 → 128×128")
    for width in (1280, 360):
        opened.set_viewport_size({"width": width, "height": 740})
        assert opened.evaluate("document.documentElement.scrollWidth") <= width
        for name in ("bicubic", "super-resolution"):
            assert opened.locator("#sides").get_by_text(name).bounding_box()["height"] < 30  # one line
