"""Runs every command: the table of commands, the way errors are reported, the exit codes.

`python -m srgan.train …` runs the file `train.py`; `srgan train …`, which `pip install` gives, is the same.
"""

import argparse
import io
import sys
from collections.abc import Callable, Sequence
from importlib import import_module

from srgan.errors import UserError, fault_of_machine

INTERRUPTED = 130  # the exit code that shells expect after Ctrl-C
COMMANDS = {
    "train": "train a generator, then score the test images",
    "evaluate": "score models on a benchmark under named protocols",
    "leaderboard": "score systems and keep them in a table",
    "tune": "search for good settings: trainings chosen by Optuna",
    "look": "write a picture of LR and HR as training sees them",
    "check_data": "read a whole data set and list what is wrong with it",
    "shard": "write a data set as shards, for training on more images than a disk holds",
    "report": "make one HTML page of a sweep or of runs",
    "upscale": "upscale picture files",
    "serve": "upscale pictures on a page in the browser",
    "export": "write a trained generator as one file for other programs",
    "dashboard": "save a view of a Weights & Biases project",
    "speed": "time training, loading and upscaling on this machine",
}


def run(work: Callable[[], int | None]) -> None:
    """Run a command and exit with the code that it returns, if that isn't 0.

    A UserError and a fault of the machine become one line on stderr and exit code 1, Ctrl-C exit code 130.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # like stderr: file names may contain bytes that aren't text
    try:
        code = work()
    except UserError as error:
        code = fail(message(error))
    except KeyboardInterrupt:
        code = INTERRUPTED
    except (OSError, MemoryError, RuntimeError) as error:
        if (fault := fault_of_machine(error, "close other programs that use it")) is None:
            raise
        code = fail(fault)
    if code:
        sys.exit(code)


def fail(text: str) -> int:
    """Print an error on stderr and return the exit code for it."""
    print(f"error: {text}", file=sys.stderr, flush=True)
    return 1


def message(error: UserError) -> str:
    """The user-facing text, unwrapped from a loader worker's traceback."""
    text = str(error)
    if text.startswith("Caught "):
        text = text.rstrip().rpartition(f"{UserError.__module__}.{UserError.__name__}: ")[2]
    return text


def new_parser(command: str, description: str, example: str) -> argparse.ArgumentParser:
    """An empty parser for a command of the table; `example` are the arguments shown at the end of its help."""
    program = f"python -m srgan.{command}"
    return argparse.ArgumentParser(prog=program, description=description, epilog=f"Example: {program} {example}")


def main(arguments: Sequence[str] | None = None) -> None:
    """`srgan COMMAND …`: run a command as `python -m srgan.COMMAND …` would."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if not given or given[0] in ("-h", "--help"):
        width = max(map(len, COMMANDS)) + 2
        rows = "\n".join(f"  {name:{width}}{summary}" for name, summary in COMMANDS.items())
        print(f"usage: srgan COMMAND …\n\n{rows}\n\nsrgan COMMAND --help says more.")
        return
    command, *rest = given
    if command not in COMMANDS:
        sys.exit(fail(f"no command {command!r}; there are {', '.join(COMMANDS)}"))
    module = import_module(f"srgan.{command}")
    sys.argv = [str(module.__file__), *rest]
    sys.modules["__main__"].__spec__ = module.__spec__  # by which Lightning starts other processes of a training
    module.main()
