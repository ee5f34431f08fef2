"use strict";
/* Requests to the server that this page came from: the token, errors, JSON without lost digits. */

/** Where the server is: this page may be below `/ml/` in another application. */
const BASE = new URL(".", location.href);

/** The address of the server as a client takes it. */
const ENDPOINT = BASE.href.replace(/\/$/, "");

/** Seconds for an answer about the server itself, and beyond the time that a question may take. */
const PATIENCE = 10, GRACE = 5;

/** The longest time, in milliseconds, that a browser can wait for. */
const LONGEST = 2 ** 31 - 1;

/** The stages of a request in the server, in order. */
const STAGES = ["queue", "decode", "run", "encode"];

/** The token, nowhere but in this variable: it is gone when the page is left or loaded anew. */
let token = "";

/** What the server answered in place of what was asked for, or why it did not answer. */
class Refused extends Error {
  constructor(message, { status = 0, reason = "", hint = "", headers = null, elapsed = 0, sent = "" } = {}) {
    super(message);
    this.status = status;
    this.reason = reason;
    this.hint = hint;
    this.headers = headers;
    this.elapsed = elapsed;
    this.sent = sent;  // the token that went with the request
  }

  /** Seconds until it is worth asking again; null if the server did not say. */
  get retryAfter() {
    const exact = this.headers?.get("retry-after-ms");
    const whole = this.headers?.get("retry-after");
    const seconds = exact ? Number(exact) / 1000 : whole ? Number(whole) : NaN;
    return Number.isFinite(seconds) ? seconds : null;
  }

  /** The share of calls like this one that the server refuses now; null if it did not say. */
  get price() {
    const price = Number(this.headers?.get("x-mlserve-price") ?? NaN);
    return Number.isFinite(price) ? price : null;
  }
}

/**
 * Ask the server, and return the text of its answer, its headers, and the milliseconds that it took.
 * Throws Refused for any answer that is not a success, and if there is none within so many seconds.
 */
async function request(path, { method = "GET", body, headers = {}, signal, seconds = PATIENCE } = {}) {
  const sent = token;
  const withToken = sent ? { ...headers, Authorization: `Bearer ${sent}` } : headers;
  const began = performance.now();
  const passed = () => performance.now() - began;
  const limit = limitOf(seconds, signal);
  let response, text;
  try {
    response = await fetch(new URL(path, BASE), { method, body, headers: withToken, signal: limit.signal, cache: "no-store" });
    text = await response.text();
  } catch {
    if (signal?.aborted) throw new Refused("stopped: no answer is awaited any more");
    throw new Refused(`no answer came from ${ENDPOINT}${limit.signal.aborted ? ` within ${inTime(seconds * 1000)}` : ""}`, {
      hint: "see whether it still runs with mlserve ps; a request that is too large may be cut off, too",
      elapsed: passed(),
    });
  } finally {
    limit.end();
  }
  const elapsed = passed();
  if (response.ok) return { text, headers: response.headers, elapsed };
  throw new Refused(messageIn(text) || `the server answered ${response.status}`, {
    status: response.status,
    reason: response.statusText,
    hint: response.headers.get("x-mlserve-hint") ?? "",
    headers: response.headers,
    elapsed,
    sent,
  });
}

/** Return a signal that comes after so many seconds, or when another comes; `end` ends the wait. */
function limitOf(seconds, other) {
  const limit = new AbortController();
  const stop = () => limit.abort();
  const timer = setTimeout(stop, Math.min(seconds * 1000, LONGEST));
  other?.addEventListener("abort", stop);
  if (other?.aborted) stop();
  return { signal: limit.signal, end: () => { clearTimeout(timer); other?.removeEventListener("abort", stop); } };
}

/** Ask for JSON. Throws as `request` does, and Refused for an answer that is none. */
async function requestJson(path, options) {
  const answer = await request(path, options);
  try {
    return { ...answer, ...parseJson(answer.text) };
  } catch (error) {
    throw new Refused(`what came from ${ENDPOINT} is not the answer of a model server: ${error.message}`, {
      hint: "see what answers at this address: a proxy may ask for a login, or send the path elsewhere",
      headers: answer.headers,
      elapsed: answer.elapsed,
    });
  }
}

function messageIn(text) {
  try {
    const { error } = JSON.parse(text);
    return typeof error === "string" ? error : "";
  } catch {
    return text.slice(0, 1000).trim();
  }
}

const STRING = '"[^"\\\\]*(?:\\\\.[^"\\\\]*)*"';
const CONSTANT = new RegExp(`${STRING}|-?\\b(?:NaN|Infinity)\\b`, "g");
const BLANK = new RegExp(`(${STRING})|\\s+`, "g");
const MARK = "\u0001number ";

/**
 * Return the `value` of JSON in which NaN and infinities are bare words, as servers write them.
 *
 * A whole number beyond 2^53 becomes a BigInt. `isRounded` says that one has lost digits, in a
 * browser that does not show its source.
 */
function parseJson(text) {
  let isRounded = false;
  const revive = (key, value, context) => {
    if (typeof value === "string" && value.startsWith(MARK)) return Number(value.slice(MARK.length));
    if (typeof value !== "number" || !Number.isInteger(value) || Number.isSafeInteger(value)) return value;
    if (context?.source === undefined) isRounded = true;
    return /^-?\d+$/.test(context?.source ?? "") ? BigInt(context.source) : value;
  };
  try {
    return { value: JSON.parse(text, revive), isRounded };
  } catch {
    const marked = text.replace(CONSTANT, (found) => (found[0] === '"' ? found : `"\\u0001number ${found}"`));
    return { value: JSON.parse(marked, revive), isRounded };
  }
}

/** Return JSON that a person wrote without its blanks, each number as written. Throws SyntaxError. */
function compactJson(text) {
  parseJson(text);
  return text.replace(BLANK, (found, string) => string ?? "");
}

/** Return milliseconds by stage from a Server-Timing header (https://www.w3.org/TR/server-timing/). */
function timesIn(header) {
  const times = new Map();
  for (const metric of (header ?? "").split(",")) {
    const [name, ...parameters] = metric.split(";").map((part) => part.trim());
    const duration = parameters.map((part) => /^dur="?([0-9.]+)"?$/i.exec(part)).find(Boolean);
    if (STAGES.includes(name) && duration) times.set(name, Number(duration[1]));
  }
  return times;
}
