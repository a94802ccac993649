// What hosts ask each other about the locks that they hold and wait for.

import ClientProtocol
import LockEngine
import LockTypes
import SystemStrings

extension LockQueries {
  // MARK: Asking

  /// Asks hosts on behalf of a session; `then` answers the client with what they tell, or without it.
  func queryHosts(
    _ questions: [(inbox: String, question: HostQuestion)], for session: ClientSession, _ id: MessageID,
    _ then: @escaping ([RemoteLockReport]) -> Void
  ) {
    queryHosts(hosts: questions, for: session, id) { outcomes in
      then(
        outcomes.flatMap { inbox, outcome in outcome.answer.map { RemoteLockReport.all(in: $0, from: inbox) } ?? [] })
    }
  }

  func queryHosts(
    hosts questions: [(inbox: String, question: HostQuestion)],
    waitMilliseconds: Int64 = 0, for session: ClientSession, _ id: MessageID,
    _ then: @escaping ([(inbox: String, outcome: HostCalls.Outcome)]) -> Void
  ) {
    guard !questions.isEmpty, let hostCalls else { return then([]) }
    guard let count = questionsToAsk(questions.count, for: session, id) else { return }
    let (asked, others) = (questions.prefix(count), questions.dropFirst(count))
    let request = door.newRequest()
    session.beganQuery(request, as: id)
    let answered = limits.chargeHostQuestions(
      of: session, count: count, bytes: asked.reduce(0) { $0 + Self.questionBytes($1.question.names) })
    hostCalls.queryHosts(Array(asked), waitMilliseconds: waitMilliseconds) { outcomes in
      answered()
      _ = session.endedQuery(request)
      self.door.feedWhatIsDue(before: .redis)
      // The turn must end even where the session is gone.
      guard self.sessions.has(session) else { return self.output.scheduleEnd() }
      then(outcomes + others.map { (inbox: $0.inbox, outcome: .unknown) })
      self.output.touch(session)
    }
  }

  /// Whether so many hosts may be asked on behalf of a session; if not, its request is refused.
  func mayAskHosts(_ count: Int, for session: ClientSession, _ id: MessageID) -> Bool {
    count == 0 || questionsToAsk(count, for: session, id) != nil
  }

  /// How many of these questions may be asked; nil: none, and the request is refused.
  private func questionsToAsk(_ count: Int, for session: ClientSession, _ id: MessageID) -> Int? {
    if let asked = limits.mayAskHosts(session, count: count) { return asked }
    output.write(to: session) { writer in
      writer.failure(id: id, .limit) { $0.member("limit", LimitName.hostQuestionsPerUID.rawValue) }
    }
    return nil
  }

  /// Which hosts to ask what, to know who holds these locks and waits for them elsewhere.
  func whoQuestions(
    _ names: [LockName], _ inspections: [LockInspection]
  ) -> [(inbox: String, question: HostQuestion)] {
    var wanted: [ExactText: [LockName]] = [:]
    for (name, found) in zip(names, inspections) {
      let inboxes = Set((found.holders.map(\.inbox) + found.waiting.map(\.inbox)).map { ExactText($0) })
      for inbox in inboxes where inbox != ExactText(self.inbox) { wanted[inbox, default: []].append(name) }
    }
    return wanted.sorted { $0.key < $1.key }.flatMap { inbox, names in
      stride(from: 0, to: names.count, by: HostQuestion.namesMax).map { start in
        (inbox.text, .who(Array(names[start..<min(start + HostQuestion.namesMax, names.count)])))
      }
    }
  }

  // MARK: Answering

  func hostAsked(_ id: UInt64, from inbox: String, _ payload: [UInt8]) {
    door.feedWhatIsDue(before: .redis)
    switch HostQuestion(payload) {
    case .who(let names)?:
      var answer: [UInt8] = []
      for name in names { guard told(of: name).append(to: &answer) else { break } }
      hostCalls?.answer(id, from: inbox, answer)
    case .breakHolds(let name, let token, let reason, let by)?:
      let broken = breakLocally(name, token: token, reason: reason, by: by)
      hostCalls?.answer(id, from: inbox, HostAnswer.encoding(tokens: broken))
    case .about?:
      hostCalls?.answer(id, from: inbox, HostAnswer.encoding(version: configuration.version))
    case .events(let targets, let stream, let since)?:
      hostCalls?.answer(id, from: inbox, tellEvents(inbox, targets, stream, since))
    case nil:
      logger.warning("another daemon's question was not understood", metadata: ["from": "\(inbox)"])
    }
  }

  private func told(of name: LockName) -> RemoteLockReport {
    let snapshot = engine.snapshot(
      of: name, holdersMax: Self.holdersShownMax, waitersMax: Self.waitersShownMax, now: clock.now())
    return RemoteLockReport(
      name: name, holders: (snapshot?.holders ?? []).map { MessageWriter.json(of: holder(in: $0)) },
      waiters: (snapshot?.waiters ?? []).map { MessageWriter.json(of: waiter(in: $0)) },
      waiting: Int64(snapshot?.waitersTotal ?? 0))
  }
}
