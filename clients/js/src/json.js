/** JSON in which no integer loses digits: beyond ±(2⁵³−1) it is a BigInt. @module */

const MAYBE_LONG = /\d{16}/;
const TOKENS = /"[^"\\]*(?:\\.[^"\\]*)*"|-?\d[\d.eE+-]*/g;
const INTEGER = /^-?\d{16,}$/;

/**
 * The value of a JSON text. Throws SyntaxError.
 *
 * @param {string} text
 * @returns {any}
 */
export function parse(text) {
  if (!MAYBE_LONG.test(text)) return JSON.parse(text);
  const mark = newMark();
  const marked = text.replace(TOKENS, (token) =>
    INTEGER.test(token) && !Number.isSafeInteger(Number(token)) ? `"${mark}${token}"` : token,
  );
  return JSON.parse(marked, (_, value) =>
    typeof value === "string" && value.startsWith(mark) ? BigInt(value.slice(mark.length)) : value,
  );
}

/**
 * The JSON text of a value; a BigInt becomes a number with all its digits. Throws TypeError for what JSON cannot
 * express, NaN and infinities included.
 *
 * @param {unknown} value
 * @returns {string}
 */
export function stringify(value) {
  const mark = newMark();
  let marked = false;
  /** @param {string} _ @param {unknown} one */
  const replace = (_, one) => {
    if (typeof one === "number" && !Number.isFinite(one)) throw new TypeError(`${one} is not a JSON number`);
    if (typeof one !== "bigint") return one;
    marked = true;
    return mark + one;
  };
  let text;
  try {
    text = JSON.stringify(value);
    if (text?.includes("null")) JSON.stringify(value, replace); // a NaN is written as null
  } catch {
    text = JSON.stringify(value, replace);
  }
  if (text === undefined) throw new TypeError(`a value of type ${typeof value} is not JSON`);
  return marked ? text.replaceAll(new RegExp(`"${mark}(-?\\d+)"`, "g"), "$1") : text;
}

/** A prefix that no other string has. */
function newMark() {
  return `integer-${Math.random().toString(36).slice(2)}:`;
}

/** @param {Uint8Array} bytes */
export function toBase64(bytes) {
  let text = "";
  for (let i = 0; i < bytes.length; i += 0x8000) text += String.fromCharCode(...bytes.subarray(i, i + 0x8000));
  return btoa(text);
}

/** @param {string} text */
export function fromBase64(text) {
  return Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
}
