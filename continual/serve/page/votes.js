// What the blind votes come to.

import { $, make, percent } from "./dom.js";

/** Fill the table; of the pair that is being compared, a line of its own. */
export function showVotes(results, left, right) {
  $("#votes").hidden = results.votes === 0;
  const ranked = [...results.models].sort((one, other) => other.rate - one.rate);
  $("#votes tbody").replaceChildren(...ranked.map(row));
  const pair = results.pairs.find(({ a, b }) => (a === left && b === right) || (a === right && b === left));
  $("#head-to-head").textContent = pair ? describe(pair.a === left ? pair : turned(pair)) : "";
}

/** The same pair, told from the other one's side. */
const turned = ({ a, b, votes, rate, interval: [low, high] }) => ({ a: b, b: a, votes, rate: 1 - rate, interval: [1 - high, 1 - low] });

function describe({ a, b, votes, rate, interval }) {
  const times = votes === 1 ? "one vote" : `${votes} votes`;
  return `${a} against ${b}: preferred in ${percent(rate)} of ${times} (95 % interval ${range(interval)}).`;
}

const range = ([low, high]) => `${Math.round(100 * low)} to ${percent(high)}`;

function row({ model, wins, ties, losses, rate, interval }) {
  const name = make("th", "", model);
  name.scope = "row";
  const line = make("span", "interval", make("i"), make("b"));
  line.style.setProperty("--low", interval[0]);
  line.style.setProperty("--high", interval[1]);
  line.style.setProperty("--rate", rate);
  line.title = range(interval);
  const wide = make("td", "wide", line, make("span", "unseen", range(interval)));
  return make("tr", "", name, ...[wins, ties, losses, percent(rate)].map((value) => make("td", "", String(value))), wide);
}
