package sidelock;

import java.time.Duration;
import java.util.LinkedHashMap;
import java.util.Map;
import java.util.function.Consumer;
import java.util.function.LongConsumer;

/** How to hold a lock: `Options.defaults().wait(Duration.ofSeconds(5)).shared()`. Without more it waits without limit, alone. */
public final class Options {
  final Map<String, Object> params = new LinkedHashMap<>();
  Duration wait;
  boolean isOwned = true;
  boolean isUninterrupted;
  Consumer<Loss> onLost;
  Consumer<Map<String, Object>> onWaiting;
  LongConsumer onContended;

  private Options() {}

  /** The thread waits without limit, and holds the lock alone. */
  public static Options defaults() {
    return new Options();
  }

  private Options with(String key, Object value) {
    params.put(key, value);
    return this;
  }

  static long milliseconds(Duration time) {
    // Beyond what the daemon takes, and what a long takes.
    if (time.compareTo(Duration.ofSeconds(Long.MAX_VALUE / 1000 - 1)) > 0) return Long.MAX_VALUE / 1000 * 1000;
    return Math.max(0, time.plusNanos(999_999).toMillis());
  }

  /** How long to wait; zero: a try; null: without limit. */
  public Options wait(Duration time) {
    wait = time;
    if (time == null) params.remove("wait_ms");
    else params.put("wait_ms", milliseconds(time));
    return this;
  }

  /** An interrupt does not withdraw the wait. */
  Options uninterrupted() {
    isUninterrupted = true;
    return this;
  }

  /** Shares the lock. */
  public Options shared() {
    return with("mode", "shared");
  }

  /** One permit of a semaphore of so many. */
  public Options permits(int capacity) {
    return with("permits", capacity);
  }

  /** After what time the hold ends. */
  public Options maxHold(Duration time) {
    return with("max_hold_ms", Math.max(1, milliseconds(time)));
  }

  /** Gets at once what it holds; the thread unless told; null: nobody, who waits for himself. */
  public Options owner(String name) {
    isOwned = false;
    if (name == null) params.remove("owner");
    else params.put("owner", name);
    return this;
  }

  /** A note that others see. */
  public Options meta(String note) {
    return with("meta", note);
  }

  /** "terminate" or "kill" this process when the lock is lost. */
  public Options enforce(String action) {
    return with("on_lost", action);
  }

  /** How many replicas of Redis have to have the lease; as many as the daemon's settings say unless told. */
  public Options replicas(int count) {
    return with("replicas", count);
  }

  /** Where the primary and those replicas have to have it: "memory" or "disk"; as the daemon's settings say unless told. */
  public Options durability(String place) {
    return with("durability", place);
  }

  /** Called by the thread that reads, which it must not keep, when the lock is lost. */
  public Options onLost(Consumer<Loss> call) {
    onLost = call;
    return this;
  }

  /** Called with the place in the queue and who has the lock, when the request has to wait. */
  public Options onWaiting(Consumer<Map<String, Object>> call) {
    onWaiting = call;
    return with("progress", true);
  }

  /** Called with their number, when others wait for the lock. */
  public Options onContended(LongConsumer call) {
    onContended = call;
    return with("progress", true);
  }
}
