import { describe, it } from "vitest";
import { Interpreter } from "../../compiler/ir/interpret.ts";
import { openCheckpoint } from "../../compiler/weights/safetensors.ts";
import { expectClose } from "../support/closeness.ts";
import { GOLDEN_FAMILIES, goldenFacts, goldenFolder, goldenGraph, hasGolden } from "../support/golden.ts";
import { batchStep, exported, openOnnx, outputOf } from "../support/onnx.ts";
import { readTensors, weightSource } from "../support/safetensors-lite.ts";

const TOLERANCE = 1e-4;

describe.skipIf(!hasGolden).each(GOLDEN_FAMILIES)("%s as ONNX", (family) => {
  const folder = goldenFolder(family);

  it("has the reference's logits, and the interpreter's for several sequences at once", async () => {
    const g = goldenGraph(family);
    const golden = readTensors(folder, "golden");
    const session = await openOnnx((await exported(g, family, openCheckpoint(folder))).file);
    for (const [i, prompt] of goldenFacts(family).prompts.entries()) {
      expectClose(await outputOf(session, [prompt]), golden.get(`p${i}.logits`) as Float32Array, TOLERANCE, `p${i}.logits`);
    }
    const [, , , long] = goldenFacts(family).prompts as readonly (readonly number[])[];
    const batch = [long!.slice(0, 61), long!.slice(61, 122)];
    const { logits } = new Interpreter(g, weightSource(folder), 16).step(batchStep(batch, g.limits.blockSize));
    expectClose(await outputOf(session, batch), logits, TOLERANCE, "logits of 2 × 61 tokens");
  });
});
