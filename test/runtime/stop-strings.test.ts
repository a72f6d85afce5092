import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { StopStrings } from "../../runtime/stop-strings.ts";

/** The obvious definition: the first position at which some stop string is complete ends the text; the longest one wins. */
function define(text: string, stops: readonly string[], includeStop: boolean): { text: string; stop: string | null } {
  for (let end = 1; end <= text.length; end++) {
    const stop = stops.filter((stop) => text.slice(0, end).endsWith(stop)).sort((a, b) => b.length - a.length)[0];
    if (stop !== undefined) return { text: text.slice(0, end - (includeStop ? 0 : stop.length)), stop };
  }
  return { text, stop: null };
}

describe("StopStrings", () => {
  it("equals the definition however the text is cut, and never shows what it takes back", () => {
    const letters = (options: { minLength?: number; maxLength: number }) =>
      fc.string({ ...options, unit: fc.constantFrom("a", "b") });
    fc.assert(
      fc.property(
        fc.array(letters({ maxLength: 6 }), { maxLength: 10 }),
        fc.array(letters({ minLength: 1, maxLength: 5 }), { maxLength: 3 }),
        fc.boolean(),
        (pieces, stops, includeStop) => {
          const expected = define(pieces.join(""), stops, includeStop);
          const stopStrings = new StopStrings(stops, includeStop);
          let shown = "";
          let stop: string | null = null;
          for (const piece of pieces) {
            const result = stopStrings.push(piece);
            shown += result.text;
            stop = result.stop;
            expect(expected.text.startsWith(shown)).toBe(true);
            if (stop !== null) break;
          }
          if (stop === null) shown += stopStrings.flush();
          expect({ text: shown, stop }).toEqual(expected);
        },
      ),
      { numRuns: 2000 },
    );
  });

  it("holds back no more than can become a stop string", () => {
    const stopStrings = new StopStrings(["\n\nUser:"], false);
    expect(stopStrings.push("Hello\n").text).toBe("Hello");
    expect(stopStrings.push("world\n\nUs").text).toBe("\nworld");
    expect(stopStrings.push("ed").text).toBe("\n\nUsed");
  });

  it("shows an ignored stop string, and still sees one that overlaps it", () => {
    const stopStrings = new StopStrings(["aa"], false);
    expect(stopStrings.push("xaa", false)).toEqual({ text: "xa", stop: null });
    expect(stopStrings.push("a")).toEqual({ text: "", stop: "aa" });
  });

  it("takes time in proportion to the text on hostile stop strings", () => {
    const stopStrings = new StopStrings([`${"a".repeat(1000)}b`], false);
    let shown = 0;
    for (let i = 0; i < 20_000; i++) shown += stopStrings.push("aaaaa").text.length;
    expect(shown).toBe(100_000 - 1000);
  });
});
