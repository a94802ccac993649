// What hosts ask each other about the locks that they hold and wait for.

import ClientProtocol
import LockEngine
import RedisProtocol

extension SidecarCore {
  // MARK: Asking

  /// Asks hosts on behalf of a session; `then` answers the client with what they tell, or without it.
  func askHosts(
    _ questions: [(inbox: String, question: HostQuestion)], for session: ClientSession, _ id: MessageID,
    _ then: @escaping ([ToldLock]) -> Void
  ) {
    ask(hosts: questions, for: session, id) { answers in
      then(answers.flatMap { ToldLock.all(in: $0.answer, from: $0.inbox) })
    }
  }

  private func ask(
    hosts questions: [(inbox: String, question: HostQuestion)], for session: ClientSession, _ id: MessageID,
    _ then: @escaping ([(inbox: String, answer: ArraySlice<UInt8>)]) -> Void
  ) {
    guard !questions.isEmpty, let hostCalls else { return then([]) }
    lastRequest += 1
    let request = RequestID(lastRequest)
    session.began(request, as: id)
    session.queriesInFlight += 1
    hostCalls.askAll(questions) { answers in
      _ = session.ended(request)
      session.queriesInFlight -= 1
      self.tellWhatIsDue()
      guard self.sessions[session.id] === session else { return }
      then(answers)
      self.touch(session)
    }
  }

  /// What to ask whom, to know who holds these locks and who waits for them on other hosts.
  func whoQuestions(
    _ names: [LockName], _ inspections: [LockInspection]
  ) -> [(inbox: String, question: HostQuestion)] {
    var wanted: [String: [LockName]] = [:]
    for (name, found) in zip(names, inspections) {
      let inboxes = Set(found.holders.map(\.inbox) + found.waiting.map(\.inbox))
      for inbox in inboxes where inbox != ownInbox { wanted[inbox, default: []].append(name) }
    }
    return wanted.sorted { $0.key < $1.key }.flatMap { inbox, names in
      stride(from: 0, to: names.count, by: HostQuestion.namesMax).map { start in
        (inbox, .who(Array(names[start..<min(start + HostQuestion.namesMax, names.count)])))
      }
    }
  }

  var ownInbox: String { "\(configuration.host)/\(instance)" }

  // MARK: Answering

  func asked(_ id: UInt64, from inbox: String, _ payload: [UInt8]) {
    tellWhatIsDue()
    switch HostQuestion(payload) {
    case .who(let names)?:
      var answer: [UInt8] = []
      for name in names { guard told(of: name).append(to: &answer) else { break } }
      hostCalls?.answer(id, from: inbox, answer)
    case .breakHolds(let name, let token, let reason, let by)?:
      var answer: [UInt8] = []
      for token in breakLocally(name, token: token, reason: reason, by: by) {
        PackedFields.append(token, to: &answer)
      }
      hostCalls?.answer(id, from: inbox, answer)
    case nil:
      logger.warning("another daemon's question was not understood", metadata: ["from": "\(inbox)"])
    }
  }

  private func told(of name: LockName) -> ToldLock {
    let snapshot = engine.snapshot(
      of: name, holdersMax: Self.holdersShownMax, waitersMax: Self.waitersShownMax, now: BootClock.now())
    return ToldLock(
      name: name, holders: (snapshot?.holders ?? []).map { MessageWriter.json(of: holder(in: $0)) },
      waiters: (snapshot?.waiters ?? []).map { MessageWriter.json(of: waiter(in: $0)) },
      waiting: Int64(snapshot?.waitersTotal ?? 0))
  }

  // MARK: Breaking

  /// Takes a lock from those who hold it, here and on other hosts, or the one hold of `token`.
  func breakHolds(of name: LockName, token: Int64?, reason: String?, id: MessageID, _ session: ClientSession) {
    guard mayBreak(session, name) else { return deny(session, .break, name, id: id) }
    let peer = session.peer.map { "\($0.name ?? "?"), pid \($0.pidText), uid \($0.uid)" } ?? "a client"
    let by = "\(peer) on \(configuration.host)"
    let tokens = breakLocally(name, token: token, reason: reason ?? "", by: by)
    let answer = { (more: [Token]) in
      self.write(to: session) { $0.broken(id: id, name: name.bytes, tokens: tokens + more) }
    }
    guard link != nil, token == nil || tokens.isEmpty else { return answer([]) }
    // Without Redis nobody else can be told; what was done here is told all the same.
    let fallback = tokens.isEmpty ? nil : { answer([]) }
    ask(session, id, codec.inspect([name], waitingHostsMax: 0), fallback: fallback) { reply in
      guard let found = self.codec.decodeInspections(reply, count: 1)?.first else { return false }
      let inboxes = Set(found.holders.map(\.inbox)).subtracting([self.ownInbox]).sorted()
      let question = HostQuestion.breakHolds(name, token: token, reason: reason ?? "", by: by)
      self.ask(hosts: inboxes.map { ($0, question) }, for: session, id) { answers in
        answer(answers.flatMap { HostAnswer.tokens(in: $0.answer) })
      }
      return true
    }
  }

  /// Takes a lock from those sessions of this host that hold it. Gives the tokens of what they held.
  private func breakLocally(_ name: LockName, token: Token?, reason: String, by: String) -> [Token] {
    let now = BootClock.now()
    let holders = engine.snapshot(of: name, waitersMax: 0, now: now)?.holders ?? []
    let tokens = holders.map(\.token).filter { token == nil || token == $0 }
    guard !tokens.isEmpty else { return [] }
    for token in tokens {
      logger.notice(
        "lock broken",
        metadata: ["lock": "\(name)", "token": "\(token)", "reason": "\(reason)", "by": "\(by)"])
    }
    statistics.broken += UInt64(tokens.count)
    tell(.breakRequested(name: name, tokens: tokens, reason: reason), now: now)
    return tokens
  }
}
