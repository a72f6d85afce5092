/**
 * Finds added tokens (`<|im_end|>`, `<think>`, …) in text, leftmost first and the longest of those that start there.
 *
 * The rules of `single_word`, `lstrip` and `rstrip` are those of tokenizers' `added_vocabulary`.
 */

export interface AddedToken {
  readonly id: number;
  readonly content: string;
  /** Matches only between non-word characters. */
  readonly singleWord: boolean;
  /** Takes the white space before it. */
  readonly lstrip: boolean;
  /** Takes the white space after it. */
  readonly rstrip: boolean;
  /** Looked for in the normalized text rather than in the given one. */
  readonly normalized: boolean;
  /** Left out of a decoded text on request. */
  readonly special: boolean;
}

/** Text to encode, or the id of an added token; `isStart` marks text that begins where the whole text does. */
export type Section = { readonly text: string; readonly isStart: boolean } | { readonly id: number };

interface TrieNode {
  readonly children: Map<number, TrieNode>; // by UTF-16 unit
  token: AddedToken | null;
}

const wordBefore = /[\p{Alphabetic}\p{M}\p{Nd}\p{Pc}\p{Join_Control}]$/u;
const wordAfter = /^[\p{Alphabetic}\p{M}\p{Nd}\p{Pc}\p{Join_Control}]/u;
const spaceUnit = /\p{White_Space}/u;

export class AddedTokenSplitter {
  private readonly root: TrieNode = { children: new Map(), token: null };

  /** `contents[i]` is what `tokens[i]` is looked for as (its content, normalized where the token asks for it). */
  constructor(tokens: readonly AddedToken[], contents: readonly string[]) {
    tokens.forEach((token, i) => {
      if (contents[i] === "") return;
      let node = this.root;
      for (let k = 0; k < contents[i]!.length; k++) {
        const unit = contents[i]!.charCodeAt(k);
        let child = node.children.get(unit);
        if (child === undefined) {
          child = { children: new Map(), token: null };
          node.children.set(unit, child);
        }
        node = child;
      }
      node.token = token;
    });
  }

  /** Cuts `text` into added tokens and the text between them. */
  split(text: string, isStart: boolean): Section[] {
    const sections: Section[] = [];
    let done = 0;
    let at = 0;
    while (at < text.length) {
      const match = this.longestAt(text, at);
      if (match === null) {
        at++;
        continue;
      }
      const { token } = match;
      let start = at;
      let stop = match.end;
      at = stop;
      if (
        token.singleWord &&
        (wordBefore.test(text.slice(Math.max(0, start - 2), start)) || wordAfter.test(text.slice(stop, stop + 2)))
      ) {
        continue;
      }
      if (token.lstrip) while (start > done && spaceUnit.test(text[start - 1]!)) start--;
      if (token.rstrip) while (stop < text.length && spaceUnit.test(text[stop]!)) stop++;
      if (start > done) sections.push({ text: text.slice(done, start), isStart: isStart && done === 0 });
      sections.push({ id: token.id });
      done = stop;
      at = stop;
    }
    if (done < text.length) sections.push({ text: done === 0 ? text : text.slice(done), isStart: isStart && done === 0 });
    return sections;
  }

  private longestAt(text: string, at: number): { readonly token: AddedToken; readonly end: number } | null {
    let node = this.root.children.get(text.charCodeAt(at));
    let found: { token: AddedToken; end: number } | null = null;
    for (let end = at + 1; node !== undefined; end++) {
      if (node.token !== null) found = { token: node.token, end };
      node = end < text.length ? node.children.get(text.charCodeAt(end)) : undefined;
    }
    return found;
  }
}
