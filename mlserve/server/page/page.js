"use strict";
/* What happens when: the page is opened, a model is chosen, something is dropped, a button pressed. */

/** Milliseconds after which a server that was not there, or not ready, is asked again. */
const AGAIN = 2000;

const page = {
  about: null,
  targets: [],
  description: null,  // what the chosen signature takes; `fault` is why that is not known
  fault: null,
  choosing: null,
  image: null,
  table: null,
  stopper: null,
  served: null,
  command: "Command line",
  hasChosen: false,
  later: null,
};

/** The latest of each kind of work that waits for something. */
const latest = new Map();

/** Begin such work. Returns what tells whether none of its kind has begun since: else it shows nothing. */
function begin(kind) {
  const turn = {};
  latest.set(kind, turn);
  return () => latest.get(kind) === turn;
}

// The server

/** Ask what is served, and show it; asks again while there is no server or no model. */
async function connect() {
  const isLatest = begin("connect");
  clearTimeout(page.later);
  try {
    const served = await servedNow();  // before it is asked what is served: a change since is seen at the next look
    const { value } = await requestJson("v2");
    if (!isLatest()) return;
    page.served = served;
    page.about = value;
    showState(`version ${value?.version}`, "ready");
    byId("forget").hidden = token === "";
    await takeTargets(targetsIn(value));
  } catch (error) {
    if (!isLatest()) return;
    requireKnown(error);
    if (error.status === 401) {
      needToken(error);
      return;
    }
    showState(error.message, "gone");
    connectLater();
    return;
  }
  if (page.targets.length === 0) connectLater();
}

/** Return what the metrics say is served; null if they cannot be seen. */
async function servedNow() {
  try {
    return lookAt((await request("metrics")).text).served;
  } catch (error) {
    requireKnown(error);
    return null;
  }
}

/** Connect again in a while, and then look at the load; there is never more than one such wait. */
function connectLater() {
  clearTimeout(page.later);
  page.later = setTimeout(() => connect().then(look), AGAIN);
}

/** Fill the choices of versions; what was chosen stays, or becomes the latest of the same model. */
async function takeTargets(targets) {
  const chosen = targetOf("first");
  page.targets = targets;
  described.clear();
  byId("main").hidden = false;
  byId("nothing").hidden = targets.length > 0;
  byId("question").hidden = targets.length === 0;
  if (targets.length === 0) return;
  const sorted = [...targets].sort((a, b) => a.model.localeCompare(b.model) || fromLargest(a.version, b.version));
  const usual = sorted.find(({ key }) => key === chosen?.key) ?? sorted.find(({ model }) => model === chosen?.model) ?? sorted[0];
  if (chosen && usual.key !== chosen.key) clearAnswers();
  const beside = byId("second").value;
  byId("first").replaceChildren(...optionsOf(sorted));
  byId("first").value = usual.key;
  byId("second").replaceChildren(make("option", { value: "", text: "no other" }), ...optionsOf(sorted));
  byId("second").value = sorted.some(({ key }) => key === beside) ? beside : "";
  byId("beside").hidden = sorted.length < 2;
  byId("seconds").placeholder = String(page.about.parameters.default_timeout ?? 30);
  if (!byId("seconds").value) byId("seconds").value = byId("seconds").placeholder;
  showChoices();
  await takeSignature();
}

const optionsOf = (targets) => targets.map(({ key, model, version, words }) =>
  make("option", { value: key, text: `${model} · version ${version}${words ? ` · ${words}` : ""}` }));

const targetOf = (id) => page.targets.find(({ key }) => key === byId(id).value) ?? null;

/** Show the fields that the chosen version and signature take, and the commands. */
async function takeSignature() {
  page.choosing = showSignature(targetOf("first"), begin("signature"));
  await page.choosing;
  await showCommands();
}

async function showSignature(target, isLatest) {
  try {
    const usual = await describe(target);
    if (!isLatest()) return;
    const field = byId("signature");
    const chosen = usual.signatures.includes(field.value) ? field.value : BEST;
    const first = usual.signatures.includes("top_k") ? "the best labels" : `${usual.name} (the default)`;
    field.replaceChildren(make("option", { value: BEST, text: first }), ...usual.signatures.map((name) => make("option", { value: name, text: name })));
    field.value = chosen;
    showChoices();
    const description = await describe(target, chosen);
    const forImage = chosen === BEST ? await signatureForImage(target, BEST, 1) : description;
    if (!isLatest()) return;
    page.description = description;
    showKinds({ image: takesImage(forImage), form: true, table: takesRows(description) });
    fillForm(byId("fields"), description);
    if (page.fault) complain(null);
    page.fault = null;
    if (page.image) turnImage(page.image, description.contract);
  } catch (error) {
    if (!isLatest()) return;
    tell(error);
    page.fault = error;
  }
}

/** Wait until the form is that of what is chosen. Throws WrongInput and Refused if there is none. */
async function settled() {
  let seen;
  do {
    seen = page.choosing;
    await seen;
  } while (seen !== page.choosing);
  if (page.targets.length === 0) throw new WrongInput("no model can be asked yet", "wait until one is ready");
  if (page.fault) throw page.fault;
}

/** Show which kinds of question the signature takes, and choose the first if the chosen one is none. */
function showKinds(takes) {
  const kind = kindChosen();
  for (const field of document.querySelectorAll("input[name=kind]")) field.closest("label").hidden = !takes[field.value];
  takeKind(takes[kind] && page.hasChosen ? kind : Object.keys(takes).find((each) => takes[each]));
}

const kindChosen = () => document.querySelector("input[name=kind]:checked").value;
const isOffered = (kind) => !document.querySelector(`input[name=kind][value=${kind}]`).closest("label").hidden;

function takeKind(kind) {
  document.querySelector(`input[name=kind][value=${kind}]`).checked = true;
  for (const each of ["image", "form", "table"]) byId(`${each}-pane`).hidden = each !== kind;
  byId("count-field").hidden = kind === "table";
}

// The question

/** Return what is to be asked. Throws WrongInput if something is missing. */
function askedNow() {
  const kind = kindChosen();
  const seconds = Number(byId("seconds").value);
  const count = kind === "table" ? 1 : Number(byId("count").value);
  if (!(seconds > 0 && seconds <= 1e9)) throw new WrongInput("the time is not a number of seconds above 0");
  if (!(Number.isInteger(count) && count > 0)) throw new WrongInput("the number of labels is not a whole number above 0");
  if (kind === "image" && !page.image) throw new WrongInput("there is no image yet", "drop one, paste one, or choose a file");
  if (kind === "table" && !page.table) throw new WrongInput("there is no table yet", "drop a CSV file, or choose one");
  return { kind, seconds, count, image: page.image, table: page.table, pane: byId("fields"), chosen: byId("signature").value, again: askNow };
}

/** Ask the chosen versions, one after the other, so that neither slows the other down. */
async function askNow() {
  page.stopper?.abort();
  const isLatest = begin("question");
  const stopper = new AbortController();
  page.stopper = stopper;
  showBusy(true);
  if (page.fault) page.choosing = showSignature(targetOf("first"), begin("signature"));
  try {
    await settled();
    const asked = askedNow();
    const targets = [targetOf("first"), targetOf("second")].filter(Boolean);
    const questions = await questionsFor(targets, asked);
    if (!isLatest()) return;
    complain(null);
    const results = [];
    for (const { target, question, error } of questions) {
      if (stopper.signal.aborted) break;
      results.push(error ? failure(target, error) : await askTarget(target, question, asked.seconds, stopper.signal));
      if (!isLatest()) return;
      showResults(results, asked, targets.length);
    }
    const locked = results.find(({ error }) => error?.status === 401);
    if (locked) needToken(locked.error);
  } catch (error) {
    if (!isLatest()) return;
    clearAnswers();
    tell(error);
    return;
  } finally {
    if (isLatest()) showBusy(false);
  }
  look();
  await showCommands();
}

function showBusy(busy) {
  byId("ask-button").textContent = busy ? "Asking" : "Ask";
  byId("stop").hidden = !busy;
  byId("answers").setAttribute("aria-busy", String(busy));
}

const isBusy = () => !byId("stop").hidden;

function showResults(results, asked, wanted) {
  const verdict = wanted === 2 ? agreement(results) : null;
  const words = verdict?.words ?? [];
  const field = byId("verdict");
  field.hidden = verdict === null;
  field.className = `verdict ${verdict?.isSame ? "same" : "other"}`;
  field.replaceChildren(...words.map((word, at) => (at % 2 ? apart(word) : word)));
  byId("answer-list").replaceChildren(...results.map((result) => showAnswer(result, asked)));
  byId("answer-list").classList.toggle("pair", wanted === 2);
  byId("empty").hidden = true;
  announce([...results.map(inSpeech), words.map((word) => cut(word)).join("")].join(" "));
}

function inSpeech({ target, error, outputs, elapsed }) {
  const who = `${target.model}, version ${target.version}:`;
  if (error) return `${who} ${cut(error.message)}.`;
  const rows = rowsOf(outputs);
  const label = rows?.length === 1 ? labelOf(rows[0]) : null;
  return `${who} ${label !== null ? cut(label) : rows ? counted(rows.length, "row") : "answered"}, in ${inTime(elapsed)}.`;
}

/** Take away what answers another question than the one that stands there, and await no such answer. */
function clearAnswers() {
  page.stopper?.abort();
  begin("question");
  showBusy(false);
  byId("answer-list").replaceChildren();
  byId("verdict").hidden = true;
  byId("empty").hidden = false;
}

/** Say what is wrong with the question; null: nothing. */
function complain(error) {
  const field = byId("problem");
  field.hidden = error === null;
  field.replaceChildren();
  if (error === null) return;
  field.append(make("p", { class: "error", text: error.message }));
  if (error.hint) field.append(make("p", { class: "hint" }, make("strong", { text: "Hint " }), error.hint));
}

/** Say why something cannot be asked: what is wrong with it, or that the server wants its token. */
function tell(error) {
  requireKnown(error);
  if (error.status === 401) needToken(error);
  else complain(error);
}

// The commands

/** Show the commands that ask what the form asks; none while it is not whole. */
async function showCommands() {
  const isLatest = begin("commands");
  const box = byId("commands");
  box.setAttribute("aria-busy", "true");
  let asked, texts = null;
  try {
    await settled();
    asked = askedNow();
    const target = targetOf("first");
    texts = commandsFor(target, asked, await questionFor(target, asked));
  } catch (error) {
    requireKnown(error);
  }
  if (!isLatest()) return;
  box.removeAttribute("aria-busy");
  box.hidden = texts === null;
  if (texts === null) return;
  byId("command").textContent = texts[page.command];
  byId("command-note").replaceChildren(...notesOn(texts, asked));
}

function notesOn({ saved }, asked) {
  const notes = [];
  const isCommand = page.command === "Command line";
  if (saved && !(isCommand && asked.kind === "table")) {
    notes.push(make("span", { text: "It reads the whole request from a file. " }),
      make("button", { type: "button", class: "small", text: `Save ${saved.name}`, onclick: () => saveFile(saved.name, saved.content) }));
  }
  if (asked.kind === "image") {
    notes.push(make("span", { text: "It reads the image from the folder that it runs in. " }),
      make("button", { type: "button", class: "small", text: "Save the image", onclick: () => saveFile(asked.image.name, asked.image) }));
  }
  if (token) notes.push(make("span", { text: " The token is in the variable MLSERVE_TOKEN." }));
  if (BASE.protocol === "https:") notes.push(make("span", { text: ` If the system does not trust the server's certificate, add ${OF_AUTHORITY[page.command]}.` }));
  return notes;
}

// The load

let looking = null;

/** Look at the metrics, and again in a while as long as the page is seen. */
async function look() {
  const isLatest = begin("look");
  clearTimeout(looking);
  if (document.hidden || byId("main").hidden) return;
  try {
    const seen = lookAt((await request("metrics")).text);
    if (!isLatest()) return;
    const isNew = hasRestarted(seen);
    showLoad(seen, page.about?.parameters?.slots);
    showState(`version ${page.about?.version}${seen.isReady ? "" : ", not ready"}`, seen.isReady ? "ready" : "waiting");
    if (isNew || page.served !== seen.served) await connect();
  } catch (error) {
    requireKnown(error);
    if (!isLatest()) return;
    page.served = null;  // whoever answers next may serve something else
    if (error.status === 401) needToken(error);
    else showState(error.status ? `the load is not shown: ${error.message}` : error.message, "gone");
  }
  if (!isLatest()) return;
  clearTimeout(looking);
  looking = setTimeout(look, BETWEEN);
}

// Listeners

function listen() {
  byId("ask-form").addEventListener("submit", (event) => {
    event.preventDefault();
    askNow();
  });
  byId("ask-form").addEventListener("input", (event) => {
    if (event.target.matches("textarea, #count, #seconds")) showCommands();
  });
  byId("stop").addEventListener("click", () => page.stopper?.abort());
  for (const id of ["first", "signature"]) {
    byId(id).addEventListener("change", () => {
      clearAnswers();
      complain(null);
      takeSignature();
    });
  }
  byId("first").addEventListener("change", () => {
    const beside = targetOf("second");
    // What another model is asked is seldom what this one takes.
    if (beside && beside.model !== targetOf("first").model) byId("second").value = "";
  });
  byId("second").addEventListener("change", () => {
    if (isBusy() || byId("answer-list").childElementCount > 0) askNow();
  });
  for (const field of document.querySelectorAll("input[name=kind]")) {
    field.addEventListener("change", () => {
      page.hasChosen = true;
      takeKind(field.value);
      clearAnswers();
      complain(null);
      showCommands();
    });
  }
  for (const field of document.querySelectorAll("input[name=command]")) {
    field.addEventListener("change", () => {
      page.command = field.value;
      showCommands();
    });
  }
  for (const field of document.querySelectorAll("input[name=span]")) field.addEventListener("change", showHistogram);
  byId("command-head").append(copyButton(() => byId("command").textContent, "the command"));
  listenForFiles();
  document.addEventListener("visibilitychange", look);
  document.addEventListener("change", showChoices);
  window.addEventListener("resize", showChoices);
  listenForToken(async () => {
    await connect();
    look();
  });
  byId("forget").addEventListener("click", () => {
    token = "";
    location.reload();
  });
}

/** Go on to the address with a slash behind it, where a proxy has left that out: addresses are below it. */
function goBelow() {
  const address = new URL(location.href);
  address.pathname += "/";
  location.replace(address);
}

if (location.pathname.endsWith("/")) {
  listen();
  connect().then(look);
} else {
  goBelow();
}
