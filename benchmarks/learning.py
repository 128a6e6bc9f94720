"""Make a table of results again: tune every arm alike on dev rows, then all arms, seeds and orders on test rows.

python -m benchmarks.learning lamol --model FOLDER --data-root DIR [--threads 1] [--jobs 2]
python -m benchmarks.learning my-study.yaml --set training.max_samples=500 --set 'seeds=[0,1]' --out runs/small
python -m benchmarks.learning lamol --stage table          # of what is there; nothing is run

Studies are the files under benchmarks/studies/. Everything goes to runs/study-NAME: the trials under tune/, what
was chosen in chosen.json, the runs of the table under cells/, and links to these that make the folder itself a
run for `continual report`. What has finished is not done again; the same command goes on.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from benchmarks import measure
from benchmarks import results as printing
from benchmarks.study import Chosen, Job, Study, cells, check, load, needed, trials, with_chosen
from continual import results
from continual.errors import ContinualError
from continual.report.numbers import duration
from continual.runs import read_json, remove_folder, write_json, write_text

STAGES = ("tune", "test", "table")


@dataclass
class Runner:
    """Carries out jobs, several processes at a time.

    Args:
        options: of `continual run`.
        threads: of torch in each process.
        keep_models: else weights are thrown away once a run has finished; its scores stay.
    """

    study: Study
    options: Sequence[str]
    threads: int
    processes: int
    keep_models: bool
    _running: list[subprocess.Popen] = field(default_factory=list)

    def carry_out(self, jobs: Sequence[Job]) -> None:
        """Run what has not finished.

        Raises:
            ContinualError: a job failed, after all others have ended; or a recipe is wrong, before any has begun.
        """
        if not jobs:
            return
        waiting = [job for job in jobs if not finished(job, check(job, self.study.folders).resolved())]
        print(f"{len(jobs)} runs, {len(jobs) - len(waiting)} of them finished before", file=sys.stderr)
        with ThreadPoolExecutor(self.processes) as pool:
            try:
                failed = [job for job, rc in zip(waiting, pool.map(self._run, waiting), strict=True) if rc]
            except BaseException:
                for process in list(self._running):
                    process.terminate()
                raise
        if failed:
            raise ContinualError(*(f"{job.name} failed; see {self._log(job)}" for job in failed))

    def _log(self, job: Job) -> Path:
        return job.folder.with_name(f"{job.folder.name}.log")

    def _run(self, job: Job) -> int:
        copy_files(self.study.out / "base", job.folder / "base")
        with self._log(job).open("a", encoding="utf-8") as log:
            process = start(["run", str(job.file), *self.options], self.threads, log)
            self._running.append(process)
            code = process.wait()
            self._running.remove(process)
        if code:
            print(f"  {job.name}: FAILED ({code}); see {self._log(job)}", file=sys.stderr)
            return code
        copy_files(job.folder / "base", self.study.out / "base")
        if not self.keep_models:
            for weights in [*job.folder.glob("arms/*/*/after"), *job.folder.glob("arms/*/*/specialists")]:
                remove_folder(weights)
        told = read_json(job.folder / results.FILE)["arms"]
        accs = ", ".join(
            f"{arm} {printing.percent(run['figures']['acc'])} ({duration(run['cost']['seconds'])})"
            for arm, entry in told.items()
            for run in entry["runs"]
        )
        print(f"  {job.name}: ACC of {accs}", file=sys.stderr)
        return 0


def copy_files(source: Path, target: Path) -> None:
    """Copy JSON files that are not there yet: scores of the untaught base, which each run would measure anew."""
    for file in source.glob("*.json"):
        if not (target / file.name).exists():
            write_json(target / file.name, read_json(file))


def start(words: Sequence[str], threads: int, log: Any) -> subprocess.Popen:
    """`continual WORDS` in a process of its own."""
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    command = [sys.executable, "-m", "continual", *words]
    return subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=environment)


def finished(job: Job, recipe: Mapping[str, Any]) -> bool:
    """Whether a job's run is there whole, of this very recipe."""
    manifest, stored = job.folder / "manifest.json", job.folder / "recipe.yaml"
    if not manifest.exists() or read_json(manifest)["state"] != "finished":
        return False
    return yaml.safe_load(stored.read_text(encoding="utf-8")) == recipe


def tune(study: Study, run: Callable[[Sequence[Job]], None]) -> dict[str, Any]:
    """Choose each arm's hyper-parameters by its ACC on dev rows, from the same number of trials.

    Returns:
        By arm ``{training, acc, trials}``; written to ``chosen.json``.
    """
    chosen: dict[str, Any] = {}
    arms = list(study.recipe.arms)
    alone = [arm for arm in arms if not needed(study.recipe, arm)]
    for wave in (alone, [arm for arm in arms if arm not in alone]):
        jobs = {arm: trials(study, arm, training_of(chosen)) for arm in wave}
        run([job for of_arm in jobs.values() for job in of_arm])
        for arm, of_arm in jobs.items():
            told = [_trial(arm, job, point) for job, point in zip(of_arm, study.points, strict=True)]
            best = max(told, key=lambda trial: trial["acc"])  # of equal ones the first
            chosen[arm] = {"training": best["training"], "acc": best["acc"], "trials": told}
    file = study.out / "chosen.json"
    write_json(file, {**(read_json(file) if file.exists() else {}), **chosen})  # --arms may have left some out
    return chosen


def _trial(arm: str, job: Job, point: Mapping[str, Any]) -> dict[str, Any]:
    runs = read_json(job.folder / results.FILE)["arms"][arm]["runs"]
    acc = sum(run["figures"]["acc"] for run in runs) / len(runs)
    return {"training": dict(point), "acc": acc, "seconds": sum(run["cost"]["seconds"] for run in runs)}


def training_of(chosen: Mapping[str, Any]) -> Chosen:
    return {arm: entry["training"] for arm, entry in chosen.items()}


def gather(study: Study, jobs: Sequence[Job]) -> dict[str, Any]:
    """Make the study's folder a run directory, with links to the runs of its jobs.

    Returns:
        Its results, as in results.json.

    Raises:
        ContinualError: no job has finished, or two of one seed read other rows.
    """
    done = [job for job in jobs if (job.folder / results.FILE).exists()]
    if not done:
        raise ContinualError(f"{study.out}: no run has finished yet")
    seen: dict[int, tuple[Job, Any]] = {}
    for job in done:
        seed, data = job.data["seeds"][0], read_json(job.folder / "manifest.json")["data"]
        other, known = seen.setdefault(seed, (job, data))
        if {**known, **data} != {**data, **known}:
            raise ContinualError(f"{job.folder} and {other.folder} were taught other rows (another --data-root?)")
    for link in study.out.glob("arms/*/*"):  # those of an earlier table may be of other seeds or orders
        link.unlink()
    for job in done:
        for folder in (path for arm in job.arms for path in job.folder.glob(f"arms/{arm}/*")):
            link = study.out / folder.relative_to(job.folder)
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(os.path.relpath(folder, link.parent))
    first = next((job for job in done if job.data["seeds"][0] == study.recipe.seeds[0]), done[0])
    state = "finished" if len(done) == len(jobs) else "running"
    manifest = {**read_json(first.folder / "manifest.json"), "name": study.out.name, "state": state}
    write_text(study.out / "recipe.yaml", yaml.safe_dump(study.recipe.resolved(), sort_keys=False, allow_unicode=True))
    write_json(study.out / "manifest.json", manifest)
    return results.write(study.out)


def tables(study: Study, chosen: Mapping[str, Any], collected: dict[str, Any]) -> str:
    """All of it as Markdown."""
    lines = ["", *printing.arms(collected), "", "Scores at the end:", "", *printing.ends(collected)]
    if collected["paired"]:
        lines += ["", "ACC of the row's arm minus that of the column's, in points [95 %]:", ""]
        lines += printing.square(collected)
    if chosen:
        lines += ["", f"Chosen on dev rows (trials for each arm: {len(study.points)}):", ""]
        names = list(study.grid)
        rows = [
            [arm, *(str(entry["training"][name]) for name in names), printing.percent(entry["acc"])]
            + [" to ".join(printing.percent(end(t["acc"] for t in entry["trials"])) for end in (min, max))]
            for arm, entry in chosen.items()
        ]
        lines += printing.table(["arm", *names, "dev ACC", "of all trials"], rows)
    for entry in collected["unfinished"]:
        lines += ["", f"Not finished: {entry['arm']}, {entry['run'] or str(entry['not_begun']) + ' runs not begun'}"]
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", help="a name under benchmarks/studies, or a YAML file")
    parser.add_argument("--model", help="instead of the study's model_name_or_path")
    parser.add_argument("--data-root", type=Path, metavar="DIR", help="local copies of the data")
    parser.add_argument("--tasks", type=Path, action="append", default=[], metavar="DIR", help="further task files")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override a key of the study")
    parser.add_argument("--arms", type=lambda text: text.split(","), metavar="A,B", help="only some arms")
    parser.add_argument("--out", type=Path, metavar="DIR", help="instead of runs/study-NAME")
    parser.add_argument("--stage", choices=STAGES, help="only tune, only test, or only print the table")
    parser.add_argument("--threads", type=int, default=1, help="of torch, in each process")
    parser.add_argument("--jobs", type=int, default=2, help="processes at a time")
    parser.add_argument("--keep-models", action="store_true", help="keep the weights of every run")
    parser.add_argument("--json", "--output", type=Path, metavar="FILE", help="write results and choices")
    parser.add_argument("--quick", action="store_true", help="tiny settings: only to see that it runs")
    told = parser.parse_args(arguments)
    stages = (told.stage,) if told.stage else STAGES
    more = {"model": told.model, "out": told.out, "folders": told.tasks, "quick": told.quick}
    study = load(told.study, told.set, arms=told.arms, **more)
    options = ["--data-root", str(told.data_root)] if told.data_root else []
    options += [word for folder in study.folders for word in ("--tasks", str(folder))]
    runner = Runner(study, options, told.threads, told.jobs, told.keep_models)
    file, chosen = study.out / "chosen.json", {}
    if study.grid and "tune" in stages:
        chosen = tune(study, runner.carry_out)
    elif study.grid:
        known = read_json(file) if file.exists() else {}
        missing = [arm for arm in study.recipe.arms if arm not in known]
        if missing:
            raise ContinualError(f"{file}: nothing was chosen yet for {', '.join(missing)}; run --stage tune before")
        chosen = {arm: known[arm] for arm in study.recipe.arms}
    if stages == ("tune",):
        print(json.dumps(training_of(chosen), indent=1))
        return
    study = with_chosen(study, training_of(chosen))
    jobs = cells(study, {})
    if "test" in stages:
        runner.carry_out(jobs)
    collected = gather(study, jobs)
    print(tables(study, chosen, collected))
    if told.json:
        facts = measure.machine(told.threads)
        write_json(told.json, {"schema": 1, "machine": facts, "study": study.name, "chosen": chosen, **collected})


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the processes it started end too
    try:
        main()
    except ContinualError as error:
        sys.exit("\n".join(error.lines))
