import Glibc
import SidelockClient
import SystemStrings

/// A lock that a `sidelock run` holds in which this one runs, as its environment says.
struct EnclosingRun: Equatable {
  /// The variable of the environment: a JSON array, the outermost run first, with an object for each lock.
  static let variable = "SIDELOCK_RUNS"
  /// Locks that are looked at in the search for runs that wait for each other.
  static let locksMax = 16
  private static let ownerPrefix = "run "
  private static let ownerBytesMax = 128

  var name: String
  var token: Int64
  /// The process that holds it.
  var pid: Int64
  var host: String
  var session: String

  init(name: String, token: Int64, pid: Int64, host: String, session: String) {
    (self.name, self.token, self.pid, self.host, self.session) = (name, token, pid, host, session)
  }

  /// Those of the environment; none where it makes no sense.
  static func inherited(_ text: String? = getenv(variable).map { String(cString: $0) }) -> [EnclosingRun] {
    guard let text, let value = try? JSONValue(parsing: text) else { return [] }
    return (value.arrayValue ?? []).compactMap { lock in
      guard let name = lock["name"]?.stringValue, let token = lock["token"]?.intValue, let pid = lock["pid"]?.intValue,
        let host = lock["host"]?.stringValue, let session = lock["session"]?.stringValue
      else { return nil }
      return EnclosingRun(name: name, token: token, pid: pid, host: host, session: session)
    }
  }

  /// The same as text for the environment.
  static func text(_ runs: [EnclosingRun]) -> String {
    JSONValue.array(
      runs.map { run in
        [
          "name": .string(run.name), "token": .int(run.token), "pid": .int(run.pid), "host": .string(run.host),
          "session": .string(run.session),
        ]
      }
    ).serialized
  }

  /// Whether somebody who holds a lock is this run.
  func isHolder(_ holder: LockDescription.Participant) -> Bool {
    holder.token == token && holder.session == session && holder.host.map { ExactText.isSame($0, host) } == true
  }

  /// The owner by which others see that a wait is that of a command inside these runs; nil outside of any.
  static func owner(_ runs: [EnclosingRun]) -> String? {
    guard let host = runs.last?.host else { return nil }
    var sessions: [String] = []
    // The innermost count most.
    for run in runs.reversed() where !sessions.contains(run.session) && ExactText.isSame(run.host, host) {
      let longer = sessions + [run.session]
      guard text(host, longer).utf8.count <= ownerBytesMax else { break }
      sessions = longer
    }
    return sessions.isEmpty ? nil : text(host, sessions)
  }

  private static func text(_ host: String, _ sessions: [String]) -> String {
    ownerPrefix + ([host] + sessions).joined(separator: "/")
  }

  /// Whether a wait is that of a command inside the run that has this hold. Anybody can choose an owner, so it is believed
  /// of the same user alone, or of root: otherwise others could have this wait given up.
  static func isInside(_ waiter: LockDescription.Participant, _ holder: LockDescription.Participant) -> Bool {
    guard let owner = waiter.owner, owner.hasPrefix(ownerPrefix), let host = holder.host, let session = holder.session,
      ExactText.isSame(waiter.host, holder.host), let uid = waiter.uid, uid == 0 || uid == holder.uid
    else { return false }
    let start = "\(ownerPrefix)\(host)/"
    return owner.hasPrefix(start) && owner.dropFirst(start.count).split(separator: "/").contains { $0 == session }
  }
}

/// Whether a wait inside other runs would never end. A wait for what such a run holds itself does not end; nor does one
/// for what another run holds whose own command waits for these.
enum NestedWait {
  /// Why the wait for `lock` would never end by itself, as the lock is held by a run around it; nil when it is not.
  static func wouldWaitForItself(_ lock: LockDescription, _ runs: [EnclosingRun]) -> String? {
    let own = runs.filter { run in
      ExactText.isSame(run.name, lock.name) && lock.holders.contains(where: run.isHolder)
    }
    guard let run = own.last else { return nil }
    // Another permit of a semaphore may become free.
    if let permits = lock.permits, permits > 1, own.count < lock.holding { return nil }
    return
      "deadlock: held by the sidelock run (\(run.pid)) in which this command runs, so it would wait for itself; take it once, in the outer one"
  }

  /// Why the wait for `wanted` would never end: somebody inside a run that holds it waits for a lock of `held`, and has
  /// waited for longer than this one, for `waited` milliseconds.
  static func crosses(_ wanted: LockDescription, held: LockDescription, waited: Int64) -> String? {
    if let permits = wanted.permits, permits > 1 { return nil }
    for holder in wanted.holders {
      let inside = held.waiters.first { waiter in
        EnclosingRun.isInside(waiter, holder)
          && (waiter.waitedMilliseconds ?? 0 >= waited || waited >= giveWayMilliseconds)
      }
      guard let inside else { continue }
      let pids = (holder.pid.map { "\($0)" } ?? "?", inside.pid.map { "\($0)" } ?? "?")
      return """
        deadlock: held by the sidelock run \(pids.0), whose command (\(pids.1)) waits for \(held.name), which a run \
        around this one holds; take the locks in the same order, or together with --and
        """
    }
    return nil
  }

  /// After this time the elder of two waits ends, too, in milliseconds: the younger one has not.
  static let giveWayMilliseconds: Int64 = 10_000
}
