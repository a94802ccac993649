package sidelock;

import java.io.ByteArrayOutputStream;
import java.io.IOException;
import java.net.StandardProtocolFamily;
import java.net.UnixDomainSocketAddress;
import java.nio.ByteBuffer;
import java.nio.channels.SelectionKey;
import java.nio.channels.Selector;
import java.nio.channels.SocketChannel;
import java.nio.charset.StandardCharsets;
import java.nio.file.Path;
import java.util.ArrayDeque;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.TimeUnit;
import java.util.function.Consumer;
import java.util.function.Supplier;

/** A socket, the thread that reads it, and what waits for answers, holds and watches on it. */
final class Connection {
  private static final int LINE_BYTES_MAX = 65536;
  /** Of a line that has not ended; what is longer comes from no daemon. */
  private static final int UNENDED_BYTES_MAX = 1 << 20;
  /** Of more holds than these a ping does not say how long they are valid. */
  private static final int HOLDS_TOLD_MAX = 64;

  record Pair(String name, long token) {}

  /** A request that is not answered yet. */
  static final class Request {
    final String method;
    final Map<String, Object> params;
    final SidelockLock lock;
    final Consumer<Map<String, Object>> told;
    final CountDownLatch done = new CountDownLatch(1);
    long id;
    long sent;
    boolean isAbandoned;
    volatile boolean isUnsent;
    volatile boolean isAnswered;
    Map<String, Object> result;
    SidelockException error;

    Request(String method, Map<String, Object> params, SidelockLock lock, Consumer<Map<String, Object>> told) {
      this.method = method;
      this.params = params;
      this.lock = lock;
      this.told = told;
    }
  }

  final Thread reader;
  final Map<Long, Consumer<Map<String, Object>>> watches = new HashMap<>();
  private final long patienceMs;
  private final SocketChannel channel;
  private final Selector selector;
  private final ArrayDeque<ByteBuffer> outgoing = new ArrayDeque<>();
  private final Map<Long, Request> requests = new LinkedHashMap<>();
  private final Map<Pair, List<SidelockLock>> holdings = new LinkedHashMap<>();
  private List<Runnable> calls = new ArrayList<>();
  private Consumer<SidelockLock> accept;
  private volatile boolean isBroken;
  private volatile boolean hasEnded;
  private volatile boolean isClosing;
  private volatile String session = "";
  private Long leaseMs;
  private long last;
  private SidelockException fault;
  private Request ping;
  private double noPingBefore;

  /** Milliseconds on a clock that nobody sets. */
  static double now() {
    return System.nanoTime() / 1e6;
  }

  Connection(String path, long patienceMs) {
    this.patienceMs = patienceMs;
    try {
      channel = SocketChannel.open(StandardProtocolFamily.UNIX);
    } catch (IOException problem) {
      throw SidelockException.of("no_daemon", "no socket: " + problem.getMessage());
    }
    try {
      channel.configureBlocking(false);
      connect(path);
      selector = Selector.open();
      channel.register(selector, SelectionKey.OP_READ);
    } catch (IOException | RuntimeException problem) {
      try {
        channel.close();
      } catch (IOException ignored) {
        // It was of no use.
      }
      if (problem instanceof SidelockException known) throw known;
      String words = String.valueOf(problem.getMessage());
      if (words.contains("Permission denied")) {
        throw SidelockException.of("permission", "the permissions of " + path + " keep this user out");
      }
      throw SidelockException.of("no_daemon", "no daemon at " + path + ": " + words);
    }
    reader = new Thread(this::run, "sidelock");
    reader.setDaemon(true);
    reader.start();
  }

  private void connect(String path) throws IOException {
    UnixDomainSocketAddress address = UnixDomainSocketAddress.of(Path.of(path));
    double deadline = now() + patienceMs;
    for (;;) {
      try {
        channel.connect(address);
        while (!channel.finishConnect()) Thread.onSpinWait();
        return;
      } catch (IOException full) {
        // A queue of connections that is full; a Unix socket tells no other way when there is room.
        if (!String.valueOf(full.getMessage()).contains("temporarily unavailable")) throw full;
        if (now() > deadline) {
          throw SidelockException.of("no_answer", "the daemon at " + path + " does not take connections; it may hang");
        }
        java.util.concurrent.locks.LockSupport.parkNanos(50_000_000);
      }
    }
  }

  void initialize(Consumer<SidelockLock> accept) {
    if (accept != null) accepts(accept);
    Map<String, Object> params = new LinkedHashMap<>();
    params.put("client", Map.of("name", "java"));
    params.put("protocol", 1);
    params.put("lifetime", "process");
    if (accept != null) params.put("accept_transfers", true);
    try {
      call("initialize", params);
    } catch (SidelockException refused) {
      if (!"lifetime".equals(refused.data().get("field"))) throw refused;
      // The daemon cannot see this process, as from a container.
      params.remove("lifetime");
      call("initialize", params);
    }
  }

  void accepts(Consumer<SidelockLock> accept) {
    locked(() -> this.accept = accept);
  }

  boolean isBroken() {
    return isBroken;
  }

  boolean hasEnded() {
    return hasEnded;
  }

  String session() {
    return session;
  }

  void locked(Runnable action) {
    locked(() -> {
      action.run();
      return null;
    });
  }

  /** Does something with the mutex held, sends what came of it, and then tells the user. */
  <T> T locked(Supplier<T> action) {
    T result;
    List<Runnable> told;
    synchronized (this) {
      result = action.get();
      flush();
      if (result instanceof Request request) request.isUnsent = isBroken && !outgoing.isEmpty();
      told = calls;
      calls = new ArrayList<>();
    }
    for (Runnable call : told) {
      try {
        call.run();
      } catch (RuntimeException problem) {
        // It is the user's own; nobody here could handle it.
        Thread current = Thread.currentThread();
        current.getUncaughtExceptionHandler().uncaughtException(current, problem);
      }
    }
    return result;
  }

  private void flush() {
    try {
      while (!outgoing.isEmpty() && !isBroken) {
        ByteBuffer first = outgoing.peek();
        channel.write(first);
        if (first.hasRemaining()) {
          selector.wakeup(); // The reader goes on as soon as there is room.
          return;
        }
        outgoing.remove();
      }
    } catch (IOException closed) {
      isBroken = true; // What the daemon said before it closed the connection can still be read.
    }
  }

  Request start(String method, Map<String, Object> params, SidelockLock lock, Consumer<Map<String, Object>> told) {
    return locked(() -> begin(new Request(method, params, lock, told)));
  }

  private Request begin(Request request) {
    request.id = ++last;
    request.sent = (long) now();
    if (hasEnded) {
      settle(request, null, end());
      return request;
    }
    Map<String, Object> message = new LinkedHashMap<>();
    message.put("id", request.id);
    message.put("method", request.method);
    message.put("params", request.params);
    if (!StandardCharsets.UTF_8.newEncoder().canEncode(Json.write(message))) {
      // Half of a pair: it would become a question mark, and so another lock.
      settle(request, null, SidelockException.of("invalid_params", "text for the daemon is UTF-8"));
      return request;
    }
    byte[] line = (Json.write(message) + "\n").getBytes(StandardCharsets.UTF_8);
    if (line.length > LINE_BYTES_MAX + 1) {
      settle(request, null, SidelockException.of("limit", "the request is longer than a line of the daemon"));
      return request;
    }
    requests.put(request.id, request);
    outgoing.add(ByteBuffer.wrap(line));
    return request;
  }

  /** The same for a request that an interrupt does not withdraw; the thread is told of it afterwards. */
  Map<String, Object> finishUninterrupted(Request request, long waitMs) {
    boolean wasInterrupted = false;
    long end = waitMs < 0 ? -1 : (long) now() + waitMs;
    try {
      while (true) {
        wasInterrupted |= Thread.interrupted();
        try {
          return finish(request, end < 0 ? -1 : Math.max(0, end - (long) now()), false);
        } catch (InterruptedException interrupted) {
          wasInterrupted = true;
        }
      }
    } finally {
      if (wasInterrupted) Thread.currentThread().interrupt();
    }
  }

  /** The result of a request that may take `waitMs` (below 0: without limit) and what the daemon needs to answer. */
  Map<String, Object> finish(Request request, long waitMs) {
    try {
      return finish(request, waitMs, true);
    } catch (InterruptedException interrupted) {
      Thread.currentThread().interrupt();
      throw SidelockException.of("cancelled", "the thread was interrupted");
    }
  }

  private Map<String, Object> finish(Request request, long waitMs, boolean withdraws) throws InterruptedException {
    try {
      long limit = waitMs < 0 ? Long.MAX_VALUE : waitMs + patienceMs;
      while (!request.done.await(limit, TimeUnit.MILLISECONDS)) {
        // wait_ms has long passed; a daemon that waits for Redis is waited for, one that hangs is not.
        Request alive = start("ping", Map.of(), null, null);
        if (!alive.done.await(patienceMs, TimeUnit.MILLISECONDS) && !request.isAnswered) {
          locked(() -> abandon(request));
          throw SidelockException.of("no_answer", "the daemon does not answer; it may hang");
        }
        limit = patienceMs;
      }
    } catch (InterruptedException interrupted) {
      if (withdraws) locked(() -> abandon(request));
      throw interrupted;
    }
    if (request.error != null) throw request.error;
    return request.result;
  }

  Map<String, Object> call(String method, Map<String, Object> params) {
    return finishUninterrupted(start(method, params, null, null), 0);
  }

  /** Nobody waits for the answer any more: a wait is withdrawn, and a lock that is granted all the same given back. */
  private void abandon(Request request) {
    if (request.isAnswered) {
      if (request.lock != null && request.error == null && request.method.equals("acquire")) giveBack(request.lock);
      return;
    }
    if (request.isAbandoned) return;
    request.isAbandoned = true;
    if (request.method.equals("acquire") && requests.containsKey(request.id)) {
      String line = Json.write(Map.of("method", "cancel", "params", Map.of("id", request.id))) + "\n";
      outgoing.add(ByteBuffer.wrap(line.getBytes(StandardCharsets.UTF_8)));
    }
  }

  void withdraw(Request request) {
    locked(() -> {
      if (request.isAnswered) return;
      abandon(request);
      settle(request, null, SidelockException.of("cancelled", "the wait was withdrawn"));
    });
  }

  private void giveBack(SidelockLock lock) {
    for (Map.Entry<String, Long> entry : new ArrayList<>(lock.has.entrySet())) {
      forget(lock, entry.getKey(), entry.getValue());
      begin(new Request("release", Map.of("name", entry.getKey(), "token", entry.getValue()), null, null));
    }
    if (lock.state == SidelockLock.State.HELD) lock.state = SidelockLock.State.RELEASED;
  }

  void forget(SidelockLock lock, String name, long token) {
    List<SidelockLock> sharing = holdings.get(new Pair(name, token));
    if (sharing == null) return;
    sharing.remove(lock);
    if (sharing.isEmpty()) holdings.remove(new Pair(name, token));
  }

  private void register(SidelockLock lock) {
    lock.has.forEach((name, token) -> holdings.computeIfAbsent(new Pair(name, token), pair -> new ArrayList<>()).add(lock));
  }

  private void run() {
    ByteBuffer buffer = ByteBuffer.allocate(65536);
    ByteArrayOutputStream rest = new ByteArrayOutputStream();
    double pause = -1;
    try {
      while (!isClosing) {
        boolean writes;
        synchronized (this) {
          writes = !outgoing.isEmpty() && !isBroken;
        }
        channel.keyFor(selector).interestOps(SelectionKey.OP_READ | (writes ? SelectionKey.OP_WRITE : 0));
        if (pause < 0) selector.select();
        else selector.select(Math.max(1, (long) Math.ceil(pause)));
        selector.selectedKeys().clear();
        if (isClosing) break;
        List<String> lines = new ArrayList<>();
        buffer.clear();
        int count = channel.read(buffer);
        if (count < 0) break;
        buffer.flip();
        while (buffer.hasRemaining()) {
          byte next = buffer.get();
          if (next != '\n') {
            rest.write(next);
            continue;
          }
          // A line is text when it is whole: a character may come in two pieces.
          lines.add(rest.toString(StandardCharsets.UTF_8));
          rest.reset();
        }
        if (rest.size() > UNENDED_BYTES_MAX) break;
        pause = locked(() -> {
          lines.forEach(this::heard);
          return tick();
        });
      }
    } catch (IOException closed) {
      // The same as the end.
    } finally {
      try {
        channel.close();
        selector.close();
      } catch (IOException ignored) {
        // It is closed.
      }
      locked(this::ended);
    }
  }

  @SuppressWarnings("unchecked")
  private void heard(String line) {
    Object value;
    try {
      value = Json.parse(line);
    } catch (IllegalArgumentException none) {
      return;
    }
    if (!(value instanceof Map<?, ?> map)) return;
    Map<String, Object> message = (Map<String, Object>) map;
    if (message.get("method") instanceof String method && !message.containsKey("id")) {
      if (message.get("params") instanceof Map<?, ?> params) told(method, (Map<String, Object>) params);
      return;
    }
    Object id = message.get("id");
    SidelockException error = message.get("error") == null ? null : SidelockException.refusal(message.get("error"));
    // Without an id it is about the connection, or about a line that the daemon could not read.
    if (id == null && error != null) fault = error;
    Request request = id instanceof Long number ? requests.remove(number) : null;
    if (request != null) settle(request, message.get("result") instanceof Map<?, ?> found ? (Map<String, Object>) found : null, error);
  }

  private void settle(Request request, Map<String, Object> result, SidelockException error) {
    if (error == null) {
      switch (request.method) {
        case "acquire" -> error = granted(request, result);
        case "release" -> {
          if (request.lock != null) forget(request.lock, (String) request.params.get("name"), (Long) request.params.get("token"));
        }
        case "initialize" -> {
          if (result != null && result.get("session") instanceof String name) session = name;
          if (result != null) leaseMs = result.get("lease_ms") instanceof Long lease ? lease : null;
        }
        case "watch" -> {
          if (result != null && result.get("watch") instanceof Long number) watches.put(number, request.told);
        }
        default -> { }
      }
    }
    if (request.isAnswered) return;
    request.result = result == null ? Map.of() : result;
    request.error = error;
    request.isAnswered = true;
    if (request == ping) ping = null;
    if (request.method.equals("ping") && error == null) pingAnswered(request);
    request.done.countDown();
  }

  private SidelockException granted(Request request, Map<String, Object> result) {
    SidelockLock lock = request.lock;
    Map<String, Long> tokens = new HashMap<>();
    if (result != null && result.get("locks") instanceof List<?> locks) {
      for (Object one : locks) {
        if (one instanceof Map<?, ?> grant && grant.get("name") instanceof String name && grant.get("token") instanceof Long token) {
          tokens.put(name, token);
        }
      }
    } else if (result != null && result.get("token") instanceof Long token) {
      tokens.put(lock.names().get(0), token);
    }
    if (!tokens.keySet().containsAll(lock.names())) {
      return SidelockException.of("protocol_violation", "the daemon gave an answer that is none");
    }
    lock.names().forEach(name -> lock.tokens.put(name, tokens.get(name)));
    lock.has.putAll(lock.tokens);
    lock.mode = String.valueOf(result.get("mode"));
    lock.state = SidelockLock.State.HELD;
    if (result.get("valid_ms") instanceof Long valid) {
      // From the grant on, however late this is read: the wait began at the daemon after the sending.
      lock.isTimed = true;
      lock.span = span(valid);
      lock.deadline = request.sent + (result.get("waited_ms") instanceof Long waited ? span(waited) : 0) + lock.span;
    }
    register(lock);
    if (request.isAbandoned) giveBack(lock);
    return null;
  }

  /** What the daemon may say is used in sums: nothing of it is longer than a century. */
  private static long span(long ms) {
    return Math.max(0, Math.min(ms, 100L * 366 * 86400 * 1000));
  }

  private static long number(Map<String, Object> params, String key) {
    return params.get(key) instanceof Long found ? found : 0;
  }

  private void told(String method, Map<String, Object> params) {
    Pair pair = new Pair(String.valueOf(params.get("name")), number(params, "token"));
    switch (method) {
      case "lost" -> {
        List<SidelockLock> sharing = holdings.remove(pair);
        String detail = params.get("detail") instanceof String words ? words : null;
        Loss loss = new Loss(pair.name(), pair.token(), String.valueOf(params.get("reason")), number(params, "grace_ms"), detail);
        if (sharing != null) sharing.forEach(lock -> lose(lock, loss));
      }
      case "waiting" -> {
        Request request = requests.get(number(params, "id"));
        if (request != null && request.lock != null && request.lock.options.onWaiting != null) {
          calls.add(() -> request.lock.options.onWaiting.accept(params));
        }
      }
      case "contended" -> {
        for (SidelockLock lock : holdings.getOrDefault(pair, List.of())) {
          if (lock.options.onContended != null) calls.add(() -> lock.options.onContended.accept(number(params, "waiters")));
        }
      }
      case "transferred" -> {
        if (accept != null) transferred(pair, params);
      }
      case "event" -> {
        Consumer<Map<String, Object>> call = watches.get(number(params, "watch"));
        if (call != null) call.accept(params);
      }
      case "backend", "missed" -> {
        Map<String, Object> event = new LinkedHashMap<>(params);
        event.put("kind", method);
        watches.values().forEach(call -> call.accept(event));
      }
      default -> { }
    }
  }

  private void transferred(Pair pair, Map<String, Object> params) {
    SidelockLock lock = new SidelockLock(null, List.of(pair.name()), Options.defaults());
    lock.tokens.put(pair.name(), pair.token());
    lock.has.putAll(lock.tokens);
    lock.mode = String.valueOf(params.get("mode"));
    lock.state = SidelockLock.State.HELD;
    lock.connection = this;
    if (leaseMs != null) {
      // Nothing is known of how long it is good: that is asked at once, and meanwhile it counts for what an answer may take.
      lock.isTimed = true;
      lock.span = span(leaseMs);
      lock.deadline = now() + answerTime(lock);
    }
    register(lock);
    Consumer<SidelockLock> call = accept;
    calls.add(() -> call.accept(lock));
  }

  private void lose(SidelockLock lock, Loss loss) {
    if (!loss.reason().equals("lease_expired")) lock.has.remove(loss.name());
    if (lock.state != SidelockLock.State.HELD) return;
    lock.state = SidelockLock.State.LOST;
    lock.loss = loss;
    calls.add(() -> {
      Consumer<Loss> call = lock.options.onLost;
      if (call != null) call.accept(loss);
    });
  }

  private SidelockException end() {
    return fault != null ? fault : SidelockException.of("connection_lost", "the connection to the daemon has ended");
  }

  /** The connection has ended: whoever waits is told, and what was held is lost. */
  private void ended() {
    hasEnded = true;
    isBroken = true;
    holdings.forEach((pair, sharing) -> {
      Loss loss = new Loss(pair.name(), pair.token(), "connection_ended", 0, null);
      sharing.forEach(lock -> lose(lock, loss));
    });
    holdings.clear();
    watches.values().forEach(call -> call.accept(Map.of("kind", "ended")));
    watches.clear();
    List<Request> waiting = new ArrayList<>(requests.values());
    requests.clear();
    waiting.forEach(request -> settle(request, null, end()));
  }

  void close() {
    isClosing = true;
    selector.wakeup();
    try {
      reader.join();
    } catch (InterruptedException interrupted) {
      Thread.currentThread().interrupt();
    }
  }

  private List<SidelockLock> timed() {
    return holdings.values().stream().flatMap(List::stream)
        .filter(lock -> lock.isTimed && lock.state == SidelockLock.State.HELD).toList();
  }

  private void pingAnswered(Request answered) {
    noPingBefore = now() + 100;
    for (SidelockLock lock : timed()) {
      if (answered.result.get("valid_ms") instanceof Long valid) {
        // This counts for all that was held when it was answered, from when it was asked.
        lock.span = span(valid);
        lock.deadline = Math.max(lock.deadline, answered.sent + lock.span);
      } else if (holdings.size() > HOLDS_TOLD_MAX) {
        lock.isTimed = false;
      }
    }
  }

  /** Asks how long holds are good before that time is over, and finds those whose time is. Gives the time until then. */
  private double tick() {
    List<SidelockLock> timed = timed();
    if (timed.isEmpty() || hasEnded) return -1;
    double time = now();
    double askAt = timed.stream().mapToDouble(lock -> lock.deadline - lock.span / 2).min().orElse(0);
    askAt = Math.max(askAt, noPingBefore);
    if (ping == null) {
      if (time < askAt) return askAt - time;
      ping = begin(new Request("ping", Map.of(), null, null));
    }
    for (SidelockLock lock : timed) {
      if (time < judgeAt(lock)) continue;
      Map.Entry<String, Long> first = lock.has.entrySet().iterator().next();
      lose(lock, new Loss(first.getKey(), first.getValue(), "lease_expired", 0, null));
      giveBack(lock);
    }
    double next = timed().stream().mapToDouble(this::judgeAt).min().orElse(-1);
    return next < 0 ? -1 : Math.max(0, next - time);
  }

  /** For how many milliseconds the daemon may leave unanswered how long a hold is good. */
  private static double answerTime(SidelockLock lock) {
    return Math.min(1000, lock.span / 4);
  }

  /**
   * Of a hold whose time is over: waits until the daemon has said how long it is good, or it is lost. Not in a callback, for which
   * nothing is read, and not in a thread that was interrupted.
   */
  void confirm(SidelockLock lock) {
    if (Thread.currentThread() == reader) return;
    locked(this::tick);
    try {
      start("ping", Map.of(), null, null).done.await((long) answerTime(lock) + 1, TimeUnit.MILLISECONDS);
    } catch (InterruptedException interrupted) {
      Thread.currentThread().interrupt();
    }
    locked(this::tick);
  }

  /** A process that was stopped itself asks before it judges. */
  private double judgeAt(SidelockLock lock) {
    return Math.max(lock.deadline, (ping == null ? now() : ping.sent) + answerTime(lock));
  }
}
