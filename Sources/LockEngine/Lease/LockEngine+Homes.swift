// Locks whose home becomes another shard.
//
// The data of a lock move with its cell: its key, with the rest of its life, its queue and its counter. So nobody else is
// granted what this host has, and what it has asked for stands there as well. But nothing that is known of the link to the
// old home dates anything at the new one, its epoch is another one, and so is the life of this host. So to a lock a move is
// what the end of a link and the beginning of another one are: leases are in doubt until the new home has confirmed them,
// what is wanted is asked for again under the same attempt, and releases are repeated. What was under way finds nobody: a
// grant is believed only from the home of the lock.
//
// Homes move in the table at once, so that a new lock has the right one. The locks that are there follow in a walk over
// those of the old home, or before the next event about them (`catchUp`), as with all changes of a link.

import LockTypes

extension LockEngine {
  /// See ``Event/homesMoved(_:)``.
  func homesMoved(_ moves: [HomeMove], now: BootInstant) {
    guard let cells = configuration.cells, !isLocal else { return }
    for link in links.move(moves, cellCount: cells.count) {
      link.pointee.locksLeft()
      link.pointee.locks.beginWalk()
      goOn(with: link, now: now)
    }
  }

  /// Takes a lock to its new home. Only those who lose it are told, and nothing is granted.
  func move(_ lock: LockRecord, to home: LinkReference, now: BootInstant) {
    // A record that was dropped stands in no list.
    guard locks[lock.name] === lock else {
      lock.link = home
      lock.linkChange = home.pointee.change
      return
    }
    // What has ended by the life in the old home does not come to life again in the new one.
    endLeases(of: lock, now: now)
    let releases = lock.unconfirmedReleases
    if let wanted = lock.wanted { lock.link.pointee.wanted.remove(wanted) }
    lock.link.pointee.locks.remove(lock)
    lock.link = home
    home.pointee.locks.append(lock)
    lock.linkChange = home.pointee.change
    for lease in lock.leases {
      home.pointee.note(lease.timeline)
      lease.moved(life: home.pointee.life.number, epoch: home.pointee.epoch.isOpen ? home.pointee.epoch.number : 0)
    }
    if let wanted = lock.wanted {
      home.pointee.note(wanted.timeline)
      home.pointee.wanted.append(wanted, at: now)
      wanted.moved(life: 0, epoch: 0)
    }
    for waiter in lock.undated { waiter.dateAskedOn = 0 }
    endLeases(of: lock, now: now)
    linkWentDown(for: lock, now: now)
    guard home.pointee.isUp else { return }
    for release in releases { send(release, of: lock, now: now) }
    goOnAsking(for: lock, now: now)
    if home.pointee.isBehind { putOffRest(now: now) }
  }

  /// Whether an answer or a message about a lock comes from its home. Only that is believed.
  func isHome(_ link: LinkReference, of lock: LockRecord, now: BootInstant) -> Bool {
    if links.isSingle { return true }
    catchUp(lock, now: now)
    return lock.link == link
  }
}
