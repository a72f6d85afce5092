/**
 * Steps handed over to the device whose results have not been taken, oldest first, and where the time goes meanwhile.
 *
 * It knows how many the device takes at once; what may be scheduled before results are in is the scheduler's business.
 */
import type { Device, StepResult } from "./batch.ts";
import { BatchBuilder } from "./scheduler/batch-builder.ts";
import type { ScheduledStep } from "./scheduler/scheduler.ts";

export class StepQueue {
  readonly #device: Device;
  readonly #builder: BatchBuilder;
  readonly #steps: { readonly step: ScheduledStep; readonly result: Promise<StepResult> }[] = [];
  #since = 0; // end of the time that is counted
  #busyMs = 0; // from the scheduling of a step to the last word on its result, gaps between such times left out
  #deviceMs = 0;
  #hostMs = 0;

  constructor(device: Device) {
    this.#device = device;
    this.#builder = new BatchBuilder(device);
  }

  get isEmpty(): boolean {
    return this.#steps.length === 0;
  }
  get isFull(): boolean {
    return this.#steps.length === this.#device.depth;
  }
  get deviceMs(): number {
    return this.#deviceMs;
  }
  /** Time the device did not hide: waking up, and whatever else passed while no step ran. */
  get hostMs(): number {
    return this.#hostMs;
  }

  /** Says that a step is about to be scheduled: with nothing in flight, the time from here on is counted. */
  begin(): void {
    if (this.isEmpty) this.#since = performance.now();
  }

  /** Hands `step` over; there is room. */
  push(step: ScheduledStep, taps: readonly string[] | undefined): void {
    const result = this.#device.step(this.#builder.build(step), taps);
    result.catch(() => {}); // thrown from `take` when it is its turn
    this.#steps.push({ step, result });
  }

  /**
   * Waits for the oldest step and has `use` take its result. Rejects with what the device or `use` throws; the step is then gone, those
   * after it stay (`settle`).
   */
  async take(use: (step: ScheduledStep, result: StepResult) => void): Promise<void> {
    const { step, result: promise } = this.#steps[0]!;
    const result = await promise.finally(() => this.#steps.shift());
    use(step, result);
    const now = performance.now();
    this.#busyMs += now - this.#since;
    this.#since = now;
    this.#deviceMs += result.ms;
    // A result that is taken late was hidden by the next step, whose own time is counted later: the difference may shrink for a moment.
    this.#hostMs = Math.max(this.#hostMs, this.#busyMs - this.#deviceMs);
  }

  /** Waits until the device is done with everything, whatever comes of it. */
  async settle(): Promise<void> {
    await Promise.allSettled(this.#steps.splice(0).map(({ result }) => result));
  }
}
