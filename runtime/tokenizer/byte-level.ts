/**
 * GPT-2's alphabet: every byte as one printable character, so that a vocabulary of strings can hold any bytes.
 *
 * Source: openai/gpt-2, src/encoder.py, `bytes_to_unicode`.
 */

/** `byteChars[b]` is the character that stands for byte b. */
export const byteChars: readonly string[] = (() => {
  const chars: string[] = [];
  let next = 0x100;
  for (let b = 0; b < 256; b++) {
    const printable = (b >= 0x21 && b <= 0x7e) || (b >= 0xa1 && b <= 0xac) || b >= 0xae;
    chars.push(String.fromCharCode(printable ? b : next++));
  }
  return chars;
})();

const charBytes: ReadonlyMap<string, number> = new Map(byteChars.map((char, byte) => [char, byte]));

/** The UTF-8 bytes of `text`, each as its character. */
export function toByteChars(text: string): string {
  let out = "";
  for (const byte of Buffer.from(text, "utf8")) out += byteChars[byte];
  return out;
}

/** The bytes that `token` stands for; a token with a character outside the alphabet (an added token) is its own UTF-8 bytes. */
export function fromByteChars(token: string): Buffer {
  const bytes = Buffer.allocUnsafe(token.length);
  for (let i = 0; i < token.length; i++) {
    const byte = charBytes.get(token[i]!);
    if (byte === undefined) return Buffer.from(token, "utf8");
    bytes[i] = byte;
  }
  return bytes;
}
