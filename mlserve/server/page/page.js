"use strict";
/* What happens when: the page is opened, a model is chosen, something is dropped, a button pressed. */

const TABLE = /\.(csv|tsv)$/i;
/** Milliseconds after which a server that was not there, or not ready, is asked again. */
const AGAIN = 2000;

const page = {
  about: null,
  targets: [],
  description: null,
  image: null,
  table: null,
  stopper: null,
  served: "",
  command: "Command line",
  hasChosen: false,
  later: null,
};

// The server

/** Ask what is served, and show it; asks again while there is no server or no model. */
async function connect() {
  try {
    const { value } = await requestJson("v2");
    page.about = value;
    showState(`version ${value.version}`, "ready");
    byId("forget").hidden = token === "";
    await takeTargets(targetsIn(value));
  } catch (error) {
    if (!(error instanceof Refused)) throw error;
    if (error.status === 401) {
      needToken(error);
      return;
    }
    showState(error.message, "gone");
    connectLater();
    return;
  }
  if (page.targets.length === 0) {
    byId("nothing").hidden = false;
    byId("question").hidden = true;
    connectLater();
  }
}

/** Connect again in a while, and then look at the load; there is never more than one such wait. */
function connectLater() {
  clearTimeout(page.later);
  page.later = setTimeout(() => connect().then(look), AGAIN);
}

/** Fill the choices of versions; what was chosen stays, or becomes the latest of the same model. */
async function takeTargets(targets) {
  const chosen = page.targets.find(({ key }) => key === byId("first").value);
  page.targets = targets;
  described.clear();
  byId("main").hidden = false;
  byId("nothing").hidden = targets.length > 0;
  byId("question").hidden = targets.length === 0;
  if (targets.length === 0) return;
  const sorted = [...targets].sort((a, b) => a.model.localeCompare(b.model) || b.version - a.version);
  const usual = sorted.find(({ key }) => key === chosen?.key) ?? sorted.find(({ model }) => model === chosen?.model) ?? sorted[0];
  const beside = byId("second").value;
  byId("first").replaceChildren(...optionsOf(sorted));
  byId("first").value = usual.key;
  byId("second").replaceChildren(make("option", { value: "", text: "no other" }), ...optionsOf(sorted));
  byId("second").value = sorted.some(({ key }) => key === beside) ? beside : "";
  byId("beside").hidden = sorted.length < 2;
  byId("seconds").placeholder = String(page.about.parameters.default_timeout ?? 30);
  if (!byId("seconds").value) byId("seconds").value = byId("seconds").placeholder;
  await takeSignature();
}

const optionsOf = (targets) => targets.map(({ key, model, version, words }) =>
  make("option", { value: key, text: `${model} · version ${version}${words ? ` · ${words}` : ""}` }));

const targetOf = (id) => page.targets.find(({ key }) => key === byId(id).value) ?? null;

/** Show the fields that the chosen version and signature take. */
async function takeSignature() {
  const target = targetOf("first");
  try {
    const usual = await describe(target);
    const field = byId("signature");
    const chosen = usual.signatures.includes(field.value) ? field.value : BEST;
    const first = usual.signatures.includes("top_k") ? "the best labels" : `${usual.name} (the default)`;
    field.replaceChildren(make("option", { value: BEST, text: first }), ...usual.signatures.map((name) => make("option", { value: name, text: name })));
    field.value = chosen;
    page.description = await describe(target, chosen);
    const forImage = chosen === BEST ? await signatureForImage(target, BEST, 1) : page.description;
    showKinds({ image: takesImage(forImage), form: true, table: takesRows(page.description) });
    fillForm(byId("fields"), page.description);
    complain(null);
    await showCommands();
  } catch (error) {
    if (!(error instanceof Refused)) throw error;
    complain(error);
  }
}

/** Show which kinds of question the signature takes, and choose the first if the chosen one is none. */
function showKinds(takes) {
  const chosen = kindChosen();
  for (const field of document.querySelectorAll("input[name=kind]")) field.closest("label").hidden = !takes[field.value];
  takeKind(takes[chosen] && page.hasChosen ? chosen : Object.keys(takes).find((kind) => takes[kind]));
}

const kindChosen = () => document.querySelector("input[name=kind]:checked").value;

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
  const count = Number(byId("count").value);
  if (!(seconds > 0 && seconds <= 1e9)) throw new WrongInput("the time is not a number of seconds above 0");
  if (!(Number.isInteger(count) && count > 0)) throw new WrongInput("the number of labels is not a whole number above 0");
  if (kind === "image" && !page.image) throw new WrongInput("there is no image yet", "drop one, paste one, or choose a file");
  if (kind === "table") {
    if (!page.table) throw new WrongInput("there is no table yet", "drop a CSV file, or choose one");
    requireFew(page.table, page.description);
  }
  return { kind, seconds, count, image: page.image, table: page.table, pane: byId("fields"), chosen: byId("signature").value, again: askNow };
}

/** Ask the chosen versions, one after the other, so that neither slows the other down. */
async function askNow() {
  let asked;
  const targets = [targetOf("first"), targetOf("second")].filter(Boolean);
  try {
    asked = askedNow();
    await questionFor(targets[0], asked);
  } catch (error) {
    if (!(error instanceof Refused || error instanceof WrongInput)) throw error;
    complain(error);
    clearAnswers();
    return;
  }
  page.stopper?.abort();
  const stopper = new AbortController();
  page.stopper = stopper;
  complain(null);
  showBusy(true);
  const results = [];
  try {
    for (const target of targets) {
      if (stopper.signal.aborted) break;
      results.push(await askBeside(target, asked, stopper.signal));
      if (page.stopper !== stopper) return;
      showResults(results, asked, targets.length);
    }
  } finally {
    if (page.stopper === stopper) showBusy(false);
  }
  if (results.some(({ error }) => error?.status === 401)) needToken(results[0].error);
  look();
  await showCommands();
}

async function askBeside(target, asked, signal) {
  try {
    await requireSameInputs(target, asked, page.description);
  } catch (error) {
    if (!(error instanceof Refused || error instanceof WrongInput)) throw error;
    return { target, error, headers: null, elapsed: 0 };
  }
  return askTarget(target, asked, signal);
}

function showBusy(isBusy) {
  byId("ask-button").textContent = isBusy ? "Asking" : "Ask";
  byId("stop").hidden = !isBusy;
  byId("answers").setAttribute("aria-busy", String(isBusy));
}

function showResults(results, asked, wanted) {
  const verdict = wanted === 2 ? agreement(results) : null;
  const field = byId("verdict");
  field.hidden = verdict === null;
  field.className = `verdict ${verdict?.isSame ? "same" : "other"}`;
  field.textContent = verdict?.text ?? "";
  byId("answer-list").replaceChildren(...results.map((result) => showAnswer(result, asked)));
  byId("answer-list").classList.toggle("pair", wanted === 2);
  byId("empty").hidden = true;
  announce(results.map(inSpeech).join(" ") + (verdict ? ` ${verdict.text}` : ""));
}

function inSpeech({ target, error, outputs, elapsed }) {
  const who = `${target.model}, version ${target.version}:`;
  if (error) return `${who} ${error.message}.`;
  const rows = rowsOf(outputs);
  const label = rows?.length === 1 ? labelOf(rows[0]) : null;
  return `${who} ${label ?? (rows ? counted(rows.length, "row") : "answered")}, in ${inTime(elapsed)}.`;
}

/** Take away what answers another question than the one that stands there. */
function clearAnswers() {
  page.stopper?.abort();
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

// Files

/** Take the files that were dropped, pasted or chosen: an image or a table. */
async function takeFiles(files) {
  const [file] = files;
  if (!file) return;
  page.hasChosen = true;
  if (TABLE.test(file.name) || file.type === "text/csv") await takeTable(file);
  else await takeImage(file);
  if (files.length > 1) announce(`The first of ${files.length} files was taken.`);
}

async function takeImage(file) {
  const label = document.querySelector("input[name=kind][value=image]").closest("label");
  if (label.hidden) {
    complain(targetOf("first") ? takesOther(targetOf("first"), page.description) : new WrongInput("no model is served yet"));
    return;
  }
  if (page.image) URL.revokeObjectURL(byId("preview").src);
  page.image = file.name ? file : new File([file], `image.${file.type === "image/jpeg" ? "jpg" : "png"}`, { type: file.type });
  byId("preview").src = URL.createObjectURL(page.image);
  byId("preview").alt = page.image.name;
  byId("preview").hidden = false;
  byId("drop").classList.add("full");
  byId("image-name").textContent = `${page.image.name}, ${inBytes(page.image.size)}`;
  takeKind("image");
  await askNow();
}

async function takeTable(file) {
  const label = document.querySelector("input[name=kind][value=table]").closest("label");
  try {
    if (label.hidden) throw new WrongInput("the model cannot be asked row by row", `it takes ${page.description?.inputs.map(inWords).join("; ")}`);
    const table = readTable(file.name, await file.arrayBuffer(), knownColumns(page.description));
    page.table = table;
    byId("table-name").textContent = `${file.name}: ${counted(table.rows.length, "row")} of ${counted(table.columns.length, "column")}`;
    byId("table-drop").classList.add("full");
    takeKind("table");
    await showCommands();
    await askNow();
  } catch (error) {
    if (!(error instanceof WrongInput)) throw error;
    complain(error);
  }
}

// The commands

/** Show the commands that ask what the form asks; none while it is not whole. */
async function showCommands() {
  const target = targetOf("first");
  const box = byId("commands");
  try {
    const asked = askedOrLong();
    const texts = commandsFor(target, asked, await questionFor(target, asked));
    byId("command").textContent = texts[page.command];
    byId("command-note").replaceChildren(...notesOn(texts, asked));
    box.hidden = false;
  } catch (error) {
    if (!(error instanceof Refused || error instanceof WrongInput)) throw error;
    box.hidden = true;
  }
}

/** Return what is asked, also of a table that is too long for this page, but not for the command. */
function askedOrLong() {
  try {
    return askedNow();
  } catch (error) {
    if (kindChosen() !== "table" || !page.table) throw error;
    const seconds = Number(byId("seconds").value);
    return { kind: "table", seconds, count: 1, image: null, table: page.table, pane: byId("fields"), chosen: byId("signature").value };
  }
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
      make("button", { type: "button", class: "small", text: "Save the image", onclick: () => saveFile(page.image.name, page.image) }));
  }
  if (token) notes.push(make("span", { text: " The token is in the variable MLSERVE_TOKEN." }));
  if (BASE.protocol === "https:") notes.push(make("span", { text: " If the system does not trust the server's certificate, add --tls-ca FILE (curl: --cacert FILE)." }));
  return notes;
}

// The load

let looking = null;

/** Look at the metrics, and again in a while as long as the page is seen. */
async function look() {
  clearTimeout(looking);
  if (document.hidden || byId("main").hidden) return;
  try {
    const seen = lookAt((await request("metrics")).text);
    showLoad(seen, page.about?.parameters?.slots);
    showState(`version ${page.about?.version}${seen.isReady ? "" : ", not ready"}`, seen.isReady ? "ready" : "waiting");
    if (page.served && page.served !== seen.served) await connect();
    page.served = seen.served;
  } catch (error) {
    if (!(error instanceof Refused)) throw error;
    if (error.status === 401) needToken(error);
    else showState(error.message, "gone");
  }
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
      takeSignature();
    });
  }
  byId("second").addEventListener("change", () => {
    if (byId("answer-list").childElementCount > 0) askNow();
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
  for (const id of ["file", "camera", "table-file"]) {
    byId(id).addEventListener("change", async ({ target }) => {
      const files = [...target.files];
      target.value = "";
      await takeFiles(files);
    });
  }
  byId("command-head").append(copyButton(() => byId("command").textContent, "the command"));
  listenForDrops();
  document.addEventListener("paste", (event) => {
    const files = [...(event.clipboardData?.files ?? [])];
    if (files.length === 0) return;
    event.preventDefault();
    takeFiles(files);
  });
  document.addEventListener("visibilitychange", look);
  listenForToken(async () => {
    await connect();
    look();
  });
  byId("forget").addEventListener("click", () => {
    token = "";
    location.reload();
  });
}

function listenForDrops() {
  let depth = 0;
  const mark = (change) => {
    depth = Math.max(0, depth + change);
    document.body.classList.toggle("dragging", depth > 0);
  };
  const hasFiles = (event) => [...(event.dataTransfer?.types ?? [])].includes("Files");
  document.addEventListener("dragenter", (event) => hasFiles(event) && mark(1));
  document.addEventListener("dragleave", (event) => hasFiles(event) && mark(-1));
  document.addEventListener("dragover", (event) => hasFiles(event) && event.preventDefault());
  document.addEventListener("drop", (event) => {
    if (!hasFiles(event)) return;
    event.preventDefault();
    depth = 0;
    mark(0);
    takeFiles([...event.dataTransfer.files]);
  });
}

listen();
connect().then(look);
