"use strict";
/* A CSV file as the inputs of a signature, by the rules of `mlserve predict FILE.csv`. */

/** What is wrong with a file or a field that a person gave; nothing has been sent. */
class WrongInput extends Error {
  constructor(message, hint = "") {
    super(message);
    this.hint = hint;
  }
}

/** Throw an error that is neither the server's nor that of what was given: a fault of this page. */
function requireKnown(error) {
  if (!(error instanceof Refused || error instanceof WrongInput)) throw error;
}

/** Return the first bytes of a file, by default all. Throws WrongInput if it cannot be read. */
async function bytesOf(file, count = file.size) {
  try {
    return new Uint8Array(await file.slice(0, count).arrayBuffer());
  } catch {
    throw new WrongInput(`${file.name} cannot be read`, "give a file, not a folder; if it was changed or moved, give it again");
  }
}

/** What `mlserve predict` takes for a table by its name. */
const TABLE = /\.(csv|tsv)$/i;

/** The least number that each type of float rounds to infinity. */
const TOO_LARGE = { FP16: 65520, BF16: 2 ** 128 - 2 ** 119, FP32: 2 ** 128 - 2 ** 103 };

const NUMBER = /^\s*([+-]?)(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?\s*$/;
const NOT_FINITE = /^\s*([+-]?)(nan|inf(?:inity)?)\s*$/i;
const WHOLE = /^\s*([+-]?\d+)(?:\.0*)?\s*$/;
const MISSING = ["", "na", "n/a", "nan", "null"];
const isNumber = (cell) => MISSING.includes(cell.trim().toLowerCase()) || NUMBER.test(cell) || NOT_FINITE.test(cell);

/**
 * Return the records of CSV, each with its cells and the line that it begins on.
 *
 * An empty line is no record; a quote inside a quoted cell is written twice. Throws WrongInput.
 */
function recordsOf(text, delimiter) {
  const records = [];
  let cells = [], cell = "", line = 1, began = 1, place = 0, isQuoted = false;
  const end = () => {
    if (cells.length > 0 || cell !== "" || isQuoted) records.push({ line: began, cells: [...cells, cell] });
    cells = [];
    cell = "";
    isQuoted = false;
  };
  while (place < text.length) {
    const mark = text[place];
    if (mark === '"' && cell === "" && !isQuoted) {
      const close = closingQuote(text, place + 1);
      if (close < 0) throw new WrongInput(`line ${line}: a quote is never closed`, "close the quote, or write it twice inside a cell");
      cell = text.slice(place + 1, close).replaceAll('""', '"');
      line += cell.split("\n").length - 1;
      isQuoted = true;
      place = close + 1;
      if (place < text.length && ![delimiter, "\r", "\n"].includes(text[place])) {
        throw new WrongInput(`line ${line}: a cell goes on after its closing quote`, 'write a quote inside a cell twice: "a ""b"" c"');
      }
      continue;
    }
    if (mark === delimiter) {
      cells.push(cell);
      cell = "";
      isQuoted = false;
    } else if (mark === "\n" || mark === "\r") {
      if (mark === "\r" && text[place + 1] === "\n") place += 1;
      end();
      line += 1;
      began = line;
    } else {
      cell += mark;
    }
    place += 1;
  }
  end();
  return records;
}

function closingQuote(text, from) {
  let place = text.indexOf('"', from);
  while (place >= 0 && text[place + 1] === '"') place = text.indexOf('"', place + 2);
  return place;
}

/**
 * Return the table in a CSV or TSV file: the names of its columns, and its rows by line.
 *
 * `known` are names that a column can have. A first line of numbers only is a row, unless it has
 * such a name or counts from 0. Throws WrongInput.
 */
function readTable(name, bytes, known) {
  const text = decoded(name, bytes);
  const first = text.split(/\r?\n|\r/, 1)[0];
  if (!first.trim()) throw new WrongInput(`${name} has no header: its first line is empty`, "the first line names the columns");
  const delimiter = /\.tsv$/i.test(name) ? "\t" : [",", ";", "\t"].find((mark) => first.includes(mark)) ?? ",";
  const records = recordsOf(text, delimiter);
  const header = records[0].cells.map((cell) => cell.trim());
  const isHeader = header.some((cell) => known.has(cell)) || !header.every(isNumber) || header.every((cell, at) => cell === String(at));
  const columns = isHeader ? header : header.map((cell, at) => String(at + 1));
  const twice = columns.find((column, at) => columns.indexOf(column) !== at);
  if (twice !== undefined) throw new WrongInput(`${name} has the column '${twice}' twice`, "give each column a name of its own in the first line");
  const rows = records.slice(isHeader ? 1 : 0);
  if (rows.length === 0) throw new WrongInput(`${name} has a header and no rows`);
  for (const { line, cells } of rows) {
    if (cells.length !== columns.length) {
      throw new WrongInput(`${name}, line ${line}: ${counted(cells.length, "cell")} where the header has ${columns.length}`,
        "put a cell that has the delimiter in it in quotes");
    }
  }
  return { name, columns, rows, hasNames: isHeader };
}

function decoded(name, bytes) {
  try {
    return new TextDecoder("utf-8", { fatal: true }).decode(bytes);
  } catch {
    throw new WrongInput(`${name} is not UTF-8 text`, "save the file as CSV in UTF-8");
  }
}

/** Return the names of the columns of each matrix input, as far as the server gives them. */
function namedColumns(description) {
  const found = description.contract.columns ?? {};
  const named = (name) => (Array.isArray(found[name]) ? found[name].filter((each) => typeof each === "string") : []);
  return new Map(description.inputs.map(({ name }) => [name, named(name)]));
}

/** Return every name that a column can have. */
function knownColumns(description) {
  const named = [...namedColumns(description).values()].flat();
  return new Set([...description.inputs.map(({ name }) => name), ...named]);
}

/**
 * Return which columns each input is made of: `{input, columns, isMatrix}`.
 *
 * A column goes to the input of its name; a matrix [N, n] is made of the columns that the server
 * names, else of the table's columns of numbers if there are exactly n. Throws WrongInput.
 */
function feedsOf(table, description) {
  const has = (name) => table.columns.includes(name);
  const required = requiredOf(description);
  const feeds = [];
  for (const input of description.inputs) {
    const names = namedColumns(description).get(input.name);
    const isThere = has(input.name) || names.some(has);
    const direct = { input, columns: [input.name], isMatrix: false };
    const matrix = (columns) => ({ input, columns, isMatrix: true });
    if (description.optional.includes(input.name) && !isThere) continue;
    if (names.length > 0 && names.every(has)) feeds.push(matrix(names));
    else if (has(input.name)) feeds.push(direct);
    else if (names.length > 0 && table.hasNames) feeds.push(matrix(names));
    else if (required.length === 1 && input.shape.length === 2) feeds.push(matrix(inOrder(table, input, names.length)));
    else feeds.push(direct);
  }
  const missing = feeds.flatMap(({ columns }) => columns).filter((column) => !has(column));
  if (missing.length > 0) {
    throw new WrongInput(`${table.name} has no column ${missing.map((name) => `'${name}'`).join(", ")}`,
      `the model takes the columns ${feeds.flatMap(({ columns }) => columns).join(", ")}`);
  }
  return feeds;
}

function inOrder(table, input, named) {
  const takes = named || input.shape[1];
  const isText = input.datatype === "BYTES";
  let columns = table.columns.filter((name, at) => isText || isNumber(table.rows[0].cells[at]));
  if (takes >= 0 && columns.length === takes + 1 && columns[0] === "") columns = columns.slice(1);
  if (takes < 0 || columns.length === takes) return columns;
  throw new WrongInput(`${table.name} has ${columns.length} columns${isText ? "" : " of numbers"}; the model takes ${takes} as ${inWords(input)}`,
    `keep only the ${takes} columns that the model was trained with, in the same order`);
}

/** Return the JSON text of each input, by name, for all rows of the table. Throws WrongInput. */
function inputsOfTable(table, description) {
  const feeds = feedsOf(table, description);
  const inputs = new Map();
  for (const { input, columns, isMatrix } of feeds) {
    const places = columns.map((column) => table.columns.indexOf(column));
    const values = table.rows.map(({ line, cells }) => {
      const read = places.map((place) => {
        try {
          return cellInJson(cells[place], input, !isMatrix);
        } catch (error) {
          throw new WrongInput(`${table.name}, line ${line}, column '${table.columns[place]}': ${error.message}`,
            `the model takes ${inWords(input)}`);
        }
      });
      return isMatrix ? `[${read.join(",")}]` : wrapped(read[0], input.shape.length - 1);
    });
    inputs.set(input.name, `[${values.join(",")}]`);
  }
  return inputs;
}

const wrapped = (text, depth) => (text.startsWith("[") ? text : "[".repeat(depth) + text + "]".repeat(depth));

/** Return a cell as JSON of that type; throws Error, saying why it is none. */
function cellInJson(cell, { datatype, shape }, isWhole) {
  const isArray = isWhole && shape.length > 1 && !(datatype === "BYTES" && shape.slice(1).every((size) => size === 1));
  if (isArray && cell.trim().startsWith("[")) return compactJson(cell);
  if (datatype === "BYTES") return JSON.stringify(cell);
  if (datatype === "BOOL") {
    const word = cell.trim().toLowerCase();
    if (["true", "1"].includes(word)) return "true";
    if (["false", "0"].includes(word)) return "false";
    throw new Error(word ? `'${cut(cell, 40)}' is not true or false` : "it is empty, and bool has no missing value");
  }
  if (/^FP|^BF/.test(datatype)) {
    const found = NUMBER.exec(cell);
    if (found) {
      const text = numberInJson(found);
      if (Math.abs(Number(text)) >= (TOO_LARGE[datatype] ?? Infinity)) throw new Error(`'${cut(cell, 40)}' is too large for ${datatype}`);
      return text;
    }
    const word = NOT_FINITE.exec(cell);
    if (word && word[2].toLowerCase() !== "nan") return `${word[1] === "-" ? "-" : ""}Infinity`;
    if (word || MISSING.includes(cell.trim().toLowerCase())) return "NaN";
    throw new Error(`'${cut(cell, 40)}' is not a number`);
  }
  const whole = WHOLE.exec(cell);
  if (whole) return String(BigInt(whole[1].replace("+", "")));
  throw new Error(cell.trim() ? `'${cut(cell, 40)}' is not a whole number` : `it is empty, and ${datatype} has no missing value`);
}

/** Return a number in JSON's spelling, with all its digits: `.5` is `0.5`, `007` is `7`, `1.` is `1.0`. */
function numberInJson([, sign, digits, exponent = ""]) {
  const [whole, fraction] = digits.split(".");
  const point = fraction === undefined ? "" : `.${fraction || "0"}`;
  return `${sign === "-" ? "-" : ""}${whole.replace(/^0+(?=\d)/, "") || "0"}${point}${exponent}`;
}
