// Small helpers to make elements. Text is always set as text: answers are nobody's HTML.

export const $ = (selector, within = document) => within.querySelector(selector);

/** An element with a class, and with text or children in it. */
export function make(tag, name = "", ...content) {
  const made = document.createElement(tag);
  if (name) made.className = name;
  made.append(...content);
  return made;
}

export const percent = (share) => `${Math.round(100 * share)} %`;

/** Fill a list of choices; what was chosen stays if it is still there. */
export function fill(select, options, chosen = select.value) {
  select.replaceChildren(...options.map(([value, label]) => new Option(label, value)));
  if (options.some(([value]) => value === chosen)) select.value = chosen;
}
