package sidelock;

import java.time.Duration;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.function.Consumer;

/** A lock, or several that are taken all or none, for try-with-resources. Each acquire has an object of its own. */
public final class SidelockLock implements AutoCloseable {
  enum State { WAITING, HELD, RELEASED, LOST }

  final Options options;
  final Map<String, Long> tokens = new LinkedHashMap<>();
  final Map<String, Long> has = new LinkedHashMap<>();
  volatile State state = State.WAITING;
  volatile Loss loss;
  volatile String mode = "";
  volatile boolean isTimed;
  volatile double deadline;
  volatile double span;
  volatile Connection connection;
  private final Sidelock client;
  private final List<String> names;
  private Connection.Request request;
  private boolean isCancelled;

  SidelockLock(Sidelock client, List<String> names, Options options) {
    this.client = client;
    this.names = List.copyOf(names);
    this.options = options;
  }

  /** Takes it; of an object that `Sidelock.prepare` has given. */
  public SidelockLock acquire() {
    Map<String, Object> params = new LinkedHashMap<>();
    if (names.size() == 1) params.put("name", names.get(0));
    else params.put("names", names);
    params.putAll(options.params);
    if (options.isOwned) params.put("owner", Sidelock.thread());
    Sidelock.Started started = client.start("acquire", params, this, null);
    connection = started.connection();
    boolean withdraws;
    synchronized (this) {
      request = started.request();
      withdraws = isCancelled;
    }
    if (withdraws) connection.withdraw(request);
    long waitMs = options.wait == null ? -1 : Options.milliseconds(options.wait);
    if (options.isUninterrupted) connection.finishUninterrupted(request, waitMs);
    else connection.finish(request, waitMs);
    return this;
  }

  /** Withdraws the wait. A lock that is granted meanwhile is given back. */
  public void cancel() {
    synchronized (this) {
      isCancelled = true;
      if (request == null) return;
    }
    connection.withdraw(request);
  }

  public List<String> names() {
    return names;
  }

  /** exclusive, shared or permit. */
  public String mode() {
    return mode;
  }

  /** Whether it is held, as far as this process has been told; no longer than it is good without an answer of the daemon. */
  public boolean isHeld() {
    return state == State.HELD && !isUnconfirmed();
  }

  /** Whether its time is over: it is not to be believed then until the daemon has answered. */
  private boolean isOver() {
    return state == State.HELD && isTimed && deadline <= Connection.now();
  }

  /** The same, when the daemon was asked. */
  private boolean isUnconfirmed() {
    if (!isOver()) return false;
    connection.confirm(this);
    return state != State.HELD || isOver();
  }

  /** How it was lost; null if it was not. */
  public Loss loss() {
    return loss;
  }

  /**
   * Throws Lost if the lock was lost, NotHeld if it is not held, and Unavailable where its time is over and the daemon has not said
   * yet that it is still held.
   */
  public void check() {
    boolean isUnconfirmed = isUnconfirmed();
    if (loss != null) throw new SidelockException.Lost(loss);
    if (state != State.HELD) throw notHeld();
    if (isUnconfirmed) {
      throw SidelockException.of("no_answer",
          "the time of lock " + names.get(0) + " is over, and the daemon has not said yet that it is still held");
    }
  }

  private SidelockException notHeld() {
    return SidelockException.of("not_held", "lock " + names.get(0) + " is not held here");
  }

  /** The fencing token: send it along with every write. Throws as `check` does. */
  public long token() {
    return token(names.get(0));
  }

  /** The token of a name. */
  public long token(String name) {
    check();
    return tokens.get(name);
  }

  /** For how long from now the hold is good for certain; null: it does not end by itself. */
  public Duration valid() {
    if (state != State.HELD) return Duration.ZERO;
    return isTimed ? Duration.ofMillis(Math.max(0, (long) (deadline - Connection.now()))) : null;
  }

  /** Sets what is called when the lock is lost, of one that was transferred. */
  public void onLost(Consumer<Loss> call) {
    options.onLost = call;
  }

  /** Gives the lock back. Throws Lost if it was lost before. */
  public void release() {
    if (state != State.HELD && state != State.LOST) throw notHeld();
    SidelockException failure = null;
    if (!connection.hasEnded()) {
      Map<String, Long> holds = new LinkedHashMap<>();
      connection.locked(() -> holds.putAll(has));
      List<Connection.Request> requests = holds.entrySet().stream()
          .map(one -> connection.start("release", Map.of("name", one.getKey(), "token", one.getValue()), this, null)).toList();
      for (Connection.Request one : requests) {
        try {
          connection.finishUninterrupted(one, 0); // An interrupted thread gives back, too.
        } catch (SidelockException refused) {
          if (failure == null) failure = refused;
        }
      }
      connection.locked(() -> holds.forEach((name, token) -> connection.forget(this, name, token)));
    }
    state = State.RELEASED;
    if (loss != null) throw new SidelockException.Lost(loss);
    if (failure != null && failure.reason().equals("lost")) {
      String name = names.get(0);
      throw new SidelockException.Lost(new Loss(name, tokens.get(name), String.valueOf(failure.data().get("lost")), 0, null));
    }
    if (failure != null) throw failure;
  }

  /** The end of a try: gives back what is held; throws Lost if it was lost before. */
  @Override
  public void close() {
    if (state == State.HELD || state == State.LOST) release();
  }

  /** Shares from now on what was held alone. */
  public void downgrade() {
    ofOne("downgrade", Map.of());
    mode = "shared";
  }

  /** Sets anew after what time from now the hold ends; null: it does not. */
  public void extend(Duration maxHold) {
    Map<String, Object> more = new LinkedHashMap<>();
    more.put("max_hold_ms", maxHold == null ? null : Math.max(1, Options.milliseconds(maxHold)));
    ofOne("extend", more);
  }

  /** Hands the lock to another session of this host, which must have asked for it. */
  public void transfer(String session) {
    ofOne("transfer", Map.of("session", session));
    connection.locked(() -> {
      connection.forget(this, names.get(0), tokens.get(names.get(0)));
      state = State.RELEASED;
    });
  }

  private void ofOne(String method, Map<String, Object> more) {
    check();
    if (names.size() != 1) throw SidelockException.of("invalid_params", method + " is for one lock at a time");
    Map<String, Object> params = new LinkedHashMap<>(more);
    params.put("name", names.get(0));
    params.put("token", tokens.get(names.get(0)));
    try {
      connection.call(method, params);
    } catch (SidelockException refused) {
      throw loss != null ? new SidelockException.Lost(loss) : refused;
    }
  }
}
