// How an administrator breaks a lock, also where its host no longer answers.

import ClientProtocol
import LockEngine
import LockTypes
import Logging
import SystemStrings

extension LockQueries {
  /// How long a host may take to say what it has broken, in milliseconds. A host that lives answers within a few; to
  /// take a lock from one that is only slow would be worse than to wait.
  static let breakMilliseconds: Int64 = 2000

  /// Breaks all holds of a lock, here and on other hosts, or only that of `token`.
  func breakHolds(of name: LockName, token: Int64?, reason: String?, id: MessageID, _ session: ClientSession) {
    guard rights.mayBreak(session, name) else { return rights.deny(session, .break, name, id: id) }
    let order = BreakOrder(name: name, token: token, reason: reason ?? "", by: words(about: session), id: id)
    let breakHere = { self.breakLocally(name, token: token, reason: order.reason, by: order.by) }
    let isHeldHere =
      engine.snapshot(of: name, holdersMax: 1, waitersMax: 0, now: clock.now())?.holders.isEmpty == false
    if token != nil || store == nil {
      let tokens = breakHere()
      guard store != nil, tokens.isEmpty else { return answer(order, session, broken: tokens) }
    }
    // Without Redis nobody else can be told; what can be done here is done all the same.
    let fallback = isHeldHere ? { self.answer(order, session, broken: breakHere()) } : nil
    // Redis is asked first: once broken here, the lock may pass to another host, from which nobody wants to take it.
    queryStore(session, id, fallback: fallback) { store, user, completion in
      store.inspect([name], waitingHostsMax: 0, of: user, completion)
    } answer: { inspections in
      let found = inspections[0]
      // Asked before anything is broken: who is refused has broken nothing.
      guard self.mayAskHosts(self.holdersElsewhere(found).count, for: session, id) else { return }
      let tokens = breakHere()
      switch found.state {
      case .free: self.answer(order, session, broken: tokens)
      case .held: self.breakElsewhere(order, session, found, broken: tokens)
      case .foreign: self.takeFromForeignHolder(order, session, broken: tokens)
      case .wrongType:
        guard tokens.isEmpty else { return self.answer(order, session, broken: tokens) }
        self.output.write(to: session) { self.writeWrongType(found.otherData, of: name, id: id, to: &$0) }
      }
    }
  }

  /// Who a client is, for the log.
  func words(about session: ClientSession) -> String {
    let user = session.peer.flatMap { users?.name(of: $0.uid) }.map { ", user \($0)" } ?? ""
    let peer =
      session.peer.map { peer in
        let name = (session.process?.name ?? peer.name ?? session.client).map { "\($0), " } ?? ""
        return "\(name)pid \(peer.pidText), uid \(peer.uid)\(user)"
      } ?? "a client"
    return "\(peer) on \(configuration.settings.host)"
  }

  /// Has the hosts that hold it break it; from those that are gone or silent it is taken in Redis.
  private func breakElsewhere(
    _ order: BreakOrder, _ session: ClientSession, _ found: LockInspection, broken tokens: [Token]
  ) {
    let inboxes = holdersElsewhere(found).sorted()
    let question = HostQuestion.breakHolds(order.name, token: order.token, reason: order.reason, by: order.by)
    queryHosts(
      hosts: inboxes.map { ($0.text, question) }, waitMilliseconds: Self.breakMilliseconds, for: session, order.id
    ) { outcomes in
      let told = outcomes.flatMap { $0.outcome.answer.map(HostAnswer.tokens(in:)) ?? [] }
      let broken = tokens + told
      // The one hold that was meant has been found.
      guard order.token == nil || broken.isEmpty else { return self.answer(order, session, broken: broken) }
      let outcomes = Dictionary(uniqueKeysWithValues: outcomes.map { (ExactText($0.inbox), $0.outcome) })
      let absent = found.holders.compactMap { holder in
        self.reasonToTake(
          holder, outcomes[ExactText(holder.inbox)], of: order, endsByItself: found.expiresInMilliseconds != nil
        )
        .map { (holder, $0) }
      }
      let seen = Dictionary(
        absent.map { holder, why in (holder.entry, (host: holder.host, why)) }, uniquingKeysWith: { first, _ in first })
      self.take(order, session, seen.keys.sorted { $0.lexicographicallyPrecedes($1) }, broken: broken) { entry in
        seen[entry].map { (host: $0.host, reason: $0.1) }
      }
    }
  }

  /// The inboxes of the other hosts that hold a lock.
  private func holdersElsewhere(_ found: LockInspection) -> Set<ExactText> {
    Set(found.holders.map { ExactText($0.inbox) }).subtracting([ExactText(inbox)])
  }

  /// Why a holder's lease is taken in Redis; nil: it is not.
  private func reasonToTake(
    _ holder: LockInspection.Holder, _ outcome: HostCalls.Outcome?, of order: BreakOrder, endsByItself: Bool
  ) -> TakenInfo.Reason? {
    switch outcome {
    case .gone?: return .hostGone
    case .silent?: return .hostSilent
    case .unknown?: return nil
    case .answered(let answer)?:
      // Somebody has removed the TTL of a key that its host does not know: it would stand there for ever.
      return !endsByItself && order.token == nil && HostAnswer.tokens(in: answer).isEmpty ? .noTTL : nil
    case nil:
      let known = engine.snapshot(of: order.name, holdersMax: 0, waitersMax: 0, now: clock.now())
      let knows = known?.validMilliseconds != nil
      return !endsByItself && order.token == nil && !knows ? .noTTL : nil
    }
  }

  private func takeFromForeignHolder(_ order: BreakOrder, _ session: ClientSession, broken: [Token]) {
    queryStore(session, order.id, of: order.name) { store, user, completion in
      store.foreignValue(of: order.name, of: user, completion)
    } answer: { value in
      switch value {
      case .ofOthers(let value)?:
        // No foreign holder has a token.
        guard order.token == nil else { return self.answer(order, session, broken: broken) }
        self.take(order, session, [value], broken: broken) { _ in (host: nil, reason: .foreign) }
      case .ofLaterRelease?:
        guard broken.isEmpty else { return self.answer(order, session, broken: broken) }
        self.output.write(to: session) { self.writeLaterRelease(order, to: &$0) }
      case nil: self.answer(order, session, broken: broken)
      }
    }
  }

  /// Refuses to take a lock from a daemon of a later release. Only its like can ask it, and knows what it means that the
  /// key is gone.
  private func writeLaterRelease(_ order: BreakOrder, to writer: inout MessageWriter) {
    writer.failure(
      id: order.id, .wrongType,
      message:
        "a daemon of a later release of sidelock holds this lock; break it on a host that runs that release, or upgrade this one"
    ) { json in
      guard let key = store?.key(of: OtherData(part: .lock, type: nil), in: order.name) else { return }
      json.member("key", utf8: key)
    }
  }

  /// Takes the lock in Redis from holders that are still as they were seen, and answers.
  private func take(
    _ order: BreakOrder, _ session: ClientSession, _ seen: [[UInt8]], broken: [Token],
    describing description: @escaping ([UInt8]) -> (host: String?, reason: TakenInfo.Reason)?
  ) {
    guard !seen.isEmpty else { return answer(order, session, broken: broken) }
    queryStore(session, order.id, of: order.name) { [engine] store, user, completion in
      store.takeAway(
        order.name, seen: seen, token: order.token, terms: engine.grantTerms(of: order.name), of: user, completion)
    } answer: { leases in
      let taken = leases.compactMap { lease in
        description(lease.entry).map {
          TakenInfo(host: $0.host, reason: $0.reason, mightRunMilliseconds: lease.leftMilliseconds)
        }
      }
      for one in taken {
        self.logger.notice(
          "lock taken away in Redis",
          metadata: [
            "lock": "\(order.name)", "holder": "\(one.host ?? "foreign")", "why": "\(one.reason.rawValue)",
            "reason": "\(Self.words(ofReason: order.reason))", "by": "\(order.by)",
          ])
      }
      self.statistics.broken += UInt64(taken.count)
      self.answer(order, session, broken: broken, taken: taken)
    }
  }

  private func answer(
    _ order: BreakOrder, _ session: ClientSession, broken: [Token], taken: [TakenInfo] = []
  ) {
    output.write(to: session) { $0.broken(id: order.id, name: order.name, tokens: broken, taken: taken) }
  }

  /// Breaks the holds of this host's sessions, or only that of `token`. Returns the tokens.
  func breakLocally(_ name: LockName, token: Token?, reason: String, by: String) -> [Token] {
    let now = clock.now()
    let holders = engine.snapshot(of: name, waitersMax: 0, now: now)?.holders ?? []
    let broken = holders.filter { token == nil || token == $0.token }
    let tokens = broken.map(\.token)
    guard !tokens.isEmpty else { return [] }
    for hold in broken {
      let fields: Logger.Metadata = [
        "lock": "\(name)", "token": "\(hold.token)", "held_ms": "\(hold.heldMilliseconds)",
        "reason": "\(Self.words(ofReason: reason))", "by": "\(by)",
      ]
      logger.notice("lock broken", metadata: fields.about(who(sessions[hold.session])))
    }
    statistics.broken += UInt64(tokens.count)
    door.feed(.breakRequested(name: name, tokens: tokens, reason: reason), now: now)
    return tokens
  }

  /// The words of a reason for the journal, whose catalogue shows them.
  static func words(ofReason reason: String) -> String { reason.isEmpty ? "none was given" : reason }
}

/// What an administrator has asked for.
private struct BreakOrder {
  var name: LockName
  /// Only this hold.
  var token: Token?
  /// Their words; empty where there are none.
  var reason: String
  /// Who they are, for the log.
  var by: String
  var id: MessageID
}
