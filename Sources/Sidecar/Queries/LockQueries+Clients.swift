// Pages of clients and of hosts.

import ClientProtocol
import LockEngine
import SystemStrings

extension LockQueries {
  /// Hosts on one page: each is asked something.
  static let hostsShownMax = 64

  /// Who is connected, in the order of the sessions. Who may not inspect every lock is told of its own user's clients.
  ///
  /// Other clients must not show: the cursor is the last session on the page.
  func clients(_ params: PageParams, id: MessageID, _ session: ClientSession) {
    guard let start = params.cursor.map({ UInt64($0) }) ?? 0 else {
      return refuseCursor(of: "clients", id: id, session)
    }
    var after: UInt64? = start
    var found: [ClientSession] = []
    tell(id, session) {
      let (next, last) = self.sessions.next(HostListing.stepMax, behind: after ?? 0)
      found += self.rights.seesAll(session) ? next : next.filter { self.isOwn($0, of: session) }
      after = last
      return last == nil || found.count > params.limit
    } write: {
      self.output.write(to: session) { writer in
        writer.beginList(id: id, of: "clients")
        var last: UInt64?
        var told = 0
        var isCut = false
        for client in found where self.sessions.has(client) && !client.isClosing {
          let load = self.engine.load(of: client.id)
          isCut =
            told == params.limit
            || !writer.clientEntry(
              self.info(client.id), holdCount: Int64(load.holds), waitCount: Int64(load.waits))
          if isCut { break }
          told += 1
          last = client.id.rawValue
        }
        writer.endList(cursor: isCut ? last.map { "\($0)" } : nil)
      }
    }
  }

  private func isOwn(_ client: ClientSession, of session: ClientSession) -> Bool {
    client === session || session.peer.map { $0.uid == client.peer?.uid } == true
  }

  /// The hosts that listen at the store, in the order of their names. Who may not inspect every lock is told of this one.
  func hosts(_ params: PageParams, id: MessageID, _ session: ClientSession) {
    guard rights.seesAll(session), store != nil else { return write([inbox], [:], params, id: id, session) }
    queryStore(session, id) { store, user, completion in
      store.hosts(of: user, completion)
    } answer: { inboxes in
      let rest = inboxes.map { ExactText($0) }.filter { one in params.cursor.map { ExactText($0) < one } ?? true }
        .sorted()
      let shown = min(params.limit, Self.hostsShownMax)
      // One more shows that there is another page.
      let page = rest.prefix(shown + 1).map(\.text)
      let others = page.prefix(shown).filter { !ExactText.isSame($0, self.inbox) }
      self.queryHosts(hosts: others.map { ($0, .about) }, for: session, id) { outcomes in
        let versions = Dictionary(
          outcomes.map { (ExactText($0.inbox), $0.outcome.answer.flatMap(HostAnswer.version)) },
          uniquingKeysWith: { first, _ in first })
        self.write(page, versions, params, id: id, session)
      }
    }
  }

  /// What Redis tells of itself, in its own words, for administrators.
  func redis(id: MessageID, _ session: ClientSession) {
    guard rights.mayBreakAll(session) else { return rights.denyBreakingAll(session, id: id) }
    guard store != nil else { return write(info: nil, [], id: id, session) }
    queryStore(session, id) { store, user, completion in
      store.info(of: user, completion)
    } answer: { info in
      self.queryStore(session, id, fallback: { self.write(info: info, [], id: id, session) }) {
        store, user, completion in
        store.keyPrefixes(of: user, completion)
      } answer: { prefixes in
        self.write(info: info, prefixes, id: id, session)
      }
    }
  }

  private func write(info: String?, _ prefixes: [String], id: MessageID, _ session: ClientSession) {
    output.write(to: session) { writer in
      writer.success(id: id) { json in
        json.object { json in
          json.key("info")
          if let info { json.value(info) } else { json.null() }
          json.array("key_prefixes") { for prefix in prefixes where $0.count < 60_000 { $0.value(prefix) } }
        }
      }
    }
  }

  private func write(
    _ page: [String], _ versions: [ExactText: String?], _ params: PageParams, id: MessageID, _ session: ClientSession
  ) {
    output.write(to: session) { writer in
      writer.beginList(id: id, of: "hosts")
      var last: String?
      var told = 0
      var isCut = false
      for inbox in page {
        let isOwn = ExactText.isSame(inbox, self.inbox)
        let slash = inbox.utf8.lastIndex(of: UInt8(ascii: "/")) ?? inbox.endIndex
        isCut =
          told == min(params.limit, Self.hostsShownMax)
          || !writer.hostEntry(
            String(inbox[..<slash]), instance: String(inbox[slash...].dropFirst()),
            version: isOwn ? configuration.version : versions[ExactText(inbox)] ?? nil, isOwn: isOwn)
        if isCut { break }
        told += 1
        last = inbox
      }
      writer.endList(cursor: isCut ? last : nil)
    }
  }
}
