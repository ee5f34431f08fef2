"use strict";
/* The form for the inputs of a signature, and the request that is made of what stands in it. */

/** Elements of an input that an example writes out. */
const MOST_EXAMPLE = 32;

/** Files of the form's fields for strings, by the name of the input. */
const fileOf = new Map();

/** Fill a pane with a field for each input of a signature; what was written for the same input stays. */
function fillForm(pane, description) {
  const written = new Map([...pane.querySelectorAll("textarea")].map((field) => [field.name, field.value]));
  const names = description.inputs.map(({ name }) => name);
  for (const name of [...fileOf.keys()]) if (!names.includes(name)) fileOf.delete(name);
  pane.replaceChildren(...description.inputs.map((input, at) => fieldOf(input, at, description, written.get(input.name))));
}

function fieldOf(input, at, description, written) {
  const isOptional = description.optional.includes(input.name);
  const id = `input-${at}`;
  const text = make("textarea", {
    id, name: input.name, rows: 2, spellcheck: "false", autocapitalize: "off", "aria-describedby": `${id}-kind`,
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
    note.textContent = chosen ? `${chosen.name}, ${inBytes(chosen.size)}, takes the place of the text` : "";
  };
  file.addEventListener("change", () => {
    if (file.files[0]) fileOf.set(input.name, file.files[0]);
    file.value = "";
    show();
  });
  clear.addEventListener("click", () => {
    fileOf.delete(input.name);
    show();
  });
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
  const inputs = new Map();
  for (const input of description.inputs) {
    const field = [...pane.querySelectorAll("textarea")].find(({ name }) => name === input.name);
    const file = fileOf.get(input.name);
    if (!file && field.value.trim() === "") {
      if (description.optional.includes(input.name)) continue;
      throw new WrongInput(`${input.name} is empty`, `the model takes ${inWords(input)}`);
    }
    inputs.set(input.name, inRank(file ? await base64Of(file) : valueIn(field.value, input), input.shape.length));
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

async function base64Of(file) {
  const bytes = new Uint8Array(await file.arrayBuffer());
  let binary = "";
  for (let at = 0; at < bytes.length; at += 0x8000) binary += String.fromCharCode(...bytes.subarray(at, at + 0x8000));
  return `{"b64":"${btoa(binary)}"}`;
}

/** Return the body of a request in TensorFlow Serving's columnar form. */
function bodyOf(signature, inputs) {
  const named = [...inputs].map(([name, text]) => `${JSON.stringify(name)}:${text}`);
  return `{"signature_name":${JSON.stringify(signature)},"inputs":{${named.join(",")}}}`;
}

/** Return the header that says how long the caller waits. */
const patience = (seconds) => ({ "X-Request-Timeout-Ms": String(Math.round(seconds * 1000)) });

/**
 * Return the question as it goes to one version: where to, with what, and by which signature.
 *
 * `asked` is what the page was told: `{kind, image, table, pane, chosen, count, seconds}`. Throws
 * WrongInput and Refused.
 */
async function questionFor(target, asked) {
  const path = `${pathOf(target, "v1")}:predict`;
  if (asked.kind === "image") {
    const description = await signatureForImage(target, asked.chosen, asked.count);
    if (!takesImage(description)) throw takesOther(target, description);
    const body = new FormData();
    body.append("image", asked.image, asked.image.name);
    body.append("signature_name", description.name);
    return { path, body, headers: patience(asked.seconds), description, text: null };
  }
  const description = await describe(target, asked.chosen);
  const inputs = asked.kind === "table" ? inputsOfTable(asked.table, description) : await inputsOfForm(asked.pane, description);
  const text = bodyOf(description.name, inputs);
  const headers = { "Content-Type": "application/json", ...patience(asked.seconds) };
  return { path, body: text, headers, description, text };
}

const takesOther = (target, description) =>
  new WrongInput(`${target.model}, version ${target.version}, does not take image files`,
    `it takes ${description.inputs.map(inWords).join("; ") || "nothing that it lists"}`);

/** Throw WrongInput unless the fields of the form are those of this version, too. */
async function requireSameInputs(target, asked, first) {
  if (asked.kind === "image") return;
  const own = await describe(target, asked.chosen || first.name);
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

/** Return the outputs of an answer by name. A single output comes without its name. */
function outputsIn(value, description) {
  const names = description.outputs.map(({ name }) => name);
  const isOne = names.length === 1;
  if ("predictions" in value) {
    const column = (name) => value.predictions.map((row) => (isOne ? row : row[name]));
    return new Map(names.map((name) => [name, column(name)]));
  }
  return isOne ? new Map([[names[0], value.outputs]]) : new Map(Object.entries(value.outputs));
}

/** Ask one version; return its answer, or the error, and what is known of both. */
async function askTarget(target, asked, signal) {
  try {
    const question = await questionFor(target, asked);
    const { value, isRounded, text, headers, elapsed } = await requestJson(question.path, { method: "POST", signal, ...question });
    return { target, question, headers, elapsed, text, isRounded, outputs: outputsIn(value, question.description) };
  } catch (error) {
    if (!(error instanceof Refused || error instanceof WrongInput)) throw error;
    return { target, error, headers: error.headers ?? null, elapsed: error.elapsed ?? 0 };
  }
}
