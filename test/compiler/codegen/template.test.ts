import { describe, expect, it } from "vitest";
import { renderText } from "../../../compiler/codegen/template.ts";

const text = `/*% for chain in chains %*/
/*% if chain.rotates %*/
rotate<\${ chain.half }>();
/*% endif %*/
/*% endfor %*/
`;

describe("templates", () => {
  it("render loops and conditions in tags that read as C++ comments, without blank lines of their own", () => {
    const chains = [
      { rotates: true, half: 4 },
      { rotates: false, half: 0 },
    ];
    expect(renderText("t", text, { chains })).toBe("rotate<4>();\n");
  });

  it("refuse a name the context does not have, even in a condition that is not met", () => {
    expect(() => renderText("t", "/*% if tiled %*/ /*% endif %*/", {})).toThrow("t uses tiled, which its context does not have");
    expect(() => renderText("t", `/*% if a %*/\${ b }/*% endif %*/`, { a: false })).toThrow("t uses b");
    expect(() => renderText("t", text, { chains: [{ half: 1 }] })).toThrow("t uses chains[0].rotates");
  });

  it("leave C++ alone: braces, quotes and angle brackets are not escaped", () => {
    expect(renderText("t", `if (a < b && "x") { f<\${ n }>(); }`, { n: 3 })).toBe('if (a < b && "x") { f<3>(); }');
  });
});
