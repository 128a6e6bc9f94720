"""`auto`: which specialist answers a prompt, told from its words.

A regularised least-squares classifier (Rifkin, Yeo and Poggio, 2003, "Regularized Least-Squares Classification") over
the words and pairs of words of a prompt. Its scores when each prompt is left out in turn come in closed form, so that
ridge and threshold are chosen on held-out prompts without a single further fit. It is fitted on prompts that the
specialists wrote themselves (see `routing`), never on stored rows, and needs no model to choose.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from continual.errors import ContinualError
from continual.runs import write_bytes
from continual.words import tokens

FOLDER, FILE = "router", "router.safetensors"
BASE, AUTO = "base", "auto"
"""The names of the base model, and of whoever is picked."""
MOST_TERMS = 8192
"""The most terms that are known: those that most prompts hold."""
RIDGES = (0.03, 0.1, 0.3, 1.0)
REFUSED = 0.02
"""The share of an adapter's own held-out prompts that may fall below its threshold, were users' prompts like them."""
SLACK = 0.9
"""What the threshold is multiplied with, for users' prompts differ a little from what it is fitted on. At 1, 4 to
12 % of real prompts were refused; at 0.9, 1 to 5 %, and 1 to 8 points more of other tasks' prompts were taken."""


@dataclass(frozen=True)
class Choice:
    """Who is to answer a prompt."""

    adapter: str | None
    """None: the base model."""
    sure: bool
    """Whether the prompt looks like what that specialist was taught; else `adapter` is the rule's."""
    scores: dict[str, float]
    """Of every specialist, best first: about 1 for its own prompts, about 0 for others and for what nobody knows."""
    why: str


@dataclass(frozen=True)
class Router:
    """Picks a specialist for each prompt.

    Args:
        names: of the specialists.
        terms: a term -> its row of `weights`.
        rarity: log inverse frequency of each term, (terms,); the last one is that of every unknown term, (terms + 1,).
        weights: (terms, names).
        thresholds: the least score with which each name is sure, (names,).
        unsure: who answers where nobody is sure; None: the base model.
        held_out: the share of prompts for which the right one was picked when each was left out of the fit.
    """

    names: tuple[str, ...]
    terms: Mapping[str, int]
    rarity: np.ndarray
    weights: np.ndarray
    thresholds: np.ndarray
    unsure: str | None
    held_out: float

    @classmethod
    def fit(cls, prompts: Mapping[str, Sequence[str]], *, unsure: str | None = None) -> Router:
        """Learn to tell the specialists' prompts apart.

        Args:
            prompts: of each specialist.
            unsure: see `Router`.

        Raises:
            ContinualError: there are fewer than two specialists, or one has fewer than two prompts.
        """
        few = [name for name, own in prompts.items() if len(set(own)) < 2]
        if len(prompts) < 2 or few:
            what = f"{', '.join(few)}: too few prompts" if few else "there is nothing to choose from"
            raise ContinualError(f"the router needs two specialists, and two different prompts of each; {what}")
        names = tuple(prompts)
        label = np.array([place for place, name in enumerate(names) for _ in set(prompts[name])])
        counted = [terms_of(prompt) for name in names for prompt in dict.fromkeys(prompts[name])]
        held_by = Counter(term for one in counted for term in one)
        shared = [(term, number) for term, number in held_by.items() if number > 1]
        shared.sort(key=lambda entry: (-entry[1], entry[0]))
        terms = {term: place for place, (term, _) in enumerate(shared[:MOST_TERMS])}
        numbers = np.array([*(held_by[term] for term in terms), 1])
        rarity = np.log((1 + len(counted)) / (1 + numbers)) + 1
        rows = np.stack([_row(one, terms, rarity) for one in counted])
        right = np.eye(len(names))[label]
        best: tuple[float, np.ndarray, np.ndarray] | None = None
        kernel = rows @ rows.T
        for ridge in RIDGES:
            dual = np.linalg.solve(kernel + ridge * np.eye(len(rows)), right)
            left_out = held_out_scores(kernel, ridge, right)
            error = float(np.mean((left_out - right) ** 2))
            if best is None or error < best[0]:
                best = (error, dual, left_out)
        assert best is not None
        _, dual, left_out = best
        own = left_out[np.arange(len(label)), label]
        found = left_out.argmax(1) == label
        thresholds = []
        for place in range(len(names)):
            mine = label == place
            told = mine & found if (mine & found).any() else mine  # none was: two may be asked the same things
            thresholds.append(SLACK * float(np.quantile(own[told], REFUSED)))
        return cls(names, terms, rarity, rows.T @ dual, np.array(thresholds), unsure, float(found.mean()))

    def pick(self, prompt: str) -> Choice:
        """Who is to answer a prompt, and why."""
        row = _row(terms_of(prompt), self.terms, self.rarity)
        scores = row @ self.weights
        best = int(scores.argmax())
        ranked = {self.names[place]: round(float(scores[place]), 4) for place in np.argsort(-scores, kind="stable")}
        name, score, least = self.names[best], float(scores[best]), float(self.thresholds[best])
        if score >= least:
            return Choice(name, True, ranked, f"like prompts of {name}: {self._telling(row, best)}")
        why = f"not sure: nearest is {name} with {score:.2f}, below its {least:.2f}; {self.unsure or BASE} answers"
        return Choice(self.unsure, False, ranked, why)

    def _telling(self, row: np.ndarray, best: int, most: int = 3) -> str:
        """The terms that speak most for a name."""
        shares = row * self.weights[:, best]
        known = list(self.terms)
        top = [known[place] for place in np.argsort(-shares)[:most] if shares[place] > 0]
        return ", ".join(f"'{term}'" for term in top)

    def save(self, folder: Path) -> None:
        """Write the router into a folder, as one file: numbers in safetensors, the rest as JSON in its header."""
        from safetensors.numpy import save

        told = {"names": self.names, "terms": list(self.terms), "unsure": self.unsure, "held_out": self.held_out}
        arrays = {"rarity": self.rarity, "weights": self.weights, "thresholds": self.thresholds}
        header = {"router": json.dumps(told, ensure_ascii=False)}
        write_bytes(folder / FILE, save({name: np.ascontiguousarray(array) for name, array in arrays.items()}, header))

    @classmethod
    def load(cls, folder: Path) -> Router:
        """Read what `save` wrote.

        Raises:
            ContinualError: there is no router.
        """
        from safetensors import safe_open

        if not (folder / FILE).is_file():
            raise ContinualError(f"{folder}: there is no router")
        with safe_open(folder / FILE, framework="numpy") as file:
            told = json.loads(file.metadata()["router"])
            arrays = {name: file.get_tensor(name) for name in ("rarity", "weights", "thresholds")}
        terms = {term: place for place, term in enumerate(told["terms"])}
        return cls(tuple(told["names"]), terms, **arrays, unsure=told["unsure"], held_out=told["held_out"])


def has_router(run_dir: Path) -> bool:
    """Whether `continual route` was carried out."""
    return (run_dir / FOLDER / FILE).is_file()


def load_router(run_dir: Path) -> Router:
    """The router of a run.

    Raises:
        ContinualError: none was fitted yet.
    """
    if not has_router(run_dir):
        raise ContinualError(f"{run_dir}: nobody knows yet which specialist to pick; run: continual route {run_dir}")
    return Router.load(run_dir / FOLDER)


def terms_of(prompt: str) -> Counter[str]:
    """The words, marks and pairs of neighbours of a prompt, in lower case, and how often each comes."""
    words = tokens(prompt.lower())
    return Counter([*words, *(f"{first} {second}" for first, second in zip(words, words[1:], strict=False))])


def held_out_scores(kernel: np.ndarray, ridge: float, right: np.ndarray) -> np.ndarray:
    """The scores of each row by a fit on all other rows, (rows, names).

    With H = K (K + ridge)^-1 and f = H y, the fit without row i gives it (f_i - H_ii y_i) / (1 - H_ii).

    Args:
        kernel: K, (rows, rows), symmetric.
        right: y, (rows, names): 1 for the right name.
    """
    hat = np.linalg.solve(kernel + ridge * np.eye(len(kernel)), kernel).T
    own = np.diag(hat)[:, None]
    scores: np.ndarray = (hat @ right - own * right) / (1 - own)
    return scores


def _row(counted: Mapping[str, int], terms: Mapping[str, int], rarity: np.ndarray) -> np.ndarray:
    """A prompt as a vector of length 1 over the known terms and one place for all unknown ones, without the latter.

    What nobody knows makes the rest shorter, and so every score smaller.
    """
    row, unknown = np.zeros(len(terms)), 0.0
    for term, number in counted.items():
        place = terms.get(term)
        weight = 1 + np.log(number)
        if place is None:
            unknown += (weight * rarity[-1]) ** 2
        else:
            row[place] = weight * rarity[place]
    length = np.sqrt(row @ row + unknown)
    return row / length if length else row
