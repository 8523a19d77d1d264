// Speaks with the service: JSON in and out, the session's proof with every change, and one kind of error.

import { say } from "/page/dom.js";

export const session = { role: "operate", who: null, csrf: null, expired: false, known: false };
const listeners = new Set();
export function onSession(listener) {
  listeners.add(listener);
  return () => listeners.delete(listener);
}

export class Refused extends Error {
  constructor(status, body) {
    super(body.error || `The answer was ${status}.`);
    this.status = status;
    this.field = body.field;
    this.body = body;
  }
}

// A number that this language cannot hold stays the text that it was.
const exact = (key, value, context) =>
  typeof value === "number" &&
  context &&
  context.source &&
  !Number.isSafeInteger(value) &&
  String(value) !== context.source
    ? context.source
    : value;

export async function ask(method, path, body) {
  const headers = { accept: "application/json" };
  if (body !== undefined) headers["content-type"] = "application/json";
  if (session.csrf && method !== "GET") headers["x-csrf-token"] = session.csrf;
  let answer;
  try {
    answer = await fetch(path, { method, headers, body: body === undefined ? undefined : JSON.stringify(body) });
  } catch {
    throw new Refused(0, { error: "Lockstep does not answer" });
  }
  const read = await answer.text();
  let parsed = {};
  try {
    parsed = JSON.parse(read, exact);
  } catch {
    if (!answer.ok) parsed = { error: read.trim().slice(0, 300) };
  }
  if (answer.status === 401) expired();
  if (!answer.ok) throw new Refused(answer.status, parsed);
  return parsed;
}

export const get = (path) => ask("GET", path);
export const post = (path, body) => ask("POST", path, body);

function expired() {
  session.expired = true;
  listeners.forEach((listener) => listener(session));
}

// Who looks, and what they may do. A service without sessions lets everybody in who reaches it.
export async function learn() {
  try {
    const told = await get("/api/session");
    // Nobody, where somebody is asked for: a login that has ended. What the page knew of it stays on the page.
    if (told.role) Object.assign(session, told, { known: true, expired: false });
    else session.expired = true;
  } catch (refused) {
    if (refused.status === 404) session.known = true;
    if (refused.status !== 401) return;
  }
  listeners.forEach((listener) => listener(session));
}

export const mayAct = () => session.role !== "read";

// Runs what a button does: the button rests meanwhile, a refusal is told.
export async function doing(button, work) {
  if (button) {
    button.disabled = true;
    button.setAttribute("aria-busy", "true");
  }
  try {
    return await work();
  } catch (refused) {
    if (!(refused instanceof Refused)) throw refused;
    say(refused.message, true);
    return undefined;
  } finally {
    if (button) {
      button.disabled = false;
      button.removeAttribute("aria-busy");
    }
  }
}
