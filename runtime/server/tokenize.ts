/**
 * `POST /tokenize` and `POST /detokenize`, in vLLM's shapes.
 */
import { z } from "zod";
import { RequestError } from "../errors.ts";
import { renderShape, renderUnsupported, toRenderRequest } from "./chat-request.ts";
import { type Exchange, sendJson } from "./exchange.ts";
import { checkModel } from "./generation.ts";
import type { ServerContext } from "./server-context.ts";
import { validate, wholeNumber } from "./validate.ts";

const common = {
  model: z.string().nullish(),
  add_special_tokens: z.boolean().nullish(),
  return_token_strs: z.boolean().nullish(),
};
const tokenizeTextSchema = z.strictObject({ ...common, prompt: z.string() });
const tokenizeChatSchema = z.strictObject({ ...common, ...renderShape });
const detokenizeSchema = z.strictObject({ model: z.string().nullish(), tokens: z.array(wholeNumber()) });

/** `POST /tokenize`: a text (`prompt`), or a conversation (`messages`) as the chat route would see it. */
export async function tokenize(context: ServerContext, exchange: Exchange): Promise<void> {
  const { tokenizer, maxModelLen } = context.llm;
  const body = await context.readJson(exchange);
  const asked = Object.hasOwn(body, "messages") ? chatText(context, body) : plainText(body);
  checkModel(asked.model, context.modelName);
  const tokens = tokenizer.encode(asked.text(), { addSpecialTokens: asked.addSpecialTokens });
  const token_strs = asked.withStrings ? tokens.map((id) => tokenizer.idToToken(id) ?? "") : null;
  sendJson(exchange.res, 200, { count: tokens.length, max_model_len: maxModelLen, tokens, token_strs });
}

/** `POST /detokenize`: the text of token ids, special tokens included. */
export async function detokenize(context: ServerContext, exchange: Exchange): Promise<void> {
  const { tokenizer } = context.llm;
  const { model, tokens } = validate(detokenizeSchema, {}, await context.readJson(exchange));
  checkModel(model, context.modelName);
  const unknown = tokens.findIndex((id) => tokenizer.idToToken(id) === undefined);
  if (unknown >= 0) {
    const param = `tokens[${unknown}]`;
    throw new RequestError(400, `${param} is ${tokens[unknown]}, which is not an id of this vocabulary`, {
      param,
      code: "invalid_value",
    });
  }
  sendJson(exchange.res, 200, { prompt: tokenizer.decode(tokens, { skipSpecialTokens: false }) });
}

interface TokenizeRequest {
  readonly model: string | null | undefined;
  readonly addSpecialTokens: boolean;
  readonly withStrings: boolean;
  text(): string;
}

function plainText(body: Record<string, unknown>): TokenizeRequest {
  const fields = validate(tokenizeTextSchema, {}, body);
  return {
    model: fields.model,
    addSpecialTokens: fields.add_special_tokens ?? true,
    withStrings: fields.return_token_strs ?? false,
    text: () => fields.prompt,
  };
}

function chatText(context: ServerContext, body: Record<string, unknown>): TokenizeRequest {
  const fields = validate(tokenizeChatSchema, renderUnsupported, body);
  return {
    model: fields.model,
    addSpecialTokens: fields.add_special_tokens ?? false,
    withStrings: fields.return_token_strs ?? false,
    text: () => context.llm.renderChat(toRenderRequest(fields)),
  };
}
