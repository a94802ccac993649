import ClientProtocol
import DequeModule
import LockTypes
import NIOCore
import SystemStrings

/// Asks the other hosts what happens there, while a session of this one watches all hosts.
///
/// Each is asked twice a second. It keeps what happens until it is asked, within bounds, and forgets who does not ask
/// any longer, so nobody pays for watches that are not there. An answer that is lost is told again; what a host could
/// not keep is counted.
final class HeardHosts {
  /// How often each host is asked, in milliseconds.
  static let askMilliseconds: Int64 = 500
  /// Rounds of questions between two looks which hosts there are.
  static let roundsPerSearch = 10
  /// Hosts that are asked, at most.
  static let hostsMax = 256
  /// Questions in a row that a host leaves unanswered before it counts as silent.
  static let silenceMax = 2
  /// Events of one host that are passed on before it is the turn of another one.
  private static let eventsAtATime = 16

  /// One other host.
  private final class Host {
    let name: String
    let inbox: String
    /// What sessions were told of it; nil: nothing yet.
    var state: HeardState?
    /// Whether it has said that it can be asked for events.
    var tellsEvents = false
    /// Whether a question is open, or an answer is not passed on yet.
    var isBusy = false
    var unanswered = 0
    var stream: UInt64 = 0
    var since: UInt64 = 0
    /// Which ``HeardHosts/edition`` it was last asked about, and has answered.
    var edition = 0

    init(inbox: String) {
      self.inbox = inbox
      name = String(inbox[..<(inbox.utf8.lastIndex(of: UInt8(ascii: "/")) ?? inbox.endIndex)])
    }
  }

  /// What a host has told and sessions have not been.
  private struct Unheard {
    var host: Host
    var entries: ArraySlice<EventReport.Entry>
  }

  private let loop: any EventLoop
  private let inputs: InputTurns
  private let output: TurnOutput
  private let door: EngineDoor
  private let clock: HostClock
  /// Of this host.
  private let inbox: String
  private let own: Host
  /// Where the leases of all hosts are; nil: this host is alone.
  var store: (any LeaseStore)?
  var calls: HostCalls?
  var onEvent: (EventReport.Entry, _ host: String) -> Void = { _, _ in }
  var onMissed: (Int64, _ host: String) -> Void = { _, _ in }
  var onState: (HeardState, _ host: String) -> Void = { _, _ in }

  /// What sessions watch, each with how often.
  private var wanted: [WatchTarget: Int] = [:]
  /// Counts when something more is watched: a host is heard about it from when it has been asked.
  private var edition = 1
  private var hosts: [ExactText: Host] = [:]
  private var unheard: Deque<Unheard> = []
  private var round = 0
  private var isScheduled = false
  private var isSearching = false

  init(
    loop: any EventLoop, inputs: InputTurns, output: TurnOutput, door: EngineDoor, clock: HostClock, inbox: String
  ) {
    self.loop = loop
    self.door = door
    self.inputs = inputs
    self.output = output
    self.clock = clock
    self.inbox = inbox
    own = Host(inbox: inbox)
  }

  /// What is known of each host by now, in the order of their names.
  var states: [(host: String, state: HeardState)] {
    (hosts.values.sorted { ExactText($0.inbox) < ExactText($1.inbox) } + [own])
      .filter { $0.state != .heard || $0 === own || $0.edition == edition }
      .compactMap { host in host.state.map { (host.name, $0) } }
  }

  /// A session begins to watch these locks on all hosts.
  func want(_ target: WatchTarget) {
    if wanted[target] == nil { edition += 1 }
    wanted[target, default: 0] += 1
    guard !isScheduled else { return }
    round = 0
    schedule(milliseconds: 0)
  }

  /// A session does no longer.
  func unwant(_ target: WatchTarget) {
    guard let count = wanted[target] else { return }
    wanted[target] = count > 1 ? count - 1 : nil
    guard wanted.isEmpty else { return }
    // Who watches next looks which hosts there are, also where the next question was planned by now.
    round = 0
    hosts = [:]
    unheard = []
    own.state = nil
  }

  // MARK: Asking

  private func schedule(milliseconds: Int64) {
    isScheduled = true
    loop.assumeIsolated().scheduleTask(in: .milliseconds(milliseconds)) { [weak self] in self?.ask() }
  }

  private func ask() {
    isScheduled = false
    guard !wanted.isEmpty else { return }
    schedule(milliseconds: Self.askMilliseconds)
    guard let store, let calls, store.isReady else { return }
    door.begins(.query, now: clock.now())
    let isSearchRound = round % Self.roundsPerSearch == 0
    if isSearchRound { search(store) }
    round += 1
    let targets = targets
    for host in hosts.values where !host.isBusy {
      if host.tellsEvents {
        ask(host, targets, calls)
      } else if isSearchRound {
        // A daemon that was replaced by a later release may have kept its name.
        introduce(host, calls)
      }
    }
    output.scheduleEnd()
  }

  /// What hosts are asked about: all locks, where sessions watch more than a question has room for.
  private var targets: [WatchTarget] {
    guard wanted.count <= HostQuestion.targetsMax else { return [.prefix([])] }
    return wanted.keys.sorted { $0.bytes.lexicographicallyPrecedes($1.bytes) }
  }

  /// Looks which hosts there are.
  private func search(_ store: any LeaseStore) {
    guard !isSearching else { return }
    isSearching = true
    store.hosts(of: nil) { answer in
      self.isSearching = false
      guard !self.wanted.isEmpty else { return }
      switch answer {
      case .answer(let inboxes): self.found(inboxes)
      case .refused, .wrongType, .senseless: self.turned(.alone, self.own)
      case .none: break
      }
      self.output.scheduleEnd()
    }
  }

  private func found(_ inboxes: [String]) {
    let others = inboxes.filter { !ExactText.isSame($0, inbox) }
    let listening = Set(others.map { ExactText($0) })
    for (inbox, host) in hosts where !listening.contains(inbox) { forget(host) }
    for inbox in listening.sorted() where hosts[inbox] == nil && hosts.count < Self.hostsMax {
      let host = Host(inbox: inbox.text)
      hosts[inbox] = host
      if let calls { introduce(host, calls) }
    }
    if hosts.count < listening.count {
      turned(.leftOut, own)
    } else if own.state != nil {
      turned(.heard, own)
    }
  }

  private func forget(_ host: Host) {
    hosts[ExactText(host.inbox)] = nil
    if host.state != nil { turned(.gone, host) }
  }

  /// Asks a host whether it can be asked for events, and then for them.
  private func introduce(_ host: Host, _ calls: HostCalls) {
    host.isBusy = true
    calls.queryHost(host.inbox, .about) { outcome in
      host.isBusy = false
      self.concluded(host, outcome) { answer in
        host.tellsEvents = HostAnswer.tellsEvents(answer)
        guard host.tellsEvents else { return self.turned(.older, host) }
        self.ask(host, self.targets, calls)
      }
    }
  }

  private func ask(_ host: Host, _ targets: [WatchTarget], _ calls: HostCalls) {
    host.isBusy = true
    let edition = edition
    calls.queryHost(host.inbox, .events(targets, stream: host.stream, since: host.since)) { outcome in
      host.isBusy = false
      self.concluded(host, outcome) { self.told($0, by: host, edition) }
    }
  }

  private func concluded(_ host: Host, _ outcome: HostCalls.Outcome, _ answered: (ArraySlice<UInt8>) -> Void) {
    // The turn must end even where nobody is told.
    output.scheduleEnd()
    guard hosts[ExactText(host.inbox)] === host else { return }
    switch outcome {
    case .answered(let answer):
      host.unanswered = 0
      answered(answer)
    case .gone: forget(host)
    case .silent:
      host.unanswered += 1
      if host.unanswered >= Self.silenceMax { turned(.silent, host) }
    case .unknown: break
    }
  }

  private func turned(_ state: HeardState, _ host: Host, anew: Bool = false) {
    guard host.state != state || anew else { return }
    host.state = state
    onState(state, host.name)
  }

  // MARK: Passing on

  private func told(_ answer: ArraySlice<UInt8>, by host: Host, _ edition: Int) {
    // It may be of a later release.
    guard let report = EventReport(answer) else { return turned(.older, host) }
    guard report.stream != 0 else { return turned(.leftOut, host) }
    var missed: Int64 = 0
    if host.stream == report.stream {
      missed = Int64(clamping: report.first) - Int64(clamping: host.since)
    } else if host.stream != 0 {
      // Of a row that has ended nobody knows how many are missing.
      missed = 1
    }
    missed = max(0, missed) + report.notUnderstood
    host.stream = report.stream
    host.since = report.next
    // It is told again to who has begun to watch something more.
    turned(.heard, host, anew: host.edition != edition)
    host.edition = edition
    if missed > 0 { onMissed(missed, host.name) }
    guard !report.entries.isEmpty else { return }
    host.isBusy = true
    unheard.append(Unheard(host: host, entries: report.entries[...]))
    passOn()
  }

  /// Whether something is left for the next turn, which the driver's timer begins: a task of the loop that is due when
  /// the turn has ended would be run before the loop looks at its sockets.
  var hasMoreToDo: Bool { !unheard.isEmpty }

  /// Goes on passing on, behind the input that waits.
  func goOn() {
    guard hasMoreToDo else { return }
    door.begins(.query, now: clock.now())
    passOn()
  }

  /// Passes on what hosts have told, in as many turns as it takes.
  private func passOn() {
    while inputs.hasRoom(now: clock.now()), var next = unheard.popFirst() {
      for _ in 0..<Self.eventsAtATime {
        guard let entry = next.entries.popFirst() else { break }
        onEvent(entry, next.host.name)
        // One event may be for many sessions.
        guard inputs.hasRoom(now: clock.now()) else { break }
      }
      if next.entries.isEmpty { next.host.isBusy = false } else { unheard.append(next) }
    }
    output.scheduleEnd()
  }
}

extension WatchTarget {
  /// The bytes of the name or the prefix.
  fileprivate var bytes: [UInt8] {
    switch self {
    case .name(let name): name.bytes
    case .prefix(let prefix): prefix
    }
  }
}
