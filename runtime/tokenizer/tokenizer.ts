/**
 * Text to token ids and back, as the model's tokenizer.json says.
 *
 * Byte-pair encoding of every kind that language models publish: byte-level with any Oniguruma pattern, and SentencePiece-style
 * with byte fallback. Own code, because tokenizers' npm binding aborts the process when a pattern backtracks too far (12 MB of
 * spaces suffice) and has no synchronous encode, and @huggingface/tokenizers ignores a Split's merging behaviours (24 of 72
 * recorded gemma cases), drops U+FEFF in byte-fallback text, and encodes SentencePiece-style text at 0.3 MB/s.
 */
import { join } from "node:path";
import { ManifestError, RequestError } from "../errors.ts";
import { type AddedToken, AddedTokenSplitter } from "./added-tokens.ts";
import { Bpe } from "./bpe.ts";
import { DecodeStream, type PieceTable } from "./decode-stream.ts";
import { buildDecoder, type DecoderPlan, type Piece } from "./decoder.ts";
import { buildNormalizer, type Normalize } from "./normalizer.ts";
import { buildSpecialFrame, type SpecialFrame } from "./post-processor.ts";
import { buildPreTokenizer, type PreTokenizer } from "./pre-tokenizer.ts";
import { TimeLimit, TimeLimitError } from "./time-limit.ts";
import {
  loadTokenizerConfig,
  parseTokenizerConfig,
  readJson,
  type SpecialTokenName,
  type TokenizerConfig,
} from "./tokenizer-config.ts";
import { type AddedTokenEntry, parseTokenizerJson } from "./tokenizer-json.ts";

const maxFileBytes = 256 * 2 ** 20;
/** UTF-16 units; positions in a word of up to three bytes a unit must stay below 2^27. */
const maxTextLength = 2 ** 25;

export interface EncodeOptions {
  readonly addSpecialTokens?: boolean;
  /** Texts of more tokens are refused without being encoded to their end. */
  readonly maxTokens?: number;
}

export class Tokenizer {
  /** One more than the largest id. */
  readonly vocabSize: number;
  /** Ids that `skipSpecialTokens` leaves out. */
  readonly specialIds: ReadonlySet<number>;
  /** Tokens by transformers' names, where the model's files name them. */
  readonly specialTokens: Readonly<Partial<Record<SpecialTokenName, string>>>;
  readonly bosToken: string | undefined;
  readonly eosToken: string | undefined;

  private readonly vocab: ReadonlyMap<string, number>;
  private readonly addedIds: ReadonlyMap<string, number>;
  private readonly tokens: readonly (string | undefined)[]; // by id
  private readonly rawTokens: AddedTokenSplitter;
  private readonly normalizedTokens: AddedTokenSplitter;
  private readonly normalize: Normalize;
  private readonly preTokenizer: PreTokenizer;
  private readonly bpe: Bpe;
  private readonly frame: SpecialFrame;
  private readonly pieces: PieceTable;
  private readonly timeLimit = new TimeLimit();

  /** Takes a parsed tokenizer.json and the checked files beside it. Throws `ManifestError` on anything that cannot be run faithfully. */
  constructor(tokenizerJson: unknown, config: TokenizerConfig = parseTokenizerConfig(undefined)) {
    const json = parseTokenizerJson(tokenizerJson);
    this.normalize = buildNormalizer(json.normalizer);
    this.preTokenizer = buildPreTokenizer(json.preTokenizer);
    this.vocab = json.vocab;
    this.bpe = new Bpe(json.vocab, json.merges, {
      byteLevel: this.preTokenizer.byteLevel,
      byteFallback: json.model.byte_fallback,
      ignoreMerges: json.model.ignore_merges,
      unkToken: json.model.unk_token,
      fuseUnk: json.model.fuse_unk,
    });
    this.frame = buildSpecialFrame(json.postProcessor);

    const added = addedTokens(json.addedTokens, config.addedTokens);
    this.addedIds = new Map(added.map((token) => [token.content, token.id]));
    this.specialIds = new Set(added.filter((token) => token.special).map((token) => token.id));
    const raw = added.filter((token) => !token.normalized);
    const normalized = added.filter((token) => token.normalized);
    const normalizedContents = normalized.map((token) => this.normalize(token.content));
    this.rawTokens = new AddedTokenSplitter(
      raw,
      raw.map((token) => token.content),
    );
    this.normalizedTokens = new AddedTokenSplitter(normalized, normalizedContents);

    let largestId = -1;
    for (const id of json.vocab.values()) largestId = Math.max(largestId, id);
    for (const { id } of added) largestId = Math.max(largestId, id);
    const tokens = new Array<string | undefined>(largestId + 1).fill(undefined);
    for (const [token, id] of json.vocab) tokens[id] = token;
    for (const token of added) tokens[token.id] = token.content;
    this.tokens = tokens;
    this.vocabSize = tokens.length;
    const missing = [...this.frame.before, ...this.frame.after].find((id) => tokens[id] === undefined);
    if (missing !== undefined) {
      throw new ManifestError(`tokenizer.json: post_processor adds the id ${missing}, which no token has`);
    }
    // A token that is looked for in normalized text is decoded from its normalized spelling, as tokenizers 0.23 does.
    const spellings = [...tokens];
    normalized.forEach((token, i) => {
      spellings[token.id] = normalizedContents[i];
    });
    this.pieces = this.pieceTable(buildDecoder(json.decoder), spellings);

    this.specialTokens = config.specialTokens;
    this.bosToken = config.specialTokens.bos_token;
    this.eosToken = config.specialTokens.eos_token;
  }

  /** Reads tokenizer.json and what stands beside it in a model or engine folder. Throws `ManifestError`. */
  static async load(folder: string): Promise<Tokenizer> {
    const [json, config] = await Promise.all([readJson(folder, "tokenizer.json", maxFileBytes), loadTokenizerConfig(folder)]);
    if (json === undefined) {
      throw new ManifestError(
        `${join(folder, "tokenizer.json")} is missing; expected the model's tokenizer there. Copy it from the model's source, or save one with transformers: AutoTokenizer.from_pretrained(model).save_pretrained(folder)`,
      );
    }
    return new Tokenizer(json, config);
  }

  /**
   * Encodes a text; added tokens in it become their ids.
   *
   * `addSpecialTokens` (default true) puts the tokenizer's own BOS or EOS around it; a rendered chat brings its own, so it is
   * encoded with false. Throws `RequestError` on a text that is too long or that the model's patterns cannot cut in time, and, as
   * soon as that shows, on one of more than `maxTokens`.
   */
  encode(text: string, options: EncodeOptions = {}): number[] {
    if (text.length > maxTextLength) {
      throw new RequestError(400, `a text of ${text.length} characters cannot be tokenized; the limit is ${maxTextLength}`);
    }
    const addSpecialTokens = options.addSpecialTokens ?? true;
    const ids: number[] = addSpecialTokens ? [...this.frame.before] : [];
    // Published patterns need under 1 µs a character; the limit is for hostile ones, and generous to a busy machine.
    const limitMs = 2000 + Math.ceil(text.length / 200);
    try {
      this.timeLimit.run(limitMs, () => this.encodeInto(text, ids, options.maxTokens ?? Number.POSITIVE_INFINITY));
    } catch (error) {
      if (!(error instanceof TimeLimitError)) throw error;
      throw new RequestError(
        400,
        `tokenizing ${text.length} characters took longer than ${limitMs} ms; the patterns in this model's tokenizer.json backtrack on this text`,
        { cause: error },
      );
    }
    if (addSpecialTokens) for (const id of this.frame.after) ids.push(id);
    return ids;
  }

  private encodeInto(text: string, ids: number[], maxTokens: number): void {
    // UTF-8 has no lone surrogates: each is U+FFFD, as everywhere a JavaScript string leaves the process.
    const wellFormed = text.replace(/\p{Cs}/gu, "\ufffd");
    const checkLength = () => {
      if (ids.length > maxTokens) throw tooManyTokens(text, maxTokens);
    };
    for (const section of this.rawTokens.split(wellFormed, true)) {
      if ("id" in section) {
        ids.push(section.id);
        checkLength();
        continue;
      }
      for (const part of this.normalizedTokens.split(this.normalize(section.text), section.isStart)) {
        if ("id" in part) ids.push(part.id);
        else {
          for (const piece of this.preTokenizer.cut(part.text, part.isStart)) {
            this.bpe.encode(piece, ids);
            checkLength();
          }
        }
        checkLength();
      }
    }
  }

  /** Decodes ids; those that no token has are left out. */
  decode(ids: readonly number[], options: { readonly skipSpecialTokens?: boolean } = {}): string {
    const stream = this.stream(options);
    let text = "";
    for (const id of ids) text += stream.push(id);
    return text + stream.flush();
  }

  /** Starts decoding a text token by token. */
  stream(options: { readonly skipSpecialTokens?: boolean } = {}): DecodeStream {
    return new DecodeStream(this.pieces, options);
  }

  /** The id of a token in the vocabulary's spelling (`Ġthe`, `▁the`, `<|im_end|>`). */
  tokenToId(token: string): number | undefined {
    return this.addedIds.get(token) ?? this.vocab.get(token);
  }

  /** A token in the vocabulary's spelling; `decode([id])` is its text. */
  idToToken(id: number): string | undefined {
    return this.tokens[id];
  }

  /** What a token adds to a text that it does not begin, as UTF-8: maybe a part of a character; empty for an unknown id. */
  tokenBytes(id: number): Uint8Array {
    const piece = this.pieces.piece(id, false, false);
    if (piece === undefined) return new Uint8Array(0);
    if (piece.kind === "text") return Buffer.from(piece.text, "utf8");
    return piece.kind === "byte" ? Uint8Array.of(piece.byte) : piece.bytes;
  }

  private pieceTable(plan: DecoderPlan, spellings: readonly (string | undefined)[]): PieceTable {
    const first = new Array<Piece | undefined>(plan.minds ? this.vocabSize : 0).fill(undefined);
    const later = new Array<Piece | undefined>(this.vocabSize).fill(undefined);
    return {
      plan,
      piece: (id, isFirst, skipSpecialTokens) => {
        if (skipSpecialTokens && this.specialIds.has(id)) return undefined;
        const known = plan.minds && isFirst ? first : later;
        const cached = known[id];
        if (cached !== undefined) return cached;
        const token = spellings[id];
        if (token === undefined) return undefined;
        const piece = standalone(plan.piece(token, isFirst));
        known[id] = piece;
        return piece;
      },
    };
  }
}

function tooManyTokens(text: string, maxTokens: number): RequestError {
  const message = `the text of ${text.length} characters has more than ${maxTokens} tokens, far more than fit in the context`;
  return new RequestError(400, message, { param: "prompt", code: "context_length_exceeded" });
}

/** Bytes that are whole characters are text already. */
function standalone(piece: Piece): Piece {
  if (piece.kind !== "bytes" || piece.bytes.length === 0) return piece;
  const text = piece.bytes.toString("utf8");
  return Buffer.from(text, "utf8").equals(piece.bytes) ? { kind: "text", text } : piece;
}

/** tokenizer.json's added tokens, and those of tokenizer_config.json that it lacks. */
function addedTokens(own: readonly AddedTokenEntry[], more: readonly AddedTokenEntry[]): AddedToken[] {
  const ids = new Set(own.map((token) => token.id));
  const contents = new Set(own.map((token) => token.content));
  const missing = more.filter((token) => !ids.has(token.id) && !contents.has(token.content));
  return [...own, ...missing].map((token) => ({
    id: token.id,
    content: token.content,
    singleWord: token.single_word,
    lstrip: token.lstrip,
    rstrip: token.rstrip,
    normalized: token.normalized,
    special: token.special,
  }));
}
