// Figures of the daemon: rates, classes of times, and words for both. Nothing here touches the page or reads a clock.

/** Milliseconds of samples that are kept. */
export const KEPT = 300_000;

/** The samples with one more, without those that are too old. A daemon that has been restarted counts from the beginning. */
export function sampled(samples, sample) {
  const last = samples.at(-1);
  const kept = last && last.instance === sample.instance && last.at < sample.at ? samples : [];
  return [...kept.filter(one => sample.at - one.at <= KEPT), sample];
}

/** A figure by its path, such as `redis.round_trip_ms`; 0 where there is none. */
export function figure(stats, path) {
  return path.split(".").reduce((value, name) => value?.[name], stats) ?? 0;
}

/** How much counters have gone up a second between each two samples: [{at, value}]. */
export function rates(samples, ...paths) {
  const total = sample => paths.reduce((sum, path) => sum + figure(sample.stats, path), 0);
  return samples.slice(1).map((sample, index) => {
    const before = samples[index];
    return { at: sample.at, value: Math.max(0, (total(sample) - total(before)) * 1000 / (sample.at - before.at)) };
  });
}

/** A gauge at each sample. */
export function levels(samples, path) {
  return samples.map(sample => ({ at: sample.at, value: figure(sample.stats, path) }));
}

/** The classes of a histogram, in their order: [{end, count}], `end` in microseconds. */
export function classes(histogram) {
  return Object.entries(histogram ?? {}).filter(([name]) => name !== "sum")
    .map(([name, count]) => ({ end: /^\d+$/.test(name) ? Number(name) : Infinity, count }))
    .sort((a, b) => a.end - b.end);
}

/** What a histogram has counted since another one of the same daemon. */
export function since(now, before) {
  const old = new Map(classes(before).map(one => [one.end, one.count]));
  return classes(now).map(one => ({ end: one.end, count: Math.max(0, one.count - (old.get(one.end) ?? 0)) }));
}

/** The end of the class in which that part of all times lies; null of none. */
export function quantile(counted, part) {
  const total = counted.reduce((sum, one) => sum + one.count, 0);
  if (total === 0) return null;
  let below = 0;
  for (const one of counted) {
    below += one.count;
    if (below >= part * total) return one.end;
  }
  return Infinity;
}

/** A time in microseconds that is the end of a class, in few characters. */
export function endInWords(end) {
  if (end === Infinity) return "more";
  if (end < 1000) return `${end} µs`;
  if (end < 1_000_000) return `${end / 1000} ms`;
  if (end < 300_000_000) return `${end / 1_000_000} s`;
  return `${Math.round(end / 60_000_000)} min`;
}

/** The median and the 99th percentile of times, in words. */
export function summary(counted) {
  const total = counted.reduce((sum, one) => sum + one.count, 0);
  if (total === 0) return "none yet";
  const within = part => {
    const end = quantile(counted, part);
    return end === Infinity ? "longer than all classes" : `within ${endInWords(end)}`;
  };
  return `${number(total)}: half ${within(0.5)}, 99 % ${within(0.99)}`;
}

/** For how long something has lasted, as `sidelock list` says it. */
export function age(milliseconds) {
  if (milliseconds < 1000) return `${milliseconds} ms`;
  if (milliseconds < 60_000) return `${(Math.floor(milliseconds / 100) / 10).toFixed(1)} s`;
  const minutes = Math.floor(milliseconds / 60_000);
  if (minutes < 60) return `${minutes} min ${Math.floor(milliseconds / 1000) % 60} s`;
  const hours = Math.floor(minutes / 60);
  if (hours < 24) return `${hours} h ${minutes % 60} min`;
  return `${Math.floor(hours / 24)} d ${hours % 24} h`;
}

/** A number with separators, and with a digit behind the point where it is small and not whole. */
export function number(value) {
  const digits = Number.isInteger(value) || value >= 100 ? 0 : value < 1 ? 2 : 1;
  return value.toLocaleString("en", { maximumFractionDigits: digits });
}

/** The lines of an axis from 0 to at least `highest`: 2 to 5 of them, with round numbers. */
export function ticks(highest) {
  const least = Math.max(highest, 1);
  const power = 10 ** Math.floor(Math.log10(least / 4));
  const step = [1, 2, 5, 10].map(one => one * power).find(one => least / one <= 4) ?? power;
  const whole = Math.max(step, 1);
  const count = Math.max(1, Math.ceil(least / whole));
  return Array.from({ length: count + 1 }, (_, index) => index * whole);
}
