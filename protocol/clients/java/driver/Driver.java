import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.net.URLDecoder;
import java.net.URLEncoder;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.time.Duration;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.atomic.AtomicLong;
import java.util.function.Consumer;
import sidelock.Loss;
import sidelock.Options;
import sidelock.Sidelock;
import sidelock.SidelockException;
import sidelock.SidelockLock;

/** The conformance suite's driver. See protocol/conformance/README.md. */
public final class Driver {
  private static final class BodyFailed extends RuntimeException {
    private static final long serialVersionUID = 1;
  }

  private record Args(String tag, String verb, List<String> names, Map<String, String> values) {
    String get(String key) {
      return values.get(key);
    }

    Duration duration(String key) {
      return Duration.ofMillis(Long.parseLong(get(key)));
    }
  }

  private volatile Sidelock client = new Sidelock();
  private final Map<String, SidelockLock> locks = new ConcurrentHashMap<>();
  private final Map<String, SidelockLock> tags = new ConcurrentHashMap<>();
  private final Map<String, CompletableFuture<Boolean>> leaves = new ConcurrentHashMap<>();
  private final Map<String, Sidelock.Watch> watches = new ConcurrentHashMap<>();
  private final Map<String, ExecutorService> workers = new HashMap<>();

  private static synchronized void say(String head, Object... fields) {
    StringBuilder line = new StringBuilder(head);
    for (int i = 0; i < fields.length; i += 2) {
      String value = URLEncoder.encode(String.valueOf(fields[i + 1]), StandardCharsets.UTF_8).replace("+", "%20");
      line.append(' ').append(fields[i]).append('=').append(value);
    }
    System.out.println(line);
    System.out.flush();
  }

  private static Args parse(String line) {
    String[] words = line.split(" ");
    List<String> names = new ArrayList<>();
    Map<String, String> values = new LinkedHashMap<>();
    for (int i = 2; i < words.length; i++) {
      int cut = words[i].indexOf('=');
      String key = words[i].substring(0, cut);
      String value = URLDecoder.decode(words[i].substring(cut + 1).replace("+", "%2B"), StandardCharsets.UTF_8);
      if (key.equals("name")) names.add(value);
      values.put(key, value);
    }
    return new Args(words[0], words[1], names, values);
  }

  private static Consumer<Loss> onLost(String label) {
    return loss -> say("event lost", "lock", label, "name", loss.name(), "token", loss.token(), "reason", loss.reason(), "grace_ms",
        loss.graceMs());
  }

  private static Options options(Args args) {
    String label = args.get("lock");
    Options options = Options.defaults().onLost(onLost(label));
    if (args.get("wait") != null) options.wait(args.duration("wait"));
    if ("shared".equals(args.get("mode"))) options.shared();
    if (args.get("permits") != null) options.permits(Integer.parseInt(args.get("permits")));
    if (args.get("max_hold") != null) options.maxHold(args.duration("max_hold"));
    if (args.get("replicas") != null) options.replicas(Integer.parseInt(args.get("replicas")));
    if (args.get("durability") != null) options.durability(args.get("durability"));
    if (args.get("meta") != null) options.meta(args.get("meta"));
    if (args.get("meta_bytes") != null) options.meta("x".repeat(Integer.parseInt(args.get("meta_bytes"))));
    if (args.get("progress") != null) {
      options.onWaiting(told -> say("event waiting", "lock", label, "position", told.get("position")));
      options.onContended(waiters -> say("event contended", "lock", label, "waiters", waiters));
    }
    return options;
  }

  private static String valid(SidelockLock lock) {
    Duration valid = lock.valid();
    return valid == null ? "none" : String.valueOf(valid.toMillis());
  }

  private CompletableFuture<Boolean> leave(String label) {
    return leaves.computeIfAbsent(label, key -> new CompletableFuture<>());
  }

  private Object[] run(Args args) throws Exception {
    String label = args.get("lock");
    SidelockLock lock = label == null ? null : locks.get(label);
    String[] names = args.names().toArray(new String[0]);
    switch (args.verb()) {
      case "open" -> client = new Sidelock(args.get("path"), args.get("answer_ms") == null ? Duration.ofSeconds(5)
          : args.duration("answer_ms"));
      case "path" -> {
        return new Object[] {"path", client.path()};
      }
      case "session" -> {
        return new Object[] {"session", client.session()};
      }
      case "close" -> client.close();
      case "acquire" -> {
        SidelockLock made = client.prepare(options(args), names);
        tags.put(args.tag(), made);
        made.acquire();
        locks.put(label, made);
        List<String> tokens = new ArrayList<>();
        for (String name : names) {
          tokens.add(made.loss() == null ? String.valueOf(made.token(name)) : String.valueOf(made.loss().token()));
        }
        return new Object[] {"token", String.join(",", tokens), "mode", made.mode(), "valid_ms", valid(made)};
      }
      case "scope" -> {
        try (SidelockLock scope = client.acquire(options(args), names)) {
          if (scope.isHeld()) say("event entered", "lock", label, "token", scope.token());
          if (leave(label).get()) throw new BodyFailed();
        }
      }
      case "leave" -> leave(label).complete(args.get("fail") != null);
      case "release" -> lock.release();
      case "held" -> {
        if (lock == null) return new Object[] {"held", 0};
        int held = lock.isHeld() ? 1 : 0;
        String valid = valid(lock);
        if (lock.loss() == null) return new Object[] {"held", held, "valid_ms", valid};
        return new Object[] {"held", held, "valid_ms", valid, "lost", lock.loss().reason()};
      }
      case "cancel" -> tags.get(args.get("target")).cancel();
      case "downgrade" -> lock.downgrade();
      case "extend" -> lock.extend(args.get("max_hold").equals("none") ? null : args.duration("max_hold"));
      case "transfer" -> lock.transfer(args.get("session"));
      case "accept" -> client.acceptTransfers(given -> {
        locks.put(label, given);
        given.onLost(onLost(label));
        Loss loss = given.loss();
        say("event transferred", "lock", label, "name", given.names().get(0), "token", loss == null ? given.token() : loss.token());
      });
      case "watch" -> {
        boolean isPrefix = names.length == 0;
        String watch = args.get("watch");
        watches.put(watch, client.watch(isPrefix ? args.values().getOrDefault("prefix", "") : names[0], isPrefix, event ->
            say("event watch", "watch", watch, "kind", event.get("kind"), "name", event.get("name"), "token", event.get("token"))));
      }
      case "unwatch" -> watches.get(args.get("watch")).close();
      case "cycles" -> {
        return cycles(args, names);
      }
      case "spawn" -> {
        return new Object[] {"pid", new ProcessBuilder("sleep", "60").start().pid()};
      }
      default -> { }
    }
    return new Object[0];
  }

  private Object[] cycles(Args args, String[] names) throws Exception {
    Path file = Path.of(args.get("file"));
    Files.writeString(file, "0");
    AtomicLong last = new AtomicLong();
    AtomicLong rising = new AtomicLong(1);
    List<Thread> threads = new ArrayList<>();
    for (int worker = 0; worker < Integer.parseInt(args.get("workers")); worker++) {
      Thread thread = new Thread(() -> {
        for (int cycle = 0; cycle < Integer.parseInt(args.get("cycles")); cycle++) {
          try (SidelockLock lock = client.acquire(names)) {
            Files.writeString(file, String.valueOf(Long.parseLong(Files.readString(file)) + 1));
            if (lock.token() <= last.getAndSet(lock.token())) rising.set(0);
          } catch (java.io.IOException problem) {
            throw new java.io.UncheckedIOException(problem);
          }
        }
      });
      thread.start();
      threads.add(thread);
    }
    for (Thread thread : threads) thread.join();
    return new Object[] {"rising", rising.get()};
  }

  private void answer(Args args) {
    try {
      say(args.tag() + " ok", run(args));
    } catch (BodyFailed failed) {
      say(args.tag() + " error body");
    } catch (SidelockException refused) {
      String kind = refused.getClass().getSimpleName().replaceAll("(?<=[a-z])(?=[A-Z])", "_").toLowerCase();
      Set<String> known = Set.of("busy", "timeout", "cancelled", "lost", "denied", "unavailable", "deadlock", "under_replicated");
      String type = known.contains(kind) ? kind : "error";
      List<Object> fields = new ArrayList<>(List.of("type", type, "message", refused.getMessage()));
      if (type.equals("busy") || type.equals("timeout")) fields.addAll(List.of("holders", refused.holders().size()));
      if (refused instanceof SidelockException.UnderReplicated few) fields.addAll(List.of("acknowledged", few.acknowledged()));
      if (refused instanceof SidelockException.Lost lost) fields.addAll(List.of("lost", lost.loss().reason()));
      say(args.tag() + " error " + (refused.reason().isEmpty() ? "unknown" : refused.reason()), fields.toArray());
    } catch (Exception problem) {
      problem.printStackTrace();
      System.exit(1);
    }
  }

  private void serve() throws Exception {
    say("driver 1", "language", "java", "features", "");
    BufferedReader input = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
    for (String line = input.readLine(); line != null; line = input.readLine()) {
      Args args = parse(line);
      if (Set.of("noop", "held", "cancel", "leave", "path").contains(args.verb())) {
        answer(args);
        continue;
      }
      boolean isControl = Set.of("session", "watch", "unwatch", "open", "close").contains(args.verb());
      String worker = isControl ? "control" : args.values().getOrDefault("worker", "0");
      workers.computeIfAbsent(worker, key -> Executors.newSingleThreadExecutor()).execute(() -> answer(args));
    }
    client.close();
    System.exit(0);
  }

  public static void main(String[] none) throws Exception {
    sun.misc.Signal.handle(new sun.misc.Signal("USR1"), signal -> { });
    new Driver().serve();
  }
}
