"use strict";
/* Files that are dropped, pasted or chosen: images and tables. */

/** Take the files that were dropped, pasted or chosen: an image or a table, by the name or by what was chosen. */
async function takeFiles(files, isTable = TABLE.test(files[0]?.name)) {
  const [file] = files;
  if (!file) return;
  const isLatest = begin("file");
  try {
    await settled();
    page.hasChosen = true;
    if (isTable) await takeTable(file, isLatest);
    else takeImage(file);
    if (!isLatest()) return;
  } catch (error) {
    requireKnown(error);
    if (isLatest()) complain(error);
    announce(error.message);  // also where the question is not shown
    return;
  }
  if (files.length > 1) announce(`The first of ${files.length} files was taken.`);
  await askNow();
}

function takeImage(file) {
  if (!isOffered("image")) throw takesOther(targetOf("first"), page.description);
  page.image = file.name ? file : new File([file], `image.${file.type === "image/jpeg" ? "jpg" : "png"}`, { type: file.type });
  showImage(page.image);
  takeKind("image");
  turnImage(page.image, page.description.contract);
}

async function takeTable(file, isLatest) {
  if (!isOffered("table")) throw new WrongInput("the model cannot be asked row by row", `it takes ${page.description.inputs.map(inWords).join("; ")}`);
  const table = readTable(file.name, await bytesOf(file), knownColumns(page.description));
  if (!isLatest()) return;
  page.table = table;
  byId("table-name").replaceChildren(apart(file.name), `: ${counted(table.rows.length, "row")} of ${counted(table.columns.length, "column")}`);
  byId("table-drop").classList.add("full");
  takeKind("table");
}

/** Take what is chosen in a dialog, dropped anywhere, or pasted. */
function listenForFiles() {
  for (const id of ["file", "camera", "table-file"]) {
    byId(id).addEventListener("change", async ({ target }) => {
      const files = [...target.files];
      target.value = "";
      await takeFiles(files, id === "table-file" || undefined);
    });
  }
  document.addEventListener("paste", (event) => {
    const files = [...(event.clipboardData?.files ?? [])];
    // What is copied in a spreadsheet comes as text and as a picture of it.
    const isText = event.target.matches?.("textarea, input") && event.clipboardData.types.includes("text/plain");
    if (files.length === 0 || isText) return;
    event.preventDefault();
    takeFiles(files);
  });
  listenForDrops();
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

