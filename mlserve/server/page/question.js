"use strict";
/* The form for the inputs of a signature, and the request that is made of what stands in it. */

/** Elements of an input that an example writes out. */
const MOST_EXAMPLE = 32;

/** Files of the form's fields for strings, by the name of the input. */
const fileOf = new Map();

/** Fill a pane with a field for each input of a signature; what was written for the same input stays. */
function fillForm(pane, description) {
  const { inputs, optional } = description;
  const shown = JSON.stringify([inputs, optional]);
  if (pane.dataset.shown === shown) return;  // somebody may be writing in it
  pane.dataset.shown = shown;
  const written = new Map([...pane.querySelectorAll("textarea")].map((field) => [field.dataset.input, field.value]));
  const files = inputs.filter(({ datatype }) => datatype === "BYTES").map(({ name }) => name);
  for (const name of [...fileOf.keys()]) if (!files.includes(name)) fileOf.delete(name);
  pane.replaceChildren(...inputs.map((input, at) => fieldOf(input, at, description, written.get(inWords(input)))));
}

function fieldOf(input, at, description, written) {
  const isOptional = description.optional.includes(input.name);
  const id = `input-${at}`;
  const text = make("textarea", {
    id, name: input.name, rows: 2, spellcheck: "false", autocapitalize: "off",
    "aria-describedby": `${id}-kind`, "data-input": inWords(input),
  });
  text.value = written ?? (isOptional ? "" : exampleOf(input));
  const kind = `${inWords(input).slice(input.name.length + 2)}${isOptional ? ", may be left out" : ""}`;
  const head = make("div", { class: "between" },
    make("label", { for: id, class: "name", text: input.name }), make("span", { id: `${id}-kind`, class: "muted", text: kind }));
  const children = [head, text];
  if (input.datatype === "BYTES") children.push(fileField(input, text));
  return make("div", { class: "field" }, ...children);
}

/** Return what puts the bytes of a file in the place of a string. */
function fileField(input, text) {
  const note = make("span", { class: "muted" });
  const file = make("input", { type: "file", class: "said" });
  const clear = make("button", { type: "button", class: "small", text: "Take the text", hidden: true });
  const show = () => {
    const chosen = fileOf.get(input.name);
    text.disabled = Boolean(chosen);
    clear.hidden = !chosen;
    note.replaceChildren(...(chosen ? [apart(chosen.name), `, ${inBytes(chosen.size)}, takes the place of the text`] : []));
  };
  const change = (chosen) => {
    if (chosen) fileOf.set(input.name, chosen);
    else fileOf.delete(input.name);
    show();
    text.dispatchEvent(new Event("input", { bubbles: true }));
  };
  file.addEventListener("change", () => {
    const [chosen] = file.files;
    file.value = "";
    if (chosen) change(chosen);
  });
  clear.addEventListener("click", () => change(null));
  show();
  return make("div", { class: "row tight" }, make("label", { class: "button small" }, file, "A file instead", said(` of the text of ${input.name}`)), clear, note);
}

/** Return a made-up value of an input: one row of it, or nothing if that is long. */
function exampleOf({ datatype, shape }) {
  const sizes = shape.map((size) => (size < 0 ? 1 : size));
  if (sizes.reduce((product, size) => product * size, 1) > MOST_EXAMPLE) return "";
  const element = datatype === "BYTES" ? '"good"' : datatype === "BOOL" ? "true" : /^FP|^BF/.test(datatype) ? "1.0" : "1";
  return sizes.reduceRight((text, size) => `[${Array(size).fill(text).join(", ")}]`, element);
}

/** Return the JSON text of each input in the form, by name. Throws WrongInput. */
async function inputsOfForm(pane, description) {
  const fields = new Map([...pane.querySelectorAll("textarea")].map(({ name, value }) => [name, value]));
  const files = new Map(fileOf);  // as they are now, whatever is chosen while they are read
  const inputs = new Map();
  for (const input of description.inputs) {
    const file = files.get(input.name);
    const text = fields.get(input.name) ?? "";
    if (!file && text.trim() === "") {
      if (description.optional.includes(input.name)) continue;
      throw new WrongInput(`${input.name} is empty`, `the model takes ${inWords(input)}`);
    }
    inputs.set(input.name, inRank(file ? await base64Of(file, description) : valueIn(text, input), input.shape.length));
  }
  return inputs;
}

function valueIn(text, input) {
  try {
    const compact = compactJson(text);
    return input.datatype === "BYTES" && !/^[["{]/.test(compact) ? JSON.stringify(text.trim()) : compact;
  } catch (error) {
    if (input.datatype === "BYTES") return JSON.stringify(text);
    throw new WrongInput(`${input.name} is not JSON: ${error.message}`, `the model takes ${inWords(input)}, such as ${exampleOf(input) || "[[1.0, 2.0]]"}`);
  }
}

/** Return the value as a batch of one if it has one dimension less than the input; a string in all. */
function inRank(text, rank) {
  const depth = text.length - text.replace(/^\[+/, "").length;
  const isElement = depth === 0 && rank > 0;
  const missing = isElement && /^["{]/.test(text) ? rank : rank - depth === 1 ? 1 : 0;
  return "[".repeat(missing) + text + "]".repeat(missing);
}

async function base64Of(file, description) {
  requireFits(file, description);
  const bytes = await bytesOf(file);
  let binary = "";
  for (let at = 0; at < bytes.length; at += 0x8000) binary += String.fromCharCode(...bytes.subarray(at, at + 0x8000));
  return `{"b64":"${btoa(binary)}"}`;
}

/** Throw WrongInput for a file that is larger than a request may be. */
function requireFits(file, { limits }) {
  const most = limits.max_request_bytes ?? Infinity;
  if (file.size > most) {
    throw new WrongInput(`${file.name} has ${inBytes(file.size)}, and this server takes requests of at most ${inBytes(most)}`,
      "give a smaller file, or start the server with a larger --max-request-bytes");
  }
}

/** Return the body of a request in TensorFlow Serving's columnar form. */
function bodyOf(signature, inputs) {
  const named = [...inputs].map(([name, text]) => `${JSON.stringify(name)}:${text}`);
  return `{"signature_name":${JSON.stringify(signature)},"inputs":{${named.join(",")}}}`;
}

/** Return how long the caller waits, in the milliseconds of the header that says it. */
const inMilliseconds = (seconds) => String(Math.max(1, Math.round(seconds * 1000)));

/**
 * Return the question as it goes to one version: where to, with what, and by which signature.
 *
 * `asked` is what the page was told: `{kind, image, table, pane, chosen, count, seconds}`. Throws
 * WrongInput and Refused.
 */
async function questionFor(target, asked) {
  const path = `${pathOf(target, "v1")}:predict`;
  const patience = { "X-Request-Timeout-Ms": inMilliseconds(asked.seconds) };
  if (asked.kind === "image") {
    const description = await signatureForImage(target, asked.chosen, asked.count);
    if (!takesImage(description)) throw takesOther(target, description);
    requireFits(asked.image, description);
    await bytesOf(asked.image, 1);
    const body = new FormData();
    body.append("image", asked.image, asked.image.name);
    body.append("signature_name", description.name);
    return { path, body, headers: patience, description, text: null };
  }
  const description = await describe(target, asked.chosen);
  const inputs = asked.kind === "table" ? inputsOfTable(asked.table, description) : await inputsOfForm(asked.pane, description);
  const text = bodyOf(description.name, inputs);
  const headers = { "Content-Type": "application/json", ...patience };
  return { path, body: text, headers, description, text };
}

const takesOther = (target, description) =>
  new WrongInput(`${target.model}, version ${target.version}, does not take image files`,
    `it takes ${description.inputs.map(inWords).join("; ") || "nothing that it lists"}`);

/**
 * Return the question for each version, in their order, or what is wrong with it: `{target, question}`
 * or `{target, error}`. All are made before the first is sent, so that they ask the same. Throws
 * WrongInput and Refused if the first cannot be asked.
 */
async function questionsFor(targets, asked) {
  const [first] = targets;
  const question = await questionFor(first, asked);
  if (asked.kind === "table") requireFew(asked.table, question.description);
  const questions = [{ target: first, question }];
  for (const target of targets.slice(1)) {
    try {
      await requireSameInputs(target, asked, question.description);
      questions.push({ target, question: await questionFor(target, asked) });
    } catch (error) {
      requireKnown(error);
      questions.push({ target, error });
    }
  }
  return questions;
}

/** Throw WrongInput unless the fields of the form are those of this version, too. */
async function requireSameInputs(target, asked, first) {
  if (asked.kind === "image") return;
  const own = await describe(target, asked.chosen);
  const listed = ({ inputs }) => inputs.map(({ name, datatype }) => `${name}: ${datatype}`).sort().join("; ");
  if (listed(own) !== listed(first)) {
    throw new WrongInput(`${target.model}, version ${target.version}, takes other inputs`, `it takes ${own.inputs.map(inWords).join("; ")}`);
  }
}

/** Throw WrongInput for a table that is too long to be asked about at once. */
function requireFew(table, description) {
  const most = description.inputs.some(({ shape }) => shape[0] === 1) ? 1 : (description.limits.max_batch_length ?? Infinity);
  if (table.rows.length > most) {
    throw new WrongInput(`${table.name} has ${counted(table.rows.length, "row")}, and a request to this model at most ${most}`,
      "ask on the command line, which sends the table in pieces: the command stands below");
  }
}

/** Return the outputs of an answer by name. A single output comes without its name. Throws Refused. */
function outputsIn(value, { outputs }, { headers, elapsed }) {
  const names = outputs.map(({ name }) => name);
  const isOne = names.length === 1;
  if (Array.isArray(value?.predictions)) {
    const column = (name) => value.predictions.map((row) => (isOne ? row : row?.[name]));
    return new Map(names.map((name) => [name, column(name)]));
  }
  const found = value?.outputs;
  if (isOne && found !== undefined) return new Map([[names[0], found]]);
  if (found !== null && typeof found === "object") return new Map(Object.entries(found));
  throw new Refused("the answer has no outputs", { hint: `see what answers at ${ENDPOINT}`, headers, elapsed });
}

/** Ask one version; return its answer, or the error, and what is known of both. */
async function askTarget(target, question, seconds, signal) {
  try {
    const answer = await requestJson(question.path, { method: "POST", signal, seconds: seconds + GRACE, ...question });
    return { target, question, ...answer, outputs: outputsIn(answer.value, question.description, answer) };
  } catch (error) {
    requireKnown(error);
    return failure(target, error);
  }
}

/** Return what is shown of a version that gave no answer. */
const failure = (target, error) => ({ target, error, headers: error.headers ?? null, elapsed: error.elapsed ?? 0 });
