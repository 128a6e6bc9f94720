// One of the two answers: whose it is, how it was chosen, its text as it comes.

import { ask } from "./api.js";
import { $, make } from "./dom.js";

export class Answer {
  constructor(id, label) {
    this.box = document.getElementById(id);
    this.label = label;
    this.text = $(".text", this.box);
  }

  /** Put a name above, or with `blind` only which of the two it is. */
  name(model, blind) {
    this.model = model;
    $("h3", this.box).replaceChildren(blind ? this.label : model);
  }

  /** Forget the last answer. */
  clear() {
    this.box.className = "card answer";
    this.text.replaceChildren();
    $(".took", this.box).replaceChildren();
    this.choice = null;
    this.showChoice();
  }

  /** Ask the model a question, and show the answer as it is written; true if all of it came. */
  async ask(question, blind, signal) {
    this.clear();
    this.box.setAttribute("aria-busy", "true");
    const began = performance.now();
    try {
      const { answer, cut } = await ask({ model: this.model, ...question }, {
        signal,
        onChoice: (choice) => {
          this.choice = choice;
          if (!blind) this.showChoice();
        },
        onText: (text) => this.text.replaceChildren(text),
      });
      this.said = answer;
      if (!this.said) this.text.replaceChildren(make("span", "soft", "(an empty answer)"));
      this.took = `${((performance.now() - began) / 1000).toFixed(1)} s${cut ? ", cut at the longest length" : ""}`;
      if (!blind) this.showTime(); // how long it took could tell whose it is
      return true;
    } catch (error) {
      if (error.name === "AbortError") {
        $(".took", this.box).replaceChildren("stopped");
      } else {
        this.box.classList.add("failed");
        this.text.replaceChildren(error.message);
      }
      return false;
    } finally {
      this.box.removeAttribute("aria-busy");
    }
  }

  /** After a vote: whose answer it was, and whether it won. */
  reveal(won) {
    this.name(this.model, false);
    if (won) {
      this.box.classList.add("won");
      $("h3", this.box).append(make("span", "badge good", "preferred"));
    }
    this.showTime();
    this.showChoice();
  }

  showTime() {
    $(".took", this.box).replaceChildren(this.took);
  }

  /** Whom `auto` chose, why, and the scores of the nearest. */
  showChoice() {
    const box = $(".choice", this.box);
    box.hidden = !this.choice;
    if (!this.choice) return;
    const { adapter, sure, why, scores } = this.choice;
    const badge = make("span", sure ? "badge" : "badge unsure", sure ? "sure" : "not sure");
    const line = make("p", "", make("strong", "", adapter), " answered ", badge);
    const list = make("dl", "scores");
    for (const [name, score] of Object.entries(scores).slice(0, 5)) {
      const bar = make("i");
      bar.style.setProperty("--part", Math.min(1, Math.max(0, score)));
      const style = name === adapter ? "first" : "";
      list.append(make("dt", style, name), make("dd", "bar", bar), make("dd", style, (Math.round(100 * score) / 100 || 0).toFixed(2)));
    }
    box.replaceChildren(line, make("p", "", why), list);
  }
}
