// The page: choose two models, ask both, compare what they say; or vote without knowing who is who.

import { enter, get, onLocked, post } from "./api.js";
import { Answer } from "./answer.js";
import { $, fill, make } from "./dom.js";
import { showRun } from "./matrix.js";
import { showVotes } from "./votes.js";

const first = new Answer("first", "First answer");
const second = new Answer("second", "Second answer");
const left = $("#left"), right = $("#right"), prompt = $("#prompt"), go = $("#go"), ballot = $("#ballot");

let results = { votes: 0, models: [], pairs: [] };
let asking = null; // what stops the answers that are being written
let open = null; // the prompt whose answers can be voted on

const blind = () => $("input[name=mode]:checked").value === "blind";

function trouble(text) {
  $("#trouble").textContent = text;
  $("#trouble").hidden = !text;
}

/** Names above the answers, or none while it is a blind comparison. */
function arrange() {
  const swap = blind() && Math.random() < 0.5;
  first.name(swap ? right.value : left.value, blind());
  second.name(swap ? left.value : right.value, blind());
}

function reset() {
  asking?.abort();
  open = null;
  ballot.hidden = true;
  $("#verdict").replaceChildren();
  trouble("");
  for (const answer of [first, second]) {
    answer.box.className = "card answer idle";
    answer.text.replaceChildren();
    answer.choice = null;
    answer.showChoice();
    $(".took", answer.box).replaceChildren();
  }
  arrange();
  showVotes(results, left.value, right.value);
}

async function askBoth() {
  if (asking) {
    asking.abort();
    return;
  }
  const said = prompt.value.trim();
  if (!said) return;
  if (blind() && left.value === right.value) {
    trouble("A blind comparison needs two different models.");
    return;
  }
  reset();
  const mine = (asking = new AbortController());
  go.textContent = "Stop";
  const secret = blind();
  const both = await Promise.all([first, second].map((answer) => answer.ask(said, secret, mine.signal)));
  asking = null;
  go.textContent = "Ask both";
  if (secret && both.every(Boolean)) offer(said);
}

function offer(said) {
  open = said;
  for (const button of ballot.children) {
    button.disabled = false;
    button.classList.remove("chosen");
  }
  ballot.hidden = false;
  $("#verdict").textContent = "Which one is better? The names come after your vote.";
}

async function vote(winner) {
  if (open === null) return;
  const said = open;
  open = null;
  for (const button of ballot.children) {
    button.disabled = true;
    button.classList.toggle("chosen", button.dataset.winner === winner);
  }
  try {
    results = await post("api/votes", {
      a: first.model,
      b: second.model,
      winner: { first: "a", second: "b", tie: "tie" }[winner],
      prompt: said,
      answers: { a: first.said, b: second.said },
    });
  } catch (error) {
    offer(said);
    trouble(`The vote was not stored: ${error.message}`);
    return;
  }
  first.reveal(winner === "first");
  second.reveal(winner === "second");
  const names = { first: first.model, second: second.model, tie: null };
  $("#verdict").replaceChildren(
    ...(names[winner] ? ["You preferred ", make("strong", "", names[winner]), "."] : ["You found them equally good."]),
    " Ask again for the next vote.",
  );
  showVotes(results, left.value, right.value);
}

/** Everything that the server knows; again after the key was given. */
async function load() {
  try {
    const [models, run, votes] = await Promise.all([get("v1/models"), get("api/run"), get("api/votes")]);
    $("#door").hidden = true;
    $("main").hidden = false;
    results = votes;
    const names = models.data.map((model) => [model.id, model.id]);
    const arms = Object.keys(run.arms).filter((arm) => names.some(([name]) => name === arm));
    const favourite = arms.find((arm) => arm !== "finetune") ?? names.at(-1)[0];
    fill(left, names, run.base);
    fill(right, names, favourite);
    document.title = `${run.name} · continual`;
    $("#run").textContent = run.name;
    $("#about").textContent = `${run.model}, taught ${run.tasks.join(", ")}`;
    for (const [task, example] of Object.entries(run.examples ?? {})) {
      const button = make("button", "", task);
      button.type = "button";
      button.title = example;
      button.addEventListener("click", () => {
        prompt.value = example;
        prompt.focus();
      });
      $("#examples").append(button);
    }
    showRun(run);
    reset();
  } catch (error) {
    if ($("#door").hidden) trouble(error.message);
  }
}

onLocked(() => {
  $("#door").hidden = false;
  $("main").hidden = true;
  $("#key").focus();
});
$("#door").addEventListener("submit", (event) => {
  event.preventDefault();
  enter($("#key").value);
  load();
});
$("#ask").addEventListener("submit", (event) => {
  event.preventDefault();
  askBoth();
});
prompt.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    askBoth();
  }
});
for (const choice of [left, right, ...document.querySelectorAll("input[name=mode]")]) choice.addEventListener("change", reset);
for (const button of ballot.children) button.addEventListener("click", () => vote(button.dataset.winner));
document.addEventListener("keydown", (event) => {
  const typing = event.target.closest("textarea, select, input[type=password]");
  const winner = { 1: "first", 2: "second", 0: "tie" }[event.key];
  if (winner && !typing && !event.ctrlKey && !event.metaKey && !event.altKey) vote(winner);
});
load();
