"""What a run has taught, as a folder or a file that other programs load: a plain adapter, a whole model, or GGUF."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from continual import lineage, lora
from continual.errors import ContinualError
from continual.guard import guard
from continual.inference import preferred, taught
from continual.listing import find_run
from continual.origin import Origin
from continual.portable import Form
from continual.problems import did_you_mean
from continual.route import BASE
from continual.runs import Run, read_json, write_folder

guard()

ADAPTER, CONFIG = "adapter_config.json", "config.json"
SCRIPTS = {True: "convert_lora_to_gguf.py", False: "convert_hf_to_gguf.py"}
"""llama.cpp's converters, of an adapter and of a whole model."""
GUARDED = """
import runpy, sys
from pathlib import Path
from continual.guard import guard
guard()
sys.argv = sys.argv[1:]
sys.path[0] = str(Path(sys.argv[0]).parent)
runpy.run_path(sys.argv[0], run_name="__main__")
"""
"""Runs a script that imports transformers, whatever torchvision there is."""
LLAMA_CPP = "LLAMA_CPP"
"""Environment variable with llama.cpp's folder."""


def find(source: str, adapter: str | None) -> Path:
    """The folder of an adapter or of a whole model: itself, or one of a run's.

    Raises:
        ContinualError: there is none.
    """
    folder = Path(source)
    if any((folder / name).is_file() for name in (ADAPTER, CONFIG)):
        if adapter is not None:
            raise ContinualError(f"--adapter: {source} is a model's folder and no run; leave it out")
        return folder
    run = find_run(source)
    known = {name: path for name, path in taught(run).items() if name != BASE}
    name = adapter or preferred(run)
    path = known.get(name)
    if path is None:
        there = ", ".join(known)
        raise ContinualError(f"--adapter: {run} has no '{name}'{did_you_mean(name, known)}; there is {there}")
    if Run(run).manifest()["state"] != "finished" or not (path / lineage.FILE).is_file():
        lineage.describe(run)
    return path


def export(folder: Path, form: Form, out: Path, llama_cpp: Path | None = None) -> list[str]:
    """Write an adapter, or a whole model, in another form.

    Args:
        folder: see `find`.
        out: the new folder; for GGUF the new file, or a folder that gets one.
        llama_cpp: folder of llama.cpp's converters; else `LLAMA_CPP` in the environment, else `PATH`.

    Returns:
        What there is to tell, one line each.

    Raises:
        ContinualError: it cannot be written in this form, or something lies at `out`.
    """
    if form is Form.gguf:
        return to_gguf(folder, out, llama_cpp)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ContinualError(f"--out: {out} exists already; choose another folder")
    out.parent.mkdir(parents=True, exist_ok=True)
    return to_peft(folder, out) if form is Form.peft else to_merged(folder, out)


def to_peft(folder: Path, out: Path) -> list[str]:
    """An adapter in the portable profile, with its tokenizer, card and manifest."""
    _needs_adapter(folder, "peft")
    read = lora.load(folder)

    def fill(there: Path) -> None:
        lora.save(read, there)
        for path in lineage.files_of(folder):
            if path.name not in (lora.CONFIG, lora.WEIGHTS):
                shutil.copy(path, there / path.name)
        lineage.write(there, _child(folder, there))

    write_folder(out, fill)
    return [f"{out}: a LoRA adapter of rank {read.rank}, lora_alpha {read.rank}, for {read.base}"]


def to_merged(folder: Path, out: Path) -> list[str]:
    """A whole model with an adapter's change in its weights; with tokenizer, generation settings, card and manifest.

    The change is added in float32. What is saved has the type of the base's own weights.

    Raises:
        ContinualError: the base cannot be loaded, or what was written is another model when it is loaded, as where
            the adapter changes a head that shares its weight with the embedding.
    """
    import torch
    from transformers import AutoModelForCausalLM

    from continual.model import load_adapter, load_model, load_tokenizer, own_type, quantized

    _needs_adapter(folder, "merged")
    base = lineage.manifest_of(folder)["base"]
    told = _settings(folder)
    name = told["base_model_name_or_path"]
    # The unquantised weights, where a run quantised them: what was learned on those is added to these.
    origin = Origin(name, told.get("revision"))
    with torch.no_grad():
        whole = load_model(origin, "float32")
        if quantized(whole):
            raise ContinualError(f"--to merged: the weights of {name} are quantised, and nothing can be added to them")
        model = load_adapter(whole.cpu(), folder).eval()
        ids = torch.arange(3, 19)[None] % model.config.get_text_config().vocab_size
        before = model(input_ids=ids).logits
        largest, own = float(before.abs().max()), own_type(origin)
        merged = model.merge_and_unload(safe_merge=True).to(own)
    tokenizer = load_tokenizer(str(folder) if list(folder.glob("tokenizer*")) else origin)

    off: list[float] = []

    def fill(there: Path) -> None:
        merged.save_pretrained(there)
        tokenizer.save_pretrained(there)
        lineage.write(there, _child(folder, there))
        with torch.no_grad():
            again = AutoModelForCausalLM.from_pretrained(there, dtype=torch.float32).eval()(input_ids=ids).logits
        off.append(float((again - before).abs().max()))
        if off[0] > largest * (1e-4 if own == torch.float32 else 0.1):
            shutil.rmtree(there)
            raise ContinualError(
                f"{folder}: no whole model says the same (logits differ by {off[0]:.2g} of {largest:.2g}); its "
                "base has one weight for embedding and head, and it changes one of them"
            )

    write_folder(out, fill)
    return [
        f"{out}: a whole model in {str(own).removeprefix('torch.')}, made from {base or name}",
        f"loaded again, its logits differ by {off[0]:.1g} at most (16 tokens, logits up to {largest:.2g})",
    ]


def to_gguf(folder: Path, out: Path, llama_cpp: Path | None) -> list[str]:
    """A GGUF file by llama.cpp's own converter: of an adapter `--lora` loads it, of a whole model `-m`.

    Raises:
        ContinualError: the converter is not there, or refuses.
    """
    is_adapter = (folder / ADAPTER).is_file()
    script = _script(SCRIPTS[is_adapter], llama_cpp)
    file = out if out.suffix == ".gguf" else out / f"{lineage.manifest_of(folder)['name']}.gguf"
    if file.exists():
        raise ContinualError(f"--out: {file} exists already")
    file.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as temporary:
        words, given = [sys.executable, "-c", GUARDED, str(script), "--outfile", str(file), "--outtype", "f32"], folder
        if is_adapter:
            given = Path(temporary) / "adapter"
            to_peft(folder, given)  # the converter reads one lora_alpha and no rsLoRA
            base = Path(_settings(folder)["base_model_name_or_path"])
            words += ["--base", str(base)] if base.is_dir() else []
        # A half-written file would look like a whole one.
        part = file.with_name(f".{file.name}.tmp")
        words[words.index(str(file))] = str(part)
        done = subprocess.run([*words, str(given)], capture_output=True, text=True)
        if done.returncode or not part.is_file():
            part.unlink(missing_ok=True)
            said = [line for line in (done.stderr + done.stdout).splitlines() if line.strip()]
            raise ContinualError(f"{script.name}: {said[-1] if said else 'it wrote nothing'}")
        part.replace(file)
    return [f"{file}: load it with llama-server {'-m BASE.gguf --lora' if is_adapter else '-m'} {file}"]


def _script(name: str, llama_cpp: Path | None) -> Path:
    given = llama_cpp or (Path(os.environ[LLAMA_CPP]) if LLAMA_CPP in os.environ else None)
    found = given / name if given is not None else Path(shutil.which(name) or name)
    if not found.is_file():
        raise ContinualError(
            f"GGUF is written by llama.cpp's {name}, which is not {'in ' + str(given) if given else 'on PATH'}: get "
            f"https://github.com/ggml-org/llama.cpp, and say where with --llama-cpp DIR or {LLAMA_CPP}=DIR"
        )
    return found


def _needs_adapter(folder: Path, form: str) -> None:
    if not (folder / ADAPTER).is_file():
        raise ContinualError(f"--to {form}: {folder} is a whole model already; it loads as it is")


def _settings(folder: Path) -> dict[str, Any]:
    return dict(read_json(folder / ADAPTER))


def _child(folder: Path, there: Path) -> dict[str, Any]:
    """The manifest of what is written from an adapter: the same origin, other files."""
    told: Mapping[str, Any] = lineage.manifest_of(folder)
    return {
        **told,
        "exported_from": {"name": told["name"], "sha256": lineage.identity(folder)},
        "files": lineage.hashes(there),
    }
