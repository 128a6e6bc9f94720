// The turns of the conversation that are over: what was said, and what both models answered.

import { make } from "./dom.js";

export class Talk {
  constructor(list) {
    this.list = list;
    this.clear();
  }

  clear() {
    this.turns = [];
    this.list.replaceChildren();
  }

  /** Add a turn that both models answered; `names` stand above their answers. */
  add(user, answers, names) {
    const boxes = answers.map((answer, side) => box(names[side], answer));
    this.show({ user, answers, boxes });
  }

  /** Add a turn of an example, whose answer is given to both models. */
  give(user, answer) {
    this.show({ user, given: answer, boxes: [box("In the example", answer)] });
  }

  show(turn) {
    this.turns.push(turn);
    const pair = make("div", turn.boxes.length === 1 ? "pair single" : "pair", ...turn.boxes);
    this.list.append(make("li", "", make("p", "bubble", turn.user), pair));
  }

  /** Put the models' names above their answers, after a vote. */
  name(names) {
    for (const { boxes } of this.turns.filter((turn) => turn.answers)) {
      boxes.forEach((box, side) => box.firstChild.replaceChildren(names[side]));
    }
  }

  /** The turns as messages, with the answers of one side; without any where no side is given. */
  messages(side = null) {
    return this.turns.flatMap(({ user, given, answers }) => {
      const answer = given ?? (side === null ? null : answers[side]);
      const asked = { role: "user", content: user };
      return answer === null ? [asked] : [asked, { role: "assistant", content: answer }];
    });
  }

  /** All answers of one side. */
  answers(side) {
    return this.turns.filter((turn) => turn.answers).map((turn) => turn.answers[side]);
  }
}

function box(name, answer) {
  const text = make("div", "text", answer || make("span", "soft", "(an empty answer)"));
  return make("article", "card answer past", make("h3", "", name), text);
}
