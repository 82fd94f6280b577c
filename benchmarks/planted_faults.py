"""Plants faults in the core modules, one at a time, and reports which of them the tests catch.

python benchmarks/planted_faults.py TREE --output before.json                          # a sample of 150 faults
python benchmarks/planted_faults.py OTHER --only-in before.json --output after.json    # the same faults, other tests

A fault is one small change of one statement: a comparison turned round, a constant off by one, a call left out. Where
no test fails, the tests would let such a mistake pass, or the change makes no difference (an "equivalent" fault; who
reads the survivors marks it by `"equivalent": "the reason"` in the JSON file, and it is left out of the shares).

A fault is known by its file, the function it stands in, and the statement before and after; so it is found again in
another tree whose code around it is another. The sample is drawn by a hash of the same, each module and each kind of
change in turn.

Tests run in forks of one process that has imported the large libraries, in temporary copies of the tree: first those
of the module's own folder, then those of what depends on it, up to the first failure. The tests are first run without
a fault; those that fail then are named and left out. A second call with the same --output goes on where the first
one stopped.
"""

import argparse
import ast
import contextlib
import copy
import hashlib
import importlib
import importlib.util
import json
import multiprocessing
import os
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter, defaultdict
from collections.abc import Generator, Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

PACKAGE = Path("src/srgan")
CORE = (
    *("metrics/*.py", "losses/*.py", "models/generators.py", "models/discriminators.py", "models/folding.py"),
    *("models/shuffling.py", "training/step.py", "training/phases.py", "data/crops.py", "data/degradation.py"),
    "imresize.py",
)

# Tests of what depends on a folder or on a module; before them come the tests of the folder itself. Names of files
# below tests/, wherever they lie there; one that a tree doesn't have is passed over.
DEPENDANTS = {
    "metrics": "test_score test_module test_evaluate test_train",
    "losses": "test_step test_module test_graph test_conf test_train test_train_command",
    "models": "test_step test_module test_tiles test_upscaler test_methods test_spandrel_plugin test_export test_train",
    "training": "test_conf test_train test_train_command",
    "data": "test_benchmarks test_score test_train test_train_command",
    "imresize": "test_datamodule test_generators test_folding test_protocol test_consistency test_evaluate",
}
PRELOADED = (
    *("numpy", "PIL.Image", "torch", "torch.utils.data", "torch._dynamo", "torchvision", "torchvision.models"),
    *("torchvision.transforms.v2", "torchmetrics", "torchmetrics.image", "torchmetrics.image.fid"),
    *("torchmetrics.image.lpip", "lightning", "lightning.pytorch", "hydra", "omegaconf", "wandb", "pytest"),
)
ENVIRONMENT = {  # threads, once started, don't survive a fork; those that spin take the other job's time
    **dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1"),
    "OMP_WAIT_POLICY": "PASSIVE",
    "PYTHONDONTWRITEBYTECODE": "1",
}
MEMORY = 8 * 2**30  # bytes of addresses a process may have: a fault that allocates for ever must not stop the machine


# ------------------------------------------------------------------------------------------------------- the operators


def words(text: str) -> list[str]:
    return text.split()


def swaps(text: str) -> dict[str, str]:
    """{"a": "b"} of "a>b"."""
    return dict(pair.split(">") for pair in words(text))


COMPARISONS = swaps("Lt>LtE LtE>Lt Gt>GtE GtE>Gt Eq>NotEq NotEq>Eq Is>IsNot IsNot>Is In>NotIn NotIn>In")
ARITHMETIC = swaps(
    "Add>Sub Sub>Add Mult>Div Div>Mult Pow>Mult FloorDiv>Mod Mod>FloorDiv RShift>LShift LShift>RShift BitXor>BitOr"
    " BitAnd>BitOr"
)
FUNCTIONS = swaps(
    "min>max max>min sum>mean mean>sum floor>ceil ceil>floor round>floor amin>amax amax>amin any>all all>any"
    " zeros>ones ones>zeros zeros_>ones_ zeros_like>ones_like exp>log log10>log sqrt>square square>abs rsqrt>sqrt"
    " cos>sin relu>softplus softplus>relu mse_loss>l1_loss l1_loss>mse_loss avg_pool2d>max_pool2d eval>train"
    " no_grad>enable_grad"
)
BUILT_IN = {"min", "max", "any", "all"}  # the rest of FUNCTIONS stand after a dot
DROPPABLE = words(
    "clamp round detach square float double long abs sqrt rsqrt floor ceil eval train requires_grad_ clone copy flip"
    " transpose permute repeat_interleave remainder norm log exp to contiguous byte mean sum"
)
ORDER_IS_FREE = words("isinstance issubclass hasattr getattr cast min max zip mse_loss l1_loss psnr ssim daala_ssim")
KEPT_KEYWORDS = words("strict device inplace stacklevel progress map_location maxsize encoding")
DECORATORS = words("no_grad inference_mode property cached_property staticmethod lru_cache")
LIBRARIES = words("torch F nn np math random hub functional")
MESSAGES = {"log", "logger", "logging", "warnings", "print"}


def changed(node: Any, **fields: object) -> Any:
    node = copy.copy(node)
    for name, value in fields.items():
        setattr(node, name, value)
    return node


def other_operator(table: dict[str, str], operator: ast.AST) -> list[Any]:
    """The operator that takes its place, in a list that is empty if there is none."""
    name = type(operator).__name__
    return [getattr(ast, table[name])()] if name in table else []


def last_name(node: ast.AST) -> str:
    """`square` of `x.square` and of `square`, "" of anything without a name."""
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""


def without(items: list[Any], index: int) -> list[Any]:
    return items[:index] + items[index + 1 :]


def operators_changed(node: ast.expr) -> Iterator[tuple[str, ast.expr]]:
    """Other comparisons, other arithmetic, other logic."""
    match node:
        case ast.Compare():
            for index, operator in enumerate(node.ops):
                for other in other_operator(COMPARISONS, operator):
                    yield "comparison", changed(node, ops=[*node.ops[:index], other, *node.ops[index + 1 :]])
        case ast.BinOp():
            texts = (ast.JoinedStr, ast.Constant)
            if not any(isinstance(side, texts) and not is_number(side) for side in (node.left, node.right)):
                for other in other_operator(ARITHMETIC, node.op):
                    yield "arithmetic", changed(node, op=other)
        case ast.BoolOp():
            yield "and, or", changed(node, op=ast.Or() if isinstance(node.op, ast.And) else ast.And())
        case ast.UnaryOp(op=ast.Not() | ast.USub()):
            yield "sign", node.operand
        case ast.IfExp():
            yield "branches", changed(node, body=node.orelse, orelse=node.body)
        case _:
            pass


def is_number(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and type(node.value) in (int, float)


def constants_changed(node: ast.expr) -> Iterator[tuple[str, ast.expr]]:
    if isinstance(node, ast.Constant):
        if isinstance(node.value, bool):
            yield "True, False", ast.Constant(not node.value)
        elif isinstance(node.value, int):
            yield "constant", ast.Constant(node.value + 1)
        elif isinstance(node.value, float):
            yield "constant", ast.Constant(float(f"{node.value * 1.1:.6g}") if node.value else 1.0)


def calls_changed(node: ast.expr) -> Iterator[tuple[str, ast.expr]]:
    """Another function, a call left out, two arguments swapped, a keyword left out."""
    if not isinstance(node, ast.Call):
        return
    function, name = node.func, last_name(node.func)
    if isinstance(function, ast.Attribute):
        if name in FUNCTIONS:
            yield "function", changed(node, func=changed(function, attr=FUNCTIONS[name]))
        if name in DROPPABLE and "device" not in ast.unparse(node) and last_name(function.value) not in LIBRARIES:
            yield "call left out", function.value
    elif name in BUILT_IN:
        yield "function", changed(node, func=ast.Name(FUNCTIONS[name], ast.Load()))
    if len(node.args) == 2 and type(node.args[0]) is type(node.args[1]) and name not in ORDER_IS_FREE:
        yield "arguments swapped", changed(node, args=node.args[::-1])
    for index, keyword in enumerate(node.keywords):
        if keyword.arg is not None and keyword.arg not in KEPT_KEYWORDS:
            yield "keyword left out", changed(node, keywords=without(node.keywords, index))


EXPRESSION_OPERATORS = (operators_changed, constants_changed, calls_changed)


@dataclass(frozen=True)
class Edit:
    """A change of one field of one node; `made` while the context lasts."""

    operator: str
    node: ast.AST
    field: str
    value: object

    @contextlib.contextmanager
    def made(self) -> Generator[None]:
        before = getattr(self.node, self.field)
        setattr(self.node, self.field, self.value)
        try:
            yield
        finally:
            setattr(self.node, self.field, before)


def expression_edits(statement: ast.stmt) -> Iterator[Edit]:
    """Edits of the statement's own expressions: not of statements in it, annotations or the text of f-strings."""
    parents: list[ast.AST] = [statement]
    while parents:
        parent = parents.pop()
        for field, value in ast.iter_fields(parent):
            many = isinstance(value, list)
            for index, node in enumerate(value if many else [value]):
                if field in ("annotation", "returns", "decorator_list") or not isinstance(node, ast.AST):
                    continue
                if isinstance(node, ast.stmt | ast.excepthandler | ast.match_case | ast.JoinedStr):
                    continue
                if isinstance(node, ast.keyword) and node.arg in KEPT_KEYWORDS:
                    continue
                parents.append(node)
                if isinstance(node, ast.expr):
                    for operator, other in (pair for change in EXPRESSION_OPERATORS for pair in change(node)):
                        new = [*value[:index], other, *value[index + 1 :]] if many else other
                        yield Edit(operator, parent, field, new)


def statement_edits(statement: ast.stmt, parent: ast.AST, field: str, index: int, returns: str) -> Iterator[Edit]:
    """Edits of the statement as a whole. `returns`: what the function around it returns, by its annotation."""
    others = getattr(parent, field)
    left_out = Edit("statement left out", parent, field, [*others[:index], ast.Pass(), *others[index + 1 :]])
    match statement:
        case ast.Expr(value=ast.Call()) if not ast.unparse(statement).startswith("super().__init__"):
            yield left_out
        case ast.Assign(targets=[ast.Attribute()]) | ast.AugAssign():
            yield left_out
            if isinstance(statement, ast.AugAssign) and not isinstance(statement.value, ast.List):
                for other in other_operator(ARITHMETIC, statement.op):
                    yield Edit("arithmetic", statement, "op", other)
        case ast.If() | ast.While():
            if not isinstance(statement.test, ast.Compare | ast.UnaryOp):  # theirs are turned round by other operators
                yield Edit("condition", statement, "test", ast.UnaryOp(ast.Not(), statement.test))
            if isinstance(statement.body[-1], ast.Raise) and not statement.orelse:
                yield left_out
        case ast.Return(value=ast.expr() as value) if returns in ("Tensor", "float", "int"):
            yield Edit("sign", statement, "value", ast.UnaryOp(ast.USub(), value))
        case ast.Return(value=ast.expr() as value) if returns == "bool":
            yield Edit("sign", statement, "value", ast.UnaryOp(ast.Not(), value))
        case ast.FunctionDef():
            for place, decorator in enumerate(statement.decorator_list):
                if last_name(decorator.func if isinstance(decorator, ast.Call) else decorator) in DECORATORS:
                    rest = without(statement.decorator_list, place)
                    yield Edit("decorator left out", statement, "decorator_list", rest)
        case _:
            pass


# ---------------------------------------------------------------------------------------------------- finding of faults


@dataclass(frozen=True)
class Fault:
    """One fault and, once the tests were run, what they said.

    Attributes:
        id: hash of the file, the scope, the statement before and after, and of how many equal faults come before it.
        file: below src/srgan.
        scope: qualified name of the function or class around the statement, "" for the module.
        before, after: the statement without what is nested in it.
        verdict: "caught", "survived" or "" if not run yet.
        by: the test that failed first.
        equivalent: why no test can catch it, "" if one can.
    """

    id: str
    file: str
    line: int
    scope: str
    operator: str
    before: str
    after: str
    verdict: str = ""
    by: str = ""
    seconds: float = 0.0
    equivalent: str = ""

    @property
    def module(self) -> str:
        return Path(self.file).stem


def text_of(statement: ast.AST) -> str:
    """The statement on one line, without the statements in it."""
    nested = {name: [] for name in ("body", "orelse", "finalbody", "handlers") if hasattr(statement, name)}
    return " ".join(ast.unparse(changed(statement, **nested)).split())


def is_skipped(statement: ast.stmt) -> bool:
    """True if nothing in it is worth a fault: imports, assertions, errors and messages."""
    match statement:
        case ast.Raise() | ast.Assert() | ast.Import() | ast.ImportFrom():
            return True
        case ast.Expr(value=ast.Call() as call):
            return ast.unparse(call.func).split(".")[0] in MESSAGES
        case ast.FunctionDef():
            return statement.name in ("__repr__", "__str__", "extra_repr")
        case ast.If():
            return last_name(statement.test) == "TYPE_CHECKING"
        case _:
            return False


def edits_in(parent: ast.AST, scope: str, returns: str) -> Iterator[tuple[Edit, ast.stmt, str]]:
    """Each edit below `parent`, with the statement that it changes and the scope of that."""
    for field in ("body", "orelse", "finalbody", "handlers"):
        nodes = getattr(parent, field, [])
        if not isinstance(nodes, list):  # of a lambda
            continue
        if not isinstance(parent, ast.FunctionDef) and nodes and isinstance(nodes[-1], ast.Raise):
            continue  # what leads to an error's text
        for index, node in enumerate(nodes):
            if isinstance(node, ast.excepthandler):
                yield from edits_in(node, scope, returns)
            elif not is_skipped(node):
                for edit in (*statement_edits(node, parent, field, index, returns), *expression_edits(node)):
                    yield edit, node, scope
                named = isinstance(node, ast.FunctionDef | ast.ClassDef)
                inner = f"{scope}.{node.name}".lstrip(".") if named else scope
                result = last_name(node.returns) if isinstance(node, ast.FunctionDef) and node.returns else returns
                yield from edits_in(node, inner, result)


def faults_of_file(package: Path, file: Path) -> Iterator[tuple[Fault, str]]:
    """The faults of one module, each with the module's text that has it."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    original, counts = ast.unparse(tree), Counter[tuple[str, ...]]()
    name = file.relative_to(package).as_posix()
    for edit, statement, scope in edits_in(tree, "", ""):
        before = text_of(statement)
        with edit.made():
            after = "pass" if edit.operator == "statement left out" else text_of(statement)
            mutated = ast.unparse(ast.fix_missing_locations(tree))
        try:
            compile(mutated, name, "exec")
        except SyntaxError:
            continue
        if mutated != original and before != after:
            key = (name, scope, before, after)
            known_by = hashlib.sha256(repr((*key, counts[key])).encode()).hexdigest()[:12]
            counts[key] += 1
            yield Fault(known_by, name, statement.lineno, scope, edit.operator, before, after), mutated


def find_faults(tree: Path) -> dict[Fault, str]:
    """Every fault that can be planted in the tree's core, with the text of its module then."""
    package = tree / PACKAGE
    files = sorted({file for pattern in CORE for file in package.glob(pattern)})
    return {fault: text for file in files for fault, text in faults_of_file(package, file)}


def sample(faults: Iterable[Fault], size: int) -> list[Fault]:
    """`size` faults: each module in proportion to the root of its number."""
    modules: defaultdict[str, list[Fault]] = defaultdict(list)
    for fault in sorted(faults, key=lambda fault: fault.id):
        modules[fault.module].append(fault)
    taken: Counter[str] = Counter()
    for _ in range(min(size, sum(map(len, modules.values())))):
        left = [module for module in sorted(modules) if taken[module] < len(modules[module])]
        taken[min(left, key=lambda module: (taken[module] + 1) / len(modules[module]) ** 0.5)] += 1
    return [fault for module in sorted(modules) for fault in varied(modules[module], taken[module])]


def varied(faults: list[Fault], size: int) -> list[Fault]:
    """`size` of the faults in turns of the operators and of the statements."""
    left, chosen = list(faults), list[Fault]()
    counts: Counter[object] = Counter()
    for _ in range(size):
        fault = min(left, key=lambda fault: counts[fault.operator] + 2 * counts[fault.scope, fault.before])
        counts.update([fault.operator, (fault.scope, fault.before)])
        left.remove(fault)
        chosen.append(fault)
    return chosen


# ------------------------------------------------------------------------------------------------------------ the tests


def test_lists(tree: Path, file: str) -> list[list[str]]:
    """Paths of the tests for a module: those of its folder, its own first; those of what depends on it."""
    tests, path = tree / "tests", Path(file)
    group = path.stem if path.stem in DEPENDANTS else path.parts[0]
    everything = sorted(tests.rglob("test_*.py"))
    own = [test for test in everything if test.stem == f"test_{path.stem}"]
    if group == path.parts[0]:
        own += [test for test in everything if tests / group in test.parents or test.stem == f"test_{group}"]
    order = words(DEPENDANTS[group])
    later = [test for name in order for test in everything if test.stem == name and test not in own]
    if not own:
        raise SystemExit(f"no test of {file} below {tests}: expected tests/{path.parent}/test_{path.stem}.py")
    lists = [list(dict.fromkeys(own)), list(dict.fromkeys(later))]
    return [[test.relative_to(tree).as_posix() for test in tests] for tests in lists if tests]


@dataclass
class Outcome:
    """How a run of tests ended: `code` is the exit status of pytest (or −9 and the like), None past the time limit."""

    code: int | None
    seconds: float
    failures: list[str]


class Copy:
    """A temporary copy of a tree, in which one module at a time is rewritten and the tests are run in a fork."""

    def __init__(self, tree: Path, folder: Path) -> None:
        self.root, self.temporary, self.log, self.failures = (folder / name for name in words("copy tmp log failures"))
        self.root.mkdir(parents=True)
        (self.root / "outputs").mkdir()
        if (tree.parent / "shared").exists():
            (folder / "shared").symlink_to((tree.parent / "shared").resolve())
        unused = shutil.ignore_patterns("__pycache__", ".*")
        for path in tree.iterdir():
            if path.is_file():
                shutil.copy(path, self.root)
            elif path.name != "outputs" and not path.name.startswith("."):
                shutil.copytree(path, self.root / path.name, ignore=unused)

    @contextlib.contextmanager
    def holding(self, file: str, text: str) -> Generator[None]:
        path = self.root / PACKAGE / file
        before = path.read_bytes()
        path.write_text(text, encoding="utf-8")
        try:
            yield
        finally:
            path.write_bytes(before)

    def run(self, arguments: list[str], limit: float) -> Outcome:
        """Run pytest for at most `limit` seconds, then stop it and what it started."""
        self.failures.write_text("")
        shutil.rmtree(self.temporary, ignore_errors=True)
        begun, process = time.monotonic(), self._start(arguments)
        done = status = 0
        try:
            while not done and time.monotonic() - begun < limit:
                done, status = os.waitpid(process, os.WNOHANG)
                time.sleep(0 if done else 0.05)
        finally:
            for kill in (os.killpg, os.kill) if not done else (os.killpg,):
                with contextlib.suppress(ProcessLookupError):
                    kill(process, signal.SIGKILL)
            if not done:
                os.waitpid(process, 0)
        code = os.waitstatus_to_exitcode(status) if done else None
        return Outcome(code, time.monotonic() - begun, self.failures.read_text().splitlines())

    def _start(self, arguments: list[str]) -> int:
        """Start pytest in a fork of this process, in a process group of its own. Returns its id."""
        process = os.fork()
        if process:
            return process
        code = 70
        try:
            os.setsid()
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            log = os.open(self.log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            for stream, target in ((os.open(os.devnull, os.O_RDONLY), 0), (log, 1), (log, 2)):
                os.dup2(stream, target)
            code = self._run_pytest(arguments)
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)

    def _run_pytest(self, arguments: list[str]) -> int:
        import pytest

        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
        source = str(self.root / "src")
        os.chdir(self.root)
        os.environ["PYTHONPATH"] = source
        sys.path[:] = [source, *(path for path in sys.path if not (Path(path) / "srgan/__init__.py").exists())]
        spec = importlib.util.find_spec("srgan")
        if spec is None or spec.origin != f"{source}/srgan/__init__.py":
            print(f"srgan is imported from {spec and spec.origin}, not from {source}")
            return 71
        failures = self.failures

        class Recorder:
            def pytest_runtest_logreport(self, report: Any) -> None:
                self.pytest_collectreport(report)

            def pytest_collectreport(self, report: Any) -> None:
                if report.failed:
                    with failures.open("a") as file:
                        file.write(report.nodeid + "\n")

        fixed = ["-q", "-p", "no:cacheprovider", f"--rootdir={self.root}", f"--basetemp={self.temporary}", "-c"]
        quiet = ["-W", "ignore:Module already imported:pytest.PytestAssertRewriteWarning"]  # by this process
        return int(pytest.main([*fixed, f"{self.root}/pyproject.toml", *quiet, *arguments], plugins=[Recorder()]))


def preload() -> None:
    """Import what the tests need anyway, but nothing of srgan."""
    os.environ.update(ENVIRONMENT)
    for name in PRELOADED:
        importlib.import_module(name)
    assert "srgan" not in sys.modules


# What the processes of the pool do: each has a copy of the tree.


def prepare(tree: Path, folder: Path) -> None:
    global place
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # when the pool ends: the tests that run are stopped
    place = Copy(tree, folder / f"{os.getpid()}")


def run_without_fault(tests: list[str]) -> tuple[str, dict[str, Any]]:
    """The tests' key in `Report.baseline`, and their seconds and failures. Raises RuntimeError if they can't run."""
    outcome = place.run(tests, 1800.0)
    if outcome.code not in (0, 1):
        raise RuntimeError(f"pytest ended with {outcome.code}:\n{place.log.read_text()[-3000:]}")
    return key_of(tests), {"seconds": round(outcome.seconds, 1), "failures": sorted(set(outcome.failures))}


def run_fault(job: tuple[Fault, str, list[tuple[list[str], float]], list[str], float]) -> Fault:
    """Plant a fault and run its tests, up to the first failure, for at most so many seconds.

    The job: the fault, the module's text that has it, lists of tests with their usual seconds, options, the limit.
    """
    fault, text, lists, options, limit = job
    seconds = 0.0
    with place.holding(fault.file, text):
        for tests, usual in lists:
            outcome = place.run(["-x", *options, *tests], max(limit - seconds, 4 * usual))
            seconds += outcome.seconds
            if outcome.code in (70, 71):
                raise RuntimeError(place.log.read_text())
            if outcome.code != 0:
                ends = "past the time limit" if outcome.code is None else f"pytest ended with {outcome.code}"
                by = outcome.failures[0] if outcome.failures else ends
                return replace(fault, verdict="caught", by=by, seconds=round(seconds, 1))
    return replace(fault, verdict="survived", seconds=round(seconds, 1))


def key_of(tests: list[str]) -> str:
    return " ".join(sorted(tests))


# ------------------------------------------------------------------------------------------------------ a run of it all


class Report:
    """The JSON file: the faults with their verdicts, and the tests' outcome without a fault. Written at each change."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.faults: dict[str, Fault] = {}
        self.baseline: dict[str, dict[str, Any]] = {}
        if path.is_file():
            content = json.loads(path.read_text(encoding="utf-8"))
            self.faults = {entry["id"]: Fault(**entry) for entry in content["faults"]}
            self.baseline = content["baseline"]

    def write(self) -> None:
        content = {"baseline": self.baseline, "faults": [asdict(fault) for fault in self.faults.values()]}
        new = self.path.with_name(self.path.name + ".new")
        new.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        new.replace(self.path)

    def failing(self) -> list[str]:
        """Tests that fail without a fault."""
        return sorted({test for entry in self.baseline.values() for test in entry["failures"]})

    def put(self, fault: Fault) -> None:
        self.faults[fault.id] = fault
        self.write()
        done = sum(bool(other.verdict) for other in self.faults.values())
        print(f"{done}/{len(self.faults)} {fault.verdict} {fault.seconds:.0f}s {one_line(fault)}", flush=True)


def one_line(fault: Fault) -> str:
    """The fault on one line: where it stands, what was there and what is there now."""
    length = min(len(fault.before), len(fault.after))
    start = next((i for i in range(length) if fault.before[i] != fault.after[i]), length)
    start = 0 if start < 40 else start - 20
    before, after = (("…" if start else "") + text[start : start + 90] for text in (fault.before, fault.after))
    return f"{fault.file}:{fault.line} {fault.scope}: {before}  →  {after}"


def table(faults: Iterable[Fault], others: dict[str, Fault]) -> str:
    """Planted and caught by module; with the share that another run (`others`, by id) caught of the same faults."""
    rows: defaultdict[str, list[Fault]] = defaultdict(list)
    for fault in faults:
        if fault.verdict:
            rows[fault.module].append(fault)
    compared = any(fault.verdict for fault in others.values())
    lines = [f"{'module':<16}{'planted':>8}{'equivalent':>11}{'caught':>8}{'share':>8}" + "  the other's" * compared]
    for module, entries in [*sorted(rows.items()), ("all", [fault for row in rows.values() for fault in row])]:
        real = [fault for fault in entries if not (fault.equivalent or others.get(fault.id, fault).equivalent)]
        there = [others[fault.id] for fault in real if fault.id in others and others[fault.id].verdict]
        caught, before = (sum(fault.verdict == "caught" for fault in group) for group in (real, there))
        line = (
            f"{module:<16}{len(entries):>8}{len(entries) - len(real):>11}{caught:>8}{caught / (len(real) or 1):>8.0%}"
        )
        lines.append(line + f"{before:>6}{before / (len(there) or 1):>7.0%}" * compared)
    return "\n".join(lines)


def faults_to_plant(texts: dict[Fault, str], tree: Path, only_in: Path | None, size: int) -> list[Fault]:
    """A sample of a tree's faults, or what it has of the saved list `only_in`."""
    if only_in is None:
        return sample(texts, size)
    here, chosen = {fault.id: fault for fault in texts}, list[Fault]()
    for fault in Report(only_in).faults.values():
        if fault.id in here:
            chosen.append(replace(here[fault.id], equivalent=fault.equivalent))
        else:
            print(f"not in {tree}: {one_line(fault)}")
    return chosen


def conclusion(faults: Iterable[Fault], others: dict[str, Fault]) -> str:
    """Who survived, and the table."""
    lines: list[str] = []
    for fault in (fault for fault in faults if fault.verdict == "survived"):
        other = others.get(fault.id, fault)
        reason = fault.equivalent or other.equivalent
        caught = f" [caught in the other run by {other.by}]" if other.verdict == "caught" else ""
        lines.append(f"  {one_line(fault)}{caught}" + f" [equivalent: {reason}]" * bool(reason))
    return "\n".join([f"\n{len(lines)} survived:", *lines, "", table(faults, others)])


def run(tree: Path, output: Path, only_in: Path | None, options: argparse.Namespace) -> None:
    report, found = Report(output), find_faults(tree)
    texts = {fault.id: text for fault, text in found.items()}
    if not report.faults:
        report.faults = {fault.id: fault for fault in faults_to_plant(found, tree, only_in, options.size)}
        report.write()
        print(f"{len(report.faults)} of {len(texts)} faults that can be planted in {tree}")
    remaining = [fault for fault in report.faults.values() if not fault.verdict]
    if options.list:
        return
    if lost := [fault for fault in remaining if fault.id not in texts]:
        raise SystemExit(f"{len(lost)} faults of {output} are not in {tree}, such as {one_line(lost[0])}")
    if remaining:
        preload()
        with (
            tempfile.TemporaryDirectory(prefix="planted_faults_") as folder,
            multiprocessing.get_context("fork").Pool(options.jobs, prepare, (tree, Path(folder))) as pool,
        ):
            lists = {fault.id: test_lists(tree, fault.file)[: 1 if options.own_tests else 2] for fault in remaining}
            missing = {key_of(tests): tests for each in lists.values() for tests in each}
            missing = [tests for key, tests in missing.items() if key not in report.baseline]
            for key, entry in pool.imap_unordered(run_without_fault, missing):
                report.baseline[key] = entry
                report.write()
                print(f"without a fault: {entry['seconds']:.0f}s, {len(entry['failures'])} fail: {key}", flush=True)
            for test in report.failing():
                print(f"fails without a fault, left out: {test}")
            deselected = [f"--deselect={test}" for test in report.failing()]
            timed = {
                key: [(tests, report.baseline[key_of(tests)]["seconds"]) for tests in each]
                for key, each in lists.items()
            }
            work = [(fault, texts[fault.id], timed[fault.id], deselected, options.limit) for fault in remaining]
            for fault in pool.imap_unordered(run_fault, work):
                report.put(fault)
    others = Report(only_in).faults if only_in is not None else {}
    print(conclusion(report.faults.values(), others))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tree", metavar="TREE", type=Path, help="a checkout: src/, tests/, conf/, pyproject.toml")
    parser.add_argument("--output", metavar="FILE", type=Path, required=True, help="JSON; gone on with if it exists")
    parser.add_argument("--only-in", metavar="FILE", type=Path, help="the faults of a saved list")
    parser.add_argument("--size", metavar="N", type=int, default=150, help="of the sample (default: 150)")
    parser.add_argument("--jobs", metavar="N", type=int, default=2, help="faults tested at a time (default: 2)")
    parser.add_argument("--limit", metavar="SECONDS", type=float, default=180, help="for one fault (default: 180)")
    parser.add_argument("--own-tests", action="store_true", help="only the tests of the module's own folder")
    parser.add_argument("--list", action="store_true", help="only write the list of faults")
    options = parser.parse_args()
    only_in = options.only_in and options.only_in.resolve()
    run(options.tree.resolve(), options.output, only_in, options)


if __name__ == "__main__":
    main()
