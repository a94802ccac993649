// Pages of locks.

import ClientProtocol
import LockEngine
import LockTypes

extension LockQueries {
  func list(_ params: ListParams, id: MessageID, _ session: ClientSession) {
    switch params.scope {
    case .all where store != nil: listAll(params, id: id, session)
    case .all, .host: listHost(params, id: id, session)
    }
  }

  /// The locks of this host, in the order of their names.
  private func listHost(_ params: ListParams, id: MessageID, _ session: ClientSession) {
    let listing = HostListing(params)
    tell(id, session, find: { self.find(listing, for: session) }, write: { self.write(listing, id: id, session) })
  }

  /// Puts a page together in as many turns as it takes: `find` gives false while it is not complete, and then `write`
  /// answers.
  func tell(
    _ id: MessageID, _ session: ClientSession, find: @escaping () -> Bool, write: @escaping () -> Void
  ) {
    if find() { return write() }
    let request = door.newRequest()
    session.beganQuery(request, as: id)
    listings.append(PageInTurns(session: session, request: request, find: find, write: write))
    output.scheduleEnd()
  }

  /// Goes on with pages for which much has to be passed over, in turn.
  func goOnWithListings() {
    while inputs.hasRoom(now: clock.now()), let page = listings.popFirst() {
      guard sessions.has(page.session) else { continue }
      guard page.find() else {
        listings.append(page)
        continue
      }
      if page.session.endedQuery(page.request) != nil { page.write() }
      output.touch(page.session)
    }
    if !listings.isEmpty { output.scheduleEnd() }
  }

  /// Looks for more locks that the client may inspect; false while the page is not complete.
  ///
  /// Other locks must not show: a page is never short because they were passed over, and there is a next one only if
  /// there is something on it.
  private func find(_ listing: HostListing, for session: ClientSession) -> Bool {
    let wanted = listing.limit + 1 - listing.names.count
    let seesAll = rights.seesAll(session)
    let (names, next) = engine.names(
      prefix: listing.prefix, after: listing.after, limit: seesAll ? wanted : min(wanted, HostListing.stepMax))
    listing.names += seesAll ? names : names.filter { rights.mayInspect(session, $0) }
    listing.after = next
    return next == nil || listing.names.count > listing.limit
  }

  private func write(_ listing: HostListing, id: MessageID, _ session: ClientSession) {
    let now = clock.now()
    output.write(to: session) { writer in
      writer.beginList(id: id)
      var told = 0
      for name in listing.names.prefix(listing.limit) {
        let snapshot = engine.snapshot(of: name, holdersMax: Self.holdersShownMax, waitersMax: 0, now: now)
        guard writer.listEntry(info(name, snapshot, inRedis: nil)) else { break }
        told += 1
      }
      writer.endList(cursor: told < listing.names.count && told > 0 ? listing.names[told - 1].description : nil)
    }
  }

  /// All locks in Redis, by SCAN. A page is what is left of one step of the scan; the cursor is `<step>:<how many of
  /// its locks were told>`.
  private func listAll(_ params: ListParams, id: MessageID, _ session: ClientSession) {
    guard let position = ScanPosition(params.cursor) else { return refuseCursor(of: "list", id: id, session) }
    queryStore(session, id) { store, user, completion in
      store.page(at: position.step, namePrefix: params.prefix ?? [], of: user, completion)
    } answer: { all in
      // Anybody can write a key; what no client could ask for is no lock.
      // What the client may not inspect is left out before pages are made, or they would show that it is there.
      let found = all.names.filter {
        $0.bytes.count <= Limits.nameBytesMax && $0.isText && self.rights.mayInspect(session, $0)
      }
      let page = Array(found.sorted().dropFirst(position.told).prefix(params.limit))
      let rest = ScanPosition(step: position.step, told: position.told, next: all.next, found: found.count)
      guard !page.isEmpty else {
        return self.output.write(to: session) { self.write([], [], [:], id: id, rest, for: session, to: &$0) }
      }
      self.queryStore(session, id, about: page) { store, user, completion in
        store.inspect(page, waitingHostsMax: 0, of: user, completion)
      } answer: { inspections in
        self.queryHosts(self.whoQuestions(page, inspections), for: session, id) { told in
          let told = Dictionary(grouping: told, by: \.name)
          self.output.write(to: session) { self.write(page, inspections, told, id: id, rest, for: session, to: &$0) }
        }
      }
    }
  }

  func refuseCursor(of method: String, id: MessageID, _ session: ClientSession) {
    output.write(to: session) { writer in
      writer.failure(
        id: id, .invalidParams, message: "cursor is not one that \(method) gave; start again without it"
      ) { $0.member("field", "cursor") }
    }
  }

  private func write(
    _ page: [LockName], _ inspections: [LockInspection], _ toldLocks: [LockName: [RemoteLockReport]], id: MessageID,
    _ position: ScanPosition, for session: ClientSession, to writer: inout MessageWriter
  ) {
    let now = clock.now()
    var told = 0
    writer.beginList(id: id)
    for (name, found) in zip(page, inspections) {
      if found.state != .free, found.state != .wrongType {
        let snapshot = engine.snapshot(of: name, holdersMax: Self.holdersShownMax, waitersMax: 0, now: now)
        guard writer.listEntry(info(name, snapshot, inRedis: found, told: toldLocks[name] ?? [])) else { break }
      }
      told += 1
    }
    writer.endList(cursor: position.cursor(afterTelling: told))
  }
}

/// A page that is not complete.
struct PageInTurns {
  var session: ClientSession
  var request: RequestID
  var find: () -> Bool
  var write: () -> Void
}

/// A page of this host's locks that is being put together. Its cursor is the last name on it.
final class HostListing {
  /// Locks or clients between two looks at the clock, where the client may not be told of all of them.
  static let stepMax = 128

  fileprivate let prefix: [UInt8]
  fileprivate let limit: Int
  /// Where to go on looking.
  fileprivate var after: LockName?
  /// The names on the page, and one more if there is one.
  fileprivate var names: [LockName] = []

  fileprivate init(_ params: ListParams) {
    prefix = params.prefix ?? []
    limit = params.limit
    after = params.cursor.map(LockName.init)
  }
}

/// How far a `list` of all hosts' locks has come.
private struct ScanPosition {
  /// The cursor of the SCAN step that is being told.
  var step: [UInt8]
  /// How many of its locks have been told.
  var told: Int
  /// The cursor of the step after it.
  var next: [UInt8] = []
  /// How many locks the step found.
  var found = 0

  init(step: [UInt8], told: Int, next: [UInt8], found: Int) {
    self.step = step
    self.told = told
    self.next = next
    self.found = found
  }

  /// The position that `list` gave as a cursor; nil if it did not give this one.
  init?(_ cursor: String?) {
    guard let cursor else {
      step = LockPage.start
      told = 0
      return
    }
    let parts = cursor.split(separator: ":", omittingEmptySubsequences: false)
    guard parts.count == 2, UInt64(parts[0]) != nil || ClusterScan(Array(parts[0].utf8)) != nil,
      let told = Int(parts[1]), told >= 0
    else { return nil }
    step = Array(parts[0].utf8)
    self.told = told
  }

  func cursor(afterTelling count: Int) -> String? {
    if told + count < found { return "\(String(decoding: step, as: UTF8.self)):\(told + count)" }
    return next == LockPage.start ? nil : "\(String(decoding: next, as: UTF8.self)):0"
  }
}
