// Talks to the server that this page came from.

let key = "";
let locked = () => {};

/** Say what the server's key is, and what to do where it asks for one. */
export const enter = (given) => { key = given; };
export const onLocked = (ask) => { locked = ask; };

async function request(path, options = {}) {
  const headers = { ...(key && { Authorization: `Bearer ${key}` }), ...(options.body && { "Content-Type": "application/json" }) };
  const reply = await fetch(path, { ...options, headers });
  if (reply.ok) return reply;
  if (reply.status === 401) locked();
  const told = await reply.json().catch(() => ({}));
  throw new Error(told.error?.message ?? `the server answered ${reply.status}`);
}

export const get = async (path) => (await request(path)).json();
export const post = async (path, body) => (await request(path, { method: "POST", body: JSON.stringify(body) })).json();

/**
 * Ask a model; `onChoice` hears whom `auto` chose, `onText` each new piece of the answer.
 * Gives the whole answer, and whether the longest allowed length cut it.
 */
export async function ask(question, { signal, onChoice, onText }) {
  const body = JSON.stringify({ ...question, stream: true });
  const reply = await request("v1/chat/completions", { method: "POST", body, signal });
  let answer = "", cut = false;
  for await (const data of events(reply.body)) {
    if (data === "[DONE]") break;
    const chunk = JSON.parse(data);
    if (chunk.error) throw new Error(chunk.error.message);
    if (chunk.continual) onChoice(chunk.continual);
    const choice = chunk.choices[0];
    cut ||= choice?.finish_reason === "length";
    if (choice?.delta?.content) {
      answer += choice.delta.content;
      onText(answer);
    }
  }
  return { answer, cut };
}

/** The data of each server-sent event. */
async function* events(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const parts = (rest + value).split("\n\n");
    rest = parts.pop();
    for (const part of parts) {
      if (part.startsWith("data: ")) yield part.slice(6);
    }
  }
}
