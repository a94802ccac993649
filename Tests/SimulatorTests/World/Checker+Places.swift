import LockEngine
import LockTypes

// Who stands in a queue before whom, over everything that Redis forgets.
extension Checker {
  /// A host's place in the queue of a lock, with the moments of asks by true time. Of two within one microsecond nobody knows which
  /// was first.
  struct Place {
    /// The host did not stand there before this one.
    var first: Int64
    /// The host knows that it stood there after this one; nil: it does not know.
    var known: Int64?
    /// The ask that put it there last.
    var pushed: Int64
    /// The epoch in which Redis last put it there, or found it.
    var epoch: String
    /// Whether Redis put it there by the moment that its host told, or in a grace: so it can tell who was there before.
    var isOrdered = false
  }

  /// A daemon's ask was executed.
  func asked(
    _ command: [Bytes], by issuer: String, _ before: [LeaseRow], _ after: [LeaseRow], _ reply: ServerReply?
  ) {
    // Three keys stand before the arguments: see `acquire.lua`.
    guard command.count > 17, let name = lockKeys.firstIndex(of: command[3]) else { return }
    let attempt = command[7].text
    asks["\(issuer) \(command[17].text)"] = world.now
    let stands = { (queue: [Bytes]) in
      queue.contains { QueueEntry($0).map { $0.owner == issuer && $0.attempt == attempt } ?? false }
    }
    guard stands(after[name].queue), let value = self.epoch else { return }
    let epoch = value.id
    let isPushed = !stands(before[name].queue)
    let isMoment = command.count > 20
    let key = "\(issuer) \(attempt)"
    guard var place = places[name][key] else {
      // One that came late, for what its host has given up meanwhile, stands where that stood before.
      if !isPushed || isMoment { return }
      places[name][key] = Place(first: world.now, pushed: world.now, epoch: epoch, isOrdered: !value.isOpen)
      return
    }
    if isPushed {
      place.pushed = world.now
      // It was taken out of the queue alone, and comes back at the end.
      if place.epoch == epoch { place.known = nil }
      let isAnyOrdered = before[name].queue.contains { entry in
        QueueEntry(entry).flatMap { places[name]["\($0.owner) \($0.attempt)"] }
          .map { $0.isOrdered && $0.epoch == epoch } ?? false
      }
      // It comes late, and Redis cannot tell it from those who came since: it stands at the end. What it tells in a later epoch
      // changes only when it hears of its new place, which a refusal halfway and a lost reply keep from it.
      if value.isOpen, !isAnyOrdered {
        place.known = nil
        if isMoment { place.first = world.now }
      }
      place.isOrdered = isMoment || !value.isOpen
    }
    // One that was refused, or was for another epoch, left the host where an epoch before had it, or halfway.
    let isBack = isPlaced(reply)
    if isBack { place.epoch = epoch }
    places[name][key] = place
    if isBack { verifyOrder(name, after[name].queue) }
  }

  /// Whether an ask was answered by a script that had put the host into the queue where it belongs.
  private func isPlaced(_ reply: ServerReply?) -> Bool {
    guard case .array(let parts)? = reply, case .bulk(let kind)? = parts.first else { return false }
    // A try behind a foreign holder does not queue.
    return kind == "queued" || kind == "conflict" || kind == "foreign" && parts.count > 2
  }

  /// A host hears of its place.
  func heardOfPlace(
    _ host: SimulatedHost, _ name: LockName, _ attempt: UInt64, _ ask: UInt64, _ sight: PlaceSight?
  ) {
    guard let name = index(of: name), let sight, let moment = asks["\(host.me) \(ask)"],
      var place = places[name]["\(host.me) \(attempt)"], moment >= place.pushed
    else { return }
    if sight.isNew { (place.first, place.known) = (moment, moment) }
    place.known = place.known ?? moment
    places[name]["\(host.me) \(attempt)"] = place
  }

  /// A host does not wait any more.
  func placesGivenUp(_ host: SimulatedHost, _ name: Int, _ attempt: UInt64, isExact: Bool) {
    for key in places[name].keys {
      let words = key.split(separator: " ")
      guard words[0] == host.me, let its = UInt64(words[1]) else { continue }
      if isExact ? its == attempt : its <= attempt { places[name][key] = nil }
    }
  }

  /// Nobody stands behind a host that came when he was known to stand there, wherever Redis has lost the queue since. Whoever has
  /// not come back does not count.
  func verifyOrder(_ name: Int, _ queue: [Bytes]) {
    guard !placesAreUnsure, let epoch = epoch?.id else { return }
    var ahead: (entry: Bytes, first: Int64)?
    for entry in queue {
      guard let waiter = QueueEntry(entry), let place = places[name]["\(waiter.owner) \(waiter.attempt)"],
        place.epoch == epoch
      else { continue }
      if let ahead, let known = place.known, known < ahead.first {
        return world.fail("\(entry) stands behind \(ahead.entry) in the queue of \(names[name]), and was there before")
      }
      if ahead.map({ place.first > $0.first }) ?? true { ahead = (entry, place.first) }
    }
  }
}
