declare global {
  /** Also where TypeScript's own library has none, before 5.2. */
  interface SymbolConstructor { readonly asyncDispose: unique symbol }
}

/** Who has a lock, as far as the daemon tells. */
export interface Holder { host?: string; session?: string; pid?: number; uid?: number; command?: string; unit?: string;
  token?: number; meta?: string; owner?: string; foreign?: boolean; [more: string]: unknown }
/** How a hold ended without a release. */
export interface Loss { name: string; token: number; reason: string; graceMs: number; detail?: string }
export interface WatchEvent { kind: string; name?: string; token?: number; session?: string; [more: string]: unknown }

export class SidelockError extends Error {
  /** The stable name of errors.json, or one that this client found. */
  readonly reason: string;
  readonly data: Record<string, unknown>;
  readonly holders: Holder[];
}
export class Busy extends SidelockError {}
export class Timeout extends SidelockError {}
export class Cancelled extends SidelockError {}
export class NotHeld extends SidelockError {}
export class Denied extends SidelockError {}
export class Unavailable extends SidelockError {}
export class Deadlock extends SidelockError { readonly cycle: Record<string, unknown>[] }
/** Too few replicas of Redis had the lease in time, so the lock was given back. */
export class UnderReplicated extends SidelockError {
  /** How many had it; 0 also where the daemon does not tell. */
  readonly acknowledged: number;
}
export class Lost extends SidelockError { readonly loss: Loss }

export interface Options {
  /** Seconds; without it no limit; 0: a try. */
  wait?: number | null;
  shared?: boolean;
  /** One permit of a semaphore of so many. */
  permits?: number;
  /** Seconds after which the hold ends. */
  maxHold?: number;
  /** The same owner gets at once what it holds. */
  owner?: string;
  meta?: string;
  /** What the daemon does to this process when the lock is lost. */
  enforce?: 'notify' | 'terminate' | 'kill';
  /** How many replicas of Redis have to have the lease; without it as many as the daemon's settings say. */
  replicas?: number;
  /** Where the primary and those replicas have to have it; without it as the daemon's settings say. */
  durability?: 'memory' | 'disk';
  /** Withdraws the wait when it is aborted. */
  signal?: AbortSignal;
  onLost?(loss: Loss): void;
  onWaiting?(told: { position: number; holders: Holder[]; detail?: string }): void;
  onContended?(waiters: number): void;
}

export class Lock {
  readonly names: string[];
  readonly mode: string;
  /** No longer than it is good without an answer of the daemon. */
  readonly held: boolean;
  readonly loss: Loss | null;
  /** Milliseconds for which the hold is good for certain; null: it does not end by itself. */
  readonly validMs: number | null;
  /** The fencing token. Throws as `check` does. */
  readonly token: number;
  readonly tokens: Record<string, number>;
  /** Is aborted when the lock is lost. */
  readonly signal: AbortSignal;
  acquire(): Promise<this>;
  release(): Promise<void>;
  cancel(): void;
  /** Throws Lost, or NotHeld, or Unavailable where its time is over and the daemon has not said yet that it is still held. */
  check(): void;
  extend(maxHold: number | null): Promise<void>;
  downgrade(): Promise<void>;
  transfer(session: string): Promise<void>;
  /** Gives the lock back at the end of its scope: `await using lock = await acquire('orders')`. */
  [Symbol.asyncDispose](): Promise<void>;
}

export interface Watch extends AsyncIterable<WatchEvent> { close(): Promise<void> }

export class Client {
  constructor(options?: { path?: string; patience?: number });
  lock(names: string | string[], options?: Options): Lock;
  acquire(names: string | string[], options?: Options): Promise<Lock>;
  withLock<T>(names: string | string[], body: (lock: Lock) => Promise<T> | T): Promise<T>;
  withLock<T>(names: string | string[], options: Options, body: (lock: Lock) => Promise<T> | T): Promise<T>;
  watch(what: string | { prefix: string }): Promise<Watch>;
  session(): Promise<string>;
  acceptTransfers(callback: (lock: Lock) => void): Promise<void>;
  call(method: string, params?: Record<string, unknown>): Promise<any>;
  close(): Promise<void>;
}

export const client: Client;
export function lock(names: string | string[], options?: Options): Lock;
export function acquire(names: string | string[], options?: Options): Promise<Lock>;
export function withLock<T>(names: string | string[], body: (lock: Lock) => Promise<T> | T): Promise<T>;
export function withLock<T>(names: string | string[], options: Options, body: (lock: Lock) => Promise<T> | T): Promise<T>;
export function watch(what: string | { prefix: string }): Promise<Watch>;
export function socketPath(explicit?: string): string;
