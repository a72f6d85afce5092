/**
 * Progress on stderr: a bar for work longer than two seconds, only on a terminal.
 */
import { SingleBar } from "cli-progress";

const PATIENCE_MS = 2000;

export interface Progress {
  /** `done` of `total` in whatever unit; formats bytes when `bytes` was said. */
  update(done: number, total: number): void;
  /** Removes the bar. */
  stop(): void;
}

/** Starts a bar labelled `label` that appears after two seconds of work. */
export function progress(label: string, unit: "bytes" | "count" = "count"): Progress {
  if (!process.stderr.isTTY) return { update() {}, stop() {} };
  const start = performance.now();
  const format = (n: number) => (unit === "bytes" ? formatBytes(n) : String(n));
  const bar = new SingleBar(
    {
      stream: process.stderr,
      format: `${label} {bar} {percentage}% · {done} of {all} · {eta_formatted}`,
      hideCursor: true,
      clearOnComplete: true,
      gracefulExit: false,
      fps: 10,
    },
    { format: label, barCompleteString: "█", barIncompleteString: "░" } as never,
  );
  let shown = false;
  const stop = () => {
    process.removeListener("exit", stop);
    if (shown) bar.stop();
    shown = false;
  };
  process.on("exit", stop); // gives the cursor back when the user interrupts
  return {
    update(done, total) {
      if (!shown && performance.now() - start > PATIENCE_MS) {
        shown = true;
        bar.start(total, done, { done: format(done), all: format(total) });
      }
      if (shown) bar.update(done, { done: format(done), all: format(total) });
    },
    stop,
  };
}

/** Runs `work` under a bar that shows how far it has come. */
export function withProgress<T>(
  label: string,
  work: (update: Progress["update"]) => Promise<T>,
  unit?: "bytes" | "count",
): Promise<T> {
  const bar = progress(label, unit);
  return work(bar.update).finally(bar.stop);
}

/** `1.19 GB`, decimal units as disks and bandwidths are counted. */
export function formatBytes(bytes: number): string {
  const units = ["B", "kB", "MB", "GB", "TB"];
  const power = bytes < 1000 ? 0 : Math.min(units.length - 1, Math.floor(Math.log10(bytes) / 3));
  return `${(bytes / 1000 ** power).toFixed(power === 0 ? 0 : power < 3 ? 1 : 2)} ${units[power]}`;
}

/** A line of log on stderr. */
export function log(message: string): void {
  process.stderr.write(`${message}\n`);
}
