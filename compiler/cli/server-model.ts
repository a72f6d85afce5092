/**
 * A loaded model as the server sees it.
 */
import { RequestError } from "../../runtime/errors.ts";
import type { LLM } from "../../runtime/llm.ts";
import type { Manifest } from "../../runtime/manifest.ts";
import type { ServerModel } from "../../runtime/server/server-model.ts";

/** The engine loop, tokenizer and chat template of `llm` under the name in its manifest. */
export function serverModel(llm: LLM, manifest: Manifest): ServerModel {
  const { chatTemplate } = llm;
  return {
    modelName: manifest.name,
    maxModelLen: llm.maxModelLen,
    // Looked up when needed: an engine of random weights has none and still takes token ids.
    get tokenizer() {
      return llm.tokenizer;
    },
    defaultParams: llm.defaultParams,
    get failure() {
      return llm.engine.failure;
    },
    renderChat({ messages, addGenerationPrompt, templateKwargs }) {
      if (!chatTemplate) throw new RequestError(400, "this model has no chat template; use /v1/completions");
      return chatTemplate.render({ messages, addGenerationPrompt, templateKwargs });
    },
    generate: (request) => {
      llm.checkStops(request.params);
      return llm.engine.generate(request);
    },
    stats: () => llm.engine.stats(),
  };
}
