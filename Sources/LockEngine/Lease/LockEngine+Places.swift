// What is asked while this host waits: a heartbeat, and whether its places in the store's queue are still there.
//
// A message wakes a host that waits, and a message can be lost: with a connection, with a queue that Redis forgot, with
// a script that came only half way. The timer at the end of the holder's lease would find that out, but leases are long
// and are renewed. So this host looks at its own entries, all of them with one command a second, and asks again for
// what is not as it should be.
//
// An answer may be old: the lock was granted meanwhile, or given up, or asked for again. So it counts only for a lease
// that still waits and was not asked for since. If it is wrong all the same, it does no harm: asking again under the
// same attempt changes nothing in the store for a host that has a place there, or the lease.

import LockTypes

extension LockEngine {
  /// How long a place in the store's queue is trusted, in milliseconds. This, the round trip of the look and that of
  /// the ask keep anybody from sleeping beside a free lock for longer than two seconds.
  static let placeTrustMilliseconds: Int64 = 1000
  /// Places in one command: the store works on nothing else for about a millisecond.
  static let placesPerCommandMax = 500
  /// The shortest time from one command to the next, in milliseconds. A host that waits for more locks than ten
  /// commands name looks at each less often than once a second.
  static let placesPauseMilliseconds: Int64 = 100

  /// When places are to be looked at next; nil: not before another event has come.
  private func placesDue(on link: LinkReference) -> BootInstant? {
    guard !link.pointee.wanted.isBeingLookedAt, let first = link.pointee.wanted.first else { return nil }
    let due = first.place.seenAt.adding(milliseconds: Self.placeTrustMilliseconds)
    return max(due, link.pointee.wanted.lookedAt?.adding(milliseconds: Self.placesPauseMilliseconds) ?? due)
  }

  /// Arms the timer of ``heartbeatDue(on:now:)``.
  func armHeartbeat(on link: LinkReference, now: BootInstant) {
    guard link.pointee.isUp, !link.pointee.wanted.isEmpty else { return }
    var moment = (link.pointee.lastSentAt ?? now).adding(
      milliseconds: link.pointee.shortestTimeline.heartbeatMilliseconds)
    if let due = placesDue(on: link) { moment = min(moment, due) }
    moment = max(moment, now)
    if let earlier = link.pointee.heartbeatAt, earlier <= moment { return }
    link.pointee.heartbeatAt = moment
    deadlines.push(.heartbeat(link.pointee.shard), at: moment)
  }

  /// Looks at the places, or sends a heartbeat, when that is due. A look is as good as a heartbeat.
  func heartbeatDue(on link: LinkReference, now: BootInstant) {
    // It is left over when one for an earlier moment was armed and has come.
    guard let moment = link.pointee.heartbeatAt, moment <= now else { return }
    link.pointee.heartbeatAt = nil
    guard link.pointee.isUp, !link.pointee.wanted.isEmpty else { return }
    if let due = placesDue(on: link), due <= now { checkPlaces(on: link, now: now) }
    if link.pointee.lastSentAt.map({
      now >= $0.adding(milliseconds: link.pointee.shortestTimeline.heartbeatMilliseconds)
    }) ?? false {
      send(.heartbeat, .other, on: link, now: now)
    }
    armHeartbeat(on: link, now: now)
  }

  /// This host keeps others out, and they take it for gone unless it looks at its place soon: among very many places
  /// the turn of this one could come too late.
  func hastenLook(at lock: LockRecord, now: BootInstant) {
    guard isQueued(lock), let lease = lock.wanted else { return }
    lock.link.pointee.wanted.hasten(lease)
    armHeartbeat(on: lock.link, now: now)
  }

  private func checkPlaces(on link: LinkReference, now: BootInstant) {
    link.pointee.wanted.lookedAt = now
    let soon = now.adding(milliseconds: Self.placeTrustMilliseconds)
    // Those that are not due yet come along, so that one command a second is enough; of very many, only those due soon.
    let isForAll = link.pointee.wanted.count <= Self.placesPerCommandMax
    let early = isForAll ? now : now.adding(milliseconds: -Self.placeTrustMilliseconds / 2)
    var leases: [HostLease] = []
    for _ in 0..<min(link.pointee.wanted.count, Self.placesPerCommandMax) {
      guard let first = link.pointee.wanted.first, first.place.seenAt <= early,
        let lease = link.pointee.wanted.next(at: now)
      else {
        break
      }
      // A lease that is not queued has no place yet, and one that is about to be asked for again finds everything out.
      guard isQueued(lease.lock), lease.lock.recheckAt.map({ $0 > soon }) ?? true else { continue }
      leases.append(lease)
    }
    guard !leases.isEmpty else { return }
    send(
      .checkPlaces(
        leases.map {
          WaitingPlace(
            name: $0.lock.name, attempt: $0.attempt, mode: $0.mode, leaseMilliseconds: $0.timeline.leaseMilliseconds)
        }, epoch: link.pointee.epoch.id),
      .places(leases), on: link, now: now)
  }

  func placesReplied(
    _ leases: [HostLease], _ reply: LeaseReply, over link: LinkReference, sentAt: BootInstant, now: BootInstant
  ) {
    // Where it failed, the next look may be answered.
    if case .lostPlaces(let numbers) = reply {
      for number in numbers where leases.indices.contains(number) {
        let lease = leases[number]
        catchUp(lease.lock, now: now)
        guard lease.lock.link == link, lease.lock.wanted === lease, lease.isQueued,
          lease.askedAt.map({ $0 <= sentAt }) ?? true
        else {
          continue
        }
        ask(lease, now: now)
      }
    }
    armHeartbeat(on: link, now: now)
  }
}
