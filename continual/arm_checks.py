"""Whether the arms of a recipe fit its other parts, and each other."""

from collections.abc import Mapping

from continual.merges import MERGES
from continual.problems import Problem, did_you_mean, problems_error, wrong_arguments
from continual.rehearsal_settings import Rehearsal
from continual.settings import Adapter, Arm, Training

OF_A_SEQUENCE = ("budget", "fresh", "schedule", "share", "when", "seed_words", "day_steps", "base_samples")
"""What `rehearsal` says about earlier tasks, of which an arm with `teach: distill` has none."""
OF_A_MERGE = ("scale", "rank", "tune_on", "tune_samples")
NO_FACTORS = ("use_dora", "modules_to_save", "target_parameters")
"""Settings of an adapter whose change is no product of two matrices."""
TAKEN = {"base": "the untaught model", "auto": "whomever a router picks"}
"""Names under which one asks somebody else than an arm."""


def checked_arms(
    arms: dict[str, Arm], training: Training | None, adapter: Adapter | None, tasks: set[str]
) -> dict[str, Arm]:
    """The arms, if they fit the rest of the recipe.

    Args:
        arms: by name.
        training: the recipe's; None if it is itself wrong.
        adapter: the recipe's; None for full fine-tuning.
        tasks: names in the curriculum.

    Raises:
        PydanticCustomError: with every problem at its own key.
    """
    problems: list[Problem] = []
    for name, arm in arms.items():
        if not name.replace("_", "").replace("-", "").isalnum() or not name.isascii():
            problems.append(
                Problem((name,), "an arm's name may hold letters, digits, - and _ only: it names a folder")
            )
        if name in TAKEN or name in tasks:
            whose = TAKEN.get(name, "a task, and of its specialist")
            problems.append(Problem((name,), f"this is the name of {whose}: one could not tell whom to ask"))
        if arm.teach in ("specialists", "merge", "distill") and adapter is None:
            problems.append(Problem((name, "teach"), "specialists are adapters; the recipe has no `adapter`"))
        problems += [Problem((name, *p.keys), p.message) for p in arm.method_problems(adapter)]
        problems += [Problem((name, *p.keys), p.message) for p in arm.start_problems(adapter)]
        problems += [Problem((name, "rehearsal", *p.keys), p.message) for p in _wrong_specialists(arm, arms)]
        problems += [Problem((name, *p.keys), p.message) for p in generalist_problems(arm, name, arms, adapter)]
        if training is not None:
            problems += [Problem((name, *problem.keys), problem.message) for problem in arm.problems(training)]
    if problems:
        raise problems_error(problems)
    return arms


def asked_of(arm: Arm, arms: Mapping[str, Arm]) -> str | None:
    """The arm whose specialists an arm asks; None: it asks none."""
    rehearsal = arm.rehearsal
    if arm.teach not in ("merge", "distill") and (rehearsal is None or not rehearsal.asks_specialists):
        return None
    named = arm.of or (rehearsal.specialists if rehearsal is not None else None)
    return named or next((name for name, other in arms.items() if other.teach == "specialists"), None)


def _wrong_specialists(arm: Arm, arms: dict[str, Arm]) -> list[Problem]:
    """What is wrong where an arm's rehearsal asks specialists."""
    rehearsal = arm.rehearsal
    if rehearsal is None or not rehearsal.asks_specialists or arm.teach == "distill":
        return []
    names = list(arms)
    known = [name for name in names if arms[name].teach == "specialists"]
    if rehearsal.specialists is not None and rehearsal.specialists not in known:
        return [Problem(("specialists",), f"'{rehearsal.specialists}' is no arm that teaches specialists")]
    before = names[: next(n for n, name in enumerate(names) if arms[name] is arm)]
    chosen = rehearsal.specialists or next(iter(known), None)
    if chosen is None or chosen not in before:
        return [Problem((), "asks specialists, and no arm before this one teaches them")]
    if arm.stacks:
        return [Problem((), "asks specialists, which belong on the untaught base and not on top of earlier adapters")]
    if rehearsal.writer == "specialist" and arms[chosen].rehearsal is None:
        return [
            Problem(
                ("writer",), f"the specialists of '{chosen}' do not learn to write; give that arm `rehearsal: {{}}`"
            )
        ]
    return []


def generalist_problems(arm: Arm, name: str, arms: Mapping[str, Arm], adapter: Adapter | None) -> list[Problem]:
    """What is wrong with an arm that makes one adapter of specialists, or with settings that only such an arm has."""
    found: list[Problem] = []
    if arm.teach not in ("merge", "distill") and arm.of is not None:
        found.append(Problem(("of",), "only teach: merge and teach: distill take specialists of another arm"))
    if not arm.merges:
        given = [key for key in OF_A_MERGE if getattr(arm, key) != Arm.model_fields[key].default]
        found += [Problem((key,), "is of a merge; set teach: merge") for key in given]
    if arm.teach not in ("merge", "distill"):
        return found
    apart = [other for other, each in arms.items() if each.teach == "specialists"]
    before = list(arms)[: list(arms).index(name)]
    if arm.of is not None and arm.of not in apart:
        found.append(Problem(("of",), f"'{arm.of}' is no arm that teaches specialists{did_you_mean(arm.of, apart)}"))
    elif (arm.of or next(iter(apart), None)) not in before:
        found.append(Problem(("of",), "no arm before this one teaches specialists"))
    else:
        chosen = arms[arm.of or apart[0]]
        found += _tuning_problems(arm, chosen)
        found += _distilling_problems(arm, chosen)
    if arm.merges:
        found += _merging_problems(arm, adapter)
    elif arm.method is not None or arm.method_args:
        found.append(Problem(("method",), "is of a merge; set start_from: merged"))
    if arm.teach == "distill" and arm.start_from == "merged" and adapter is not None:
        if adapter.rank_pattern:
            found.append(Problem(("start_from",), "merged has one rank everywhere; take adapter.rank_pattern out"))
        if arm.rank is not None and arm.rank > adapter.r:
            told = f"is larger than adapter.r, {adapter.r}: what starts from the merge could not hold it"
            found.append(Problem(("rank",), told))
    if arm.plugin is not None:
        found.append(Problem(("plugin",), f"teach: {arm.teach} has no tasks one after another"))
    return found


def _merging_problems(arm: Arm, adapter: Adapter | None) -> list[Problem]:
    """What is wrong with the `method` of a merge."""
    if adapter is not None and (given := adapter.given(NO_FACTORS)):
        return [Problem(("teach",), f"adapters with {', '.join(given)} cannot be merged")]
    if arm.method is None:
        return [Problem(("method",), f"say how to merge: {', '.join(MERGES)}")]
    if arm.method not in MERGES:
        return [Problem(("method",), f"there is no merge '{arm.method}'{did_you_mean(arm.method, MERGES)}")]
    known, found = MERGES[arm.method], []
    if known.statistics is not None:
        told = f"{arm.method} needs to see each specialist's data; use `continual merge` with a run"
        found.append(Problem(("method",), told))
    if known.at_most is not None:
        found.append(Problem(("method",), f"{arm.method} merges {known.at_most} adapters only; use `continual merge`"))
    return found + wrong_arguments(known.arguments, arm.method_args, "method_args")


def _tuning_problems(arm: Arm, chosen: Arm) -> list[Problem]:
    if arm.tuned and arm.tune_on == "rehearsed" and chosen.rehearsal is None:
        told = "needs samples, and the specialists do not learn to write; give their arm `rehearsal: {}`, or set"
        return [Problem(("scale",), f"{told} tune_on: dev")]
    return []


def _distilling_problems(arm: Arm, chosen: Arm) -> list[Problem]:
    """What is wrong with the `rehearsal` of an arm that is distilled."""
    if arm.teach != "distill":
        return []
    rehearsal = arm.rehearsal
    if rehearsal is None:
        return [Problem(("rehearsal",), "says how the specialists write; leave it out for its defaults")]
    found = []
    if rehearsal.writer != "specialist":
        found.append(Problem(("rehearsal", "writer"), "is the specialist here"))
    if rehearsal.relabel == "model":
        found.append(Problem(("rehearsal", "relabel"), "the model has not learned yet; take specialist or null"))
    if rehearsal.distill is not None and rehearsal.distill.teacher != "specialist":
        found.append(Problem(("rehearsal", "distill", "teacher"), "is the specialist here"))
    if chosen.rehearsal is None:
        found.append(Problem(("of",), "its specialists do not learn to write; give that arm `rehearsal: {}`"))
    elif chosen.rehearsal.cue != rehearsal.cue:
        told = f"the specialists know the cue '{chosen.rehearsal.cue}'"
        found.append(Problem(("rehearsal", "cue"), f"{told}; it must be the same"))
    defaults = Rehearsal.model_fields
    given = [key for key in OF_A_SEQUENCE if getattr(rehearsal, key) != defaults[key].default]
    return found + [Problem(("rehearsal", key), "is about earlier tasks; distill has none") for key in given]
