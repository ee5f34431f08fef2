"use strict";
/* An answer, or an error, as it is shown. */

/** Rows of a table, numbers of a row, bars, and characters of a text that are shown; all can be saved. */
const MOST_ROWS = 200;
const MOST_NUMBERS = 6;
const MOST_BARS = 1000;
const LONGEST_TEXT = 4000;

/** Return what is shown of one version's answer. */
function showAnswer(result, asked) {
  const { target } = result;
  const title = make("h3", {}, apart(target.model), make("span", { class: "muted", text: ` version ${target.version}` }));
  const body = result.error ? showError(result.error, asked) : showOutputs(result, asked);
  const about = result.error ? [] : [showFacts(result)];
  return make("article", { class: `answer card${result.error ? " failed" : ""}` }, title, ...body, ...showTime(result), ...about);
}

/** Return an error as the server said it, its hint, and when to come back. */
function showError(error, asked) {
  const status = error.status ? `${error.status} ${error.reason}`.trim() : "";
  const parts = [
    make("p", { class: "error" }, status ? make("strong", { text: status }) : null, status ? " " : null, make("bdi", { class: "message", text: error.message })),
  ];
  if (error.hint) parts.push(make("p", { class: "hint" }, make("strong", { text: "Hint " }), make("bdi", { text: error.hint })));
  if (!(error instanceof Refused)) return parts;
  if (error.price !== null) {
    parts.push(make("p", { class: "muted", text: `The server refuses ${Math.round(error.price * 100)} % of calls like this one now.` }));
  }
  if (error.retryAfter !== null) parts.push(comeBack(error.retryAfter, asked));
  return parts;
}

/** Return the button that asks again, with the time until the server expects to have room. */
function comeBack(seconds, asked) {
  const button = make("button", { type: "button", text: "Ask again", onclick: () => asked.again() });
  const until = performance.now() + seconds * 1000;
  const note = make("span", { class: "muted" });
  const tick = () => {
    const left = until - performance.now();
    note.textContent = left > 0 ? `the server says to come back in ${inTime(left)}` : "the server expects to have room now";
    if (left > 0 && (note.isConnected || left > seconds * 1000 - 500)) setTimeout(tick, 100);
  };
  tick();
  return make("p", { class: "row tight" }, button, note);
}

// What the model said

function showOutputs(result, asked) {
  const rows = rowsOf(result.outputs);
  const parts = showWarnings(result);
  if (rows !== null && rows.length === 1) parts.push(...showRow(rows[0], asked.count));
  else if (rows !== null) parts.push(showRows(rows));
  else parts.push(...showRow(Object.fromEntries(result.outputs), asked.count));
  return parts;
}

/** Return the rows of the outputs; null if these do not have the same number of them. */
function rowsOf(outputs) {
  const columns = [...outputs];
  const lengths = new Set(columns.map(([, value]) => (Array.isArray(value) ? value.length : -1)));
  const [length] = lengths;
  if (lengths.size !== 1 || length < 1) return null;
  return Array.from({ length }, (_, at) => Object.fromEntries(columns.map(([name, value]) => [name, value[at]])));
}

/** Order numbers of any size from the largest to the smallest; what is not a number comes last. */
function fromLargest(one, other) {
  if (Number.isNaN(one) || Number.isNaN(other)) return Number.isNaN(one) - Number.isNaN(other);
  return one > other ? -1 : one < other ? 1 : 0;
}

/** Return labels with their scores, the best first; null if the row has none. */
function rankingOf({ labels, scores, indices }) {
  if (!Array.isArray(labels) || !Array.isArray(scores) || labels.length !== scores.length) return null;
  const ranked = labels.map((label, at) => ({ label: textOf(label), score: scores[at], index: indices?.[at] }));
  return ranked.sort((a, b) => fromLargest(a.score, b.score));
}

/** Return the label that a row gives, as text; null if it gives none. */
function labelOf(row) {
  const ranking = rankingOf(row);
  if (ranking?.length) return ranking[0].label;
  const values = Object.entries(row).filter(([name, value]) => name === "label" || typeof value === "string" || isBytes(value));
  if (values.length !== 1 || Array.isArray(values[0][1])) return null;
  const [[, value]] = values;
  const text = isBytes(value) ? textIn(value) : textOf(value);
  return text === null || text.length > MOST_TEXT ? null : text;  // a longer one is no label
}

function showRow(row, count) {
  const ranking = rankingOf(row);
  const label = labelOf(row);
  const parts = [];
  if (label !== null) parts.push(make("p", { class: "label" }, apart(label)));
  if (ranking) parts.push(...showBars(ranking, count, "The best labels"));
  for (const [name, value] of Object.entries(row)) {
    if (ranking && ["labels", "scores", "indices"].includes(name)) continue;
    if (label !== null && !Array.isArray(value) && textOf(value) === label) continue;
    parts.push(...showOutput(name, value, count));
  }
  return parts;
}

function showOutput(name, value, count) {
  const head = make("h4", {}, apart(name));
  if (isVector(value) && value.length > 1 && value.every((each) => typeof each === "number") && value.some((each) => !Number.isInteger(each))) {
    const ranked = value.map((score, index) => ({ label: String(index), score }));
    ranked.sort((a, b) => fromLargest(a.score, b.score));
    return [head, ...showBars(ranked, count, `The largest of ${cut(name)}, by their place`)];
  }
  return [head, make("p", { class: "value" }, make("bdi", { text: inLine(value, 40, LONGEST_TEXT) }))];
}

/** Return a list of the first labels with scores and bars; of scores below 0, bars are by their range. */
function showBars(ranking, count, title) {
  const ranked = ranking.slice(0, Math.min(count, MOST_BARS));
  const finite = ranked.map(({ score }) => Number(score)).filter(Number.isFinite);
  const low = Math.min(0, ...finite);
  const high = Math.max(finite.every((score) => score >= 0 && score <= 1) ? 1 : 0, ...finite);
  const items = ranked.map(({ label, score, index }) => {
    const fill = make("span", { class: "fill" });
    const share = (Math.min(Math.max(Number(score), low), high) - low) / (high - low || 1);
    fill.style.inlineSize = `${100 * (share || 0)}%`;  // of what is not a number: none
    return make("li", { title: index === undefined ? undefined : `class ${index}` },
      make("span", { class: "name" }, apart(label)),
      make("span", { class: "number", text: cut(inShort(score), 40), title: cut(String(score)) }),
      make("span", { class: "bar", "aria-hidden": "true" }, fill));
  });
  const rest = Math.min(count, ranking.length) - ranked.length;
  const more = rest > 0 ? [make("p", { class: "muted", text: `and ${rest.toLocaleString("en")} more: save the answer to see all` })] : [];
  return [make("ol", { class: "bars", "aria-label": title }, ...items), ...more];
}

function showRows(rows) {
  const names = Object.keys(rows[0]);
  const head = make("tr", {}, make("th", { scope: "col", text: "row" }), ...names.map((name) => make("th", { scope: "col" }, apart(name))));
  const body = rows.slice(0, MOST_ROWS).map((row, at) =>
    make("tr", {}, make("th", { scope: "row", text: String(at + 1) }), ...names.map((name) => make("td", {}, make("bdi", { text: inLine(row[name], MOST_NUMBERS) })))));
  const rest = rows.length - body.length;
  return make("div", { class: "rows", tabindex: "0", role: "group", "aria-label": `Answers to ${counted(rows.length, "row")}` },
    make("table", {}, make("thead", {}, head), make("tbody", {}, ...body)),
    rest > 0 ? make("p", { class: "muted", text: `and ${counted(rest, "row")} more: save the answer to see all` }) : null);
}

const isVector = (value) => Array.isArray(value) && value.every((each) => !Array.isArray(each));
const isBytes = (value) => value !== null && typeof value === "object" && typeof value.b64 === "string" && Object.keys(value).length === 1;

/** Return the text that bytes are, as those of an output whose name ends in `_bytes`; null if none. */
function textIn({ b64 }) {
  try {
    const binary = atob(b64);
    const bytes = new Uint8Array(binary.length);
    for (let at = 0; at < bytes.length; at += 1) bytes[at] = binary.charCodeAt(at);
    const text = new TextDecoder("utf-8", { fatal: true }).decode(bytes);
    return /[\0-\x08\x0e-\x1f]/.test(text) ? null : text;
  } catch {
    return null;
  }
}

/** Return a value as text: of bytes that are none, how many there are and how they begin. */
function textOf(value) {
  if (Array.isArray(value)) return inLine(value, MOST_NUMBERS);
  if (value === null || typeof value !== "object") return String(value);
  if (!isBytes(value)) return JSON.stringify(value, (key, each) => (typeof each === "bigint" ? String(each) : each));
  const { b64 } = value;
  const size = Math.floor((b64.replace(/=+$/, "").length * 3) / 4);
  return textIn(value) ?? `${inBytes(size)} that are not text: ${b64.slice(0, 24)}${b64.length > 24 ? "…" : ""}`;
}

/** Return a value on one line: the first elements of a list, and how many there are. */
function inLine(value, most, longest = MOST_TEXT) {
  if (!Array.isArray(value)) return typeof value === "number" ? inShort(value) : cut(textOf(value), longest);
  const shown = value.slice(0, most).map((each) => inLine(each, Math.min(most, MOST_NUMBERS))).join(", ");
  return `[${shown}${value.length > most ? `, … ${value.length} in all` : ""}]`;
}

// What the answer says about itself

function showWarnings({ headers, isRounded }) {
  const rungs = (headers.get("x-mlserve-rung") ?? "").split(",");
  const warnings = [];
  if (headers.get("x-mlserve-random-weights")) warnings.push("This model has random weights: its answers mean nothing.");
  if (/certificate=drifted/.test(headers.get("x-mlserve-served-by") ?? "")) {
    warnings.push("The model does not give the answers here that it gave where it was exported.");
  }
  if (rungs.some((rung) => rung.split(";").slice(1).includes("uncertain"))) {
    warnings.push("Uncertain: there was no time for the next rung of the ladder, which may give another label. More time helps.");
  }
  if (isRounded) warnings.push("This browser rounds whole numbers beyond 2^53: save the answer to see their digits.");
  return warnings.map((text) => make("p", { class: "warning", text }));
}

/** The part of an exchange that the server does not see. */
const REST = "network and browser";
const classOf = (stage) => (stage === REST ? "rest" : stage);

const CERTIFICATES = {
  none: "none: exported without golden inputs",
  checking: "being checked",
  holds: "holds here",
  drifted: "drifted: it answers otherwise here",
};

function showFacts({ target, question, headers, text }) {
  const served = headers.get("x-mlserve-served-by") ?? "";
  const [runtime, precision, device] = served.split("; ");
  const state = /certificate=(\w+)/.exec(served)?.[1] ?? "";
  const isSame = target.certificate === state;  // what was said of another state holds no more
  const golden = isSame ? [target.golden, target.fault].filter(Boolean).join(". ") : "";
  const facts = [
    ["Runtime", runtime],
    ["Precision", precision],
    ["Device", device],
    ["Version", headers.get("x-mlserve-model-version") ?? String(target.version)],
    ["Certificate", CERTIFICATES[state] ?? state, state, golden],
    ["Rung", headers.get("x-mlserve-rung")],
    ["Signature", question.description.name],
    ["Request", headers.get("x-request-id")],
  ];
  const list = make("dl", { class: "facts" }, ...facts.filter(([, value]) => value).flatMap(([name, value, state, more]) => [
    make("dt", { text: name }),
    make("dd", state ? { class: `state ${state}`, title: more } : {}, value, more ? make("span", { class: "muted more", text: more }) : null),
  ]));
  const save = make("button", { type: "button", class: "small", text: "Save the answer", onclick: () => saveFile("answer.json", text) });
  return make("div", {}, list, save);
}

/** Return the bar of where the time went: the server's stages, and the rest of the exchange. */
function showTime({ headers, elapsed }) {
  const times = timesIn(headers?.get("server-timing"));
  if (times.size === 0) return elapsed ? [make("p", { class: "muted", text: `It took ${inTime(elapsed)}.` })] : [];
  const inServer = [...times.values()].reduce((sum, each) => sum + each, 0);
  const parts = [...STAGES.filter((stage) => times.has(stage)).map((stage) => [stage, times.get(stage)]), [REST, Math.max(0, elapsed - inServer)]];
  const segments = parts.map(([name, milliseconds]) => {
    const segment = make("span", { class: `stage ${classOf(name)}`, title: `${name}: ${inTime(milliseconds)}` });
    segment.style.flexGrow = String(milliseconds);
    return segment;
  });
  const keys = parts.map(([name, milliseconds]) => make("li", {},
    make("span", { class: `key ${classOf(name)}`, "aria-hidden": "true" }), `${name} `, make("span", { class: "number", text: inTime(milliseconds) })));
  return [
    make("h4", {}, "Where the time went", make("span", { class: "muted number", text: ` ${inTime(elapsed)} in all` })),
    make("div", { class: "stack", "aria-hidden": "true" }, ...segments),
    make("ul", { class: "keys" }, ...keys),
  ];
}

// Two answers

/** Return whether two answers agree, in words of which every second is a label; null if one is none. */
function agreement([first, second]) {
  if (!first || !second || first.error || second.error) return null;
  const rows = [first, second].map(({ outputs }) => rowsOf(outputs) ?? [Object.fromEntries(outputs)]);
  if (rows[0].length !== rows[1].length) return { isSame: false, words: ["The answers have another number of rows."] };
  const labels = rows.map((each) => each.map(labelOf));
  if (labels.flat().every((label) => label !== null)) return agreementOfLabels(labels, rows);
  const far = farthest(rows[0], rows[1]);
  if (far === null) return { isSame: false, words: ["The answers are of another form."] };
  if (far === Infinity) return { isSame: false, words: ["The answers differ."] };
  return far === 0 ? { isSame: true, words: ["The answers are the same."] } : { isSame: far < 1e-4, words: [`The largest difference is ${inShort(far)}.`] };
}

function agreementOfLabels([mine, others], rows) {
  const differing = mine.filter((label, at) => label !== others[at]).length;
  if (mine.length > 1) {
    return differing === 0
      ? { isSame: true, words: [`Both give all ${mine.length} rows the same label.`] }
      : { isSame: false, words: [`${differing} of ${mine.length} rows get another label.`] };
  }
  if (differing) return { isSame: false, words: ["They differ: ", mine[0], ", and ", others[0], "."] };
  const scores = rows.map(([row]) => rankingOf(row)?.[0]?.score);
  const far = scores.every(isNumeric) ? farthest(...scores) : NaN;
  const away = Number.isFinite(far) ? ` The scores of the best are ${inShort(far)} apart.` : "";
  return { isSame: true, words: ["Both say ", mine[0], `.${away}`] };
}

const isNumeric = (value) => typeof value === "number" || typeof value === "bigint";

/** Return the largest difference of two numbers in the same place; null if the forms differ. */
function farthest(one, other) {
  if (Object.is(one, other)) return 0;
  if (isNumeric(one) && isNumeric(other)) {
    const far = Math.abs(typeof one === typeof other ? Number(one - other) : Number(one) - Number(other));
    return Number.isNaN(far) ? Infinity : far;
  }
  if (one !== null && other !== null && typeof one === "object" && typeof other === "object") {
    const keys = Object.keys(one);
    if (keys.length !== Object.keys(other).length) return null;
    let far = 0;
    for (const key of keys) {
      const found = farthest(one[key], other[key]);
      if (found === null) return null;
      far = Math.max(far, found);
    }
    return far;
  }
  return one === other ? 0 : typeof one === typeof other ? Infinity : null;
}
