// The page: choose two models, ask both, compare what they say; or vote without knowing who is who.

import { enter, get, onLocked, post } from "./api.js";
import { Answer } from "./answer.js";
import { $, fill, make } from "./dom.js";
import { showRun } from "./matrix.js";
import { Talk } from "./talk.js";
import { showVotes } from "./votes.js";

const first = new Answer("first", "First answer");
const second = new Answer("second", "Second answer");
const both = [first, second];
const talk = new Talk($("#talk"));
const left = $("#left"), right = $("#right"), prompt = $("#prompt"), go = $("#go"), ballot = $("#ballot");
const system = $("#system"), temperature = $("#temperature"), length = $("#length");

let results = { votes: 0, models: [], pairs: [] };
let asking = null; // what stops the answers that are being written
let said = null; // the words whose answers stand in the two boxes
let open = null; // what can be voted on
let over = false; // whether a vote has told who is who: the next question begins a new conversation

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

/** What stands above the answers now. */
const names = () => both.map((answer) => (blind() && !over ? answer.label : answer.model));

/** Begin a new conversation. */
function reset() {
  asking?.abort();
  said = open = null;
  over = false;
  talk.clear();
  both.forEach((answer) => answer.clear());
  $("#now").hidden = $("#fresh").hidden = ballot.hidden = true;
  $("#verdict").replaceChildren();
  trouble("");
  showVotes(results, left.value, right.value);
}

/** Let the two answers join the turns that are over. */
function settle() {
  if (said !== null) talk.add(said, both.map((answer) => answer.said), names());
  said = open = null;
  $("#now").hidden = ballot.hidden = true;
  $("#verdict").replaceChildren();
}

/** What all questions of a conversation have in common. */
const manner = () => ({
  temperature: Number(temperature.value),
  ...(length.value && { max_tokens: Number(length.value) }),
});

/** The system line, if there is one, and some messages. */
function messages(turns) {
  const line = system.value.trim();
  return line ? [{ role: "system", content: line }, ...turns] : turns;
}

/** Both are asked with these settings, in words. */
function summarize() {
  const line = system.value.trim() ? "A system line" : "No system line";
  const most = length.value ? `at most ${length.value} tokens` : "at most 256 tokens";
  $("#summary").textContent = `${line}, temperature ${temperature.value}, ${most}`;
}

async function askBoth() {
  if (asking) {
    asking.abort();
    return;
  }
  const words = prompt.value.trim();
  if (!words) return;
  const wrong = [temperature, length].find((field) => !field.checkValidity());
  if (wrong) {
    $("#settings").open = true;
    wrong.reportValidity();
    return;
  }
  if (blind() && left.value === right.value) {
    trouble("A blind comparison needs two different models.");
    return;
  }
  if (over) reset();
  trouble("");
  settle();
  if (!talk.turns.some((turn) => turn.answers)) arrange();
  const mine = (asking = new AbortController());
  go.textContent = "Stop";
  $("#asked").textContent = words;
  $("#now").hidden = false;
  prompt.value = "";
  const secret = blind();
  const complete = await Promise.all(
    both.map((answer, side) => {
      const turns = [...talk.messages(side), { role: "user", content: words }];
      return answer.ask({ messages: messages(turns), ...manner() }, secret, mine.signal);
    }),
  );
  asking = null;
  go.textContent = "Ask both";
  $("#fresh").hidden = false;
  if (!complete.every(Boolean)) {
    prompt.value ||= words; // it can be asked again, as a turn that was never there
    return;
  }
  said = words;
  if (secret) offer(ballotPaper());
}

/** What a vote is about: what both were asked, and what each has answered. */
function ballotPaper() {
  const turns = messages([...talk.messages(), { role: "user", content: said }]);
  const answers = both.map((answer, side) => [...talk.answers(side), answer.said]);
  const [a, b] = answers.map((texts) => (texts.length === 1 ? texts[0] : texts));
  return { prompt: turns.length === 1 ? said : turns, answers: { a, b } };
}

function offer(paper) {
  open = paper;
  for (const button of ballot.children) {
    button.disabled = false;
    button.classList.remove("chosen");
  }
  ballot.hidden = false;
  $("#verdict").textContent = "Which one is better? The names come after your vote. Or ask on.";
}

async function vote(winner) {
  if (open === null) return;
  const paper = open;
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
      ...paper,
    });
  } catch (error) {
    offer(paper);
    trouble(`The vote was not stored: ${error.message}`);
    return;
  }
  over = true;
  first.reveal(winner === "first");
  second.reveal(winner === "second");
  talk.name(names());
  const preferred = { first: first.model, second: second.model, tie: null };
  $("#verdict").replaceChildren(
    ...(preferred[winner] ? ["You preferred ", make("strong", "", preferred[winner]), "."] : ["You found them equally good."]),
    " Ask again for the next vote.",
  );
  showVotes(results, left.value, right.value);
}

/** Begin a conversation with the messages of an example, whose last one is left to be sent. */
function begin(example) {
  reset();
  const turns = example.filter(({ role }) => role !== "system");
  system.value = example.find(({ role }) => role === "system")?.content ?? "";
  $("#settings").open ||= system.value !== "";
  summarize();
  for (let turn = 0; turn + 1 < turns.length; turn += 2) talk.give(turns[turn].content, turns[turn + 1].content);
  $("#fresh").hidden = turns.length === 1;
  prompt.value = turns.at(-1).content;
  prompt.focus();
}

/** Everything that the server knows; again after the key was given. */
async function load() {
  try {
    const [models, run, votes] = await Promise.all([get("v1/models"), get("api/run"), get("api/votes")]);
    $("#door").hidden = true;
    $("main").hidden = false;
    results = votes;
    const listed = models.data.map((model) => [model.id, model.id]);
    const arms = Object.keys(run.arms).filter((arm) => listed.some(([name]) => name === arm));
    const favourite = arms.find((arm) => arm !== "finetune") ?? listed.at(-1)[0];
    fill(left, listed, run.base);
    fill(right, listed, favourite);
    document.title = `${run.name} · continual`;
    $("#run").textContent = run.name;
    $("#about").textContent = `${run.model}, taught ${run.tasks.join(", ")}`;
    for (const [task, example] of Object.entries(run.examples ?? {})) {
      const button = make("button", "", task);
      button.type = "button";
      button.title = example.map(({ content }) => content).join("\n");
      button.addEventListener("click", () => begin(example));
      $("#examples").append(button);
    }
    showRun(run);
    summarize();
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
$("#fresh").addEventListener("click", () => {
  reset();
  prompt.focus();
});
for (const field of [system, temperature, length]) field.addEventListener("input", summarize);
for (const choice of [left, right, ...document.querySelectorAll("input[name=mode]")]) choice.addEventListener("change", reset);
for (const button of ballot.children) button.addEventListener("click", () => vote(button.dataset.winner));
document.addEventListener("keydown", (event) => {
  const typing = event.target.closest("textarea, select, input:not([type=radio])");
  const winner = { 1: "first", 2: "second", 0: "tie" }[event.key];
  if (winner && !typing && !event.ctrlKey && !event.metaKey && !event.altKey) vote(winner);
});
load();
