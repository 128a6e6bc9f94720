"""Who may import whom; what is light; and that the guard runs before the libraries that need it."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import continual

PACKAGE = Path(continual.__file__).parent

# A module or package imports only what stands before it: foundations, then the layers of the design.
ORDER = """
errors arguments threads deferred guard hub paths origin seeds sample synonyms problems words batch peak_memory
losscurve plugin progress prompts patterns scant targets
settings_base avalanche_settings catalogue merges rehearsal_settings guard_settings evaluate_settings remembered
chat_template chat_format chat correlation overlap statematch score forgetting general stream runs route
yamlfile settings arm_checks stream_settings overrides tuning wording
conversations taskfile rendering rowfiles pool sources task recipe
data crossentropy precision fused model portable
lora weights statistics corespace merge sampling kvcache request stoptext
nexttoken fold decode deltas adapters
evaluate perplexity rehearse curriculum learn methods
states record checkpoint material rehearsing ownwords breach teach
merged generalist arms paired pairing results card report lineage publish preflight estimate plan execute
verdict rollback
vocabulary corpus pretrain new_task show inference talk routing mergereport
listing serve skill merging export push using cli __main__
""".split()

LIGHT = "cli recipe plan estimate listing task score forgetting results report yamlfile sources runs verdict".split()
"""Modules that commands without a model need."""

HEAVY = ("torch", "transformers", "peft", "avalanche", "datasets", "accelerate", "torchvision")
NEED_GUARD = ("transformers", "peft", "avalanche")

FILES = sorted(PACKAGE.rglob("*.py"))


def unit(path: Path) -> str:
    """The module, or the package, that a file belongs to."""
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def ours(tree: ast.AST) -> Iterator[str]:
    """The modules of continual that a file imports, anywhere in it."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module == "continual":
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("continual."):
            yield str(node.module).split(".")[1]
        elif isinstance(node, ast.Import):
            yield from (a.name.split(".")[1] for a in node.names if a.name.startswith("continual."))


def imported(node: ast.AST) -> set[str]:
    """The libraries that one import statement brings in."""
    if isinstance(node, ast.Import):
        return {alias.name.split(".")[0] for alias in node.names}
    if isinstance(node, ast.ImportFrom) and node.level == 0:
        return {str(node.module).split(".")[0]}
    return set()


def is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


def unguarded(body: list[ast.stmt], guarded: bool = False) -> Iterator[int]:
    """Lines on which a library is imported that needs the guard, before the guard was called."""
    later: list[list[ast.stmt]] = []
    for node in body:
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
            guarded = guarded or (isinstance(node.value.func, ast.Name) and node.value.func.id == "guard")
        if not guarded and imported(node) & set(NEED_GUARD):
            yield node.lineno
        if is_type_checking(node):
            continue
        inner = [getattr(node, part, []) for part in ("body", "orelse", "finalbody")]
        inner += [handler.body for handler in getattr(node, "handlers", [])]
        # What a function does happens after the module's own lines.
        for block in inner:
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                later.append(block)
            else:
                yield from unguarded(block, guarded)
    for block in later:
        yield from unguarded(block, guarded)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_each_module_imports_only_what_stands_before_it(path: Path):
    name = unit(path)
    if name == "__init__":
        return
    assert name in ORDER, f"give continual/{name} its place in ORDER"
    before = {*ORDER[: ORDER.index(name)], name, "__version__"}
    assert set(ours(ast.parse(path.read_text(encoding="utf-8")))) <= before


def test_every_module_in_the_order_exists():
    assert set(ORDER) == {unit(path) for path in FILES} - {"__init__"}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_the_guard_is_called_first(path: Path):
    assert list(unguarded(ast.parse(path.read_text(encoding="utf-8")).body)) == []


@pytest.mark.parametrize(
    ("source", "lines"),
    [
        ("import peft", [1]),
        ("guard()\nimport peft", []),
        ("import peft\nguard()", [1]),
        ("def f():\n    from transformers import x", [2]),
        ("def f():\n    guard()\n    from transformers import x", []),
        ("def f():\n    import avalanche.core\nguard()", []),
        ("if TYPE_CHECKING:\n    import peft", []),
        ("try:\n    import peft\nexcept OSError:\n    import transformers", [2, 4]),
        ("class A:\n    def f(self):\n        import peft", [3]),
    ],
)
def test_an_unguarded_import_is_seen(source: str, lines: list[int]):
    assert list(unguarded(ast.parse(source).body)) == lines


def in_a_fresh_process(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], cwd=PACKAGE.parent, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_light_modules_load_nothing_heavy():
    imports = "; ".join(f"import continual.{name}" for name in LIGHT)
    code = f"import sys; {imports}; print(sorted(set({HEAVY}) & set(sys.modules)))"
    assert in_a_fresh_process(code).strip() == "[]"


def test_light_commands_load_nothing_heavy():
    for words in (["ls"], ["show", "quickstart"], ["validate", "quickstart"]):
        code = (
            "import sys; from continual.cli import main\n"
            f"try: main({words})\n"
            "except SystemExit as end: assert not end.code, end.code\n"
            f"print('heavy:', sorted(set({HEAVY}) & set(sys.modules)))"
        )
        assert in_a_fresh_process(code).splitlines()[-1] == "heavy: []", words


def test_help_needs_neither_pydantic_nor_yaml():
    code = "import sys, continual.cli; print(sorted({'pydantic', 'yaml', 'numpy'} & set(sys.modules)))"
    assert in_a_fresh_process(code).strip() == "[]"


@pytest.mark.slow
@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_each_module_can_be_the_first_to_be_imported(path: Path):
    name = ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__")
    if path.name != "__main__.py":
        in_a_fresh_process(f"import {name}")
