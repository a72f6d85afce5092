/**
 * Ids to text, one at a time, never showing a character that is not complete.
 *
 * What `push` and `flush` return adds up to the decoding of all ids, because there is no other decoder. A token whose text
 * stands by itself costs a table lookup; only the bytes of an incomplete character, or of a run of `<0xXX>` tokens, are kept.
 */
import type { DecoderPlan, Piece } from "./decoder.ts";

/** Decoded pieces by id, filled as ids come; shared by all streams of a tokenizer. */
export interface PieceTable {
  /** The decoded token, or undefined for an id that is not decoded: unknown, or special and skipped. */
  piece(id: number, isFirst: boolean, skipSpecialTokens: boolean): Piece | undefined;
  readonly plan: DecoderPlan;
}

const replacement = "\ufffd";
const nothing = Buffer.alloc(0);

export class DecodeStream {
  private readonly table: PieceTable;
  private readonly skipSpecialTokens: boolean;
  private isFirst = true;
  /** The start of a character whose end has not come (byte-level). */
  private incomplete: Buffer = nothing;
  /** A run of `<0xXX>` bytes that is UTF-8 so far; it is held to its end because one bad byte turns all of it to U+FFFD. */
  private run: number[] = [];
  /** The run had a bad byte: each further byte of it is one U+FFFD. */
  private isRunBroken = false;
  /** The lead byte of the run's last character, and how many of its bytes are still to come. */
  private lead = 0;
  private awaited = 0;
  private leftToStrip: number;

  /** Made by `Tokenizer.stream`. */
  constructor(table: PieceTable, options: { readonly skipSpecialTokens?: boolean } = {}) {
    this.table = table;
    this.skipSpecialTokens = options.skipSpecialTokens ?? false;
    this.leftToStrip = table.plan.strip?.count ?? 0;
  }

  /** Takes the next id; returns the text that is certain by now, often that of this token. Unknown ids have no text. */
  push(id: number): string {
    const piece = this.table.piece(id, this.isFirst, this.skipSpecialTokens);
    if (piece === undefined) return "";
    const separator = this.isFirst ? "" : this.table.plan.separator;
    this.isFirst = false;
    switch (piece.kind) {
      case "text": {
        // Byte-level pieces with text are complete characters, which end an incomplete one.
        if (this.incomplete.length === 0 && this.run.length === 0 && !this.isRunBroken) return this.strip(separator + piece.text);
        return this.strip(this.endBytes() + separator + piece.text);
      }
      case "bytes": {
        const bytes = this.incomplete.length === 0 ? piece.bytes : Buffer.concat([this.incomplete, piece.bytes]);
        const end = completeLength(bytes);
        this.incomplete = end === bytes.length ? nothing : bytes.subarray(end);
        return this.strip(bytes.toString("utf8", 0, end));
      }
      case "byte":
        return this.strip(this.pushRunByte(piece.byte));
    }
  }

  /** Ends the text: returns what was held back, an incomplete character as U+FFFD. The stream then starts anew. */
  flush(): string {
    const text = this.strip(this.endBytes());
    this.isFirst = true;
    this.leftToStrip = this.table.plan.strip?.count ?? 0;
    return text;
  }

  private pushRunByte(byte: number): string {
    if (this.isRunBroken) return replacement;
    this.run.push(byte);
    if (this.awaited === 0) {
      this.lead = byte;
      this.awaited = charLength(byte) - 1;
      if (byte < 0x80 || this.awaited > 0) return "";
    } else {
      const isSecond = this.awaited === charLength(this.lead) - 1;
      this.awaited--;
      if (isSecond ? isSecondByte(this.lead, byte) : byte >> 6 === 0b10) return "";
    }
    const text = replacement.repeat(this.run.length);
    this.run = [];
    this.isRunBroken = true;
    return text;
  }

  private endBytes(): string {
    let text = "";
    if (this.incomplete.length > 0) {
      text = this.incomplete.toString("utf8");
      this.incomplete = nothing;
    }
    if (this.run.length > 0) {
      text = this.awaited === 0 ? Buffer.from(this.run).toString("utf8") : replacement.repeat(this.run.length);
      this.run = [];
    }
    this.awaited = 0;
    this.isRunBroken = false;
    return text;
  }

  /** Removes what the decoder strips from the start of the whole text. */
  private strip(text: string): string {
    if (this.leftToStrip === 0 || text === "") return text;
    const { char } = this.table.plan.strip!;
    let start = 0;
    while (this.leftToStrip > 0 && char !== "" && text.startsWith(char, start)) {
      start += char.length;
      this.leftToStrip--;
    }
    if (start < text.length) this.leftToStrip = 0;
    return start === 0 ? text : text.slice(start);
  }
}

/** The length of `bytes` without an incomplete, so far valid, UTF-8 character at its end (Unicode 15, table 3-7). */
function completeLength(bytes: Buffer): number {
  const n = bytes.length;
  for (let back = 1; back <= 3 && back <= n; back++) {
    const lead = bytes[n - back]!;
    if (lead < 0x80) return n;
    if (lead < 0xc0) continue; // a continuation byte: its lead stands further left
    if (charLength(lead) <= back) return n;
    if (back >= 2 && !isSecondByte(lead, bytes[n - back + 1]!)) return n;
    return n - back;
  }
  return n;
}

/** The length of the character that `lead` begins; 1 for a byte that begins none. */
function charLength(lead: number): number {
  if (lead < 0xc2 || lead > 0xf4) return 1;
  return lead < 0xe0 ? 2 : lead < 0xf0 ? 3 : 4;
}

/** Whether `byte` may follow `lead`: excludes overlong forms, surrogates, and code points above U+10FFFF. */
function isSecondByte(lead: number, byte: number): boolean {
  if (lead === 0xe0) return byte >= 0xa0 && byte <= 0xbf;
  if (lead === 0xed) return byte >= 0x80 && byte <= 0x9f;
  if (lead === 0xf0) return byte >= 0x90 && byte <= 0xbf;
  if (lead === 0xf4) return byte >= 0x80 && byte <= 0x8f;
  return byte >= 0x80 && byte <= 0xbf;
}
