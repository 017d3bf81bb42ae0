/** Message ids. @module */

const ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ";
const ULID = /^[0-7][0-9A-HJKMNP-TV-Z]{25}$/;
const UUID7 = /^[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/;

/** A new ULID: 48 bits of time, 80 random bits. */
export function newUlid() {
  let time = Date.now();
  let text = "";
  for (let i = 0; i < 10; i++) {
    text = ALPHABET[time % 32] + text;
    time = Math.floor(time / 32);
  }
  for (const byte of crypto.getRandomValues(new Uint8Array(16))) text += ALPHABET[byte & 31];
  return text;
}

/** Whether the bus accepts it as an id of a message: a canonical ULID or UUIDv7. @param {string} id */
export function isMessageId(id) {
  return ULID.test(id) || UUID7.test(id);
}
