"""`python -m srgan.serve`: serves a web page that upscales a picture and compares it with bicubic interpolation."""

import argparse
import re
import secrets
import shutil
import signal
import socket
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from os import environ
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from srgan import cli
from srgan import weights as packaged
from srgan.errors import UserError
from srgan.inference import pictures
from srgan.inference.upscaler import Progress, Upscaler, load_generator

if TYPE_CHECKING:
    import gradio as gr

FORMATS = ("PNG", "JPEG", "WEBP", "AVIF", "BMP", "TIFF", "GIF")  # no EPS, for which Pillow starts another program
MAX_PREVIEW_SIDE = 4096  # pixels of the pictures to compare; the download has all pixels
KEEP_SECONDS = 3600  # after which the files of an upload are deleted
MAX_QUEUE = 20  # pictures
PROXY_PATHS = re.compile(r"/proxy=|/file[=/]https?:")  # gradio would fetch these addresses for anybody
INTRODUCTION = """# Super-resolution

Drop a picture: a network enlarges it. Compare with bicubic interpolation, zoom in, download the result.
"""
SIDES = "**bicubic** **super-resolution**"
HINT = "Wheel or pinch: zoom. Drag: move."
CSS = """
.gradio-container { width: 100% !important; max-width: 1200px !important; }
#sides p { display: flex; justify-content: space-between; }
#note strong { color: var(--error-text-color, firebrick); }
#comparison:not(:has(img)) { min-height: 20em; }
#hint { opacity: 0.6; }
"""


class Superseded(Exception):
    """The user has made another request or left, so the result is no longer needed."""


class Result(NamedTuple):
    """An upscaled picture: the file to download, two files to compare (bicubic, SR), and a line of text about it."""

    file: Path
    previews: tuple[str, str]
    note: str


def read(path: Path, max_pixels: float) -> pictures.Picture:
    """Read an uploaded picture. Its size is checked in the header before decoding.

    Raises UserError, whose text names no path, if it is too large or unreadable.
    """
    limit = f"the limit here is {max_pixels / 1e6:g} megapixels"
    if not path.is_file():
        raise UserError("deleted meanwhile; drop it again")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path, formats=FORMATS) as image:
                width, height = image.size
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise UserError(f"too large; {limit}") from error
    except (OSError, RuntimeError, SyntaxError, TypeError, ValueError) as error:  # TypeError: a TIFF without a size
        raise UserError("not a picture that can be read; try PNG, JPEG or WebP") from error
    if width * height > max_pixels:
        raise UserError(f"{width}×{height} pixels are too many; {limit}")
    try:
        return pictures.read(path, max_pixels / 1e6, FORMATS)
    except UserError as error:
        raise UserError(str(error).removeprefix(f"{path}: ").replace(str(path), "the file")) from error


def upscale(upscaler: Upscaler, source: Path, folder: Path, max_pixels: float, progress: Progress) -> Result:
    """Upscale a file into the new folder `folder`, of which nothing is left if that fails.

    Raises UserError like `read`, and if memory or disk is full.
    """
    try:
        folder.mkdir(parents=True)
    except OSError as error:
        raise UserError(f"the result can't be written ({error.strerror or error})") from error
    try:
        return _upscale(upscaler, source, folder, max_pixels, progress)
    except BaseException as error:
        shutil.rmtree(folder, ignore_errors=True)
        if isinstance(error, MemoryError):
            raise UserError("the enlarged picture doesn't fit into memory") from error
        if isinstance(error, OSError):
            raise UserError(f"the result can't be written ({error.strerror or error})") from error
        raise


def _upscale(upscaler: Upscaler, source: Path, folder: Path, max_pixels: float, progress: Progress) -> Result:
    start = time.perf_counter()
    lr = read(source, max_pixels)
    sr = lr._replace(pixels=upscaler.enlarge(lr.pixels, progress))
    seconds = time.perf_counter() - start
    file = folder / f"{source.stem}_x{upscaler.scale}.png"
    try:
        pictures.write(sr, file)
    except UserError as error:
        raise UserError(str(error).replace(str(file), "the result")) from error
    right = to_screen(sr.pixels)
    left = to_screen(lr.pixels).resize(right.size, Image.Resampling.BICUBIC)
    profile = sr.profile if sr.pixels.shape[-1] >= 3 else None  # a grey profile doesn't fit the RGB previews
    for image, name in (left, "bicubic.png"), (right, "sr.png"):
        image.thumbnail((MAX_PREVIEW_SIDE, MAX_PREVIEW_SIDE))
        image.save(folder / name, compress_level=1, icc_profile=profile)
    (height, width), (sr_height, sr_width) = lr.pixels.shape[:2], sr.pixels.shape[:2]
    note = f"{source.name}: {width}×{height} → {sr_width}×{sr_height} pixels in {seconds:.1f} s"
    return Result(file, (str(folder / "bicubic.png"), str(folder / "sr.png")), note)


def to_screen(pixels: NDArray[Any]) -> Image.Image:
    """Convert the pixels of a `pictures.Picture` for display: 8-bit RGB on white."""
    image = pictures.to_pil((pixels >> 8).astype(np.uint8) if pixels.dtype == np.uint16 else pixels)
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), rgba)
    return image.convert("RGB")


# --- the page ---------------------------------------------------------------------------------------------------------


class Elements(NamedTuple):
    """The page's elements that change or have events."""

    file: Any
    weights: Any
    note: Any
    download: Any
    comparison: Any


class Handlers(NamedTuple):
    """The page's event handlers: `accept` an upload, `ask` (a new request), `answer`, `leave`."""

    accept: Callable[..., Any]
    ask: Callable[..., Any]
    answer: Callable[..., Any]
    leave: Callable[..., Any]


def page(upscalers: Mapping[str, Upscaler], max_megapixels: float, max_file_mib: int) -> "gr.Blocks":
    """Build the page; `launch` serves it.

    Args:
        upscalers: the upscalers to offer, by their names on the page.
        max_megapixels: size limit of an uploaded picture.
        max_file_mib: limit shown on the page; `launch` enforces it.
    """
    import gradio as gr

    cleaning = (KEEP_SECONDS // 6, KEEP_SECONDS)
    with gr.Blocks(title="Super-resolution", analytics_enabled=False, delete_cache=cleaning) as demo:
        gr.Markdown(INTRODUCTION)
        elements = _lay_out([*upscalers], f"Up to {max_megapixels:g} megapixels and {max_file_mib} MiB.")
        file, weights = elements.file, elements.weights
        handlers = _make_handlers(upscalers, max_megapixels * 1e6, elements.comparison.GRADIO_CACHE)
        picture = gr.State(None)
        at_once: dict[str, Any] = {"queue": False, "trigger_mode": "multiple", "api_visibility": "private"}
        uploaded = file.upload(handlers.accept, file, [file, picture], **at_once)
        for asked in uploaded, weights.change(handlers.ask, **at_once):
            asked.then(
                handlers.answer,
                [picture, weights],
                [elements.comparison, elements.download, elements.note],
                concurrency_limit=1,
                concurrency_id="upscale",
                show_progress_on=elements.comparison,
                trigger_mode="multiple",
                api_visibility="private",
            )
        demo.unload(handlers.leave)
        _refuse_addresses(file)
    return demo.queue(max_size=MAX_QUEUE, api_open=False)


def _lay_out(names: list[str], limits: str) -> Elements:
    import gradio as gr

    with gr.Row():
        with gr.Column(scale=1, min_width=280):
            file = gr.File(label="Picture", file_types=["image"], height=160)
            weights = gr.Dropdown(names, value=names[0], label="Weights", visible=len(names) > 1)
            note = gr.Markdown(limits, elem_id="note")
            download = gr.DownloadButton("Download PNG", variant="primary", visible=False)
        with gr.Column(scale=3, min_width=320):
            gr.Markdown(SIDES, elem_id="sides")
            comparison = gr.ImageSlider(
                show_label=False, interactive=False, buttons=["fullscreen"], max_height=600, elem_id="comparison"
            )
            gr.Markdown(HINT, elem_id="hint")
    return Elements(file, weights, note, download, comparison)


def _make_handlers(upscalers: Mapping[str, Upscaler], max_pixels: float, folder: str) -> Handlers:
    """Make the page's handlers, which share each session's latest request. Results go below `folder`."""
    import gradio as gr

    newest: dict[str | None, object] = {}  # session → its latest request; older ones are dropped
    # session → the request answered last, with its picture and weights
    answered: dict[str | None, tuple[object, str, str]] = {}

    def accept(file: str, request: gr.Request) -> tuple[None, str]:
        ask(request)
        return None, str(file)  # empties the box for the next picture

    def ask(request: gr.Request) -> None:
        newest[request.session_hash] = object()

    def leave(request: gr.Request) -> None:
        for requests in (newest, answered):
            requests.pop(request.session_hash, None)

    def answer(
        picture: str | None,
        name: str,
        request: gr.Request,
        progress: gr.Progress = gr.Progress(),  # noqa: B008 -- how gradio knows that it is wanted
    ) -> tuple[Any, Any, Any]:
        if picture is None:
            return gr.skip(), gr.skip(), gr.skip()
        session = request.session_hash
        source, asked = Path(picture), newest.get(session)
        if answered.get(session) == (asked, picture, name):  # by an older request, which already saw this picture
            return gr.skip(), gr.skip(), gr.skip()

        def tick(done: int, total: int) -> None:
            if newest.get(session) is not asked:
                raise Superseded
            progress((done, total), desc="Upscaling" if done < total else "Writing the file", unit="tiles")

        try:
            tick(0, 1)
            result = upscale(upscalers[name], source, Path(folder, secrets.token_hex(8)), max_pixels, tick)
        except Superseded:
            return gr.skip(), gr.skip(), gr.skip()
        except UserError as error:
            answered[session] = (asked, picture, name)
            return None, gr.DownloadButton(visible=False), f"**{source.name}: {error}.**"
        answered[session] = (asked, picture, name)
        return result.previews, gr.DownloadButton(value=result.file, visible=True), result.note

    return Handlers(accept, ask, answer, leave)


def _refuse_addresses(file: Any) -> None:
    """Make the upload box accept only uploads: gradio would fetch any address for anybody."""
    import gradio as gr

    move_to_cache = file.async_move_resource_to_block_cache

    async def move_upload_to_cache(url_or_file_path: str | Path | None) -> str | None:
        if str(url_or_file_path).startswith(("http:", "https:")):
            raise gr.Error("Upload the file.", print_exception=False)
        return await move_to_cache(url_or_file_path)

    file.async_move_resource_to_block_cache = move_upload_to_cache


def _of_own_page(headers: Mapping[str, str]) -> bool:
    """False for what a script of another site asks, by its Origin; programs send none."""
    origin, host = headers.get("origin"), headers.get("host", "")
    if not origin:
        return True
    hosts = [host]
    if re.fullmatch(r"(localhost|127\.0\.0\.1|\[::1\])(:\d+)?", host):  # a proxy on this machine may stand before it
        hosts.append(headers.get("x-forwarded-host", host).split(",")[0].strip())
    return origin.partition("://")[2] in hosts


def launch(demo: "gr.Blocks", host: str, port: int | None, max_file_mib: int) -> str:
    """Serve the page in the background and return its address. It gives access only to the page's own files."""
    from fastapi import Depends, HTTPException, Request
    from gradio.themes import Default

    def refuse(request: Request) -> None:
        if PROXY_PATHS.search(request.url.path) or not _of_own_page(request.headers):
            raise HTTPException(403)

    for name in ("no_proxy", "NO_PROXY"):  # gradio asks the page whether it is there, which no proxy should answer
        environ[name] = ",".join(filter(None, (environ.get(name), "127.0.0.1,localhost,::1", host)))
    _, address, _ = demo.launch(
        server_name=f"[{host}]" if ":" in host else host,
        server_port=port,
        share=False,
        inbrowser=False,
        prevent_thread_lock=True,
        quiet=True,
        show_error=False,
        allowed_paths=[],
        max_file_size=max_file_mib * 2**20,
        footer_links=[],
        run_history=False,
        enable_monitoring=False,
        ssr_mode=False,
        mcp_server=False,
        pwa=False,
        app_kwargs={"dependencies": [Depends(refuse)], "docs_url": None, "redoc_url": None, "openapi_url": None},
        # System fonts, since gradio's themes may load fonts from elsewhere.
        theme=Default(primary_hue="blue", font=("system-ui", "sans-serif"), font_mono=("ui-monospace", "monospace")),
        css=CSS,
    )
    return address


# --- the command ------------------------------------------------------------------------------------------------------


def load_choices(given: Sequence[str], device: str) -> dict[str, Upscaler]:
    """Load the weights that the page offers: the given ones, then the packaged ones, ×4 first and faces last.

    Returns the name on the page → the upscaler. Raises UserError if there are no weights or some can't be loaded.
    """
    names = [*dict.fromkeys([*given, *packaged.names()])]
    if not names:
        raise UserError("no weights come with the package; name some by --weights PATH")
    loaded = [load_generator(name, device) for name in names]
    others = len(set(given))
    own = sorted(loaded[others:], key=lambda upscaler: (upscaler.scale != 4, upscaler.name.count("_")))
    choices: dict[str, Upscaler] = {}
    for upscaler in loaded[:others] + own:
        same_name = sum(other.name == upscaler.name for other in choices.values())
        choices[f"{upscaler.name} ({same_name + 1})" if same_name else upscaler.name] = upscaler
    return choices


def check_address(host: str, port: int | None) -> None:
    """Raise UserError if the address can't be used."""
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port or 0, type=socket.SOCK_STREAM)[0]
        with socket.socket(family) as trial:
            trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            trial.bind(address)
    except (OSError, UnicodeError) as error:  # UnicodeError for an impossible name, such as a..b
        where = host if port is None else f"{host}, port {port}"
        reason = error.strerror if isinstance(error, OSError) else error
        raise UserError(f"{where}: can't listen there ({reason}); try another --host or --port") from error


def serve(options: argparse.Namespace) -> None:
    """Serve the page until Ctrl-C. Raises UserError if that isn't possible."""
    limit = (Image.MAX_IMAGE_PIXELS or 0) / 1e6  # Pillow reads this much without a warning
    if not 0 < options.max_megapixels <= limit:
        raise UserError(f"--max-megapixels {options.max_megapixels:g}: expected more than 0, at most {limit:.0f}")
    if options.max_file_mib < 1:
        raise UserError(f"--max-file-mib {options.max_file_mib}: expected 1 or more")
    if find_spec("gradio") is None:
        raise UserError("the page needs gradio; pip install 'srgan[serve]'")
    host = options.host.strip("[]")  # of an IPv6 address
    check_address(host, options.port)
    upscalers = load_choices(options.weights, options.device)
    with tempfile.TemporaryDirectory(prefix="srgan-") as folder:
        # Gradio serves everything in these two folders, so they hold only the page's own files.
        environ["GRADIO_TEMP_DIR"] = environ["GRADIO_EXAMPLES_CACHE"] = str(Path(folder).resolve())
        demo = page(upscalers, options.max_megapixels, options.max_file_mib)
        for name in ("SIGTERM", "SIGHUP"):  # otherwise the pictures would be left behind; Windows has no SIGHUP
            if hasattr(signal, name) and signal.getsignal(getattr(signal, name)) != signal.SIG_IGN:  # nohup's stays
                signal.signal(getattr(signal, name), signal.default_int_handler)
        try:
            try:
                address = launch(demo, host, options.port, options.max_file_mib)
            except OSError as error:  # gradio looks for a free port of its own accord, also on 127.0.0.1
                raise UserError(f"{host}: can't listen there ({error}); try another --port") from error
            print(address, flush=True)
            threading.Event().wait()
        except KeyboardInterrupt:
            demo.close(verbose=False)


def _parser() -> argparse.ArgumentParser:
    parser = cli.new_parser(
        "serve",
        "A page on this machine to upscale pictures: before and after with a slider, zoom, download. "
        "It loads nothing from elsewhere and deletes what was uploaded. Needs pip install 'srgan[serve]'.",
        "--weights outputs/NAME/TIME/checkpoints/last.ckpt",
    )
    parser.add_argument(
        "-w",
        "--weights",
        action="append",
        default=[],
        metavar="WEIGHTS",
        help="to offer beside those of the package: a checkpoint or exported weights; may be given several times",
    )
    parser.add_argument("--host", default="127.0.0.1", help="0.0.0.0 lets other machines in (default: %(default)s)")
    parser.add_argument(
        "--port", type=int, choices=range(1, 65536), metavar="N", help="(default: the first from 7860 on that is free)"
    )
    parser.add_argument(
        "--max-megapixels", type=float, default=4, metavar="N", help="of an uploaded picture (default: %(default)s)"
    )
    parser.add_argument(
        "--max-file-mib", type=int, default=20, metavar="N", help="of an uploaded file (default: %(default)s)"
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1 … (default: auto)")
    return parser


def main(arguments: Sequence[str] | None = None) -> None:
    options = _parser().parse_args(arguments)
    cli.run(lambda: serve(options))


if __name__ == "__main__":
    main()
