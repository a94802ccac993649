/// The chapter on what is logged of the reference page.
extension SettingsDocument {
  /// What stands for rules in the sample file.
  static let sampleAudit = ["omit all orders/cache/*", "record grant,release,timeout orders/*"]

  static let auditChapter = #"""

    ## What is logged

    ```yaml
    audit:
      - omit all orders/cache/*
      - record grant,release,timeout orders/*
      - record session *
    ```

    A rule is `record` or `omit`, the kinds with commas and no spaces between them (or `all`), and the names, which are
    written as in `rules`. The first rule that is about a kind and a name decides. What no rule is about is not logged: a
    busy lock would fill the log.

    | kind | what is logged |
    |---|---|
    | `session` | a client connects, and its connection ends. A session has no lock, so the name is `*` |
    | `grant` | a client gets a lock |
    | `release` | a client gives it back, hands it on, or ends with it |
    | `wait` | a client waits for a lock that others have or wait for |
    | `timeout` | a client does not get a lock: not in time, not at once, because it takes the request back or is refused (`reason=denied`: no rule gives it the right) |

    Always logged are locks that are lost, broken or taken away, limits that are met, sessions that the daemon ends, clients that
    half-close their connection and keep locks, and what Redis refuses.

    An entry has a `MESSAGE_ID` (`journalctl -x` explains it) and fields: `SIDELOCK_LOCK`, `SIDELOCK_TOKEN`, `SIDELOCK_MODE`,
    `SIDELOCK_OWNER` and `SIDELOCK_META` as the client gave them, `SIDELOCK_WAITED_MS`, `SIDELOCK_HELD_MS`, `SIDELOCK_REASON`, and of
    the client `SIDELOCK_SESSION`, `SIDELOCK_PID`, `SIDELOCK_UID`, `SIDELOCK_USER` (not of a container, which has users of its own), `SIDELOCK_COMMAND` (the name of the program, without
    its arguments, which may hold secrets), `SIDELOCK_UNIT` and `SIDELOCK_CLIENT` (what it says of itself in `initialize`). They are
    written whatever `log_level` says. `sidelock log NAME` shows the history of a lock.

    Of each kind, and of losses, 1,000 entries about the clients of one user are written at once, and then 100 a second; breaks and
    what is taken away are all written. Of the others that are always logged 20 are written at once, and then one a second. What is
    left out is counted, and the log says how many of which kind and user (`SIDELOCK_UID`).

    """#
}
