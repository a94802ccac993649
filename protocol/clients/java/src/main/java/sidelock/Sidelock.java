package sidelock;

import java.nio.file.Files;
import java.nio.file.Path;
import java.time.Duration;
import java.util.List;
import java.util.Map;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicLong;
import java.util.concurrent.locks.Condition;
import java.util.concurrent.locks.Lock;
import java.util.function.Consumer;

/** A connection to the sidelockd of this host that all threads share, made when it is needed, and again when it has ended. */
public final class Sidelock implements AutoCloseable {
  private static final AtomicLong THREADS = new AtomicLong();
  private static final ThreadLocal<String> OWNER = ThreadLocal.withInitial(() -> "thread-" + THREADS.incrementAndGet());
  private final String path;
  private final Duration patience;
  private Connection connection;
  private Consumer<SidelockLock> accept;

  record Started(Connection connection, Connection.Request request) {}

  /** A client for the daemon where the sidelock command looks for it. */
  public Sidelock() {
    this(null, Duration.ofSeconds(5));
  }

  /** `patience`: for how long the daemon may leave a request unanswered, beyond what was to be waited. */
  public Sidelock(String path, Duration patience) {
    this.path = path;
    this.patience = patience;
  }

  /** The name of this thread, which no other one of this process has or had. */
  static String thread() {
    return OWNER.get();
  }

  /** Where the daemon listens: what is given, $SIDELOCK_SOCKET, the user's own daemon if there is one, the system's. */
  public static String socketPath(String explicit) {
    if (explicit != null && !explicit.isEmpty()) return explicit;
    String named = System.getenv("SIDELOCK_SOCKET");
    if (named != null && !named.isEmpty()) return named;
    String directory = System.getenv("XDG_RUNTIME_DIR");
    if (directory != null && !directory.isEmpty()) {
      Path own = Path.of(directory, "sidelock", "sidelock.sock");
      // One that this process may not look at counts as there.
      if (!Files.notExists(own)) return own.toString();
    }
    return "/run/sidelock/sidelock.sock";
  }

  /** Where this client looks for the daemon. */
  public String path() {
    return socketPath(path);
  }

  /** Takes one lock, or several, all or none: `try (var lock = sidelock.acquire("orders")) { … }`. */
  public SidelockLock acquire(String... names) {
    return acquire(Options.defaults(), names);
  }

  /** The same, in another way. An interrupt withdraws the wait. */
  public SidelockLock acquire(Options options, String... names) {
    return prepare(options, names).acquire();
  }

  /** What is acquired by itself, and may be cancelled by another thread meanwhile. */
  public SidelockLock prepare(Options options, String... names) {
    return new SidelockLock(this, List.of(names), options);
  }

  /** The lock as a java.util.concurrent.locks.Lock, which its thread may take again. It has no conditions. */
  public Lock asLock(String name) {
    return new ThreadLock(this, name);
  }

  /** Events of a lock, or where `prefix` of all whose name begins alike; the call is made by the thread that reads. */
  public Watch watch(String name, boolean prefix, Consumer<Map<String, Object>> told) {
    Started started = start("watch", Map.of(prefix ? "prefix" : "name", name), null, told);
    return new Watch(started.connection(), (Long) started.connection().finish(started.request(), 0).get("watch"));
  }

  /** A watch. */
  public static final class Watch implements AutoCloseable {
    private final Connection connection;
    private final long number;

    Watch(Connection connection, long number) {
      this.connection = connection;
      this.number = number;
    }

    /** No more events come. */
    @Override
    public void close() {
      if (connection.locked(() -> connection.watches.remove(number)) != null) {
        connection.call("unwatch", Map.of("watch", number));
      }
    }
  }

  /** Any method of the protocol, and its result. */
  public Map<String, Object> call(String method, Map<String, Object> params) {
    Started started = start(method, params, null, null);
    return started.connection().finish(started.request(), 0);
  }

  /** The daemon's name for this client; others transfer locks to it. */
  public String session() {
    return connected().session();
  }

  /** From now on others may hand over locks; the call gets each, held, by the thread that reads. */
  public void acceptTransfers(Consumer<SidelockLock> call) {
    synchronized (this) {
      accept = call;
    }
    Connection now = connected();
    now.accepts(call);
    now.call("initialize", Map.of("accept_transfers", true));
  }

  /** Gives everything back. The client may be used again. */
  @Override
  public void close() {
    Connection old;
    synchronized (this) {
      old = connection;
      connection = null;
    }
    if (old != null) old.close();
  }

  private synchronized Connection connected() {
    if (connection != null && !connection.isBroken()) return connection;
    Connection made = new Connection(socketPath(path), patience.toMillis());
    try {
      made.initialize(accept);
    } catch (RuntimeException refused) {
      made.close();
      throw refused;
    }
    connection = made;
    return made;
  }

  /** Starts a request, over a new connection where the daemon had closed the old one before. */
  Started start(String method, Map<String, Object> params, SidelockLock lock, Consumer<Map<String, Object>> told) {
    Connection now = connected();
    Connection.Request request = now.start(method, params, lock, told);
    if (request.isUnsent) {
      try {
        request.done.await(patience.toMillis(), TimeUnit.MILLISECONDS); // It reads what the daemon said last.
      } catch (InterruptedException interrupted) {
        Thread.currentThread().interrupt();
      }
      now = connected();
      request = now.start(method, params, lock, told);
    }
    return new Started(now, request);
  }

  private static final class ThreadLock implements Lock {
    /** What the daemon takes; longer waits end after a year. */
    private static final long WAIT_SECONDS_MAX = 365L * 24 * 3600;
    private final Sidelock client;
    private final String name;
    private final ThreadLocal<java.util.ArrayDeque<SidelockLock>> held = ThreadLocal.withInitial(java.util.ArrayDeque::new);

    ThreadLock(Sidelock client, String name) {
      this.client = client;
      this.name = name;
    }

    @Override
    public void lock() {
      held.get().push(client.acquire(Options.defaults().uninterrupted(), name));
    }

    @Override
    public void lockInterruptibly() throws InterruptedException {
      if (Thread.interrupted()) throw new InterruptedException();
      try {
        held.get().push(client.acquire(name));
      } catch (SidelockException.Cancelled cancelled) {
        if (Thread.interrupted()) throw new InterruptedException();
        throw cancelled;
      }
    }

    @Override
    public boolean tryLock() {
      try {
        held.get().push(client.acquire(Options.defaults().wait(Duration.ZERO).uninterrupted(), name));
        return true;
      } catch (SidelockException.Busy busy) {
        return false;
      }
    }

    @Override
    public boolean tryLock(long time, TimeUnit unit) throws InterruptedException {
      if (Thread.interrupted()) throw new InterruptedException();
      long seconds = unit.toSeconds(time);
      Duration wait = seconds >= WAIT_SECONDS_MAX ? Duration.ofSeconds(WAIT_SECONDS_MAX) : Duration.ofNanos(Math.max(0, unit.toNanos(time)));
      try {
        held.get().push(client.acquire(Options.defaults().wait(wait), name));
        return true;
      } catch (SidelockException.Busy | SidelockException.Timeout busy) {
        return false;
      } catch (SidelockException.Cancelled cancelled) {
        if (Thread.interrupted()) throw new InterruptedException();
        throw cancelled;
      }
    }

    @Override
    public void unlock() {
      if (held.get().isEmpty()) throw new IllegalMonitorStateException("lock " + name + " is not held by this thread");
      held.get().pop().release();
    }

    @Override
    public Condition newCondition() {
      throw new UnsupportedOperationException("a lock over processes has no conditions");
    }
  }
}
