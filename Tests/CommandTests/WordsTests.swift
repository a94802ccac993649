import SidelockClient
import Testing

@testable import sidelock

struct WordsTests {
  func holders(_ json: String) throws -> [LockDescription.Participant] {
    LockDescription(["holders": try JSONValue(parsing: json)]).holders
  }

  @Test(
    arguments: [
      (
        #"{"host":"db1","session":"1","pid":4711,"command":"pg_dump","unit":"nightly.service","meta":"nightly","held_ms":180000}"#,
        #"4711 (pg_dump, nightly.service, "nightly") on db1 for 3 min"#
      ),
      (
        #"{"host":"db1","session":"1","pid":4711,"command":"/usr/bin/sidelock run -w 3 a -- pg_dump -a -- b"}"#,
        "4711 (pg_dump -a -- b) on db1"
      ),
      (#"{"host":"db1","session":"1","pid":4711,"command":"sidelockx run -- b"}"#, "4711 (sidelockx run -- b) on db1"),
      (#"{"host":"db1","session":"1","uid":0,"held_ms":5}"#, "session 1 (user root) on db1 for 5 ms"),
      (#"{"host":"db1"}"#, "the host db1"), (#"{"host":"db1","dead":true}"#, "the host db1, which is gone"),
      (#"{"foreign":true}"#, "a process that does not use sidelock"),
    ])
  func aHolderIsNamed(json: String, words: String) throws {
    #expect(HolderWords.holders(try holders("[\(json)]")) == words)
  }

  @Test func ofALongNoteTheBeginningIsTold() throws {
    let long = String(repeating: "m", count: 1024)
    let one = try holders(#"[{"host":"h","session":"1","pid":1,"meta":"\#(long)"}]"#)
    #expect(HolderWords.holders(one) == "1 (\"\(long.prefix(79))…\") on h")
  }

  @Test func ofManyHoldersSomeAreNamed() throws {
    let one = #"{"host":"h","session":"1","pid":1}"#
    #expect(HolderWords.holders(try holders("[\(one),\(one)]")) == "1 on h and 1 on h")
    #expect(
      HolderWords.holders(try holders("[\(one),\(one),\(one),\(one)]"), holding: 9)
        == "1 on h, 1 on h, 1 on h and 6 more")
    #expect(HolderWords.holders([]) == nil)
  }

  @Test(
    arguments: [
      (999, "999 ms"), (59_999, "59 s"), (3_599_999, "59 min"), (3_600_000, "1 h"), (7_500_000, "2 h 5 min"),
      (90_000_000, "1 d 1 h"), (86_400_000, "1 d"),
    ] as [(Int64, String)])
  func agesHaveNoMorePrecisionThanAnybodyWants(milliseconds: Int64, words: String) {
    #expect(HolderWords.age(milliseconds: milliseconds) == words)
  }

  @Test(
    arguments: [
      ("500ms", 500), ("10s", 10_000), ("2m", 120_000), ("2min", 120_000), ("1.5h", 5_400_000), ("1d", 86_400_000),
      ("10", 10_000), ("2.5", 2500), ("0", 0), ("0.0001", 1), ("1e1", 10_000), ("31536000", 31_536_000_000),
      ("", nil), ("s", nil), ("-1", nil), ("-1s", nil), ("10x", nil), ("inf", nil), ("nan", nil), ("1e30", nil),
      ("366d", nil), ("0x10", nil), ("1 s", nil), ("1h30m", nil),
    ] as [(String, Int64?)])
  func timesHaveUnits(text: String, milliseconds: Int64?) {
    #expect(TimeSpan(argument: text).milliseconds == milliseconds)
  }

  func error(_ reason: SidelockError.Reason, _ data: JSONValue = [:], code: Int64 = 1) -> SidelockError {
    SidelockError(code: code, reason: reason, message: "wait_ms data.held", data: data)
  }

  /// What the daemon says to programs, in words for people.
  @Test(
    arguments: [
      (.busy, #"{"holders":[{"host":"h","session":"1","pid":7,"command":"cat"}]}"#, "busy: held by 7 (cat) on h"),
      (.busy, "{}", "busy: somebody else has it"), (.timeout, "{}", "timeout: not free within 2 s"),
      (
        .modeConflict, #"{"held":{"permits":2}}"#,
        "mode_conflict: it is in use as a semaphore of 2 permits; ask for it with --permits 2, or wait until nobody has it"
      ),
      (
        .modeConflict, #"{"held":{"permits":2},"holders":[{"host":"h","session":"1","pid":7,"command":"cat"}]}"#,
        "mode_conflict: it is in use as a semaphore of 2 permits; held by 7 (cat) on h; ask for it with --permits 2, or wait until nobody has it"
      ),
      (
        .modeConflict, #"{"held":{"mode":"shared"}}"#,
        "mode_conflict: it is in use as a lock, held shared; ask for it without --permits, or wait until nobody has it"
      ),
      (
        .deadlock,
        #"{"cycle":[{"host":"h","pid":1,"command":"a","waits_for":"x","held":"y"},{"host":"g","session":"2","waits_for":"y","held":"x"}]}"#,
        "deadlock: the wait would never end: 1 (a) on h waits for x and holds y, session 2 on g waits for y and holds x; take the locks in the same order"
      ),
      (
        .unavailable, #"{"detail":"NOPERM no: allow it with ACL SETUSER u +get"}"#,
        "unavailable: Redis cannot be reached or refuses: NOPERM no: allow it with ACL SETUSER u +get"
      ),
      (.unavailable, #"{"detail":"wait","retry_ms":5}"#, "unavailable: wait; try again later"),
    ] as [(SidelockError.Reason, String, String)])
  func errorsAreInWordsForPeople(reason: SidelockError.Reason, data: String, words: String) throws {
    #expect(ErrorWords.text(error(reason, try JSONValue(parsing: data)), waited: 2000) == words)
  }

  @Test(
    arguments: [
      ("cannot connect to localhost:6379: connection refused", "systemctl start redis-server"),
      ("the connection was closed", "systemctl start redis-server"),
      ("cannot connect to 10.9.9.9:6379: timed out", "examples/remote-redis.conf"),
      ("Redis refused the password of user 'a': check", "systemctl restart sidelockd"),
      (
        "Redis asks for a password: give it in a file with redis_password_file", "systemctl restart sidelockd"
      ),
      (
        "no sentinel tells where the primary of 'm' is: a:1: it asks for a password: give it in a file with "
          + "redis_sentinel_password_file", "/etc/credstore/sidelock.redis-sentinel-password"
      ),
      (
        "1 of the 3 sentinels of 'm' has answered, and 2 are needed: a:1: cannot connect: Connection refused",
        "systemctl start redis-sentinel"
      ),
      (
        "no sentinel tells where the primary of 'm' is: 10.9.9.9:1: cannot connect: timed out",
        "examples/redis-sentinel.conf"
      ),
      (
        "no sentinel tells where the primary of 'm' is: a:1: it has no password set, but one was given "
          + "(redis_sentinel_password_file)", "take redis_sentinel_password_file out"
      ),
      ("OOM command not allowed", "redis-cli CONFIG SET maxmemory"),
    ])
  func whatIsWrongWithRedisComesWithTheCommandThatMendsIt(detail: String, command: String) {
    #expect(ErrorWords.remedy(detail)?.contains(command) == true)
  }

  @Test func theSandboxIsNamedOnlyWhereItMayBeTheReason() {
    for detail in [
      "cannot connect to localhost:6379: timed out", "cannot connect to 10.9.9.9:6379: connection refused",
    ] {
      #expect(ErrorWords.remedy(detail)?.contains("remote-redis.conf") == false)
    }
  }

  @Test func theRuleThatIsMissingIsToldWithTheNameOfTheLock() {
    let error = SidelockError(
      code: 6, reason: .denied, message: "no right; such as \"allow use NAME to user:NAME\"",
      data: ["right": "use", "name": "x"])
    #expect(
      ErrorWords.text(error)
        == "denied: no right; such as \"allow use x to user:NAME\"; then: systemctl reload-or-restart sidelockd")
  }

  @Test func noErrorSpeaksOfMembersOfTheProtocol() {
    for reason in [SidelockError.Reason.busy, .timeout, .modeConflict, .deadlock, .notHeld] {
      let words = ErrorWords.text(error(reason))
      #expect(!words.contains("wait_ms") && !words.contains("data."), "\(words)")
    }
  }
}
