"use strict";
/* The image that was given, as the model sees it: turned upright only by a model that does that. */

const START = 0xffd8, APP1 = 0xffe1, START_OF_SCAN = 0xffda, EXIF = 0x45786966, LITTLE_ENDIAN = 0x4949;
const ORIENTATION = 0x0112;
/** The bytes at the beginning of a JPEG file that hold what it says of itself. */
const HEAD = 2 ** 18;

/** Return the EXIF orientation of a JPEG file, 1 to 8; 1, upright, if it says none (Exif 2.32, section 4.6.4). */
async function orientationOf(file) {
  try {
    const view = new DataView((await bytesOf(file, HEAD)).buffer);
    if (view.getUint16(0) !== START) return 1;
    let at = 2;
    while (view.getUint16(at) !== APP1 || view.getUint32(at + 4) !== EXIF) {
      if (view.getUint16(at) === START_OF_SCAN) return 1;
      at += 2 + view.getUint16(at + 2);
    }
    const tiff = at + 10;
    const isLittle = view.getUint16(tiff) === LITTLE_ENDIAN;
    const directory = tiff + view.getUint32(tiff + 4, isLittle);
    const entries = Array.from({ length: view.getUint16(directory, isLittle) }, (_, entry) => directory + 2 + 12 * entry);
    const found = entries.find((entry) => view.getUint16(entry, isLittle) === ORIENTATION);
    return found === undefined ? 1 : view.getUint16(found + 8, isLittle);
  } catch (error) {
    if (!(error instanceof RangeError || error instanceof WrongInput)) throw error;
    return 1;  // the file ends before it says so, or cannot be read
  }
}

/** Show an image in the place of the one before, and its name. */
function showImage(image) {
  const preview = byId("preview");
  if (preview.src) URL.revokeObjectURL(preview.src);
  preview.src = URL.createObjectURL(image);
  preview.alt = image.name;
  preview.hidden = false;
  preview.onerror = () => { preview.hidden = true; };  // it is no image, as the answer will say
  byId("drop").classList.add("full");
  byId("image-name").replaceChildren(apart(image.name), `, ${inBytes(image.size)}`);
}

/** Turn the image that is shown as the model of that contract does, and say so if it lies on its side. */
async function turnImage(image, { pipeline }) {
  const isLatest = begin("turn");
  const isIgnored = pipeline !== undefined && pipeline.exif !== "apply";
  byId("preview").style.imageOrientation = isIgnored ? "none" : "from-image";
  const isTurned = isIgnored && (await orientationOf(image)) !== 1;
  if (!isLatest()) return;
  byId("image-note").textContent = isTurned ? "Shown as the model sees it: this model does not turn photos by their EXIF data." : "";
}
