package sidelock;

import java.util.List;
import java.util.Map;

/** Whatever goes wrong with a lock; its subclasses are the kinds that programs tell apart. */
public class SidelockException extends RuntimeException {
  private static final long serialVersionUID = 1;
  private final String reason;
  private final transient Map<String, Object> data;

  SidelockException(String reason, String message, Map<String, Object> data) {
    super(message);
    this.reason = reason;
    this.data = data;
  }

  /** The stable name of errors.json, or one that this client found. */
  public String reason() {
    return reason;
  }

  /** What the daemon said beside it. */
  public Map<String, Object> data() {
    return data == null ? Map.of() : data;
  }

  /** Who has the lock, as far as the daemon tells. */
  @SuppressWarnings("unchecked")
  public List<Map<String, Object>> holders() {
    return data().get("holders") instanceof List<?> list ? (List<Map<String, Object>>) list : List.of();
  }

  /** A try met a lock in use. */
  public static final class Busy extends SidelockException {
    private static final long serialVersionUID = 1;

    Busy(String reason, String message, Map<String, Object> data) {
      super(reason, message, data);
    }
  }

  /** The lock did not become free in time. */
  public static final class Timeout extends SidelockException {
    private static final long serialVersionUID = 1;

    Timeout(String reason, String message, Map<String, Object> data) {
      super(reason, message, data);
    }
  }

  /** The wait was withdrawn. */
  public static final class Cancelled extends SidelockException {
    private static final long serialVersionUID = 1;

    Cancelled(String reason, String message, Map<String, Object> data) {
      super(reason, message, data);
    }
  }

  /** The lock is not held. */
  public static final class NotHeld extends SidelockException {
    private static final long serialVersionUID = 1;

    NotHeld(String reason, String message, Map<String, Object> data) {
      super(reason, message, data);
    }
  }

  /** The rules, or the permissions of the socket, keep this program out. */
  public static final class Denied extends SidelockException {
    private static final long serialVersionUID = 1;

    Denied(String reason, String message, Map<String, Object> data) {
      super(reason, message, data);
    }
  }

  /** Redis or the daemon cannot be reached now. */
  public static final class Unavailable extends SidelockException {
    private static final long serialVersionUID = 1;

    Unavailable(String reason, String message, Map<String, Object> data) {
      super(reason, message, data);
    }
  }

  /** The wait would never have ended, because owners wait for each other. */
  public static final class Deadlock extends SidelockException {
    private static final long serialVersionUID = 1;

    Deadlock(String reason, String message, Map<String, Object> data) {
      super(reason, message, data);
    }
  }

  /** Too few replicas of Redis had the lease in time, so the lock was given back. */
  public static final class UnderReplicated extends SidelockException {
    private static final long serialVersionUID = 1;

    UnderReplicated(String reason, String message, Map<String, Object> data) {
      super(reason, message, data);
    }

    /** How many had it; 0 also where the daemon does not tell. */
    public int acknowledged() {
      return data().get("acknowledged") instanceof Long count ? count.intValue() : 0;
    }
  }

  /** The lock was lost: stop what it guarded. */
  public static final class Lost extends SidelockException {
    private static final long serialVersionUID = 1;
    private final transient Loss loss;

    Lost(Loss loss) {
      super("lost", "lock " + loss.name() + " is lost: " + (loss.detail() != null ? loss.detail() : loss.reason()),
          Map.of("lost", loss.reason()));
      this.loss = loss;
    }

    /** How. */
    public Loss loss() {
      return loss;
    }
  }

  static SidelockException of(String reason, String message, Map<String, Object> data) {
    return switch (reason) {
      case "busy" -> new Busy(reason, message, data);
      case "timeout" -> new Timeout(reason, message, data);
      case "cancelled" -> new Cancelled(reason, message, data);
      case "not_held" -> new NotHeld(reason, message, data);
      case "denied", "permission" -> new Denied(reason, message, data);
      case "deadlock" -> new Deadlock(reason, message, data);
      case "under_replicated" -> new UnderReplicated(reason, message, data);
      case "unavailable", "shutting_down", "no_daemon", "no_answer", "connection_lost" -> new Unavailable(reason, message, data);
      default -> new SidelockException(reason, message, data);
    };
  }

  static SidelockException of(String reason, String message) {
    return of(reason, message, Map.of());
  }

  /** The error that the `error` member of a reply describes. */
  @SuppressWarnings("unchecked")
  static SidelockException refusal(Object reply) {
    Map<String, Object> error = reply instanceof Map<?, ?> map ? (Map<String, Object>) map : Map.of();
    Map<String, Object> data = error.get("data") instanceof Map<?, ?> map ? (Map<String, Object>) map : Map.of();
    String message = error.get("message") instanceof String text ? text : "the daemon gave no message";
    if (data.get("detail") instanceof String detail) message += ": " + detail;
    return of(data.get("reason") instanceof String reason ? reason : "", message, data);
  }
}
