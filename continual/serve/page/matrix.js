// R as a heat map: a row after each task that was taught, a column for each task.

import { $, make, fill, percent } from "./dom.js";

/** Show the arms of a run; nothing where none has been measured yet. */
export function showRun(told) {
  const runs = Object.entries(told.arms).flatMap(([arm, { teach, runs }]) => runs.map((run) => ({ arm, teach, ...run })));
  const section = $("#learned");
  section.hidden = runs.length === 0;
  if (!runs.length) return;
  const several = new Set(runs.map((run) => run.arm)).size < runs.length;
  const select = $("#arm");
  const first = runs.findIndex((run) => run.teach === "sequential" && run.arm !== "finetune");
  fill(select, runs.map((run, n) => [String(n), several ? `${run.arm}, ${run.run}` : run.arm]), String(Math.max(0, first)));
  const show = () => draw(runs[Number(select.value)], told.tasks, told.base);
  select.addEventListener("change", show);
  show();
}

function draw(run, tasks, base) {
  const table = $("#learned table");
  const sequential = run.teach === "sequential";
  // Columns in the order in which the arm was taught, so that what was learned fills the lower left.
  const columns = sequential ? [...run.order, ...tasks.filter((task) => !run.order.includes(task))] : tasks;
  const plain = run.steps.length === run.order.length;
  $("caption", table).textContent = `Scores of ${run.arm}: a row after each step, a column for each task`;
  $("thead", table).replaceChildren(make("tr", "", head("after", "col"), ...columns.map((task) => head(task, "col"))));
  table.style.setProperty("--columns", columns.length);
  const rows = run.R.map((scores, row) => {
    const step = row === 0 ? `${base}, untaught` : sequential ? run.steps[row - 1] : run.teach === "multitask" ? "all at once" : run.teach;
    const cells = columns.map((task) => {
      const place = tasks.indexOf(task);
      const known = sequential && plain ? run.order.indexOf(task) + 1 : 1;
      return cell(scores[place], run.ci[row]?.[place], row > 0 && row === known && sequential && plain, row < known);
    });
    return make("tr", row === 0 ? "base" : "", head(step, "row"), ...cells);
  });
  $("tbody", table).replaceChildren(...rows);
}

function head(text, scope) {
  const made = make("th", "", text);
  made.scope = scope;
  return made;
}

function cell(score, interval, isNew, later) {
  if (score === null || score === undefined) return make("td", "none", "–");
  const made = make("td", isNew ? "new" : later ? "later" : "", String(Math.round(100 * score)));
  made.style.setProperty("--score", Math.min(1, Math.max(0, score)));
  if (interval) made.title = `95 % interval: ${percent(interval[0])} to ${percent(interval[1])}`;
  return made;
}
