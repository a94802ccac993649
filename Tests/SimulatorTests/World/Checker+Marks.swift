import LockEngine
import LockTypes

// What has become of epochs, for the list of what all seeds together must reach.
extension Checker {
  /// What a daemon tells with its question for the epoch. The words are those of `confirm_epoch.lua`.
  private struct EpochQuestion {
    let known: String
    let longest: Int64
    let grace: Int64
    let floor: Token
    let floorOfNew: Token

    init?(_ command: [Bytes]) {
      guard command.count >= 16 else { return nil }
      let arguments = command.dropFirst(3).map(\.text)
      guard let longest = Int64(arguments[5]), let grace = Int64(arguments[6]), let floor = Token(arguments[7]),
        let floorOfNew = Token(arguments[12])
      else { return nil }
      (known, self.longest, self.grace) = (arguments[2], longest, grace)
      (self.floor, self.floorOfNew) = (floor, floorOfNew)
    }
  }

  /// A daemon's question for the epoch was executed, and what stood there before stands there as `now`.
  func markQuestion(_ command: [Bytes], by issuer: String, before: EpochValue?, now: EpochValue?) {
    guard let question = EpochQuestion(command), let now else { return }
    guard let before, before.id == now.id else { return markBeginning(question, before, now) }
    let joins = question.known != now.id
    if joins { world.mark(now.isOpen ? "epoch joined when it was open" : "epoch joined in its grace") }
    if now.grace > before.grace { world.mark("grace made longer") }
    if now.longest > before.longest { world.mark("longer leases in an epoch") }
    if now.floor > before.floor {
      world.mark(
        joins && question.floorOfNew > question.floor ? "floor raised by the clock of before" : "floor raised")
    }
    if now.isOpen, !before.isOpen { opener = (now.id, issuer, world.now) }
  }

  private func markBeginning(_ question: EpochQuestion, _ before: EpochValue?, _ now: EpochValue) {
    if now.isOpen { return }
    if let before {
      world.mark(before.isOpen ? "epoch begun over another" : "epoch begun in the grace of another")
      if now.grace > max(question.longest, question.grace) { world.mark("grace as long as the epoch of before needs") }
      if before.floor > max(question.floor, question.floorOfNew) { world.mark("floor of the epoch of before") }
    } else {
      world.mark("epoch begun over nothing")
      if question.grace > question.longest { world.mark("grace as long as somebody remembers") }
    }
    if question.floorOfNew > max(question.floor, before?.floor ?? 0) { world.mark("floor by the clock of before") }
  }

  /// A daemon hears of an epoch, and knew it in its grace or not.
  func markSight(_ host: SimulatedHost, _ sight: EpochSight) {
    guard sight.isOpen, host.engine.storeStanding().epoch == sight.id, host.engine.storeStanding().graceEnds != nil,
      let opener, opener.epoch == sight.id.text
    else { return }
    world.mark(opener.host == host.me ? "grace ended by itself" : "grace ended by another host")
  }

  /// A lease was reclaimed: who stood there before, and who does now.
  func markReclaim(_ issuer: String, _ old: [Entry], _ new: [Entry]) {
    guard !old.isEmpty else { return world.mark("reclaimed over nothing") }
    let isReplaced = old.contains { entry in
      entry.owner != issuer && !new.contains { $0.owner == entry.owner && $0.attempt == entry.attempt }
    }
    world.mark(isReplaced ? "reclaimed in the place of another host" : "reclaimed beside what stood there")
  }

  /// A request was granted that had waited since before a grace ended.
  func markGrant(_ request: Request) {
    if let opener, request.issuedAt < opener.at { world.mark("granted after a grace that was waited for") }
  }

  /// A client gave something back that Redis had forgotten meanwhile.
  func markRelease(_ belief: Belief) {
    if belief.since < lossAt[belief.name], !isUnproven(belief.host, belief.name) {
      world.mark("held through a loss of data")
    }
  }
}
