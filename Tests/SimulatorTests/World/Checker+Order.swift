import LockEngine
import LockTypes

// Who is served before whom, and who is refused because of whom.
extension Checker {
  /// At some moment everybody in the cycle held and waited at once.
  func verifyDeadlock(_ host: SimulatedHost, _ request: Request, _ steps: [DeadlockStep]) {
    guard steps.count > 1, steps[0].session == request.session.rawValue, steps[0].inbox == host.me else {
      return world.fail("a deadlock of \(steps.count) steps that does not begin with the refused request")
    }
    var start = Int64.min
    var end = Int64.max
    for (step, before) in zip(steps, [steps[steps.count - 1]] + steps) {
      guard let wait = waitSpans[waitKey(step.inbox, step.request)], wait.session.rawValue == step.session else {
        return world.fail("a deadlock names a wait that never was: \(step)")
      }
      if step.holds != before.waitsFor { world.fail("a deadlock's steps do not fit together: \(steps)") }
      start = max(start, wait.start)
      end = min(end, wait.end)
      // A client does not know which parts its request for several locks has.
      guard let hold = step.holds.flatMap({ holdSpans[holdKey($0, step.token)] }) else { continue }
      if hold.session.rawValue != step.session { world.fail("a deadlock names another's hold: \(step)") }
      start = max(start, hold.start)
      end = min(end, hold.end)
    }
    if start > end { world.fail("a deadlock that never was, from \(start) to \(end): \(steps)") }
    verifyYoungest(steps)
    world.mark(Set(steps.map(\.inbox)).count > 1 ? "deadlock through hosts" : "deadlock on one host")
  }

  /// No wait of the cycle began after the refused one was known.
  private func verifyYoungest(_ steps: [DeadlockStep]) {
    let starts = steps.compactMap { waitSpans[waitKey($0.inbox, $0.request)]?.start }
    // The longest time that a command takes to Redis when several must be answered before it.
    let known = starts[0] + 40 * world.plan.latencyMicroseconds.upperBound
    if world.plan.faults.isEmpty, let last = starts.max(), last > known {
      world.fail("a wait of a deadlock was refused that is not the youngest: \(starts), \(steps)")
    }
  }

  /// A host whose waiter it has had time to announce stands in the queue of all hosts, even behind its own holders: no
  /// later waiter can be granted the lock without its knowing.
  func verifyNobodyIsPassed(_ host: SimulatedHost, _ request: Request, _ name: Int, _ mode: HoldMode) {
    if case .permit = mode { return }
    guard world.plan.faults.isEmpty,
      case .list(let queue)? = world.server.redis.peek(queueKeys[name])?.value ?? .list([])
    else { return }
    let announced = request.issuedAt - 40 * world.plan.latencyMicroseconds.upperBound
    for other in world.hosts where other.index != host.index {
      guard let first = waiting[other.index][name].first, let known = requests[first], known.issuedAt < announced,
        case .acquire(let wish) = known.kind, wish.mode == .exclusive || (wish.mode == .shared && mode == .exclusive),
        queuedFirstSince[other.index][name] < announced,
        // A host has one place, for the first of its waiters. That one is served together with the others' readers, and
        // the next one, whom the place does not name, asks then.
        leases[other.index][name].servedAt < announced
      else { continue }
      if !queue.contains(where: { QueueEntry($0)?.owner == other.me }) {
        world.fail(
          "\(names[name]) is granted to a request of \(request.issuedAt) us, and one of \(known.issuedAt) us on host "
            + "\(other.index) stands in no queue")
      }
      world.mark("granted while another host stands in the queue")
    }
  }

  func verifyCohort(_ host: SimulatedHost, _ name: Int, _ mode: HoldMode, cameFirst request: Request) {
    if case .permit = mode { return }
    // In older data another attempt of it stands.
    guard !isTainted(host.index, name), !isUnproven(host.index, name),
      let attempt = entries(world.server.redis.peek(lockKeys[name])?.value).last(where: { $0.owner == host.me })?
        .attempt
    else { return }
    var lease = leases[host.index][name]
    if lease.grants.attempt != attempt { lease.grants = (attempt, 0) }
    lease.grants.count += 1
    if var contended = lease.contended, contended.attempt == attempt {
      contended.grants += 1
      let plan = world.plan
      let cameFirst = request.issuedBoot <= contended.since
      if cameFirst { world.mark("served before a later host") }
      if !cameFirst, contended.grants > max(1, plan.cohortMax) {
        world.fail("host \(host.index) passed \(names[name]) on \(contended.grants) times while another host waited")
      }
      if !cameFirst, lease.grants.count > 1,
        host.bootNow >= contended.since.adding(milliseconds: plan.cohortMilliseconds)
      {
        world.fail("host \(host.index) passed \(names[name]) on after the time for it, while another host waited")
      }
      world.mark("local hand-over while another host waits")
      lease.contended = contended
    }
    if lease.grants.count > 1 { world.mark("local hand-over") }
    leases[host.index][name] = lease
  }
}
