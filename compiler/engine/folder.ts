/**
 * Writes an engine folder so that it is whole or absent: everything is made in a temporary folder beside it, which then takes its
 * place by renaming. Whatever fails, an engine that was there before stays as it was.
 *
 *   <engine>.tmp-<host>-<pid>-<start>-<n>   being written     ─┐ leftovers of killed runs are recognised
 *   <engine>.old-<host>-<pid>-<start>-<n>   being replaced    ─┘ by their names and undone by the next run
 */
import { createHash, randomBytes } from "node:crypto";
import { existsSync, rmSync } from "node:fs";
import { mkdir, open, readdir, readFile, rename, rm, stat } from "node:fs/promises";
import { hostname } from "node:os";
import { basename, dirname, join, resolve } from "node:path";
import { CompileError } from "../errors.ts";
import { writeError } from "./disk.ts";
import { WEIGHTS_FILE } from "./manifest.ts";

/** Leftovers of another machine (a shared disk) cannot be asked whether they live; nobody compiles for this long. */
const ABANDONED_MS = 24 * 3600 * 1000;
const LEFTOVER = /\.(tmp|old)-([0-9a-f]{8})-(\d{1,10})-(\d{1,20})-[0-9a-f]{8}$/;
/** How errors of writing speak of it. */
const WRITTEN = { what: "engine", flag: "-o" };
/** Times that a finished engine is moved into place while others do the same. */
const ATTEMPTS = 20;

/**
 * Runs `fill` on an empty folder and puts it in the place of `target`. Errors of `fill` pass through, a full disk's as a
 * `CompileError` with the remedy; the temporary folder is gone then and `target` untouched.
 * Throws `CompileError` when `target` is there and is not an engine.
 */
export async function writeEngineFolder(target: string, fill: (folder: string) => Promise<void>): Promise<void> {
  const path = resolve(target);
  await refuseForeign(path);
  await mkdir(dirname(path), { recursive: true }).catch((error: unknown) => {
    throw writeError(error, path, WRITTEN);
  });
  await recoverEngineFolder(path);
  const id = `${hostTag()}-${process.pid}-${await startOf(process.pid)}-${randomBytes(4).toString("hex")}`;
  const temporary = `${path}.tmp-${id}`;
  const onExit = () => rmSync(temporary, { recursive: true, force: true }); // an interrupt ends the process at once
  process.once("exit", onExit);
  try {
    await mkdir(temporary);
    await fill(temporary);
    await syncFolder(temporary);
    await replace(path, temporary, `${path}.old-${id}`);
  } catch (error) {
    await rm(temporary, { recursive: true, force: true });
    throw writeError(error, path, WRITTEN);
  } finally {
    process.removeListener("exit", onExit);
  }
  await syncFolder(dirname(path));
}

/**
 * Undoes what killed runs left beside `target`: removes their temporary folders, and brings back an engine that was moved away
 * when nothing took its place. Folders of runs that still live are left alone.
 */
export async function recoverEngineFolder(target: string): Promise<void> {
  const path = resolve(target);
  const parent = dirname(path);
  const prefix = `${basename(path)}.`;
  const names = existsSync(parent) ? await readdir(parent) : [];
  for (const name of names.filter((n) => n.startsWith(prefix))) {
    const match = LEFTOVER.exec(name.slice(prefix.length - 1));
    if (match?.index !== 0) continue; // another engine's
    const [, kind, host, pid, start] = match as unknown as [string, string, string, string, string];
    const leftover = join(parent, name);
    if (!(host === hostTag() ? !(await isAlive(Number(pid), start)) : await isAbandoned(leftover))) continue;
    if (kind === "old" && !existsSync(path)) {
      // Another run may do the same at this moment: then the folder is back, which is all that is wanted.
      await rename(leftover, path).catch(ignoreMissing);
    } else await rm(leftover, { recursive: true, force: true });
  }
}

/** Whether a folder of this name is what `writeEngineFolder` works in, or what a killed run of it left. */
export const isLeftover = (name: string): boolean => LEFTOVER.test(name);

/** Moves `temporary` to `path`; what stands there goes to `old` and is removed. Runs that finish together take turns. */
async function replace(path: string, temporary: string, old: string): Promise<void> {
  for (let attempt = 1; ; attempt++) {
    try {
      await rename(temporary, path); // works at once when nothing stands there
      break;
    } catch (error) {
      if (!isInTheWay(error) || attempt === ATTEMPTS) throw error;
    }
    await rename(path, old).catch(ignoreMissing);
    try {
      await rename(temporary, path);
      break;
    } catch (error) {
      if (!isInTheWay(error)) {
        await rename(old, path).catch(ignoreMissing);
        throw error;
      }
    }
    await rm(old, { recursive: true, force: true });
  }
  await rm(old, { recursive: true, force: true });
}

/** Replacing is for engines (and for empty folders): a user's other folder is never moved or removed. */
async function refuseForeign(path: string): Promise<void> {
  if (!existsSync(path)) return;
  const refuse = (found: string): never => {
    throw new CompileError(`${path} is ${found}; expected an engine to replace, or nothing: choose another place with -o`);
  };
  if (!(await stat(path)).isDirectory()) refuse("a file");
  // A damaged engine lacks one of them: compiling again is its remedy.
  const found = ["manifest.json", WEIGHTS_FILE, "kernels"].filter((name) => existsSync(join(path, name)));
  if (found.length < 2 && (await readdir(path)).length > 0)
    refuse(`a folder without manifest.json, ${WEIGHTS_FILE} and kernels/`);
}

async function syncFolder(folder: string): Promise<void> {
  // Folders cannot be opened everywhere (Windows); the rename is atomic without it, only later on the disk.
  const handle = await open(folder, "r").catch(() => null);
  await handle?.sync().catch(() => {});
  await handle?.close();
}

/** Whether the process of this machine that had this id and start still runs; another user's counts. */
async function isAlive(pid: number, start: string): Promise<boolean> {
  try {
    process.kill(pid, 0);
  } catch (error) {
    if (codeOf(error) !== "EPERM") return false;
  }
  return (await startOf(pid)) === start;
}

/** When a process started, in ticks since boot: ids are given out again, in containers soon. "0" where there is no /proc. */
async function startOf(pid: number): Promise<string> {
  const text = await readFile(`/proc/${pid}/stat`, "utf8").catch(() => "");
  // The second field, in parentheses, may hold blanks; the start is the 22nd.
  return text.slice(text.lastIndexOf(")") + 2).split(" ")[19] ?? "0";
}

async function isAbandoned(folder: string): Promise<boolean> {
  const times = await Promise.all(
    [folder, ...(await readdir(folder).catch(() => [])).map((name) => join(folder, name))].map((p) =>
      stat(p).then(
        (s) => s.mtimeMs,
        () => 0,
      ),
    ),
  );
  return Date.now() - Math.max(...times) > ABANDONED_MS;
}

/** Names this machine in a folder's name: process ids mean nothing elsewhere. */
const hostTag = (): string => createHash("sha256").update(hostname()).digest("hex").slice(0, 8);
const codeOf = (error: unknown): unknown => (error instanceof Error ? (error as NodeJS.ErrnoException).code : undefined);
const isInTheWay = (error: unknown): boolean => ["ENOTEMPTY", "EEXIST", "EPERM"].includes(codeOf(error) as string);

function ignoreMissing(error: unknown): void {
  if (codeOf(error) !== "ENOENT") throw error;
}
